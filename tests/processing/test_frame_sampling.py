"""Frames chosen by coverage, held to the public sampler's choices and to a second implementation with Python sets."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spatial_mllm_hf.processing.frame_sampling_spatial_mllm import FrameSelection, select_frames, uniform_indices

SCENES = ("room", "corridor", "short", "static")
FRAME_COUNTS = (1, 2, 4, 8, 16, 32)
BAD_VALUES = (np.nan, np.inf, -np.inf)
Scene = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def expected(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "sampling" / "expected.json").read_text())


@pytest.fixture(scope="module")
def scenes(reference: Path) -> dict[str, Scene]:
    tensors = load_file(reference / "sampling" / "points.safetensors")
    return {name: (tensors[f"{name}.world_points"].numpy(), tensors[f"{name}.confidence"].numpy()) for name in SCENES}


def random_scene(seed: int, num_frames: int = 9, size: int = 7) -> Scene:
    """Patches of a room of 4 x 3 x 2, each frame somewhere else, on a grid of 1/64 so that many numbers are exact."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, (4, 3, 2), (num_frames, 1, 1, 3))
    points = centres + rng.normal(0, 0.4, (num_frames, size, size, 3))
    points = np.clip(np.round(points * 64) / 64, 0, (4, 3, 2)).astype(np.float32)
    return points, rng.uniform(0, 3, (num_frames, size, size)).astype(np.float32)


def scene_of_voxels(frames: list[list[int]], num_voxels: int) -> Scene:
    """Frames that see the named voxels of a row, whose side is exactly 1: the box is 20 x 20 x `num_voxels`.

    Each frame also sees the two ends of the box, which makes two voxels that all frames share.
    """
    width = 2 + max(len(seen) for seen in frames)
    points = np.zeros((len(frames), 1, width, 3), np.float32)
    for number, seen in enumerate(frames):
        points[number, 0, 1] = 20, 20, num_voxels
        for place in range(width - 2):
            points[number, 0, 2 + place] = 0.5, 0.5, 0.5 + (seen[place] if place < len(seen) else -0.5)
    return points, np.ones(points.shape[:-1], np.float32)


def select_by_sets(points: np.ndarray, confidence: np.ndarray, num_frames: int) -> tuple[list[int], int, float, int]:
    """Maximum coverage point by point: order, voxels covered, voxel size, voxels in all. Usable points only."""
    threshold = np.median(confidence)
    kept = [
        (frame, points[frame, row, column])
        for frame, row, column in np.ndindex(*confidence.shape)
        if confidence[frame, row, column] > 0.1 and confidence[frame, row, column] >= threshold
    ]
    low = np.min([point for _, point in kept], axis=0)
    extents = np.max([point for _, point in kept], axis=0) - low
    side = extents.min() / np.float32(20)
    seen: list[set[tuple[int, ...]]] = [set() for _ in points]
    for frame, point in kept:
        seen[frame].add(tuple(int(cell) for cell in np.floor((point - low) / side)))
    covered: set[tuple[int, ...]] = set()
    order: list[int] = []
    while len(order) < num_frames:
        gains = [len(voxels - covered) for voxels in seen]
        if max(gains) == 0:
            break
        order.append(gains.index(max(gains)))
        covered |= seen[order[-1]]
    return order, len(covered), float(side), len(set().union(*seen))


@pytest.mark.parametrize("num_frames", FRAME_COUNTS)
@pytest.mark.parametrize("name", SCENES)
def test_choice_of_the_public_sampler(
    scenes: dict[str, Scene], expected: dict[str, Any], name: str, num_frames: int
) -> None:
    selection = select_frames(*scenes[name], num_frames, fill="none")
    assert selection.indices == expected[name]["selected"][str(num_frames)]
    assert selection.covered == expected[name]["covered"][str(num_frames)]
    assert selection.voxel_size == expected[name]["voxel_size"]
    assert selection.total_voxels == expected[name]["total_voxels"]
    assert sorted(selection.order) == selection.indices


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_frames", [1, 3, 9])
def test_choice_of_a_second_implementation(seed: int, num_frames: int) -> None:
    points, confidence = random_scene(seed)
    order, covered, side, total = select_by_sets(points, confidence, num_frames)
    assert select_frames(points, confidence, num_frames, fill="none") == FrameSelection(
        sorted(order), order, covered, side, total
    )


def test_picks_the_frame_with_most_new_voxels_each_time() -> None:
    points, confidence = scene_of_voxels([[1, 2], [3, 4, 5, 6], [5, 6, 7, 8, 9], [1, 2, 3]], num_voxels=30)
    selection = select_frames(points, confidence, 4, fill="none")
    assert selection.order == [2, 3, 1]  # 5 new, then 3, then frame 1 adds one; frame 0 adds nothing
    assert selection.voxel_size == 1.0
    assert selection.covered == selection.total_voxels == 2 + 9
    assert select_frames(points, confidence, 2, fill="none").covered == 2 + 8


