"""Precision, device maps and offloading: what was loaded in another way answers the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from spatial_mllm_hf import SpatialMLLMConfig, SpatialMLLMForConditionalGeneration, SpatialMLLMModel, VGGTModel

from .conftest import Case
from .pretended_devices import PretendedDevices, values_of
from .test_loading import PUBLIC_3B

PARTS = ("model.visual", "model.language_model", "model.spatial_encoder", "model.connector", "lm_head")
NO_END = {"pad_token_id": 507, "eos_token_id": 511, "do_sample": False}
MB = 1_000_000


def on_disk(*parts: str, parts_of: tuple[str, ...] = PARTS) -> dict[str, str]:
    """Every part named: accelerate takes no disk below a part that is placed as a whole."""
    return {part: "disk" if part in parts else "cpu" for part in parts_of}


DEVICE_MAPS = {
    "auto": {"device_map": "auto"},
    "VGGT on disk": {"device_map": on_disk("model.spatial_encoder")},
    "all but VGGT on disk": {"device_map": on_disk(*(part for part in PARTS if part != "model.spatial_encoder"))},
    "everything on disk": {"device_map": {"": "disk"}},
    "2 MB of memory": {"device_map": "auto", "max_memory": {"cpu": 2 * MB}},
    "3 MB of memory": {"device_map": "auto", "max_memory": {"cpu": 3 * MB}},
}


@pytest.fixture
def accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits are compared: linear layers that accelerate moves are torch's on any CPU, so all are here."""
    pytest.importorskip("accelerate")
    monkeypatch.setattr("spatial_mllm_hf.modeling.vggt_linear.mkl_is_slow", lambda: False)


def meta_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.device.type == "meta")


# --- precision ---


