"""Synthetic rooms: the ground truth must follow from the boxes, so that generated answers are exact."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from spatial_mllm_hf.data.synthetic_furniture import FURNITURE
from spatial_mllm_hf.data.synthetic_paint import paint_face
from spatial_mllm_hf.data.synthetic_rendering import RenderedFrames, render
from spatial_mllm_hf.data.synthetic_rooms import (
    CLEARANCE,
    COMPASS_COLOURS,
    EYE_HEIGHT,
    Box,
    Room,
    RoomObject,
    camera_path,
    make_room,
    write_clip,
)

SIZE = (96, 72)
SEEDS = range(8)
Shot = tuple[Room, Any, Any, RenderedFrames]


@pytest.fixture(scope="module")
def shot() -> Shot:
    room = make_room(seed=3)
    extrinsics, intrinsics = camera_path(room, 24, SIZE)
    return room, extrinsics, intrinsics, render(room, extrinsics, intrinsics, SIZE)


def in_box_axes(points: np.ndarray, box: Box) -> np.ndarray:
    cos, sin = np.cos(box.yaw), np.sin(box.yaw)
    x, y, z = (points - np.array(box.center)).T
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], -1)


def surface_gap(points: np.ndarray, box: Box) -> np.ndarray:
    """Metres from points [N, 3] to the surface of a box."""
    beyond = np.abs(in_box_axes(points, box)) - np.array(box.size) / 2
    outside, inside = np.linalg.norm(np.maximum(beyond, 0), axis=-1), np.minimum(beyond.max(-1), 0)
    return np.abs(outside + inside)


def grid_in(box: Box, steps: int = 9) -> np.ndarray:
    """World points [steps ** 3, 3] spread over a box, its faces included."""
    line = np.linspace(-0.5, 0.5, steps)
    local = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3) * np.array(box.size)
    cos, sin = np.cos(box.yaw), np.sin(box.yaw)
    return local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + np.array(box.center)


def unproject(depth: np.ndarray, extrinsics: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """World points [H, W, 3] of the pixels' centres."""
    height, width = depth.shape
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(intrinsics).T
    return (rays * depth[..., None] - extrinsics[:, 3]) @ extrinsics[:, :3]


def single_box_object(center: tuple[float, float, float], size: tuple[float, float, float], yaw: float) -> RoomObject:
    colour = (0.8, 0.2, 0.2)
    return RoomObject(center, size, yaw, colour, "box", (Box(center, size, yaw, colour),))


def look_along_y(eye: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    extrinsics = np.concatenate([rotation, -rotation @ np.array(eye)[:, None]], 1)
    return extrinsics[None], np.array([[[60.0, 0, 48], [0, 60.0, 36], [0, 0, 1]]])


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_stand_inside_the_room_and_apart(seed: int) -> None:
    room = make_room(seed)
    for obj in room.objects:
        points = grid_in(obj)
        assert points[:, 2].min() == pytest.approx(0, abs=1e-9)
        assert points.min() > -1e-9
        assert (points < np.array(room.size)).all()
    for a, b in combinations(room.objects, 2):
        for one, other in ((a, b), (b, a)):
            beyond = np.abs(in_box_axes(grid_in(one), other)) - np.array(other.size) / 2
            assert (beyond.max(-1) > 0).all(), (one.name, other.name)


@pytest.mark.parametrize("seed", SEEDS)
def test_box_of_an_object_is_the_hull_of_its_parts(seed: int) -> None:
    for obj in make_room(seed).objects:
        assert all(part.yaw == obj.yaw for part in obj.parts)
        corners = in_box_axes(np.concatenate([grid_in(part, 2) for part in obj.parts]), obj)
        np.testing.assert_allclose(corners.max(0), np.array(obj.size) / 2, atol=1e-9)
        np.testing.assert_allclose(corners.min(0), -np.array(obj.size) / 2, atol=1e-9)
        low, high = np.array(FURNITURE[obj.name].sizes).T
        assert (np.array(obj.size) > low - 0.05).all(), obj.name
        assert (np.array(obj.size) < high + 0.05).all(), obj.name


def test_rooms_have_several_objects_of_a_class() -> None:
    for seed in SEEDS:
        names = [obj.name for obj in make_room(seed).objects]
        assert len(set(names)) >= 5
        assert names.count("chair") >= 2


def test_seed_decides_the_pixels() -> None:
    pictures = []
    for seed in (5, 5, 6):
        room = make_room(seed, size=(5.0, 4.5, 2.5))
        extrinsics, intrinsics = camera_path(room, 2, SIZE)
        pictures.append(render(room, extrinsics, intrinsics, SIZE).rgb)
    assert make_room(5) == make_room(5)
    assert make_room(5) != make_room(6)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).mean() > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_compass_changes_the_colours_of_the_walls_alone(seed: int) -> None:
    assert make_room(seed).wall_colours == ()
    assert make_room(seed, compass=True) == replace(make_room(seed), wall_colours=COMPASS_COLOURS)
    small = (4.0, 5.0, 2.5)
    assert make_room(seed, small, compass=True) == replace(make_room(seed, small), wall_colours=COMPASS_COLOURS)