def test_ties_go_to_the_earliest_frame() -> None:
    points, confidence = scene_of_voxels([[1, 2], [3, 4], [5, 6], [7, 8]], num_voxels=30)
    assert select_frames(points, confidence, 3, fill="none").order == [0, 1, 2]


@pytest.mark.parametrize("level", [0.1, 0.05, 0.0, -1.0])
def test_points_of_low_confidence_are_not_used(level: float) -> None:
    points, confidence = scene_of_voxels([[1, 2], [3, 4, 5]], num_voxels=30)
    confidence[1] = level
    assert select_frames(points, confidence, 2, fill="none").order == [0]
    assert select_frames(points, np.full_like(confidence, level), 2, fill="none") == FrameSelection([], [], 0, 0.0, 0)


def test_median_of_an_even_number_lies_between_the_middle_two() -> None:
    points = np.array([[[[0, 0, 0], [20, 20, 20]]], [[[0, 0, 0], [5, 5, 5]]]], np.float32)
    confidence = np.array([[[9, 9]], [[1, 2]]], np.float32)
    assert select_frames(points, confidence, 2, fill="none").order == [0]  # 5.5, so not even the 2 is enough


@pytest.mark.parametrize("num_frames", FRAME_COUNTS)
@pytest.mark.parametrize("name", SCENES)
def test_uniform_fill_keeps_the_choice_and_always_gives_as_many(
    scenes: dict[str, Scene], name: str, num_frames: int
) -> None:
    picked = select_frames(*scenes[name], num_frames, fill="none")
    filled = select_frames(*scenes[name], num_frames)
    assert len(filled.indices) == len(filled.order) == num_frames
    assert filled.indices == sorted(filled.order)
    assert filled.order[: len(picked.order)] == picked.order
    assert (filled.covered, filled.voxel_size) == (picked.covered, picked.voxel_size)
    if num_frames <= len(scenes[name][0]):
        assert len(set(filled.indices)) == num_frames


@pytest.mark.parametrize("num_frames", [2, 4, 8, 12])
def test_static_scene_is_spread_over_time(scenes: dict[str, Scene], num_frames: int) -> None:
    num_available = len(scenes["static"][0])
    filled = select_frames(*scenes["static"], num_frames)
    assert filled.order[0] == 0
    assert filled.order[1:] == sorted(filled.order[1:])
    gaps = np.diff([*filled.order[1:], num_available])
    even = (num_available - 1) / (num_frames - 1)
    assert set(np.diff(filled.order[1:])) <= {int(np.floor(even)), int(np.ceil(even))}
    assert gaps[-1] <= np.ceil(even)


@pytest.mark.parametrize("num_frames", [10, 16, 32])
def test_fewer_frames_than_asked_repeats_evenly(scenes: dict[str, Scene], num_frames: int) -> None:
    selection = select_frames(*scenes["short"], num_frames)
    assert selection.indices == np.round(np.linspace(0, 9, num_frames)).astype(int).tolist()
    assert selection.covered == selection.total_voxels
    assert set(selection.order[:10]) == set(range(10))


@pytest.mark.parametrize("fill", ["uniform", "none"])
def test_one_frame(fill: str) -> None:
    points, confidence = random_scene(0, num_frames=1)
    selection = select_frames(points, confidence, 4, fill=fill)
    assert selection.indices == [0] * (4 if fill == "uniform" else 1)
    assert selection.covered == selection.total_voxels > 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flat_scene_is_measured_along_its_other_sides(axis: int) -> None:
    points, confidence = random_scene(1)
    points[..., axis] = 1.5
    selection = select_frames(points, confidence, 4, fill="none")
    kept = points[(confidence > 0.1) & (confidence >= np.median(confidence))]
    extents = np.delete(np.ptp(kept, axis=0), axis)
    assert selection.voxel_size == pytest.approx(extents.min() / 20)
    assert len(selection.order) == 4
    assert len({tuple(point) for point in kept}) >= selection.total_voxels > 50


def test_line_is_measured_along_itself() -> None:
    points = np.zeros((4, 1, 10, 3), np.float32)
    points[..., 1] = np.arange(40).reshape(4, 1, 10)
    selection = select_frames(points, np.ones((4, 1, 10)), 2, fill="none")
    assert selection.voxel_size == pytest.approx(39 / 20)
    assert selection.total_voxels == 21  # the far end has a voxel of its own