@pytest.mark.parametrize("option", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16"])
def test_both_names_of_the_precision_are_taken(cases: dict[str, Case], option: str, value: object) -> None:
    model = cases["v1.1"].load(**{option: value})
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    plain = cases["v1.1"].load()
    for (name, weight), original in zip(model.named_parameters(), plain.parameters()):
        assert torch.equal(weight, original.to(torch.bfloat16)), name


@pytest.mark.parametrize("options", [{}, {"dtype": "auto"}, {"torch_dtype": "auto"}])
def test_auto_is_the_precision_of_the_checkpoint(cases: dict[str, Case], tmp_path: Path, options: dict) -> None:
    assert cases["v1.1"].load(**options).dtype == torch.float32
    cases["v1.1"].load(dtype=torch.bfloat16).save_pretrained(tmp_path)
    for model_class in (SpatialMLLMForConditionalGeneration, SpatialMLLMModel, VGGTModel, AutoModelForImageTextToText):
        model = model_class.from_pretrained(tmp_path, **options)
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert VGGTModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


# --- device maps and offloading ---


@pytest.mark.usefixtures("accelerate")
@pytest.mark.parametrize("options", DEVICE_MAPS.values(), ids=DEVICE_MAPS.keys())
def test_an_offloaded_model_answers_the_same(cases: dict[str, Case], tmp_path: Path, options: dict) -> None:
    case = cases["v1.1"]
    model, plain = case.load(offload_folder=tmp_path, **options), case.load()
    assert any(meta_weights(model)) == (options != {"device_map": "auto"})
    with torch.no_grad():
        torch.testing.assert_close(model(**case.inputs).logits, plain(**case.inputs).logits, atol=1e-6, rtol=0)
    generated = model.generate(**case.inputs, max_new_tokens=4, **NO_END)
    assert torch.equal(generated[:, -4:], case.outputs["generated"][:, :4])


@pytest.mark.usefixtures("accelerate")
@pytest.mark.parametrize("name", ["v1.1 images", "v1.0"])
def test_offloaded_images_and_v1_0_answer_the_same(cases: dict[str, Case], tmp_path: Path, name: str) -> None:
    case = cases[name]
    device_map = on_disk("model.spatial_encoder", "model.connector")
    model = case.load(device_map=device_map, offload_folder=tmp_path)
    assert {name.split(".")[1] for name, _ in meta_weights(model)} == {"spatial_encoder", "connector"}
    with torch.no_grad():
        logits = model(**case.inputs).logits
    torch.testing.assert_close(logits[case.kept], case.outputs["logits"][case.kept], atol=1e-4, rtol=0)


@pytest.mark.usefixtures("accelerate")
@pytest.mark.parametrize("source", ["points", "depth"])
def test_geometry_of_offloaded_models_is_the_same(cases: dict[str, Case], tmp_path: Path, source: str) -> None:
    case = cases["v1.1"]
    frames = case.frames[0] / 255
    expected = case.load().predict_geometry(frames, source)
    everything = {"device_map": {"": "disk"}, "offload_folder": tmp_path}
    split = {"device_map": "auto", "max_memory": {"cpu": MB // 2}, "offload_folder": tmp_path}
    for model in (
        case.load(**everything),
        SpatialMLLMModel.from_pretrained(case.folder, **everything),
        VGGTModel.from_pretrained(case.folder, **everything),
        VGGTModel.from_pretrained(case.folder, **split),
    ):
        points, confidence = model.predict_geometry(frames, source)
        assert any(meta_weights(model))
        assert torch.equal(points, expected.points)
        assert torch.equal(confidence, expected.confidence)


@pytest.mark.usefixtures("accelerate")
@torch.no_grad()
def test_an_offloaded_backbone_and_encoder_agree_with_plain_ones(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["v1.1"]
    options = {"device_map": {"": "disk"}, "offload_folder": tmp_path}
    backbone, plain = SpatialMLLMModel.from_pretrained(case.folder, **options), case.load().model
    assert torch.equal(backbone(**case.inputs).last_hidden_state, plain(**case.inputs).last_hidden_state)
    encoder = VGGTModel.from_pretrained(case.folder, **options)
    frames = case.frames[0][None] / 255
    assert torch.equal(encoder.encode(frames, layer=1), plain.spatial_encoder.encode(frames, layer=1))


@pytest.mark.usefixtures("accelerate")
@torch.no_grad()
def test_weights_on_disk_have_the_precision_asked_for(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["v1.1"]
    model = case.load(device_map={"": "disk"}, offload_folder=tmp_path, dtype=torch.bfloat16)
    logits = model(**case.inputs).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits, case.load(dtype=torch.bfloat16)(**case.inputs).logits)


@pytest.mark.usefixtures("accelerate")
def test_an_offloaded_model_is_saved_whole(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["v1.1"]
    parts = on_disk("model.language_model", "lm_head", "model.spatial_encoder")
    model = case.load(device_map=parts, offload_folder=tmp_path)
    model.save_pretrained(tmp_path / "saved")
    written = load_file(tmp_path / "saved" / "model.safetensors")
    read = load_file(case.folder / "model.safetensors")
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)


# --- several accelerators ---


def device_of(name: str, device_map: dict[str, str | int]) -> str | int:
    """What a device map says of a weight: its longest key that names the weight or a module around it."""
    around = [key for key in device_map if not key or name == key or name.startswith(f"{key}.")]
    return device_map[max(around, key=len)]


def has_weights_and_children(module: torch.nn.Module) -> bool:
    return bool(list(module.parameters(recurse=False))) and bool(list(module.children()))


@pytest.mark.usefixtures("accelerate")
def test_a_full_size_map_for_two_accelerators_divides_no_block() -> None:
    from transformers.integrations.accelerate import infer_auto_device_map

    with torch.device("meta"):
        config = SpatialMLLMConfig(**PUBLIC_3B, dtype="bfloat16")
        model = SpatialMLLMForConditionalGeneration(config).to(torch.bfloat16)
    blocks = model._no_split_modules
    undivided = [name for name, module in model.named_modules() if type(module).__name__ in blocks]
    assert {type(model.get_submodule(name)).__name__ for name in undivided} == set(blocks)  # all of them exist
    mixed = {type(module).__name__ for module in model.modules() if has_weights_and_children(module)}
    assert mixed == {"VGGTAggregator", "VGGTPatchEmbed", "VGGTCameraHead"}
    assert mixed - {"VGGTAggregator"} <= set(blocks)  # it moves its own two weights (see the next test)
    for gib in (4, 5, 6, 7, 8):
        max_memory = {0: gib * 2**30, 1: gib * 2**30, "cpu": 2**36}
        device_map = infer_auto_device_map(model, max_memory=max_memory, no_split_module_classes=blocks)
        assert {0, 1} <= set(device_map.values())
        for name in undivided:
            weights = [f"{name}.{weight}" for weight, _ in model.get_submodule(name).named_parameters()]
            assert len({device_of(weight, device_map) for weight in weights}) == 1, (gib, name)
        tied = ("lm_head.weight", "model.language_model.embed_tokens.weight")
        assert device_of(tied[0], device_map) == device_of(tied[1], device_map)


VGGT = "model.spatial_encoder"
DIVIDED_VGGT = {
    f"{VGGT}.aggregator.camera_token": "ipu:0",
    f"{VGGT}.aggregator.register_token": "ipu:0",
    f"{VGGT}.aggregator.patch_embed": "ipu:1",
    f"{VGGT}.aggregator.frame_blocks": "ipu:0",
    f"{VGGT}.aggregator.global_blocks": "ipu:1",
    f"{VGGT}.camera_head": "ipu:0",
    f"{VGGT}.depth_head": "ipu:1",
    f"{VGGT}.point_head": "ipu:0",
}
ACCELERATOR_MAPS = {
    "VGGT on the second": {**dict.fromkeys(PARTS, "ipu:0"), VGGT: "ipu:1"},
    "VGGT in the CPU's memory": {**dict.fromkeys(PARTS, "ipu:0"), VGGT: "cpu"},
    "VGGT divided": {**{part: "ipu:0" for part in PARTS if part != VGGT}, **DIVIDED_VGGT},
}


@pytest.mark.usefixtures("accelerate")
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match")  # accelerate, of weights in a map
@pytest.mark.parametrize("device_map", ACCELERATOR_MAPS.values(), ids=ACCELERATOR_MAPS.keys())
@torch.no_grad()
def test_parts_on_different_accelerators_work_together(cases: dict[str, Case], device_map: dict[str, str]) -> None:
    """On pretended accelerators, whose tensors refuse to meet those of another."""
    from accelerate import dispatch_model

    case, model = cases["v1.1"], cases["v1.1"].load()
    frames = case.frames[0][:2] / 255
    expected = {source: model.predict_geometry(frames, source) for source in ("points", "depth")}
    with PretendedDevices():
        dispatch_model(model, device_map, skip_keys=model._skip_keys_device_placement)
        inputs = {name: tensor.to("ipu:0") for name, tensor in case.inputs.items()}
        logits = model(**inputs).logits
        generated = model.generate(**inputs, max_new_tokens=3, **NO_END)
        geometry = {source: model.predict_geometry(frames, source) for source in expected}
    torch.testing.assert_close(values_of(logits)[case.kept], case.outputs["logits"][case.kept], atol=1e-4, rtol=0)
    assert torch.equal(values_of(generated)[:, -3:], case.outputs["generated"][:, :3])
    for source, (points, confidence) in geometry.items():
        torch.testing.assert_close(values_of(points), expected[source].points)
        torch.testing.assert_close(values_of(confidence), expected[source].confidence)


def test_pretended_accelerators_refuse_what_real_ones_refuse() -> None:
    with PretendedDevices():
        here, there = torch.ones(2, 3).to("ipu:0"), torch.ones(2, 3).to("ipu:1")
        assert str((here * 2).sum(dim=1).device) == "ipu:0"
        assert str(there.to(here).device) == "ipu:0"
        for other in (there, torch.ones(2, 3)):
            with pytest.raises(RuntimeError, match="Expected all tensors on one device"):
                torch.cat([here, other])
