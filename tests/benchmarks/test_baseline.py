"""What the benchmarks compare with is right: the plain procedure gives the public code's numbers, and ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline.decoding import decode_sequentially
from baseline.sampling import choose_frames, png_round_trip, voxel_sets
from baseline.scene import answer_separately
from baseline.vggt import PlainVGGT
from clips import read_frame_numbers, write_clip
from safetensors.torch import load_file
from transformers import pipeline

from spatial_mllm_hf import VGGTConfig, VGGTModel
from spatial_mllm_hf.processing.video_decoding_spatial_mllm import decode_frames

CLIPS = ("single", "square", "tall", "wide")
HEAD_OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")
SCENES = ("room", "corridor", "short", "static")
FRAME_COUNTS = (1, 2, 4, 8, 16, 32)


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "vggt_tiny"


@pytest.fixture(scope="module")
def ours(folder: Path) -> VGGTModel:
    return VGGTModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def plain(ours: VGGTModel) -> PlainVGGT:
    return plain_copy(ours)


@pytest.fixture(scope="module")
def inputs(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "inputs.safetensors")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "outputs.safetensors")


@pytest.fixture(scope="module")
def scenes(reference: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    tensors = load_file(reference / "sampling" / "points.safetensors")
    return {name: (tensors[f"{name}.world_points"], tensors[f"{name}.confidence"]) for name in SCENES}


@pytest.fixture(scope="module")
def choices(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "sampling" / "expected.json").read_text())


def plain_copy(model: VGGTModel) -> PlainVGGT:
    plain = PlainVGGT(model.config)
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def assert_close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("clip", CLIPS)
@torch.no_grad()
def test_every_layer_agrees_with_the_public_code(plain: PlainVGGT, inputs: dict, expected: dict, clip: str) -> None:
    layers = plain.aggregate(inputs[clip])
    assert len(layers) == 5
    for number, tokens in enumerate(layers):
        assert_close(tokens, expected[f"{clip}.layer{number}"])


@pytest.mark.parametrize("clip", CLIPS)
@torch.no_grad()
def test_every_head_agrees_with_the_public_code(plain: PlainVGGT, inputs: dict, expected: dict, clip: str) -> None:
    output = plain(inputs[clip])
    assert set(output) == set(HEAD_OUTPUTS)
    for name in HEAD_OUTPUTS:
        assert_close(output[name], expected[f"{clip}.{name}"])


@torch.no_grad()
def test_clips_longer_than_a_chunk_agree_with_our_model(plain: PlainVGGT, ours: VGGTModel) -> None:
    frames = torch.rand(2, 11, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    wanted, output = ours(frames, heads=("camera", "depth", "points")), plain(frames)
    for name in HEAD_OUTPUTS:
        assert_close(output[name], getattr(wanted, name))


@torch.no_grad()
def test_chunks_of_dense_heads_hold_eight_frames(plain: PlainVGGT) -> None:
    sizes: list[int] = []
    handle = plain.point_head.scratch.output_conv1.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    plain(torch.rand(1, 11, 3, 28, 28))
    handle.remove()
    assert sizes == [8, 3]


@torch.no_grad()
def test_only_heads_of_the_configuration_run(folder: Path, inputs: dict, expected: dict) -> None:
    plain = plain_copy(VGGTModel.from_pretrained(folder, heads=["points"]))
    output = plain(inputs["square"])
    assert set(output) == {"world_points", "world_points_conf"}
    assert_close(output["world_points"], expected["square.world_points"])


@torch.no_grad()
def test_bfloat16_layers_agree_with_our_model_and_heads_stay_in_float32(folder: Path, inputs: dict) -> None:
    ours = VGGTModel.from_pretrained(folder, dtype=torch.bfloat16)
    plain = plain_copy(ours)
    plain.aggregator.to(torch.bfloat16)
    frames = inputs["tall"]
    wanted, actual = ours.encode(frames), plain.aggregate(frames)[-1]
    assert actual.dtype == torch.bfloat16
    assert (actual - wanted).float().abs().mean() < 0.01 * wanted.float().abs().mean()
    assert {tensor.dtype for tensor in plain(frames).values()} == {torch.float32}


@torch.no_grad()
def test_heads_leave_autocast(plain: PlainVGGT, inputs: dict) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = plain(inputs["square"])
    assert {tensor.dtype for tensor in output.values()} == {torch.float32}
    assert_close(output["world_points"], plain(inputs["square"])["world_points"], atol=0.1)


def test_names_and_shapes_of_weights_at_full_size_are_ours() -> None:
    with torch.device("meta"):
        ours, plain = VGGTModel(VGGTConfig()), PlainVGGT(VGGTConfig())
    assert shapes(plain) == shapes(ours)


def shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("num_frames", FRAME_COUNTS)
@pytest.mark.parametrize("name", SCENES)
def test_choice_of_the_public_sampler(scenes: dict, choices: dict, name: str, num_frames: int) -> None:
    assert choose_frames(*scenes[name], num_frames) == choices[name]["selected"][str(num_frames)]


@pytest.mark.parametrize("name", SCENES)
def test_voxels_of_the_public_sampler(scenes: dict, choices: dict, name: str) -> None:
    seen = voxel_sets(*(values.numpy() for values in scenes[name]))
    assert [len(voxels) for voxels in seen] == choices[name]["voxels_per_frame"]
    assert len(set().union(*seen)) == choices[name]["total_voxels"]


def test_frames_come_back_from_disk_unchanged(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(png_round_trip(frames, tmp_path), frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"frame_000{number}.png" for number in range(3)]


@pytest.mark.parametrize("indices", [[0], [0, 7, 29], [11, 12, 13], [20, 3, 20]])
def test_frames_of_a_sequential_decode_are_ours(tmp_path: Path, indices: list[int]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 30, gop=8, b_frames=2)
    frames = decode_sequentially(clip, indices)
    assert read_frame_numbers(frames) == indices
    np.testing.assert_array_equal(frames, decode_frames(clip, indices).frames)


def test_a_frame_beyond_the_end_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    with pytest.raises(ValueError, match=r"clip\.mp4, which has no frame 5\."):
        decode_sequentially(clip, [4, 5])


def test_every_question_is_answered_from_scratch(tiny_checkpoint: Path, room_clip: Path) -> None:
    pipe = pipeline("video-question-answering", model=str(tiny_checkpoint))
    questions = ["How many chairs are in this room?", "Is there a table?"]
    options = {"num_frames": 4, "num_candidate_frames": 6, "max_new_tokens": 4, "do_sample": False}
    steps: list[str] = []
    answers = answer_separately(pipe, room_clip, questions, progress=steps.append, **options)
    assert answers == [pipe(video=room_clip, question=each, **options)["generated_text"] for each in questions]
    assert steps == ["decode", "geometry", "encode"] * 2
