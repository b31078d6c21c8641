"""Bearings and the words for them."""

import numpy as np
import pytest

from spatial_mllm_hf.data.relative_directions import DIFFICULTIES, Difficulty, bearings, direction, is_clear

EYE, NORTH = np.array([1.0, 2.0, 0.5]), np.array([1.0, 5.0, 0.1])


def bearing_of(x: float, y: float) -> float:
    """Of a point x to the right and y ahead of somebody who looks north."""
    return float(bearings(EYE, NORTH, EYE + np.array([[x, y, 7.0]]))[0])


@pytest.mark.parametrize(
    ("x", "y", "degrees", "easy", "medium", "hard"),
    [
        (-1, 2, 26.565, "left", "left", "front-left"),
        (-2, -1, 116.565, "left", "left", "back-left"),
        (-1, -2, 153.435, "left", "back", "back-left"),
        (1, -2, 206.565, "right", "back", "back-right"),
        (2, -1, 243.435, "right", "right", "back-right"),
        (1, 2, 333.435, "right", "right", "front-right"),
    ],
)
def test_worked_examples(x: float, y: float, degrees: float, easy: str, medium: str, hard: str) -> None:
    assert bearing_of(x, y) == pytest.approx(degrees, abs=1e-3)
    assert [direction(bearing_of(x, y), difficulty) for difficulty in DIFFICULTIES] == [easy, medium, hard]


def test_bearings_turn_with_the_scene_and_ignore_height_and_scale() -> None:
    rng = np.random.default_rng(0)
    eye, ahead, points = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(20, 3))
    angle = 0.8
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    expected = bearings(eye, ahead, points)
    np.testing.assert_allclose(bearings(eye @ turn.T, ahead @ turn.T, points @ turn.T), expected)
    np.testing.assert_allclose(bearings(3 * eye, 3 * ahead, 3 * points), expected)
    np.testing.assert_allclose(bearings(eye, ahead + np.array([0, 0, 9]), points - np.array([0, 0, 4])), expected)
    mirror = np.array([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(bearings(eye * mirror, ahead * mirror, points * mirror), 360 - expected)


def test_bearings_of_many_scenes_at_once() -> None:
    rng = np.random.default_rng(1)
    eyes, ahead, points = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 9, 3))
    together = bearings(eyes, ahead, points)
    for number in range(5):
        np.testing.assert_allclose(together[number], bearings(eyes[number], ahead[number], points[number]))


def test_straight_ahead_is_0_however_small_the_error() -> None:
    slightly_right = bearings(np.zeros(2), np.array([0.0, 1.0]), np.array([[1e-320, 1.0]]))
    assert 0 <= float(slightly_right[0]) < 360


@pytest.mark.parametrize(
    ("difficulty", "clear", "doubtful"),
    [
        ("easy", (11, 124, 236, 349), (9, 126, 140, 180, 220, 234, 351)),
        ("medium", (11, 124, 146, 180, 214, 236, 349), (9, 126, 144, 216, 234, 351)),
        ("hard", (11, 79, 101, 169, 191, 259, 281, 349), (9, 81, 99, 171, 189, 261, 279, 351)),
    ],
)
def test_questions_near_a_boundary_are_not_clear(
    difficulty: Difficulty, clear: tuple[float, ...], doubtful: tuple[float, ...]
) -> None:
    for expected, angles in ((True, clear), (False, doubtful)):
        for angle in angles:
            corners = np.full(8, float(angle))
            assert bool(is_clear(np.array(float(angle)), corners, difficulty)) is expected, (angle, difficulty)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_two_corners_may_stray_and_three_may_not(difficulty: Difficulty) -> None:
    inside, outside = 45.0, 300.0
    for stray, expected in ((0, True), (2, True), (3, False), (8, False)):
        corners = np.array([outside] * stray + [inside] * (8 - stray))
        assert bool(is_clear(np.array(inside), corners, difficulty)) is expected
