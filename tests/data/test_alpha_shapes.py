"""Areas of rooms whose outlines are known."""

import numpy as np
import pytest

from spatial_mllm_hf.data.alpha_shapes import ALPHA, SAMPLED_VERTICES, alpha_shape_area, room_area

STEP = 0.1
CORNER = 0.03  # m2 that an alpha shape adds where a wall turns outwards


def grid(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """Points every 10 cm of a rectangle, its border included."""
    x = np.linspace(left, right, round((right - left) / STEP) + 1)
    y = np.linspace(bottom, top, round((top - bottom) / STEP) + 1)
    return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)


def without(points: np.ndarray, left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """Points that are not strictly inside a rectangle."""
    low, high = np.array([left, bottom]) + 1e-9, np.array([right, top]) - 1e-9
    return points[~((points > low) & (points < high)).all(1)]


def test_a_rectangle() -> None:
    assert alpha_shape_area(grid(0, 0, 5, 4), ALPHA) == pytest.approx(20)


def test_an_l_is_not_its_hull() -> None:
    points = np.concatenate([grid(0, 0, 4, 1), grid(0, 0, 1, 3)])
    assert alpha_shape_area(np.unique(points.round(9), axis=0), ALPHA) == pytest.approx(6, abs=CORNER)


def test_two_rooms_with_a_gap_count_both_and_not_the_gap() -> None:
    assert alpha_shape_area(np.concatenate([grid(0, 0, 1, 2), grid(2, 0, 4, 2)]), ALPHA) == pytest.approx(6)


def test_a_hole_is_filled_and_a_bay_is_not() -> None:
    floor = grid(0, 0, 5, 4)
    assert alpha_shape_area(without(floor, 1, 1, 3, 3), ALPHA) == pytest.approx(20)
    assert alpha_shape_area(without(floor, 1, 1, 3, 9), ALPHA) == pytest.approx(20 - 2 * 3, abs=2 * CORNER)


def test_an_island_in_a_hole_changes_nothing() -> None:
    floor = without(grid(0, 0, 5, 5), 1, 1, 4, 4)
    assert alpha_shape_area(np.concatenate([floor, grid(2, 2, 3, 3)]), ALPHA) == pytest.approx(25)


def test_alpha_is_one_over_the_largest_radius() -> None:
    triangle = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])  # a radius of 1 / sqrt(3)
    assert alpha_shape_area(triangle, 3**0.5 - 0.01) == pytest.approx(3**0.5 / 4)
    assert alpha_shape_area(triangle, 3**0.5 + 0.01) == 0


def test_repeated_points_change_nothing() -> None:
    assert alpha_shape_area(np.repeat(grid(0, 0, 2, 1), 3, axis=0), ALPHA) == pytest.approx(2)


def test_turning_a_room_changes_nothing() -> None:
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    points = without(grid(0, 0, 3, 2), 1, 1, 2, 9)
    assert alpha_shape_area(points @ rotation.T, ALPHA) == pytest.approx(alpha_shape_area(points, ALPHA), abs=1e-6)


def test_points_on_a_line_are_an_error() -> None:
    with pytest.raises(ValueError, match="points must span an area; 5 were given that lie on a line"):
        alpha_shape_area(np.arange(10.0).reshape(5, 2), ALPHA)


def test_a_room_is_seen_from_above_and_sampled_the_same_each_time() -> None:
    floor = grid(0, 0, 3, 2)
    heights = np.tile([0.0, 2.5], len(floor))[: len(floor)]
    vertices = np.column_stack([floor, heights])
    assert len(vertices) < SAMPLED_VERTICES / 10  # so that hardly one is missed
    assert room_area(vertices) == pytest.approx(6, abs=0.02)
    assert room_area(vertices, seed=1) == room_area(vertices, seed=1)