def test_all_points_equal_is_one_voxel() -> None:
    points = np.full((6, 3, 3, 3), 2.5, np.float32)
    assert select_frames(points, np.ones((6, 3, 3)), 4, fill="none").order == [0]
    selection = select_frames(points, np.ones((6, 3, 3)), 4)
    assert selection.covered == selection.total_voxels == 1
    assert len(set(selection.indices)) == 4


def test_equal_confidence_uses_every_point() -> None:
    points, _ = random_scene(2)
    selection = select_frames(points, np.full(points.shape[:-1], 0.7), 3, fill="none")
    order, covered, side, total = select_by_sets(points, np.full(points.shape[:-1], 0.7), 3)
    assert selection == FrameSelection(sorted(order), order, covered, side, total)


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("what", ["points", "confidence"])
def test_bad_values_are_left_out_as_if_they_were_not_there(what: str, value: float) -> None:
    points, confidence = random_scene(3)
    clean = select_frames(points, confidence, 4, fill="none")
    # The median stays what it was when as many points above it leave as below it: add bad ones instead.
    bad_points, bad_confidence = (np.concatenate([array, array[:, :2]], axis=1) for array in (points, confidence))
    if what == "points":
        bad_points[:, -2:, :, 1] = value
    else:
        bad_confidence[:, -2:] = value
    assert select_frames(bad_points, bad_confidence, 4, fill="none") == clean


@pytest.mark.parametrize("value", BAD_VALUES)
def test_frame_of_bad_values_is_not_picked(value: float) -> None:
    points, confidence = random_scene(4)
    first = select_frames(points, confidence, 1).order[0]
    points[first] = value
    selection = select_frames(points, confidence, len(points) - 1, fill="none")
    assert first not in selection.order
    assert len(select_frames(points, confidence, len(points)).indices) == len(points)


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("what", ["points", "confidence"])
def test_nothing_but_bad_values_falls_back_to_uniform(what: str, value: float) -> None:
    points, confidence = random_scene(5, num_frames=11)
    (points if what == "points" else confidence)[:] = value
    assert select_frames(points, confidence, 6, fill="none") == FrameSelection([], [], 0, 0.0, 0)
    selection = select_frames(points, confidence, 6)
    assert selection.indices == [0, 2, 4, 6, 8, 10]
    assert (selection.covered, selection.voxel_size, selection.total_voxels) == (0, 0.0, 0)


@pytest.mark.parametrize(
    "outlier", [(1e12, -1e12, 1e12), (1e12, 1, 1), (1e12, -1e12, 1), (3e38, 0, 0), (1e30, 1e30, 1)]
)
def test_outliers_never_overflow(outlier: tuple[float, float, float]) -> None:
    points, confidence = random_scene(6)
    points[0, 0, 0], confidence[0, 0, 0] = outlier, 9
    points[1, 0, 0], confidence[1, 0, 0] = [-value for value in outlier], 9
    for num_frames in (2, 6, 20):
        selection = select_frames(points, confidence, num_frames)
        assert len(selection.indices) == num_frames
    assert selection.covered == selection.total_voxels  # 20 frames are all frames


def test_box_of_astronomic_size_is_counted_right() -> None:
    """Two long axes and a short one: more voxels in the box than an int64 can number."""
    points = np.zeros((3, 1, 4, 3), np.float32)
    points[..., 2] = [[[0, 5, 10, 20]]] * 3
    points[1, 0, 1:, 0] = 1e12
    points[2, 0, 2:, 1] = 1e12
    selection = select_frames(points, np.ones((3, 1, 4)), 3, fill="none")
    assert selection.voxel_size == 1.0
    assert selection.total_voxels == 4 + 3 + 2
    assert selection.order == [0, 1, 2]


def test_points_whose_extents_overflow_give_as_many_frames() -> None:
    points, confidence = random_scene(7)
    centred = points / np.abs(points).max() * 2 - 1
    assert len(select_frames(centred * np.float32(3e38), confidence, 4).indices) == 4


def test_tensors_arrays_and_lists_agree() -> None:
    points, confidence = random_scene(8)
    choice = select_frames(points, confidence, 4)
    assert select_frames(torch.from_numpy(points), torch.from_numpy(confidence), 4) == choice
    assert select_frames(points.astype(np.float64), torch.from_numpy(confidence).double(), 4) == choice
    assert select_frames(points.tolist(), confidence.tolist(), 4) == choice


def test_bfloat16_is_computed_in_float32() -> None:
    points, confidence = (torch.from_numpy(array).bfloat16() for array in random_scene(9))
    assert select_frames(points, confidence, 4) == select_frames(points.float(), confidence.float(), 4)


