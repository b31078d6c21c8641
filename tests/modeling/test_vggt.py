"""VGGT against the public code, and what it computes, keeps and refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spatial_mllm_hf import VGGTConfig, VGGTModel
from spatial_mllm_hf.modeling import vggt_layer_keeper
from spatial_mllm_hf.modeling.vggt_geometry import decode_pose, unproject_depth

CLIPS = ("single", "square", "tall", "wide")
HEADS = ("camera", "depth", "points")
HEAD_OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "vggt_tiny"


@pytest.fixture(scope="module")
def model(folder: Path) -> VGGTModel:
    return VGGTModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def inputs(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "inputs.safetensors")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "outputs.safetensors")


def assert_close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_layers_and_heads_agree_with_the_public_code(
    folder: Path, inputs: dict, expected: dict, clip: str, attention: str
) -> None:
    model = VGGTModel.from_pretrained(folder, attn_implementation=attention)
    frames = inputs[clip]
    output = model(frames, heads=HEADS, output_hidden_states=True)
    for layer, tokens in enumerate(output.hidden_states):
        assert_close(tokens, expected[f"{clip}.layer{layer}"])
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
    for name in HEAD_OUTPUTS:
        assert_close(getattr(output, name), expected[f"{clip}.{name}"])


@pytest.mark.parametrize("clip", CLIPS)
@torch.no_grad()
def test_patch_embedding_agrees_with_the_public_code(model: VGGTModel, inputs: dict, expected: dict, clip: str) -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    frames = (inputs[clip].flatten(0, 1) - mean[:, None, None]) / std[:, None, None]
    assert_close(model.aggregator.patch_embed(frames), expected[f"{clip}.patch_embed"])


@pytest.mark.parametrize("clip", CLIPS)
def test_cameras_and_unprojected_depth_agree_with_the_public_code(inputs: dict, expected: dict, clip: str) -> None:
    height, width = inputs[clip].shape[-2:]
    extrinsics, intrinsics = decode_pose(expected[f"{clip}.pose_enc"], height, width)
    assert_close(extrinsics, expected[f"{clip}.extrinsics"])
    assert_close(intrinsics, expected[f"{clip}.intrinsics"])
    points = unproject_depth(expected[f"{clip}.depth"][..., 0], extrinsics, intrinsics)
    assert_close(points, expected[f"{clip}.depth_world_points"])


@torch.no_grad()
def test_predict_geometry_from_points_and_from_depth(model: VGGTModel, inputs: dict, expected: dict) -> None:
    points, confidence = model.predict_geometry(inputs["wide"][0])
    assert_close(points, expected["wide.world_points"][0])
    assert_close(confidence, expected["wide.world_points_conf"][0])
    points, confidence = model.predict_geometry(inputs["wide"][0], source="depth")
    assert_close(points, expected["wide.depth_world_points"][0])
    assert_close(confidence, expected["wide.depth_conf"][0])
    with pytest.raises(ValueError, match="source must be 'points' or 'depth', got 'mesh'"):
        model.predict_geometry(inputs["wide"][0], source="mesh")


@torch.no_grad()
def test_a_batch_agrees_with_its_clips_alone(model: VGGTModel, inputs: dict) -> None:
    batch = model(inputs["tall"], heads=HEADS)
    for number, clip in enumerate(inputs["tall"]):
        alone = model(clip[None], heads=HEADS)
        for name in ("last_hidden_state", *HEAD_OUTPUTS):
            assert_close(getattr(batch, name)[number], getattr(alone, name)[0])


@torch.no_grad()
def test_heads_do_not_depend_on_how_many_frames_go_through_them_at_once(
    model: VGGTModel, inputs: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model(inputs["wide"], heads=("points",)).world_points
    monkeypatch.setattr(vggt_layer_keeper, "FRAMES_AT_ONCE", 2)
    monkeypatch.setattr(vggt_layer_keeper, "PIXELS_AT_ONCE", 1)
    assert_close(model(inputs["wide"], heads=("points",)).world_points, whole, atol=1e-5)


@torch.no_grad()
def test_frames_after_the_first_can_change_places(model: VGGTModel, inputs: dict) -> None:
    frames, order = inputs["square"], [0, 3, 1, 2]
    assert_close(model(frames[:, order]).last_hidden_state, model(frames).last_hidden_state[:, order], atol=1e-4)


@torch.no_grad()
def test_only_the_wanted_layers_run_and_only_they_are_kept(model: VGGTModel, inputs: dict, expected: dict) -> None:
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(model.aggregator.global_blocks)
    ]
    try:
        tokens = model.encode(inputs["square"], layer=1)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1]
    assert_close(tokens, expected["square.layer1"])
    kept = vggt_layer_keeper.LayerKeeper({2, 4})
    model.aggregator([inputs["square"][0]], 1, 4, kept)
    assert set(kept.joined) == {2, 4}


@torch.no_grad()
def test_heads_that_were_not_asked_for_do_not_run(model: VGGTModel, inputs: dict) -> None:
    output = model(inputs["single"], heads=("depth",))
    assert output.depth is not None
    assert output.pose_enc is None
    assert output.world_points is None
    assert output.hidden_states is None


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(2, 3, 28, 28), r"frames must be \[B, S, 3, H, W\], got shape \[2, 3, 28, 28\]"),
        (torch.zeros(1, 2, 4, 28, 28), r"frames must be \[B, S, 3, H, W\]"),
        (torch.zeros(1, 2, 3, 30, 28), r"multiples of 14, got \[1, 2, 3, 30, 28\]"),
        (torch.zeros(1, 0, 3, 28, 28), "multiples of 14"),
        (torch.zeros(1, 2, 3, 28, 28, dtype=torch.uint8), "floats in .* got torch.uint8: divide"),
    ],
)
def test_frames_of_another_form_are_refused(model: VGGTModel, frames: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(frames)


def test_unknown_and_absent_heads_are_refused(model: VGGTModel, inputs: dict) -> None:
    with pytest.raises(ValueError, match=r"heads must be a collection out of .* got \['tracks'\]"):
        model(inputs["single"], heads=["tracks"])
    with pytest.raises(ValueError, match="heads must be a collection"):
        model(inputs["single"], heads="points")
    without = VGGTModel(VGGTConfig(**{**model.config.to_dict(), "heads": ["camera"]}))
    assert not hasattr(without, "point_head")
    with pytest.raises(ValueError, match=r"out of \['camera'\]"):
        without(inputs["single"], heads=["points"])


@torch.no_grad()
def test_bfloat16_runs_with_float32_geometry(folder: Path, inputs: dict, expected: dict) -> None:
    model = VGGTModel.from_pretrained(folder, dtype=torch.bfloat16)
    output = model(inputs["square"], heads=HEADS)
    assert output.last_hidden_state.dtype == torch.bfloat16
    assert output.world_points.dtype == output.pose_enc.dtype == torch.float32
    error = (output.last_hidden_state.float() - expected["square.layer4"]).abs().mean()
    assert error < 0.1 * expected["square.layer4"].abs().mean()


def test_rotary_angles_are_rounded_to_bfloat16_as_in_the_public_code() -> None:
    from spatial_mllm_hf.modeling.vggt_rope import rotary_tables

    cos, _ = rotary_tables(1, 40, 0, 8, torch.bfloat16, torch.device("cpu"))
    position, frequency = 37, 1 / 100 ** (2 / 4)  # second frequency of the column half
    angle = torch.tensor(position * frequency).to(torch.bfloat16)
    assert cos[position - 1, 0, 5] == angle.cos()


def test_no_state_lives_outside_parameters(model: VGGTModel) -> None:
    """Buffers that are not saved come back as garbage from `from_pretrained`, which fills models made on meta."""
    assert list(model.named_buffers()) == []


def test_every_new_weight_is_initialised(model: VGGTModel) -> None:
    with torch.device("meta"):
        fresh = VGGTModel(model.config)
    fresh.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(float("nan"))
    fresh._is_hf_initialized = False
    for module in fresh.modules():
        module._is_hf_initialized = False
    for parameter in fresh.parameters():
        parameter._is_hf_initialized = False
    fresh.init_weights()
    assert [name for name, parameter in fresh.named_parameters() if parameter.isnan().any()] == []
    aggregator = fresh.aggregator
    assert aggregator.patch_embed.blocks[0].ls1.gamma.unique().tolist() == [1.0]
    assert aggregator.frame_blocks[0].ls1.gamma.unique().tolist() == pytest.approx([0.01])


def test_checkpointed_gradients_equal_plain_ones(folder: Path, inputs: dict) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = VGGTModel.from_pretrained(folder).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(inputs["square"]).last_hidden_state.square().mean().backward()
        gradients.append(model.aggregator.patch_embed.patch_embed.proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_round_trip_keeps_names_and_values(model: VGGTModel, folder: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    written, read = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)


def copy_checkpoint(folder: Path, target: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """A copy of a checkpoint with weights added, or left out where they are None."""
    weights = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((folder / "config.json").read_text())
    return target


def test_track_head_is_dropped_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    extra = {"track_head.tracker.fmap_norm.weight": torch.ones(2), "tracking.weight": torch.ones(2)}
    _, info = VGGTModel.from_pretrained(copy_checkpoint(folder, tmp_path, extra), output_loading_info=True)
    assert info["unexpected_keys"] == {"tracking.weight"}


def test_a_missing_weight_is_an_error(folder: Path, tmp_path: Path) -> None:
    lacking = copy_checkpoint(folder, tmp_path, {"point_head.norm.weight": None})
    with pytest.raises(ValueError, match=r"lacks 1 weights of VGGT, such as 'point_head.norm.weight'"):
        VGGTModel.from_pretrained(lacking)
    model = VGGTModel.from_pretrained(lacking, heads=["camera", "depth"])
    assert not hasattr(model, "point_head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": 57}, "img_size must be a multiple of patch_size=14, got 57"),
        ({"num_attention_heads": 3}, "num_attention_heads=3 does not divide the width 1024"),
        ({"camera_num_attention_heads": 0}, "camera_num_attention_heads=0 does not divide"),
        ({"embed_dim": 96, "num_attention_heads": 16}, "must be a multiple of 4"),
        ({"heads": ["camera", "tracks"]}, r"unknown heads \['tracks'\]"),
        ({"dpt_layer_indices": [1, 2, 3]}, "need four entries"),
        ({"num_hidden_layers": 12}, r"dpt_layer_indices=\[4, 11, 17, 23\] must lie below num_hidden_layers=12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGGTConfig(**change)


def test_defaults_are_vggt_1b(reference: Path) -> None:
    manifest = json.loads((reference / "manifests" / "vggt_1b.json").read_text())
    with torch.device("meta"):
        model = VGGTModel(VGGTConfig())
    ours = {name: list(parameter.shape) for name, parameter in model.state_dict().items()}
    dropped = {name for name in manifest if name not in ours}
    assert all(name.startswith("track_head.") for name in dropped)
    assert ours == {name: shape for name, shape in manifest.items() if name not in dropped}