@pytest.mark.parametrize("most", [4, 8])
def test_sparse_rooms_hold_one_class_several_times_and_others_once(most: int) -> None:
    rooms = [make_room(seed, most_objects=most) for seed in range(40)]
    counts = [Counter(obj.name for obj in room.objects) for room in rooms]
    assert max(count.total() for count in counts) == most
    assert np.mean([count.total() == most for count in counts]) > 0.7  # in some a piece finds no place
    several = [[number for number in count.values() if number > 1] for count in counts]
    assert {len(numbers) for numbers in several} <= {0, 1}
    found = {number for numbers in several for number in numbers}
    assert found == ({2} if most == 4 else {2, 3, 4})
    assert len({name for count in counts for name, number in count.items() if number > 1}) > 3
    assert [room.size for room in rooms] == [make_room(seed).size for seed in range(40)]


def test_too_few_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="most_objects must be at least 4, got 3"):
        make_room(0, most_objects=3)


def test_colours_of_the_compass_are_red_blue_green_and_yellow() -> None:
    red, blue, green, yellow = COMPASS_COLOURS
    assert [int(np.argmax(colour)) for colour in (red, blue, green)] == [0, 2, 1]
    assert min(yellow[:2]) > 2 * yellow[2]


@pytest.mark.parametrize("seed", [0, 5, 10])
def test_walls_are_painted_in_the_colours_that_a_room_says(seed: int) -> None:
    room, bare = make_room(seed), replace(make_room(seed), patches=())
    colours = ((0.1, 0.2, 0.3), (0.9, 0.1, 0.1), (0.4, 0.6, 0.2), (0.5, 0.5, 0.9))
    drawn = set()
    for face in range(4):
        plain = paint_face(replace(bare, wall_colours=colours), face, 0.05)[2:]  # above the skirting board
        shade = plain / np.array(colours[face], np.float32)  # of the stripes
        assert shade.min() == pytest.approx(0.97)
        assert shade.max() == pytest.approx(1)
        drawn.add(tuple(paint_face(bare, face, 0.05)[-1].max(0).tolist()))
        with_patches = [paint_face(replace(room, wall_colours=given), face, 0.05) for given in ((), colours)]
        same = (with_patches[0] == with_patches[1]).all(-1)
        assert same.any()  # doors, windows, pictures and skirting boards keep their colours
        assert not same.all()
    assert len(drawn) == 2  # without colours of their own, one wall is set off from three
    for face in (4, 5):
        np.testing.assert_array_equal(
            paint_face(replace(room, wall_colours=colours), face, 0.05), paint_face(room, face, 0.05)
        )


def test_pixels_of_an_object_lie_on_its_parts(shot: Shot) -> None:
    room, extrinsics, intrinsics, frames = shot
    for frame in range(0, len(extrinsics), 3):
        points = unproject(frames.depth[frame], extrinsics[frame], intrinsics[frame])
        for index in set(np.unique(frames.object_index[frame])) - {-1}:
            seen = points[frames.object_index[frame] == index]
            gap = np.min([surface_gap(seen, part) for part in room.objects[index].parts], 0)
            assert gap.max() < 1e-3, room.objects[index].name


