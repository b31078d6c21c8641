"""Walks through synthetic rooms stay in free space, differ by seed, and show the room."""

from typing import get_args

import numpy as np
import pytest

from spatial_mllm_hf.data.synthetic_rooms import CLEARANCE, Box, Room, RoomObject, box_corners, make_room
from spatial_mllm_hf.data.synthetic_walks import WalkKind, clearance, draw_camera_path

SIZE = (96, 72)
ROOMS = [make_room(seed) for seed in range(6)]


def places_and_headings(extrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World positions [S, 3] and degrees [S] of where cameras look, seen from above and unwrapped."""
    rotation = extrinsics[:, :, :3]
    places = -np.einsum("sij,si->sj", rotation, extrinsics[:, :, 3])
    return places, np.degrees(np.unwrap(np.arctan2(rotation[:, 2, 1], rotation[:, 2, 0])))


def grid_over(box: Box) -> np.ndarray:
    """Points [900, 2] spread over a box seen from above, its corners among them."""
    a, b, c = box_corners(box)[[0, 1, 2], :2]
    u, v = np.meshgrid(np.linspace(0, 1, 30), np.linspace(0, 1, 30))
    return a + u.reshape(-1, 1) * (b - a) + v.reshape(-1, 1) * (c - a)


def blocked_room() -> Room:
    center, size = (2.0, 2.0, 0.5), (3.6, 3.6, 1.0)
    return Room((4.0, 4.0, 2.5), (RoomObject(center, size, 0.0, name="bed", parts=(Box(center, size, 0.0),)),), 0)


@pytest.mark.parametrize("kind", get_args(WalkKind))
def test_cameras_are_upright_and_keep_off_walls_and_furniture(kind: WalkKind) -> None:
    for room in ROOMS:
        extrinsics, _ = draw_camera_path(room, 40, SIZE, kind=kind)
        rotation, (places, _) = extrinsics[:, :, :3], places_and_headings(extrinsics)
        np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (40, 1, 1)), atol=1e-12)
        np.testing.assert_allclose(rotation[:, 0, 2], 0, atol=1e-12)  # the camera's x is level
        assert (rotation[:, 1, 2] < -0.8).all()  # its y points down
        assert np.ptp(places[:, 2]) < 1e-9
        assert 1.3 < places[0, 2] < 1.7
        assert (places[:, :2] > CLEARANCE - 1e-9).all()
        assert (places[:, :2] < np.array(room.size[:2]) - CLEARANCE + 1e-9).all()
        for obj in room.objects:
            gaps = np.linalg.norm(places[:, None, :2] - grid_over(obj), axis=-1)
            assert gaps.min() > CLEARANCE - 1e-9, (kind, obj.name)


def test_clearance_is_the_distance_to_the_nearest_wall_or_side() -> None:
    center, size = (2.0, 3.0, 0.5), (1.0, 2.0, 1.0)
    room = Room((5.0, 5.0, 2.5), (RoomObject(center, size, np.pi / 2, name="bed"),), 0)  # turned: 2 m along x
    points = np.array([[3.5, 3.0], [4.9, 3.0], [2.0, 1.5], [2.0, 3.0], [3.3, 3.9], [5.5, 1.0]])
    np.testing.assert_allclose(clearance(room, points), [0.5, 0.1, 1.0, 0.0, 0.5, -0.5], atol=1e-12)


def test_each_kind_moves_as_it_says() -> None:
    for room in ROOMS:
        middle = np.array(room.size[:2]) / 2
        places, headings = places_and_headings(draw_camera_path(room, 60, SIZE, kind="round")[0])
        outward = np.degrees(np.unwrap(np.arctan2(*(places[:, :2] - middle).T[::-1])))
        assert 300 < abs(outward[-1] - outward[0]) < 360
        assert (np.cos(np.radians(headings - outward)) < -0.9).all()  # looks across the middle

        places, headings = places_and_headings(draw_camera_path(room, 60, SIZE, kind="turn")[0])
        assert np.ptp(places, axis=0).max() < 1e-9
        steps = np.diff(headings)
        assert (steps > 0).all() or (steps < 0).all()
        assert 340 < abs(headings[-1] - headings[0]) < 450

        places, headings = places_and_headings(draw_camera_path(room, 60, SIZE, kind="line")[0])
        lengths = np.sort(np.ptp(places[:, :2], axis=0))
        assert lengths[0] < 1e-9
        assert lengths[1] > 0.8
        assert 150 < np.ptp(headings) <= 160


def test_a_tour_leads_to_several_places_in_steps_that_linger_at_its_ends() -> None:
    room = ROOMS[1]
    paths = [places_and_headings(draw_camera_path(room, 80, SIZE, seed, "tour")[0]) for seed in range(5)]
    slower = []
    for places, headings in paths:
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        assert 1.5 < steps.sum() < 30
        assert steps.max() < 0.5
        assert abs(headings[-1] - headings[0]) > 300
        slower.append(steps[:5].mean() / steps[35:45].mean())
    assert max(slower) < 1.01
    assert min(slower) < 0.5


def test_seed_and_kind_decide_the_walk() -> None:
    room = ROOMS[0]
    paths = {
        (seed, kind): draw_camera_path(room, 4, SIZE, seed, kind)[0] for seed in range(4) for kind in (None, "turn")
    }
    for (seed, kind), path in paths.items():
        np.testing.assert_array_equal(draw_camera_path(room, 4, SIZE, seed, kind)[0], path)
        for other, path_of_other in paths.items():
            if other != (seed, kind) and kind == "turn":
                assert np.abs(path - path_of_other).max() > 1e-3


def test_all_kinds_are_drawn() -> None:
    found = set()
    for seed in range(24):
        places, _ = places_and_headings(draw_camera_path(ROOMS[5], 30, SIZE, seed)[0])
        extent = np.sort(np.ptp(places[:, :2], axis=0))
        if extent[1] < 1e-9:
            found.add("turn")
        elif extent[0] < 1e-9:
            found.add("line")
        else:
            middle = np.array(ROOMS[5].size[:2]) / 2
            radii = (places[:, :2] - middle) / ROOMS[5].size[:2]
            found.add("round" if np.ptp(np.linalg.norm(radii, axis=1)) < 1e-6 else "tour")
    assert found == set(get_args(WalkKind))


@pytest.mark.parametrize(
    ("kind", "place", "headings"),
    [
        ("round", [4.36007, 2.155795, 1.593981], [-82.9467, 151.1178]),
        ("turn", [3.790229, 1.492565, 1.592913], [103.7991, -113.0131]),
        ("line", [2.456365, 3.13469, 1.649163], [-10.0, -65.8962]),
        ("tour", [1.709949, 3.111373, 1.592913], [103.7991, -113.0131]),
    ],
)
def test_a_seed_gives_the_walk_that_it_has_always_given(
    kind: WalkKind, place: list[float], headings: list[float]
) -> None:
    """Values of the first edition: rooms of a folder that grows must stay what they are."""
    extrinsics, _ = draw_camera_path(ROOMS[0], 5, SIZE, kind=kind)
    places, found = places_and_headings(extrinsics)
    np.testing.assert_allclose(places[2], place, atol=1e-5)
    turned = found[[0, 2]] - np.array(headings)
    np.testing.assert_allclose(np.cos(np.radians(turned)), 1, atol=1e-9)


@pytest.mark.parametrize("kind", ["round", "turn", "tour", None])
@pytest.mark.parametrize("heading", [np.pi / 2, -2.5, 7.0])
def test_a_walk_starts_where_it_is_told_to_look(kind: WalkKind | None, heading: float) -> None:
    paths = []
    for room in ROOMS:
        for seed in range(3):
            extrinsics, _ = draw_camera_path(room, 12, SIZE, seed, kind, start_heading=heading)
            looked = extrinsics[0, 2, :2] / np.linalg.norm(extrinsics[0, 2, :2])
            np.testing.assert_allclose(looked, [np.cos(heading), np.sin(heading)], atol=1e-12)
            places, _ = places_and_headings(extrinsics)
            assert (clearance(room, places[:, :2]) > CLEARANCE - 1e-9).all()
            paths.append(extrinsics)
    for number, path in enumerate(paths):
        assert all(np.abs(path - other).max() > 1e-3 for other in paths[:number])


@pytest.mark.parametrize("kind", ["turn", "tour"])
def test_where_a_walk_starts_to_look_turns_all_of_it_and_moves_none(kind: WalkKind) -> None:
    for room in ROOMS:
        (places, drawn), (told_places, told) = (
            places_and_headings(draw_camera_path(room, 20, SIZE, kind=kind, start_heading=start)[0])
            for start in (None, 1.0)
        )
        np.testing.assert_allclose(told_places, places, atol=1e-9)
        np.testing.assert_allclose(np.diff(told), np.diff(drawn), atol=1e-9)


def test_a_round_that_is_told_where_to_look_still_looks_across_the_middle() -> None:
    for room in ROOMS:
        places, headings = places_and_headings(draw_camera_path(room, 60, SIZE, kind="round", start_heading=2.0)[0])
        outward = np.degrees(np.arctan2(*(places[:, :2] - np.array(room.size[:2]) / 2).T[::-1]))
        assert (np.cos(np.radians(headings - outward)) < -0.75).all()


def test_no_walk_along_a_line_is_drawn_where_the_start_is_told() -> None:
    for seed in range(24):
        places, _ = places_and_headings(draw_camera_path(ROOMS[5], 30, SIZE, seed, start_heading=0.0)[0])
        extent = np.sort(np.ptp(places[:, :2], axis=0))
        assert extent[0] > 0.1 or extent[1] < 1e-9  # neither of a line's


def test_intrinsics_fit_the_picture() -> None:
    _, intrinsics = draw_camera_path(ROOMS[0], 3, (112, 84))
    assert intrinsics.shape == (3, 3, 3)
    np.testing.assert_allclose(np.degrees(np.arctan(56 / intrinsics[:, 0, 0])) * 2, 75)
    np.testing.assert_allclose(intrinsics[:, :2, 2], [[56, 42]] * 3)


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        draw_camera_path(ROOMS[0], 0)
    with pytest.raises(ValueError, match="kind must be one of round, turn, line, tour, got 'run'"):
        draw_camera_path(ROOMS[0], 4, kind="run")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"size must be \(width, height\)"):
        draw_camera_path(ROOMS[0], 4, (1, 1))
    with pytest.raises(ValueError, match="no free way for a walk of kind turn; move its objects"):
        draw_camera_path(blocked_room(), 4, kind="turn")
    with pytest.raises(ValueError, match=r"no free way for a walk of kind .*, .*, .*, .*; move its objects"):
        draw_camera_path(blocked_room(), 4)
    with pytest.raises(ValueError, match=r"start_heading must be None for a walk of kind line, .* got 0.5"):
        draw_camera_path(ROOMS[0], 4, kind="line", start_heading=0.5)
    with pytest.raises(
        ValueError, match=r"no free way for a walk of kind (round|turn|tour), \w+, \w+; move its"
    ) as error:
        draw_camera_path(blocked_room(), 4, start_heading=0.5)
    assert "line" not in str(error.value)
