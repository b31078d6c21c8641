"""8-bit and 4-bit weights: only the language model is quantised unless a list says otherwise, and it is saved so."""

import copy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, dynamic_module_utils

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMModel, VGGTModel
from spatial_mllm_hf.modeling import modeling_spatial_mllm
from spatial_mllm_hf.modeling.quantization_spatial_mllm import KEPT_MODULES, leave_out_by_default

from .conftest import Case

MakeConfig = Callable[..., Any]


def torchao_config(name: str, *arguments: Any, **options: Any) -> Any:
    pytest.importorskip("torchao")
    from torchao import quantization
    from transformers import TorchAoConfig

    return TorchAoConfig(getattr(quantization, name)(*arguments), **options)


def int8_weights(**options: Any) -> Any:
    return torchao_config("Int8WeightOnlyConfig", **options)


def int8_weights_and_activations(**options: Any) -> Any:
    return torchao_config("Int8DynamicActivationInt8WeightConfig", **options)


def int4_weights(**options: Any) -> Any:
    """Four bits in the eight of an int8: torchao's packed kinds need kernels that are not made for CPUs."""
    quantization = pytest.importorskip("torchao.quantization")
    return torchao_config("IntxWeightOnlyConfig", torch.int4, quantization.PerGroup(32), **options)


def bnb_config(modules_to_not_convert: list[str] | None = None, **options: Any) -> Any:
    pytest.importorskip("accelerate")
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(llm_int8_skip_modules=modules_to_not_convert, **options)


def bnb_8bit(**options: Any) -> Any:
    return bnb_config(load_in_8bit=True, **options)


def bnb_4bit(**options: Any) -> Any:
    return bnb_config(load_in_4bit=True, bnb_4bit_quant_type="nf4", **options)


ALL_KINDS = pytest.mark.parametrize(
    "make",
    [int8_weights, int8_weights_and_activations, int4_weights, bnb_8bit, bnb_4bit],
    ids=lambda make: make.__name__,
)
ONE_OF_EACH = pytest.mark.parametrize("make", [int8_weights, bnb_8bit, bnb_4bit], ids=lambda make: make.__name__)


def linears(model: torch.nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def quantized(model: torch.nn.Module) -> set[str]:
    """Names of linear layers whose weight is no plain parameter."""
    plain = (torch.nn.Parameter, torch.Tensor)
    return {name for name in linears(model) if type(model.get_submodule(name).weight) not in plain}


def of_the_language_model(names: set[str]) -> set[str]:
    return {name for name in names if "language_model" in name.split(".")}


def skip_list(config: Any) -> list[str] | None:
    return config.llm_int8_skip_modules if hasattr(config, "llm_int8_skip_modules") else config.modules_to_not_convert


@torch.no_grad()
def logits_of(model: SpatialMLLMForConditionalGeneration, case: Case) -> torch.Tensor:
    return model(**case.inputs).logits[case.kept]


def relative_error(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((actual - wanted).abs().mean() / wanted.abs().mean())


@ALL_KINDS
def test_by_default_the_language_model_alone_is_quantized(cases: dict[str, Case], make: MakeConfig) -> None:
    case, config = cases["v1.1"], make()
    model, plain = case.load(quantization_config=config), case.load()
    assert quantized(model) == of_the_language_model(linears(plain))
    assert skip_list(config) is None  # the user's own object
    others = {
        name: weight
        for name, weight in plain.named_parameters()
        if name.removesuffix(".weight") not in quantized(model)
    }
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in others.items())
    error = relative_error(logits_of(model, case), logits_of(plain, case))
    assert 0 < error < (0.5 if "4" in make.__name__ else 0.05)  # random weights take four bits badly


def test_int8_logits_are_those_of_the_rounded_weights(cases: dict[str, Case]) -> None:
    case = cases["v1.1"]
    model, rounded = case.load(quantization_config=int8_weights()), case.load()
    for name in quantized(model):
        weight = model.get_submodule(name).weight.dequantize()
        assert (weight - rounded.get_submodule(name).weight).abs().max() <= weight.abs().max() / 127
        rounded.get_submodule(name).weight.data = weight
    torch.testing.assert_close(logits_of(model, case), logits_of(rounded, case), atol=1e-3, rtol=0)


@ALL_KINDS
def test_a_quantized_model_is_saved_under_public_names_and_reads_back(
    cases: dict[str, Case], tmp_path: Path, make: MakeConfig
) -> None:
    case = cases["v1.1"]
    model = case.load(quantization_config=make())
    model.save_pretrained(tmp_path / "first")  # before it runs: bitsandbytes 0.50 cannot save 4 bits afterwards
    read = SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path / "first")
    read.save_pretrained(tmp_path / "second")
    assert quantized(read) == quantized(model)
    assert torch.equal(logits_of(read, case), logits_of(model, case))
    written, again = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert again.keys() == written.keys()
    assert all(torch.equal(again[name], written[name]) for name in written)
    public = load_file(case.folder / "model.safetensors").keys()
    assert {name for name in public if not name.startswith("model.layers.")} <= written.keys()
    assert {name.split(".")[0] for name in written} == {name.split(".")[0] for name in public}


@ONE_OF_EACH
def test_a_quantized_v1_0_is_saved_under_v1_1_names(cases: dict[str, Case], tmp_path: Path, make: MakeConfig) -> None:
    case = cases["v1.0"]
    model = case.load(quantization_config=make())
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"model", "visual", "spatial_encoder", "connector"}
    read = SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits_of(read, case), logits_of(model, case))