def test_background_lies_on_the_room_and_nothing_is_in_front(shot: Shot) -> None:
    room, extrinsics, intrinsics, frames = shot
    shell = Box((room.size[0] / 2, room.size[1] / 2, room.size[2] / 2), room.size, 0.0)
    for frame in range(0, len(extrinsics), 8):
        points = unproject(frames.depth[frame], extrinsics[frame], intrinsics[frame])
        background = points[frames.object_index[frame] == -1]
        assert surface_gap(background, shell).max() < 1e-3
        eye = -extrinsics[frame, :, :3].T @ extrinsics[frame, :, 3]
        for share in np.linspace(0.1, 0.99, 15):  # the way from the camera to what it sees is free
            way = (eye + share * (points - eye)).reshape(-1, 3)[::7]
            for part in (part for obj in room.objects for part in obj.parts):
                beyond = np.abs(in_box_axes(way, part)) - np.array(part.size) / 2
                assert beyond.max(-1).min() > -1e-3


def test_camera_walks_free_at_eye_height_and_sees_everything(shot: Shot) -> None:
    room, extrinsics, _, frames = shot
    rotation = extrinsics[:, :, :3]
    eyes = -np.einsum("sij,si->sj", rotation, extrinsics[:, :, 3])
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (24, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    np.testing.assert_allclose(eyes[:, 2], EYE_HEIGHT)
    assert (rotation[:, 1, 2] < 0).all()  # the camera's y points down
    assert np.linalg.norm(np.diff(eyes, axis=0), axis=-1).max() < 0.4
    for obj in room.objects:
        beyond = np.abs(in_box_axes(eyes, obj))[:, :2] - np.array(obj.size[:2]) / 2
        assert np.linalg.norm(np.maximum(beyond, 0), axis=-1).min() >= CLEARANCE
    assert set(np.unique(frames.object_index)) == set(range(-1, len(room.objects)))


def test_pictures_are_upright_and_neither_dark_nor_burnt(shot: Shot) -> None:
    _, extrinsics, intrinsics, frames = shot
    for frame in range(len(extrinsics)):
        height_above_floor = unproject(frames.depth[frame], extrinsics[frame], intrinsics[frame])[..., 2]
        assert height_above_floor[0].mean() > height_above_floor[-1].mean() + 1
    means = frames.rgb.mean((1, 2, 3))
    assert means.min() > 70
    assert means.max() < 220
    assert (frames.rgb.max(-1) < 10).mean() < 0.01
    assert (frames.rgb.min(-1) == 255).mean() < 0.1


def test_centre_of_a_free_object_shows_it_at_the_exact_depth() -> None:
    straight = single_box_object((1.5, 4.0, 0.75), (0.6, 0.5, 1.5), 0.0)
    turned = single_box_object((3.5, 4.0, 0.75), (0.8, 0.8, 1.5), np.pi / 4)
    room = Room((5.0, 5.0, 2.5), (straight, turned), seed=0)
    extrinsics, intrinsics = look_along_y((2.5, 1.0, 1.2))
    frames = render(room, extrinsics, intrinsics, SIZE)
    for index, obj in enumerate(room.objects):
        u, v, w = intrinsics[0] @ (extrinsics[0] @ np.array([*obj.center, 1.0]))
        assert w == pytest.approx(3.0)
        assert frames.object_index[0, int(v / w), int(u / w)] == index
    seen = frames.depth[0][frames.object_index[0] == 0]
    assert seen.min() == pytest.approx(4.0 - 0.25 - 1.0, abs=1e-4)  # the front face
    assert frames.depth[0][frames.object_index[0] == 1].min() == pytest.approx(3 - 0.8 / 2**0.5, abs=0.03)  # an edge
    assert frames.depth[0, 36, 48] == pytest.approx(4.0, abs=1e-4)  # the wall between them
    red = frames.rgb[0][frames.object_index[0] == 0].astype(int)
    assert (red[:, 0] - red[:, 1]).mean() > 60


def test_nearer_object_hides_the_farther_and_cropped_ones_are_drawn() -> None:
    near = single_box_object((2.5, 2.0, 0.5), (0.6, 0.4, 1.0), 0.3)
    far = single_box_object((2.5, 4.0, 0.5), (0.4, 0.4, 1.0), 0.0)
    beside = single_box_object((1.6, 1.1, 0.9), (0.8, 1.6, 1.8), 0.0)  # reaches behind the camera
    extrinsics, intrinsics = look_along_y((2.5, 1.0, 0.6))
    alone = render(Room((5.0, 5.0, 2.5), (far,), 0), extrinsics, intrinsics, SIZE).object_index[0]
    both = render(Room((5.0, 5.0, 2.5), (near, far, beside), 0), extrinsics, intrinsics, SIZE).object_index[0]
    assert (alone == 0).sum() > 50
    assert (both == 1).sum() == 0
    assert (both == 0).sum() > 500
    assert (both[:, 0] == 2).all()


def cast(room: Room, extrinsics: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one frame of `SIZE`, by slabs in float64: depth and object of each pixel's centre, and by how many metres of
    depth the ray misses or hits the decision between two boxes."""
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3) @ np.linalg.inv(intrinsics).T
    rays, eye = rays @ extrinsics[:, :3], -extrinsics[:, :3].T @ extrinsics[:, 3]
    room_sides = np.where(rays > 0, np.array(room.size), 0.0)
    depths, owners, gaps = [((room_sides - eye) / rays).min(-1)], [-1], []
    for number, obj in enumerate(room.objects):
        for part in obj.parts:
            start, ray = in_box_axes(eye[None], part), in_box_axes(rays + np.array(part.center), part)
            sides = (np.array(part.size) / 2 * np.array([[[-1.0]], [[1.0]]]) - start) / ray  # [2, N, 3]
            enter, leave = sides.min(0).max(-1), sides.max(0).min(-1)
            depths.append(np.where((enter < leave) & (enter > 0), enter, np.inf))
            owners.append(number)
            gaps.append(np.abs(enter - leave))
    order = np.sort(depths, 0)
    decided = np.minimum(np.min(gaps, 0), order[1] - order[0])
    nearest = np.argmin(depths, 0)
    shape = SIZE[::-1]
    return order[0].reshape(shape), np.array(owners)[nearest].reshape(shape), decided.reshape(shape)


@pytest.mark.parametrize("seed", [0, 7])
def test_depth_and_index_are_those_of_rays_against_boxes(seed: int) -> None:
    room = make_room(seed)
    extrinsics, intrinsics = camera_path(room, 6, SIZE)
    frames = render(room, extrinsics, intrinsics, SIZE)
    for frame in range(6):
        depth, owner, decided = cast(room, extrinsics[frame], intrinsics[frame])
        clear = decided > 1e-4  # metres: rays along an edge may fall to either side of it
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(frames.object_index[frame][clear], owner[clear])
        np.testing.assert_allclose(frames.depth[frame][clear], depth[clear], rtol=2e-7)


def test_a_face_seen_almost_edge_on_has_its_exact_depth() -> None:
    slab = single_box_object((2.5, 3.0, 0.5999), (3.0, 2.0, 0.9998), 0.0)  # its top is 0.3 mm below the camera
    room = Room((5.0, 5.0, 2.5), (slab,), 0)
    extrinsics, intrinsics = look_along_y((2.5, 1.0, 1.1))
    intrinsics[:, 1, 2] = 36.49  # a row of centres just below the horizon
    frames = render(room, extrinsics, intrinsics, SIZE)
    depth, owner, _ = cast(room, extrinsics[0], intrinsics[0])
    on_top = (owner == 0) & (depth > 1.001)
    assert on_top.sum() > 40
    np.testing.assert_array_equal(frames.object_index[0] == 0, owner == 0)
    np.testing.assert_allclose(frames.depth[0][on_top], depth[on_top], rtol=2e-7)


def test_pixels_along_edges_are_mixed() -> None:
    box = single_box_object((2.0, 3.0, 1.25), (1.0, 0.5, 2.5), 0.2)
    extrinsics, intrinsics = look_along_y((2.5, 1.0, 1.2))
    frames = render(Room((5.0, 5.0, 2.5), (box,), 1), extrinsics, intrinsics, SIZE)
    redness = frames.rgb[0, 30].astype(int) @ (2, -1, -1)  # about 0 on the wall, high on the box
    left, right = np.flatnonzero(frames.object_index[0, 30] == 0)[[0, -1]]
    on_box, beside = redness[left + 2 : right - 1], np.concatenate([redness[: left - 1], redness[right + 2 :]])
    assert on_box.min() > 200
    assert beside.max() < 50
    for edge in (left, right):
        assert ((redness[edge - 1 : edge + 2] > 60) & (redness[edge - 1 : edge + 2] < 200)).any()


def test_frames_do_not_depend_on_each_other_and_poses_may_be_square(shot: Shot) -> None:
    room, extrinsics, intrinsics, frames = shot
    square = np.concatenate([extrinsics, np.tile([[[0.0, 0, 0, 1]]], (24, 1, 1))], 1)
    again = render(room, square[[7, 2]], intrinsics[[7, 2]], SIZE)
    np.testing.assert_array_equal(again.rgb, frames.rgb[[7, 2]])
    np.testing.assert_array_equal(again.depth, frames.depth[[7, 2]])
    np.testing.assert_array_equal(again.object_index, frames.object_index[[7, 2]])


def test_types_and_shapes(shot: Shot) -> None:
    _, extrinsics, intrinsics, frames = shot
    assert extrinsics.shape == (24, 3, 4)
    assert intrinsics.shape == (24, 3, 3)
    assert (frames.rgb.shape, frames.rgb.dtype) == ((24, 72, 96, 3), np.uint8)
    assert (frames.depth.shape, frames.depth.dtype) == ((24, 72, 96), np.float32)
    assert (frames.object_index.shape, frames.object_index.dtype) == ((24, 72, 96), np.int16)


def test_clip_round_trip(shot: Shot, tmp_path: Path) -> None:
    frames = shot[3].rgb
    write_clip(frames, tmp_path / "room.mp4", fps=12)
    with av.open(str(tmp_path / "room.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 12
        assert stream.codec_context.pix_fmt == "yuv420p"
        decoded = np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(stream)])
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 6


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (np.zeros((2, 72, 97, 3), np.uint8), 8, "even size, got width 97, height 72"),
        (np.zeros((2, 72, 96, 3), np.float32), 8, r"uint8 \[S, H, W, 3\].*got float32 \[2, 72, 96, 3\]"),
        (np.zeros((0, 72, 96, 3), np.uint8), 8, "S at least 1"),
        (np.zeros((2, 72, 96, 3), np.uint8), 0, "fps must be above 0, got 0"),
    ],
)
def test_clip_errors(frames: np.ndarray, fps: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_clip(frames, tmp_path / "bad.mp4", fps)
    assert not (tmp_path / "bad.mp4").exists()


def test_room_and_path_errors() -> None:
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        make_room(-1)
    with pytest.raises(ValueError, match=r"size must be \(x, y, z\).*got \(3.0, 5.0, 2.5\)"):
        make_room(0, size=(3.0, 5.0, 2.5))
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        camera_path(make_room(0), 0)
    with pytest.raises(ValueError, match=r"size must be \(width, height\).*got \(1, 4\)"):
        camera_path(make_room(0), 1, (1, 4))
    blocked = Room((5.0, 5.0, 2.5), (single_box_object((2.5, 2.5, 0.3), (2.0, 2.0, 0.6), 0.0),), 0)
    with pytest.raises(ValueError, match="move its objects to the walls"):
        camera_path(blocked, 4)


def test_render_errors() -> None:
    room = make_room(0)
    extrinsics, intrinsics = camera_path(room, 2, SIZE)
    with pytest.raises(ValueError, match=r"intrinsics \[S, 3, 3\], got \[2, 3, 4\] and \[1, 3, 3\]"):
        render(room, extrinsics, intrinsics[:1], SIZE)
    with pytest.raises(ValueError, match=r"extrinsics must be .* got \[3, 4\]"):
        render(room, extrinsics[0], intrinsics, SIZE)
    inside, _ = look_along_y((2.5, 2.4, 0.6))
    box = single_box_object((2.5, 2.5, 0.5), (1.0, 1.0, 1.0), 0.4)
    with pytest.raises(ValueError, match=r"extrinsics\[0\] has its camera inside a box"):
        render(Room((5.0, 5.0, 2.5), (box,), 0), inside, intrinsics[:1], SIZE)
    extrinsics[1, :, 3] += 20
    with pytest.raises(ValueError, match=r"extrinsics\[1\] has its camera at .*, expected inside the room"):
        render(room, extrinsics, intrinsics, SIZE)
