"""Training of VGGT on exact geometry: targets against rooms, losses by hand, runs on tiny rooms."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from minute_vggt import MINUTE

from spatial_mllm_hf import VGGTModel
from spatial_mllm_hf.data.synthetic_data_set import write_rooms
from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings
from spatial_mllm_hf.modeling.modeling_vggt import VGGTOutput
from spatial_mllm_hf.modeling.vggt_geometry import decode_pose, rotation_from_quaternion
from spatial_mllm_hf.training import geometry
from spatial_mllm_hf.training.geometry import GeometryRecipe, RoomClips, new_vggt, run_geometry
from spatial_mllm_hf.training.geometry_losses import (
    CONFIDENCE_REWARD,
    SceneTargets,
    camera_loss,
    confident_loss,
    constant_output,
    encode_pose,
    geometry_errors,
    geometry_losses,
    quaternion_from_rotation,
    rotation_angle,
    scene_targets,
)
from spatial_mllm_hf.training.recipes import read_recipe

WIDTH, HEIGHT = 56, 42


@pytest.fixture(scope="module")
def room_views() -> dict[str, Any]:
    """A room seen by five cameras, as `scene_targets` takes it, and the room."""
    room = make_room(seed=3)
    extrinsics, intrinsics = camera_path(room, 5, (WIDTH, HEIGHT))
    frames = render(room, extrinsics, intrinsics, (WIDTH, HEIGHT))
    return {
        "room": room,
        "walls": torch.from_numpy(frames.object_index) == -1,
        "depth": torch.from_numpy(frames.depth)[None].double(),
        "extrinsics": torch.from_numpy(extrinsics)[None],
        "intrinsics": torch.from_numpy(intrinsics)[None],
    }


@pytest.fixture(scope="module")
def targets(room_views: dict[str, Any]) -> SceneTargets:
    return scene_targets(room_views["depth"], room_views["extrinsics"], room_views["intrinsics"])


def exact_output(targets: SceneTargets, confidence: float = 2.0) -> VGGTOutput:
    conf = torch.full_like(targets.depth, confidence)
    return VGGTOutput(
        pose_enc=targets.pose_enc,
        depth=targets.depth[..., None],
        depth_conf=conf,
        world_points=targets.points,
        world_points_conf=conf,
    )


def random_rotations(count: int) -> torch.Tensor:
    return rotation_from_quaternion(torch.randn(count, 4, dtype=torch.float64, generator=torch.manual_seed(0)))


# ---------- targets
def test_points_lie_on_the_walls_that_the_pixels_show(room_views: dict[str, Any], targets: SceneTargets) -> None:
    first = room_views["extrinsics"][0, 0]
    in_first_camera = targets.points[0] * targets.unit[0]
    in_room = (in_first_camera - first[:, 3]) @ first[:, :3]  # x_room = R^T (x_camera - t)
    size = torch.tensor(room_views["room"].size, dtype=torch.float64)
    to_nearest_wall = torch.minimum(in_room.abs(), (size - in_room).abs()).amin(-1)
    assert room_views["walls"].sum() > 1000
    assert to_nearest_wall[room_views["walls"]].max() < 1e-4


def test_the_first_camera_is_the_world_and_the_mean_distance_is_one(targets: SceneTargets) -> None:
    at_rest = torch.tensor([0.0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    assert torch.allclose(targets.pose_enc[0, 0, :7], at_rest, atol=1e-12)
    assert targets.points.norm(dim=-1).mean().item() == pytest.approx(1)
    assert torch.allclose(targets.points[0, 0, ..., 2], targets.depth[0, 0])


def test_the_cameras_see_each_others_points(targets: SceneTargets) -> None:
    extrinsics, intrinsics = decode_pose(targets.pose_enc[0, 3], HEIGHT, WIDTH)
    row, column = 20, 31
    in_camera = extrinsics[:, :3] @ targets.points[0, 3, row, column] + extrinsics[:, 3]
    pixel = intrinsics @ in_camera / in_camera[2]
    assert pixel[:2].tolist() == pytest.approx([column + 0.5, row + 0.5])


def test_the_scale_of_a_scene_goes_into_the_unit_alone(room_views: dict[str, Any], targets: SceneTargets) -> None:
    larger = room_views["extrinsics"].clone()
    larger[..., 3] *= 7
    of_larger = scene_targets(7 * room_views["depth"], larger, room_views["intrinsics"])
    assert of_larger.unit.item() == pytest.approx(7 * targets.unit.item())
    for name in ("pose_enc", "depth", "points"):
        assert torch.allclose(getattr(of_larger, name), getattr(targets, name), atol=1e-12)


def test_another_world_gives_the_same_targets(room_views: dict[str, Any], targets: SceneTargets) -> None:
    turn, shift = random_rotations(1)[0], torch.tensor([3.0, -2, 5], dtype=torch.float64)
    moved = room_views["extrinsics"].clone()  # x_old = turn x_new + shift
    moved[..., 3] += moved[..., :3] @ shift
    moved[..., :3] = moved[..., :3] @ turn
    again = scene_targets(room_views["depth"], moved, room_views["intrinsics"])
    for name in ("pose_enc", "depth", "points", "unit"):
        assert torch.allclose(getattr(again, name), getattr(targets, name), atol=1e-9)


def test_a_unit_for_all_scenes(room_views: dict[str, Any]) -> None:
    views = [room_views[name] for name in ("depth", "extrinsics", "intrinsics")]
    in_metres, halves = scene_targets(*views, unit=1.0), scene_targets(*views, unit=2.0)
    assert torch.equal(in_metres.depth, room_views["depth"])
    assert torch.allclose(halves.points, in_metres.points / 2)
    assert torch.allclose(halves.pose_enc[..., :3], in_metres.pose_enc[..., :3] / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extrinsics": torch.zeros(1, 5, 4, 4)}, r"must be \[1, 5, 3, 4\] and \[1, 5, 3, 3\].*got \[1, 5, 4, 4\]"),
        ({"unit": 0.0}, "unit must be above 0 metres, got 0.0; leave it out"),
    ],
)
def test_targets_that_cannot_be_made(change: dict[str, Any], message: str, room_views: dict[str, Any]) -> None:
    views = {name: room_views[name] for name in ("depth", "extrinsics", "intrinsics")}
    with pytest.raises(ValueError, match=message):
        scene_targets(**(views | change))


# ---------- pose encodings
def test_encoded_cameras_decode_to_themselves() -> None:
    extrinsics = torch.cat([random_rotations(50), torch.randn(50, 3, 1, dtype=torch.float64)], dim=-1)
    intrinsics = torch.tensor([[60.0, 0, 28], [0, 50, 21], [0, 0, 1]], dtype=torch.float64).expand(50, 3, 3)
    found = decode_pose(encode_pose(extrinsics, intrinsics, HEIGHT, WIDTH), HEIGHT, WIDTH)
    assert torch.allclose(found[0], extrinsics)
    assert torch.allclose(found[1], intrinsics)


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0, 1]),
        ([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], [0, math.sqrt(0.5), 0, math.sqrt(0.5)]),  # a quarter turn about y
        ([[-1, 0, 0], [0, 1, 0], [0, 0, -1]], [0, 1, 0, 0]),  # half a turn about y
        ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], [0, 0, -math.sqrt(0.5), math.sqrt(0.5)]),  # back by a quarter about z
    ],
)
def test_quaternions_by_hand(rotation: list[list[int]], expected: list[float]) -> None:
    assert quaternion_from_rotation(torch.tensor(rotation).double()).tolist() == pytest.approx(expected)


def test_quaternions_of_half_turns_lose_nothing() -> None:
    axes = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64, generator=torch.manual_seed(1)), dim=1)
    half_turns = rotation_from_quaternion(torch.cat([axes, torch.zeros(40, 1, dtype=torch.float64)], dim=1))
    assert torch.allclose(rotation_from_quaternion(quaternion_from_rotation(half_turns)), half_turns)


def test_angles_between_rotations() -> None:
    tenth = rotation_from_quaternion(torch.tensor([0, math.sin(0.05), 0, math.cos(0.05)], dtype=torch.float64))
    start = random_rotations(5)
    assert rotation_angle(tenth @ start, start).tolist() == pytest.approx([0.1] * 5)
    assert rotation_angle(start, start).abs().max() < 1e-7


# ---------- losses
def test_exact_cameras_cost_nothing_whichever_way_their_quaternions_point(targets: SceneTargets) -> None:
    other_side = targets.pose_enc.clone()
    other_side[..., 3:7] *= -1
    assert camera_loss(targets.pose_enc, targets.pose_enc) == 0
    assert camera_loss(other_side, targets.pose_enc) == 0


@pytest.mark.parametrize(
    ("place", "error", "expected"),
    [
        (0, 1.0, (1.0 - 0.05) / 3),  # beyond the threshold of 0.1: |e| - 0.05; one of three numbers
        (2, -0.04, 0.04**2 / 0.2 / 3),  # below it: e² / 0.2
        (4, 0.5, (0.5 - 0.05) / 4),
        (8, 0.3, 0.5 * (0.3 - 0.05) / 2),  # fields of view count half
    ],
)
def test_camera_loss_by_hand(place: int, error: float, expected: float) -> None:
    target = torch.tensor([0.3, 0.1, -0.2, 0, 0, 0, 1, 1.0, 1.3], dtype=torch.float64)
    predicted = target.clone()
    predicted[place] += error
    assert camera_loss(predicted[None, None], target[None, None]).item() == pytest.approx(expected)


def test_confident_loss_by_hand() -> None:
    target, confidence = torch.zeros(1, 1, 2, 2, 1), torch.full((1, 1, 2, 2), 3.0)
    reward = CONFIDENCE_REWARD * math.log(3)
    assert confident_loss(target, target, confidence).item() == pytest.approx(-reward)
    assert confident_loss(target + 0.5, target, confidence).item() == pytest.approx(3 * 0.5 - reward)
    one_column_off = torch.tensor([[0.0, 1], [0, 1]]).view(1, 1, 2, 2, 1)  # mean error 1/2, steps of 1 along rows
    assert confident_loss(one_column_off, target, confidence).item() == pytest.approx(3 * (0.5 + 1) - reward)


def test_confidence_of_a_step_is_that_of_the_pixel_before_it() -> None:
    target, confidence = torch.zeros(1, 1, 1, 2, 1), torch.tensor([2.0, 5.0]).view(1, 1, 1, 2)
    predicted = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2, 1)
    reward = CONFIDENCE_REWARD * (math.log(2) + math.log(5)) / 2
    assert confident_loss(predicted, target, confidence).item() == pytest.approx(5 / 2 + 2 - reward)


def test_errors_of_vectors_are_their_lengths() -> None:
    target, ones = torch.zeros(1, 1, 1, 1, 3), torch.ones(1, 1, 1, 1)
    assert confident_loss(target + torch.tensor([2.0, 3, 6]), target, ones).item() == pytest.approx(7)


def test_the_best_confidence_is_the_reward_over_the_error() -> None:
    error = 0.04
    confidence = torch.full((1, 1, 3, 3), CONFIDENCE_REWARD / error, requires_grad=True)
    target = torch.zeros(1, 1, 3, 3, 1)
    confident_loss(target + error, target, confidence).backward()
    assert confidence.grad is not None
    assert confidence.grad.abs().max() < 1e-6


def test_losses_are_of_the_heads_that_ran(targets: SceneTargets) -> None:
    assert list(geometry_losses(VGGTOutput(pose_enc=targets.pose_enc), targets)) == ["camera"]
    losses = geometry_losses(exact_output(targets), targets)
    assert losses["camera"] == 0
    for name in ("depth", "points"):
        assert losses[name].item() == pytest.approx(-CONFIDENCE_REWARD * math.log(2))


def test_gradients_reach_every_weight(room_views: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = new_vggt(MINUTE)
    clips = {name: room_views[name].float() for name in ("depth", "extrinsics", "intrinsics")}
    output = model(torch.rand(1, 5, 3, HEIGHT, WIDTH), heads=("camera", "depth", "points"))
    torch.stack(list(geometry_losses(output, scene_targets(**clips)).values())).sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == ["aggregator.patch_embed.mask_token"]


# ---------- errors
def test_exact_output_has_no_errors(targets: SceneTargets) -> None:
    assert all(error.abs() < 1e-6 for error in geometry_errors(exact_output(targets), targets).values())


def test_errors_are_in_metres_and_degrees(targets: SceneTargets) -> None:
    output = exact_output(targets)
    output.depth = output.depth * 1.1
    output.world_points = output.world_points + torch.tensor([0, 0.2, 0], dtype=torch.float64)
    tenth = rotation_from_quaternion(torch.tensor([0, math.sin(0.05), 0, math.cos(0.05)], dtype=torch.float64))
    extrinsics, intrinsics = decode_pose(targets.pose_enc, HEIGHT, WIDTH)
    output.pose_enc = encode_pose(tenth @ extrinsics, intrinsics, HEIGHT, WIDTH)  # turned on the spot
    errors = geometry_errors(output, targets)
    assert errors["depth_relative"].item() == pytest.approx(0.1)
    assert errors["point_metres"].item() == pytest.approx(0.2 * targets.unit.item())
    assert errors["rotation_degrees"].item() == pytest.approx(math.degrees(0.1))
    assert errors["position_metres"].item() == pytest.approx(0, abs=1e-9)


def test_a_predictor_that_never_looks(room_views: dict[str, Any], targets: SceneTargets) -> None:
    errors = geometry_errors(constant_output(targets), targets)
    mean = targets.depth.mean()
    assert errors["depth_relative"].item() == pytest.approx(
        ((mean - targets.depth).abs() / targets.depth).mean().item()
    )
    room_from_camera = [torch.linalg.inv(matrix[:, :3]) for matrix in room_views["extrinsics"][0]]
    centres = [-turn @ matrix[:, 3] for turn, matrix in zip(room_from_camera, room_views["extrinsics"][0])]
    moved = torch.stack([(centre - centres[0]).norm() for centre in centres[1:]]).mean()
    assert errors["position_metres"].item() == pytest.approx(moved.item())
    axes = [turn[:, 2] for turn in room_from_camera]  # where the cameras look; all are upright
    looked = [math.degrees(math.acos(axis @ axes[0])) for axis in axes[1:]]
    assert errors["rotation_degrees"].item() == pytest.approx(sum(looked) / 4, rel=0.2)


# ---------- data
@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rooms of six frames with geometry."""
    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, 2, SceneSettings(6, (WIDTH, HEIGHT)), seed=5, geometry=True)
    return folder


