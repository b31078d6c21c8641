"""LoRA with PEFT: what is adapted and trained, and that adapters and merged weights read back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_versions import needs_adapter_switches
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMModel
from spatial_mllm_hf.modeling.lora_spatial_mllm import LORA_MODULES_TO_SAVE, LORA_TARGET_MODULES

from .conftest import Case

peft = pytest.importorskip("peft")

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def lora_config() -> Any:
    return peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=LORA_TARGET_MODULES, modules_to_save=list(LORA_MODULES_TO_SAVE)
    )


def trainable(model: torch.nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def train(model: torch.nn.Module, case: Case, steps: int = 2) -> list[float]:
    """A few steps on the reference's videos; returns the losses."""
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    labels = case.inputs["input_ids"].masked_fill(~case.kept, -100)
    losses = []
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**case.inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def logits_of(model: torch.nn.Module, case: Case) -> torch.Tensor:
    return model(**case.inputs).logits


@dataclass(frozen=True)
class Adapter:
    """A trained adapter in its folder, and what the model answered with it."""

    folder: Path
    logits: torch.Tensor
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    trained: set[str]
    vggt_was_in_train_mode: bool


@pytest.fixture(scope="module")
def adapter(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    case, folder = cases["v1.1"], tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = peft.get_peft_model(case.load(), lora_config())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    modes = []
    model.get_base_model().model.spatial_encoder.aggregator.register_forward_hook(
        lambda module, *_: modes.append(module.training)
    )
    losses = train(model, case)
    assert losses[1] < losses[0]
    after = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    logits = logits_of(model, case)
    model.save_pretrained(folder)
    return Adapter(folder, logits, before, after, trainable(model), any(modes))


def test_the_pattern_hits_the_language_models_linears_and_nothing_else(cases: dict[str, Case]) -> None:
    model = peft.get_peft_model(cases["v1.1"].load(), lora_config())
    layers = "model.language_model.layers"
    wanted = {f"{layers}.{layer}.self_attn.{name}" for layer in range(3) for name in ATTENTION}
    wanted |= {f"{layers}.{layer}.mlp.{name}" for layer in range(3) for name in MLP}
    assert set(model.targeted_module_names) == wanted
    backbone = SpatialMLLMModel.from_pretrained(cases["v1.1"].folder)
    adapted = peft.get_peft_model(backbone, lora_config())
    assert set(adapted.targeted_module_names) == {name.removeprefix("model.") for name in wanted}


def test_plain_names_would_hit_the_vision_tower(cases: dict[str, Case]) -> None:
    """Why there is a pattern."""
    model = peft.get_peft_model(cases["v1.1"].load(), peft.LoraConfig(target_modules=[*ATTENTION, *MLP]))
    assert any("visual" in name for name in model.targeted_module_names)


def test_a_step_changes_the_adapters_and_the_connector_alone(adapter: Adapter) -> None:
    changed = {name for name, weight in adapter.after.items() if not torch.equal(weight, adapter.before[name])}
    assert changed == adapter.trained
    assert all(".lora_" in name or ".connector.modules_to_save." in name for name in changed)
    assert not adapter.vggt_was_in_train_mode
    saved = load_file(adapter.folder / "adapter_model.safetensors")
    assert len(saved) == len(adapter.trained)


def test_an_adapter_reads_back_into_a_fresh_model(cases: dict[str, Case], adapter: Adapter) -> None:
    case = cases["v1.1"]
    assert (adapter.logits - logits_of(case.load(), case))[case.kept].abs().max() > 0.1
    read = peft.PeftModel.from_pretrained(case.load(), adapter.folder)
    torch.testing.assert_close(logits_of(read, case), adapter.logits, atol=1e-6, rtol=0)


def test_transformers_loads_an_adapter_too(cases: dict[str, Case], adapter: Adapter) -> None:
    case = cases["v1.1"]
    model = case.load()
    model.load_adapter(adapter.folder)
    torch.testing.assert_close(logits_of(model, case), adapter.logits, atol=1e-6, rtol=0)


@needs_adapter_switches
def test_transformers_switches_adapters_and_saves_them(
    cases: dict[str, Case], adapter: Adapter, tmp_path: Path
) -> None:
    case = cases["v1.1"]
    model = case.load()
    without = logits_of(model, case)
    model.load_adapter(adapter.folder)
    model.disable_adapters()
    torch.testing.assert_close(logits_of(model, case), without, atol=1e-6, rtol=0)
    model.enable_adapters()
    model.save_pretrained(tmp_path)
    saved, again = (load_file(path / "adapter_model.safetensors") for path in (adapter.folder, tmp_path))
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)


@pytest.mark.parametrize("model_class", [SpatialMLLMForConditionalGeneration, AutoModelForImageTextToText])
def test_an_adapters_folder_loads_with_its_base(cases: dict[str, Case], adapter: Adapter, model_class: Any) -> None:
    model = model_class.from_pretrained(adapter.folder)
    assert type(model) is SpatialMLLMForConditionalGeneration
    torch.testing.assert_close(logits_of(model, cases["v1.1"]), adapter.logits, atol=1e-6, rtol=0)


def test_merged_weights_are_an_ordinary_checkpoint(cases: dict[str, Case], adapter: Adapter, tmp_path: Path) -> None:
    case = cases["v1.1"]
    merged = peft.PeftModel.from_pretrained(case.load(), adapter.folder).merge_and_unload()
    assert type(merged) is SpatialMLLMForConditionalGeneration
    merged.save_pretrained(tmp_path)
    public = load_file(case.folder / "model.safetensors").keys()
    assert load_file(tmp_path / "model.safetensors").keys() == public
    read, info = SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(logits_of(read, case), logits_of(merged, case), atol=1e-6, rtol=0)
    torch.testing.assert_close(logits_of(read, case)[case.kept], adapter.logits[case.kept], atol=1e-5, rtol=1e-5)


def quantized_base(kind: str) -> Any:
    if kind == "torchao int8":
        torchao = pytest.importorskip("torchao.quantization")
        from transformers import TorchAoConfig

        return TorchAoConfig(torchao.Int8WeightOnlyConfig())
    pytest.importorskip("accelerate")
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True) if kind == "bnb int8" else BitsAndBytesConfig(load_in_4bit=True)


@pytest.mark.parametrize("kind", ["torchao int8", "bnb int8", "bnb 4 bit"])
def test_adapters_train_on_a_quantized_model(cases: dict[str, Case], tmp_path: Path, kind: str) -> None:
    case = cases["v1.1"]
    base = peft.prepare_model_for_kbit_training(case.load(quantization_config=quantized_base(kind)))
    model = peft.get_peft_model(base, lora_config())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    losses = train(model, case)
    assert losses[1] < losses[0]
    assert not [name for name, weight in before.items() if torch.equal(weight, model.get_parameter(name))]
    model.save_pretrained(tmp_path)
    read = peft.PeftModel.from_pretrained(case.load(quantization_config=quantized_base(kind)), tmp_path)
    torch.testing.assert_close(logits_of(read, case), logits_of(model, case), atol=1e-4, rtol=0)
