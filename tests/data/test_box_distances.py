"""Distances between boxes, held to the comparison of all pairs of grid points and to the boxes themselves."""

import numpy as np
import pytest
from annotated_scenes import make_box, random_box, reference_distance, reference_grid

from spatial_mllm_hf.data.box_distances import BoxGrid, box_distance, closest_distance
from spatial_mllm_hf.data.oriented_boxes import OrientedBox

EXCESS = 0.3  # metres that a distance of grids may be above that of their boxes


def distance(a: OrientedBox, b: OrientedBox) -> float:
    return box_distance(BoxGrid(a), BoxGrid(b))


def solid_distance(a: OrientedBox, b: OrientedBox) -> float:
    """Metres between two boxes, by going back and forth between the closest points of either."""

    def closest(box: OrientedBox, point: np.ndarray) -> np.ndarray:
        local = (point - box.centroid) @ box.axes.T
        return np.clip(local, -box.lengths / 2, box.lengths / 2) @ box.axes + box.centroid

    there = b.centroid
    for _ in range(3000):
        here = closest(a, there)
        there = closest(b, here)
    return float(np.linalg.norm(here - there))


def moved(box: OrientedBox, turn: np.ndarray, shift: tuple[float, float, float]) -> OrientedBox:
    return OrientedBox(box.centroid @ turn + shift, box.lengths, box.axes @ turn)


@pytest.mark.parametrize("seed", range(10))
def test_same_as_all_pairs_of_grid_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_box(rng, reach=0.7), random_box(rng, reach=0.7)  # many of these overlap
    assert distance(a, b) == pytest.approx(reference_distance(a, b), abs=1e-12)
    assert distance(b, a) == pytest.approx(distance(a, b), abs=1e-12)


def test_same_as_all_pairs_of_boxes_on_the_axes_where_whole_faces_are_dropped() -> None:
    rng = np.random.default_rng(0)
    missing = 0
    for _ in range(6):
        a, b = (make_box(tuple(rng.uniform(-1, 1, 3)), tuple(rng.uniform(0.02, 0.6, 3))) for _ in range(2))
        assert distance(a, b) == pytest.approx(reference_distance(a, b), abs=1e-12)
        highest = BoxGrid(a).points[:, 2].max()
        missing += highest < a.bounds[1][2] - 0.01
    assert 0 < missing < 6


@pytest.mark.parametrize("seed", range(10))
def test_never_below_the_distance_of_the_boxes_and_hardly_above(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_box(rng), random_box(rng)
    expected = solid_distance(a, b)
    assert expected - 1e-9 <= distance(a, b) <= expected + EXCESS


def test_inside_the_removed_half_the_closest_point_is_around_it() -> None:
    shelf, book = make_box((0, 0, 0), (2, 2, 2)), make_box((0.1, 0, 0), (0.02, 0.02, 0.02))
    assert solid_distance(shelf, book) == 0
    assert 0.38 < distance(shelf, book) < 0.45  # the inner box ends 0.5 from the middle


def test_grid_is_the_shell_of_the_box() -> None:
    box = random_box(np.random.default_rng(3))
    grid, expected = BoxGrid(box).points, reference_grid(box)
    assert grid.shape == expected.shape
    order, expected_order = np.lexsort(grid.T.round(9)), np.lexsort(expected.T.round(9))
    np.testing.assert_allclose(grid[order], expected[expected_order], atol=1e-12)


def test_hardly_depends_on_the_place_in_the_world() -> None:
    rng = np.random.default_rng(5)
    a, b = random_box(rng), random_box(rng)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    there = distance(moved(a, turn, (3.0, -1.0, 2.0)), moved(b, turn, (3.0, -1.0, 2.0)))
    assert there == pytest.approx(distance(a, b), abs=EXCESS)


@pytest.mark.parametrize("lengths", [(0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (0.03, 0.03, 0.03), (2.0, 1e-5, 1.0)])
def test_flat_and_tiny_boxes_have_a_grid(lengths: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(2)
    for _ in range(5):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        flat = OrientedBox(rng.uniform(-1, 1, 3), np.array(lengths), turn)
        points = BoxGrid(flat).points
        assert len(points) > 0
        assert BoxGrid(flat).gaps(points).max() < 1e-9
        box = make_box((4, 0, 0), (1, 1, 1))
        expected = solid_distance(flat, box)
        assert expected - 1e-9 <= distance(flat, box) <= expected + EXCESS


def test_of_groups_the_closest_two_count() -> None:
    rng = np.random.default_rng(7)
    group, other = ([random_box(rng) for _ in range(number)] for number in (3, 4))
    found = closest_distance([BoxGrid(box) for box in group], [BoxGrid(box) for box in other])
    assert found == min(distance(a, b) for a in group for b in other)