def test_clips_are_frames_of_one_room_in_order(rooms: Path) -> None:
    every, some = RoomClips(rooms, 6), RoomClips(rooms, 3)
    assert len(every) == 2
    whole, clip = every[1], some[1]
    assert clip["frames"].shape == (3, 3, HEIGHT, WIDTH)
    assert 0 <= clip["frames"].min() < clip["frames"].max() <= 1
    for name, values in clip.items():
        assert torch.equal(values, whole[name][[0, 2, 5]]), name  # round(linspace(0, 5, 3)), halves to even


def test_frames_are_drawn_by_seed_and_epoch(rooms: Path) -> None:
    whole, clips = RoomClips(rooms, 6)[0]["extrinsics"], RoomClips(rooms, 3, seed=1)
    seen = set()
    for epoch in range(8):
        clips.set_epoch(epoch)
        drawn = clips[0]["extrinsics"]
        assert torch.equal(drawn, clips[0]["extrinsics"])
        numbers = [int((whole == one).all(2).all(1).nonzero()) for one in drawn]
        assert numbers == sorted(set(numbers))
        seen.add(tuple(numbers))
    assert len(seen) > 3


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_frame_of_the_walk_may_be_kept(count: int, rooms: Path) -> None:
    whole = RoomClips(rooms, 6)
    drawn, kept = RoomClips(rooms, count, seed=1), RoomClips(rooms, count, seed=1, keep_first=True)
    away = 0
    for epoch in range(8):
        drawn.set_epoch(epoch)
        kept.set_epoch(epoch)
        for room in range(2):
            without, clip = drawn[room], kept[room]
            for name, values in clip.items():
                assert torch.equal(values[0], whole[room][name][0]), name
                assert torch.equal(values[1:], without[name][1:]), name  # the others are drawn as ever
            away += not torch.equal(clip["extrinsics"][0], without["extrinsics"][0])
    assert away > 3


