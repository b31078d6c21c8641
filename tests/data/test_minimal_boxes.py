"""The smallest box around points: Open3D's own numbers, known boxes, and a hull found by trying all triples."""

from itertools import combinations

import numpy as np
import pytest

from spatial_mllm_hf.data.minimal_boxes import FLAT, minimal_box


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation * np.sign(np.linalg.det(rotation))


def cuboid(lengths: tuple[float, float, float], rng: np.random.Generator, inside: int = 50) -> np.ndarray:
    corners = (np.arange(8)[:, None] >> np.arange(3)) % 2 - 0.5
    return np.concatenate([corners, rng.uniform(-0.5, 0.5, (inside, 3))]) * lengths


@pytest.mark.parametrize("seed", range(5))
def test_a_turned_cuboid_is_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, rotation, center = (0.4, 1.1, 2.3), random_rotation(rng), rng.uniform(-5, 5, 3)
    box = minimal_box(cuboid(lengths, rng) @ rotation.T + center)
    assert np.sort(box.lengths) == pytest.approx(lengths, abs=1e-9)
    assert box.centroid == pytest.approx(center, abs=1e-9)
    order = np.argsort(box.lengths)
    assert np.abs((box.axes[order] * rotation.T).sum(1)) == pytest.approx(np.ones(3), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_box_holds_all_points_with_right_handed_axes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(80, 3)) * (1, 2, 0.5)
    box = minimal_box(points)
    assert np.abs((points - box.centroid) @ box.axes.T / box.lengths).max() == pytest.approx(0.5, abs=1e-9)
    assert box.axes @ box.axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(box.axes) == pytest.approx(1)


# Sorted lengths and centre, by get_minimal_oriented_bounding_box of Open3D 0.19.0; 0.18.0 has the same.
OPEN3D = {
    0: ([1.68904, 5.11704, 5.198248], [0.453357, 0.351197, 0.32307]),
    1: ([1.643521, 4.354574, 6.841321], [0.077941, -1.145937, -0.127349]),
    2: ([1.972714, 4.972152, 8.369354], [-0.202442, -0.741479, 0.061074]),
}


@pytest.mark.parametrize("seed", OPEN3D)
def test_boxes_are_those_of_open3d(seed: int) -> None:
    lengths, center = OPEN3D[seed]
    box = minimal_box(np.random.default_rng(seed).normal(size=(40, 3)) * (1, 2, 0.5))
    assert np.sort(box.lengths) == pytest.approx(lengths, abs=1e-6)
    assert box.centroid == pytest.approx(center, abs=1e-6)


def volumes_on_the_hull(points: np.ndarray) -> list[list[float]]:
    """For each triangle of the hull, volumes of the boxes with a face on it and an axis along one of its edges."""
    found = []
    for triangle in combinations(points, 3):
        sides = (points - triangle[0]) @ np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
        if min(sides.max(), -sides.min()) > 1e-9:
            continue
        volumes = []
        for a, b, c in (triangle, np.roll(triangle, 1, axis=0), np.roll(triangle, 2, axis=0)):
            frame = np.linalg.qr(np.stack([b - a, c - a], axis=1), mode="complete")[0].T
            volumes.append(float(np.ptp(points @ frame.T, axis=0).prod()))
        found.append(volumes)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_face_lies_on_the_hull_and_no_other_triangle_would_do_better(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(16, 3))
    volume = minimal_box(points).lengths.prod()
    candidates = volumes_on_the_hull(points)
    assert np.abs(np.array(candidates) - volume).min() == pytest.approx(0, abs=1e-9)
    assert np.min(candidates) - 1e-9 <= volume <= min(max(volumes) for volumes in candidates) + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_points_in_a_plane_get_the_smallest_rectangle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    flat, rotation = rng.normal(size=(30, 2)), random_rotation(rng)
    box = minimal_box(np.column_stack([flat, np.zeros(30)]) @ rotation.T + (1, 2, 3))
    angles = np.linspace(0, np.pi / 2, 2000)
    along = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    areas = np.ptp(along @ flat.T, axis=1) * np.ptp(along[:, ::-1] * (-1, 1) @ flat.T, axis=1)
    thin, *sides = np.sort(box.lengths)
    assert thin == pytest.approx(0, abs=1e-9)
    assert areas.min() * 0.99 <= np.prod(sides) <= areas.min() + 1e-9
    assert np.abs(box.axes[np.argmin(box.lengths)] @ rotation[:, 2]) == pytest.approx(1)


def test_a_pane_of_almost_no_thickness_keeps_it() -> None:
    points = cuboid((1.2, 0.9, FLAT / 2), np.random.default_rng(0))
    assert np.sort(minimal_box(points).lengths) == pytest.approx([FLAT / 2, 0.9, 1.2], abs=FLAT / 10)


def test_points_on_a_line_and_a_single_point() -> None:
    line = np.linspace(0, 1, 7)[:, None] * (2, 1, 2)
    box = minimal_box(line)
    assert box.lengths == pytest.approx([3, 0, 0], abs=1e-9)
    assert box.centroid == pytest.approx([1, 0.5, 1])
    assert np.linalg.det(box.axes) == pytest.approx(1)
    assert minimal_box(np.array([[1.0, 2.0, 3.0]])).lengths.tolist() == [0, 0, 0]


def test_repeated_points_change_nothing() -> None:
    points = cuboid((1, 2, 3), np.random.default_rng(1))
    assert np.sort(minimal_box(np.repeat(points, 5, axis=0)).lengths) == pytest.approx([1, 2, 3])


@pytest.mark.parametrize(
    "points", [np.zeros((0, 3)), np.zeros((4, 2)), np.array([[0, 0, np.nan]]), np.array([[np.inf, 0, 0]])]
)
def test_what_is_no_set_of_points_is_an_error(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"points must be finite coordinates of shape \[N, 3\]"):
        minimal_box(points)