@ONE_OF_EACH
def test_a_list_that_is_given_is_respected(cases: dict[str, Case], make: MakeConfig) -> None:
    plain = linears(cases["v1.1"].load())
    kept = ["lm_head", "model.language_model.layers.0", "model.visual"]
    config = make(modules_to_not_convert=kept)
    model = cases["v1.1"].load(quantization_config=config)
    assert quantized(model) == {name for name in plain if not name.startswith(tuple(kept))}
    assert skip_list(model.config.quantization_config) == skip_list(config) == kept
    everything = cases["v1.1"].load(quantization_config=make(modules_to_not_convert=[]))
    assert quantized(everything) >= plain - {"lm_head"}  # tied to the embeddings


def test_a_dictionary_is_a_configuration_too(cases: dict[str, Case]) -> None:
    bnb_8bit()  # or skip
    config = {"load_in_8bit": True}
    model = cases["v1.1"].load(quantization_config=config)
    assert quantized(model) == of_the_language_model(linears(model))
    assert config == {"load_in_8bit": True}


@pytest.fixture
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An own place for remote code, of which nothing stays imported."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
            del sys.modules[name]

    forget()
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield
    forget()


@ONE_OF_EACH
@pytest.mark.usefixtures("modules_cache")
def test_auto_classes_and_remote_code_leave_the_same_out(
    cases: dict[str, Case], tmp_path: Path, make: MakeConfig
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(cases["v1.1"].folder, folder)
    for path in Path(modeling_spatial_mllm.__file__).parent.glob("[!_]*.py"):
        shutil.copy(path, folder)
    class_name = "modeling_spatial_mllm.SpatialMLLMForConditionalGeneration"
    remote = dynamic_module_utils.get_class_from_dynamic_module(class_name, str(folder))
    assert remote.__module__.startswith("transformers_modules.")
    for model_class in (AutoModelForImageTextToText, remote):
        model = model_class.from_pretrained(folder, quantization_config=make())
        assert quantized(model) == of_the_language_model(linears(model))


@ONE_OF_EACH
def test_the_backbone_alone_leaves_the_same_out(cases: dict[str, Case], tmp_path: Path, make: MakeConfig) -> None:
    case = cases["v1.1"]
    backbone = SpatialMLLMModel.from_pretrained(case.folder, quantization_config=make())
    assert quantized(backbone) == of_the_language_model(linears(backbone))
    backbone.save_pretrained(tmp_path)
    read = SpatialMLLMModel.from_pretrained(tmp_path)
    assert quantized(read) == quantized(backbone)
    with torch.no_grad():
        states = [model(**case.inputs).last_hidden_state for model in (read, backbone)]
    assert torch.equal(*states)


@ONE_OF_EACH
def test_parts_of_a_quantized_checkpoint(cases: dict[str, Case], tmp_path: Path, make: MakeConfig) -> None:
    whole = cases["v1.1"].load(quantization_config=make())
    whole.save_pretrained(tmp_path)
    vggt = VGGTModel.from_pretrained(tmp_path)
    assert quantized(vggt) == set()
    original = cases["v1.1"].load().model.spatial_encoder.state_dict()
    assert all(torch.equal(weight, original[name]) for name, weight in vggt.state_dict().items())
    if make is not int8_weights:  # torchao's files name the modules of the class that wrote them
        backbone = SpatialMLLMModel.from_pretrained(tmp_path)
        assert quantized(backbone) == {name.removeprefix("model.") for name in quantized(whole)}


@pytest.mark.parametrize("make", [int8_weights, bnb_8bit], ids=lambda make: make.__name__)
def test_vggt_alone_keeps_its_heads(reference: Path, cases: dict[str, Case], tmp_path: Path, make: MakeConfig) -> None:
    folder, frames = reference / "vggt_tiny", cases["v1.1"].frames[0] / 255
    plain = VGGTModel.from_pretrained(folder)
    model = VGGTModel.from_pretrained(folder, quantization_config=make())
    assert quantized(model) == {name for name in linears(plain) if name.startswith("aggregator.")}
    points = model.predict_geometry(frames).points
    assert 0 < relative_error(points, plain.predict_geometry(frames).points) < 0.05
    model.save_pretrained(tmp_path)
    read = VGGTModel.from_pretrained(tmp_path)
    assert quantized(read) == quantized(model)
    assert torch.equal(read.predict_geometry(frames).points, points)


# --- the list itself ---


class WithDefaultList:
    """As HQQ's configuration: its own list is not None."""

    def __init__(self, skip_modules: list[str] = ["lm_head"]) -> None:  # noqa: B006
        self.skip_modules = skip_modules


def test_a_default_list_is_replaced_and_an_equal_one_of_the_users_is_not() -> None:
    left, given = WithDefaultList(), WithDefaultList(["lm_head"])
    options = leave_out_by_default({"quantization_config": left, "dtype": "auto"}, KEPT_MODULES)
    assert options["quantization_config"].skip_modules == list(KEPT_MODULES)
    assert options["dtype"] == "auto"
    assert left.skip_modules == ["lm_head"]
    assert leave_out_by_default({"quantization_config": given}, KEPT_MODULES)["quantization_config"] is given


@pytest.mark.parametrize(
    "options", [{}, {"quantization_config": None}, {"quantization_config": SimpleNamespace(bits=4)}]
)
def test_options_without_a_list_stay_as_they_are(options: dict[str, Any]) -> None:
    before = copy.copy(options)
    assert leave_out_by_default(options, KEPT_MODULES) == before