def test_a_clip_of_the_whole_walk_begins_with_its_first_frame_anyway(rooms: Path) -> None:
    for name, values in RoomClips(rooms, 3, keep_first=True)[0].items():
        assert torch.equal(values, RoomClips(rooms, 3)[0][name]), name


def test_folders_without_geometry(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no rooms with geometry; make some: spatial-mllm data rooms"):
        RoomClips(tmp_path, 2)
    with pytest.raises(ValueError, match=r"room_000005.safetensors has 6 frames, but num_frames asks for up to 7"):
        RoomClips(rooms, 7)[0]


# ---------- runs
def recipe(folder: Path, output: Path, **settings: Any) -> GeometryRecipe:
    options: dict[str, Any] = {
        "rooms": str(folder),
        "held_out": str(folder),
        "output_dir": str(output),
        "num_frames": [2, 4],
        "vggt": MINUTE,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
    }
    return GeometryRecipe(**(options | settings))


def test_a_room_is_learnt(tmp_path: Path) -> None:
    room, output = tmp_path / "room", tmp_path / "output"
    write_rooms(room, 1, SceneSettings(3, (WIDTH, HEIGHT)), seed=5, geometry=True)
    metrics = run_geometry(
        recipe(room, output, max_steps=120, num_frames=[3, 3], learning_rate=3e-3, lr_scheduler_type="cosine")
    )
    assert metrics["eval_depth_relative"] < 0.1 < 0.3 < metrics["eval_constant_depth_relative"]
    assert metrics["eval_rotation_degrees"] < 5 < 60 < metrics["eval_constant_rotation_degrees"]
    assert metrics["eval_position_metres"] < 0.1 < 1 < metrics["eval_constant_position_metres"]
    assert metrics["eval_point_metres"] < 0.6 * metrics["eval_constant_point_metres"]
    assert VGGTModel.from_pretrained(output).config.embed_dim == MINUTE["embed_dim"]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(rooms: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    run_geometry(recipe(rooms, tmp_path / "whole", **settings))
    run_geometry(recipe(rooms, tmp_path / "parts", **settings, max_steps=2))
    run_geometry(recipe(rooms, tmp_path / "parts", **settings))
    whole, parts = (
        [entry for entry in json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]]
        for name in ("whole", "parts")
    )
    losses = [[(e["step"], e["loss"], e["camera"], e["points"]) for e in log if "loss" in e] for log in (whole, parts)]
    assert [step for step, *_ in losses[0]] == [1, 2, 3, 4]
    assert losses[0] == losses[1]


def test_a_model_with_one_head_learns_its_loss_alone(rooms: Path, tmp_path: Path) -> None:
    metrics = run_geometry(recipe(rooms, tmp_path, max_steps=1, vggt={**MINUTE, "heads": ["points"]}))
    assert "eval_point_metres" in metrics
    assert not {"eval_depth_relative", "eval_rotation_degrees"} & set(metrics)


@pytest.mark.parametrize("keep_first", [True, False])
def test_the_recipe_says_whether_first_frames_are_kept(
    keep_first: bool, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Recorded(RoomClips):
        """Remembers which there were."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append((self.seed, self.keep_first))

    monkeypatch.setattr(geometry, "RoomClips", Recorded)
    run_geometry(recipe(rooms, tmp_path, max_steps=1, seed=3, keep_first=keep_first))
    assert made == [(3, keep_first), (None, False)]  # rooms to learn from, and those to measure on


def test_first_frames_are_kept_for_the_tiny_model_alone(rooms: Path, tmp_path: Path) -> None:
    assert not recipe(rooms, tmp_path).keep_first
    assert read_recipe("tiny_geometry")["keep_first"] is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rooms": ""}, "rooms is empty: name it in the recipe or as --rooms"),
        ({"held_out": ""}, "held_out is empty: name it in the recipe or as --held_out"),
        ({"num_frames": [4, 2]}, r"num_frames must be \[fewest, most\] with 1 <= fewest <= most, got \[4, 2\]"),
        ({"unit": -1.0}, "unit must be above 0 metres, got -1.0; null gives each scene its own"),
        ({"remove_unused_columns": True}, "would take depth and cameras out of samples"),
        ({"camera_weight": -1.0}, "weights of losses must be at least 0"),
    ],
)
def test_recipes_that_make_no_run(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(tmp_path, tmp_path, **settings)