def test_geometry_with_gradients_serves() -> None:
    points, confidence = (torch.from_numpy(array) for array in random_scene(9))
    choice = select_frames(points, confidence, 4)
    assert select_frames(points.clone().requires_grad_(), confidence.clone().requires_grad_(), 4) == choice


def test_inputs_are_left_alone() -> None:
    points, confidence = random_scene(10)
    copies = points.copy(), confidence.copy()
    select_frames(points, confidence, 4)
    np.testing.assert_array_equal(points, copies[0])
    np.testing.assert_array_equal(confidence, copies[1])


def test_order_of_the_pixels_does_not_matter() -> None:
    points, confidence = random_scene(11)
    choice, rng = select_frames(points, confidence, 5), np.random.default_rng(0)
    for frame in range(len(points)):
        shuffled = rng.permutation(confidence[frame].size)
        points[frame] = points[frame].reshape(-1, 3)[shuffled].reshape(points[frame].shape)
        confidence[frame] = confidence[frame].reshape(-1)[shuffled].reshape(confidence[frame].shape)
    assert select_frames(points, confidence, 5) == choice


@pytest.mark.parametrize("scale", [2.0**-10, 0.5, 2.0, 2.0**20])
def test_unit_of_the_points_does_not_matter(scale: float) -> None:
    points, confidence = random_scene(12)
    choice = select_frames(points, confidence, 5)
    scaled = select_frames(points * np.float32(scale), confidence, 5)
    assert scaled == choice._replace(voxel_size=choice.voxel_size * scale)


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (8, -16, 4), (-64, 32, 128)])
def test_origin_of_the_points_does_not_matter(shift: tuple[float, float, float]) -> None:
    points, confidence = random_scene(13)
    assert select_frames(points + np.float32(shift), confidence, 5) == select_frames(points, confidence, 5)


def test_frames_reversed_in_time_see_as_much() -> None:
    points, confidence = random_scene(14)
    forwards, backwards = (select_frames(points[::step].copy(), confidence[::step].copy(), 1) for step in (1, -1))
    assert (backwards.covered, backwards.total_voxels) == (forwards.covered, forwards.total_voxels)


@pytest.mark.parametrize(
    ("points_shape", "confidence_shape", "options", "message"),
    [
        ((2, 4, 4), (2, 4, 4), {}, r"points must be \[S, H, W, 3\] .* got shape \[2, 4, 4\]"),
        ((2, 4, 4, 2), (2, 4, 4), {}, r"points must be \[S, H, W, 3\] .* got shape \[2, 4, 4, 2\]"),
        ((0, 4, 4, 3), (0, 4, 4), {}, r"with at least one frame, got shape \[0, 4, 4, 3\]"),
        ((2, 4, 4, 3), (2, 4, 5), {}, r"confidence must be \[2, 4, 4\] as the points, got \[2, 4, 5\]"),
        ((2, 4, 4, 3), (2, 4, 4, 1), {}, r"confidence must be \[2, 4, 4\] as the points, got \[2, 4, 4, 1\]"),
        ((2, 4, 4, 3), (2, 4, 4), {"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ((2, 4, 4, 3), (2, 4, 4), {"num_frames": -3}, "num_frames must be at least 1, got -3"),
        ((2, 4, 4, 3), (2, 4, 4), {"fill": "zeros"}, "fill must be 'uniform' or 'none', got 'zeros'"),
    ],
)
def test_errors(
    points_shape: tuple[int, ...], confidence_shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select_frames(torch.rand(points_shape), torch.rand(confidence_shape), **{"num_frames": 2, **options})


@pytest.mark.parametrize(
    ("num_available", "num_frames", "indices"),
    [
        (28, 16, [0, 2, 4, 5, 7, 9, 11, 13, 14, 16, 18, 20, 22, 23, 25, 27]),
        (24, 16, [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23]),
        (10, 1, [0]),
        (10, 2, [0, 9]),
        (4, 4, [0, 1, 2, 3]),
        (3, 6, [0, 0, 1, 1, 2, 2]),
        (1, 4, [0, 0, 0, 0]),
        (6, 3, [0, 2, 5]),  # 2.5 is rounded to even
    ],
)
def test_uniform_indices(num_available: int, num_frames: int, indices: list[int]) -> None:
    assert uniform_indices(num_available, num_frames) == indices


@pytest.mark.parametrize(("num_available", "num_frames"), [(1000, 16), (17, 16), (7, 32)])
def test_uniform_indices_span_the_video_evenly(num_available: int, num_frames: int) -> None:
    indices = uniform_indices(num_available, num_frames)
    assert (indices[0], indices[-1], len(indices)) == (0, num_available - 1, num_frames)
    assert max(np.diff(indices)) - min(np.diff(indices)) <= 1
    repeats = Counter(indices).values()
    assert num_frames > num_available or max(repeats) == 1
