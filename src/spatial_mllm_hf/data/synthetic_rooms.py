"""Furnished rooms made from a seed, with exact ground truth: boxes and cameras (`synthetic_rendering` draws them).

Purpose: a clip for the demo and the tests without a download, and the ground that generated spatial questions stand on.

    from spatial_mllm_hf.data.synthetic_rendering import render

    room = make_room(seed=0)
    extrinsics, intrinsics = camera_path(room, num_frames=64)
    write_clip(render(room, extrinsics, intrinsics).rgb, "room.mp4", fps=16)

Conventions of the whole file:
- World: metres, z up; the room spans (0, 0, 0) to `Room.size`; yaw in radians, counter-clockwise seen from above.
- Camera: OpenCV axes (x right, y down, z forward); `extrinsics` are camera from world.
- Pixels: (column c, row r) has its centre at (c + 0.5, r + 0.5); `size` is (width, height). Colours: rgb in [0, 1].
- Faces of a box: 2 * axis + (1 on the high side). A piece of furniture looks along its own +y, its back at -y.

Shapes: S frames, H height, W width, N points.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from .synthetic_furniture import FURNITURE, Part, Vector

Array = NDArray[Any]

EYE_HEIGHT, CLEARANCE = 1.5, 0.3  # metres; the clearance is between the walk and the furniture, seen from above
FIELD_OF_VIEW = 75.0  # degrees, across the picture
MIN_ROOM_SIZE = (3.5, 3.5, 2.3)  # metres
DRAWN_ROOM_SIZES = ((3.5, 3.5, 2.4), (9.0, 9.0, 3.0))  # metres
FEWEST_UNIQUE, FEWEST_REPEATED = 6, 2  # classes that a room should hold once, and more than once: questions need both
FEWEST_OBJECTS = 4  # of sparse rooms
_ATTEMPTS, _ROUNDS, _TRIES = 8, 6, 25  # to furnish a room so; to place a piece of furniture, so many tries a round
_MARGIN = 0.06  # metres between pieces of furniture
_NARROW = 4.6  # metres; rooms with a shorter side keep less of their middle free for the walk
COMPASS_COLOURS: tuple[Vector, ...] = ((0.85, 0.35, 0.3), (0.35, 0.6, 0.85), (0.45, 0.75, 0.4), (0.9, 0.8, 0.35))
FACE_AXES = ((1, 2), (0, 2), (0, 1))  # of a face across axis i: the axes of its texture's columns and rows


@dataclass(frozen=True)
class Box:
    """An upright box: `center` in the world, `size` along its own axes (metres), `yaw` from world x to its own x."""

    center: Vector
    size: Vector
    yaw: float
    colour: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RoomObject(Box):
    """A piece of furniture; its own box is the hull of `parts`, which share its yaw."""

    name: str = ""
    parts: tuple[Box, ...] = ()


@dataclass(frozen=True)
class WallPatch:
    """A picture, window or door on wall `face` (0 to 3); (along the wall, up) in metres for its `corner` and `size`."""

    kind: Literal["door", "window", "picture"]
    face: int
    corner: tuple[float, float]
    size: tuple[float, float]


@dataclass(frozen=True)
class Room:
    """A room of `size` (x, y, z) metres, its furniture, and what is on its walls. `seed` also picks the paint.

    `wall_colours`: of the walls, faces 0 to 3; () leaves them to the seed.
    """

    size: Vector
    objects: tuple[RoomObject, ...]
    seed: int
    patches: tuple[WallPatch, ...] = ()
    wall_colours: tuple[Vector, ...] = ()


def make_room(seed: int, size: Vector | None = None, compass: bool = False, most_objects: int | None = None) -> Room:
    """Furnish a room; the same arguments give the same room. A piece that finds no place is left out.

    Rooms hold at least `FEWEST_UNIQUE` classes once and `FEWEST_REPEATED` more than once; with a small `size`, some may
    be missing.

    Args:
        seed: at least 0.
        size: x, y, z in metres; drawn from the seed by default.
        compass: paint the walls in `COMPASS_COLOURS`, the same in all rooms, so that a picture tells which way the
            camera looks.
        most_objects: sparse rooms: one class two to four times, others once, so many pieces at most.

    Raises:
        ValueError: a negative seed, a size below `MIN_ROOM_SIZE`, or `most_objects` below `FEWEST_OBJECTS`.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if most_objects is not None and most_objects < FEWEST_OBJECTS:
        raise ValueError(f"most_objects must be at least {FEWEST_OBJECTS}, got {most_objects}")
    rng = np.random.default_rng(seed)
    drawn = as_vector(rng.uniform(*DRAWN_ROOM_SIZES).round(2))
    size = drawn if size is None else size
    if len(size) != 3 or any(length < least for length, least in zip(size, MIN_ROOM_SIZE, strict=True)):
        raise ValueError(f"size must be (x, y, z) in metres, at least {MIN_ROOM_SIZE}, got {size}")
    patches = _draw_patches(size, rng)
    best: list[RoomObject] = []
    for _ in range(_ATTEMPTS if most_objects is None else 1):
        objects = _furnish(size, patches, rng, most_objects)
        best = max(best, objects, key=_variety)
        if _variety(best) == FEWEST_UNIQUE + FEWEST_REPEATED:
            break
    return Room(size, tuple(best), seed, patches, COMPASS_COLOURS if compass else ())


def camera_path(room: Room, num_frames: int, size: tuple[int, int] = (224, 168)) -> tuple[Array, Array]:
    """Walk once round the middle of the room at eye height, looking across it, so that all of it is seen.

    Returns:
        extrinsics float64 [S, 3, 4], camera from world; intrinsics float64 [S, 3, 3] in pixels of a picture of `size`
        (width, height), `FIELD_OF_VIEW` wide.

    Raises:
        ValueError: fewer than 1 frame, a size below 2 pixels, or furniture that leaves no round to walk.
    """
    checked_size(size)
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    turn = 2 * np.pi * np.arange(num_frames) / num_frames
    heading, pitch = turn + np.pi + 0.2 * np.sin(2 * turn), -0.26 + 0.08 * np.sin(3 * turn)
    return cameras_along(free_round(room, turn), heading, pitch, size)


def free_round(room: Room, turn: Array) -> Array:
    """Points [S, 3] at angles `turn` [S] of the widest ellipse about the middle of the room that is clear of furniture.

    Raises:
        ValueError: furniture that leaves none.
    """
    for reach in (1.0, 0.7, 0.4, 0.1):
        walk = _walk(room.size, reach, np.linspace(0, 2 * np.pi, 256))
        if all(box_distance(walk, obj, plan=True).min() > CLEARANCE for obj in room.objects):
            return _walk(room.size, reach, turn)
    raise ValueError(f"room has no free round of {CLEARANCE} m about its middle; move its objects to the walls")


def cameras_along(centers: Array, heading: Array, pitch: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Upright cameras at points of the world; the same returns as `camera_path`.

    Args:
        centers: [S, 3]; heading: [S], radians from the world's x, counter-clockwise; pitch: [S], radians above level.
    """
    width, height = size
    flat = np.cos(pitch)
    forward = np.stack([flat * np.cos(heading), flat * np.sin(heading), np.sin(pitch)], -1)
    right = np.stack([np.sin(heading), -np.cos(heading), np.zeros_like(heading)], -1)
    rotation = np.stack([right, np.cross(forward, right), forward], 1)  # [S, 3, 3]
    focal = width / 2 / np.tan(np.radians(FIELD_OF_VIEW / 2))
    pinhole = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return np.concatenate([rotation, -rotation @ centers[:, :, None]], -1), np.tile(pinhole, (len(centers), 1, 1))


def write_clip(frames: Array, path: str | Path, fps: float) -> None:
    """Write frames uint8 [S, H, W, 3] as an H.264 mp4 (yuv420p).

    Raises:
        ValueError: frames of another shape or type, an odd width or height (which yuv420p cannot hold), or fps <= 0.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"frames must be uint8 [S, H, W, 3], S at least 1, got {frames.dtype} {list(frames.shape)}")
    _, height, width, _ = frames.shape
    if width % 2 or height % 2:
        raise ValueError(f"frames must have an even size, got width {width}, height {height}; crop or pad by one pixel")
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 2:
        raise ValueError(f"size must be (width, height) in pixels, at least 2 each, got {size}")
    return size


def as_vector(values: Array) -> Vector:
    x, y, z = values.tolist()
    return x, y, z


# ---------- boxes and their places
def box_from_world(yaw: float) -> Array:
    """Rotation [3, 3] from the world's axes to those of a box."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def box_corners(box: Box) -> Array:
    """World corners [8, 3]; bit i of a corner's number says whether it is on the high side of axis i."""
    return ((np.arange(8)[:, None] >> np.arange(3)) % 2 - 0.5) * box.size @ box_from_world(box.yaw) + box.center


def box_distance(points: Array, box: Box, plan: bool = False) -> Array:
    """Metres [N] from world points [N, 3] to a box, 0 inside; with `plan`, seen from above."""
    outside = np.abs((points - box.center) @ box_from_world(box.yaw).T) - np.array(box.size) / 2
    return np.linalg.norm(np.maximum(outside, 0) * (1, 1, not plan), axis=-1)


def _walk(size: Vector, reach: float, turn: Array) -> Array:
    """Points [S, 3] at angles `turn` [S] of an ellipse about the middle of the room at eye height."""
    circle = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], -1)
    return circle * (0.14 * reach * np.array(size)) + (size[0] / 2, size[1] / 2, EYE_HEIGHT)


def _draw_patches(size: Vector, rng: np.random.Generator) -> tuple[WallPatch, ...]:
    """A door on one wall, a window on another, pictures on the two that are left."""
    door, window, *others = rng.permutation(4).tolist()
    length, wide = (size[1], size[1], size[0], size[0]), rng.uniform(1.4, min(2.0, min(size[:2]) - 1.8))
    patches = [WallPatch("door", door, (rng.uniform(0.3, length[door] - 1.3), 0.0), (0.95, 2.05))]
    patches.append(WallPatch("window", window, (rng.uniform(0.8, length[window] - 0.8 - wide), 0.95), (wide, 1.2)))
    for wall in others:
        for middle in rng.uniform((0.2, 0.6), (0.4, 0.8)) * length[wall]:
            width, height = rng.uniform((0.5, 0.4), (0.9, 0.65))
            patches.append(WallPatch("picture", wall, (middle - width / 2, 1.4), (width, height)))
    return tuple(patches)


def _zone(patch: WallPatch, size: Vector) -> Box:
    """The space before a door, a window or a picture that furniture leaves free."""
    depth, axis = {"door": 0.8, "window": 0.35, "picture": 0.0}[patch.kind], patch.face // 2
    center, extent = np.zeros(3), np.zeros(3)
    columns, rows = FACE_AXES[axis]
    extent[[axis, columns, rows]] = depth, *patch.size
    center[[axis, columns, rows]] = depth / 2, *(np.array(patch.corner) + np.array(patch.size) / 2)
    center[axis] = size[axis] - center[axis] if patch.face % 2 else center[axis]
    return Box(as_vector(center), as_vector(extent), 0.0)


def _variety(objects: list[RoomObject]) -> int:
    """How far a room's furniture serves questions, up to `FEWEST_UNIQUE` + `FEWEST_REPEATED`."""
    counts = list(Counter(obj.name for obj in objects).values())
    return min(counts.count(1), FEWEST_UNIQUE) + min(len(counts) - counts.count(1), FEWEST_REPEATED)


def _furnish(
    size: Vector, patches: tuple[WallPatch, ...], rng: np.random.Generator, most_objects: int | None
) -> list[RoomObject]:
    """Chairs and one to three other classes more than once, and about a dozen others once; more in larger rooms."""
    area = size[0] * size[1]
    candidates = [name for name, kind in FURNITURE.items() if kind.most > 1 and name != "chair"]
    several = ["chair", *rng.permutation(candidates)[: rng.integers(1, 3 + (area > 30))].tolist()]
    counts = {name: int(rng.integers(2, min(FURNITURE[name].most, 2 + int(area / 12)) + 1)) for name in several}
    once = rng.permutation([name for name in FURNITURE if name not in several])
    counts |= dict.fromkeys(once[: round(6.5 + area / 12 + rng.uniform(-1, 1))].tolist(), 1)
    if most_objects is not None:
        repeated = str(rng.choice(several))
        number = int(rng.integers(2, min(FURNITURE[repeated].most, most_objects // 2) + 1))
        counts = {repeated: number} | dict.fromkeys(once[: most_objects - number].tolist(), 1)
    objects: list[RoomObject] = []
    for name in FURNITURE:
        for _ in range(counts.get(name, 0)):
            objects += _find_place(name, size, objects, patches, rng)
    return objects


def _find_place(
    name: str, size: Vector, objects: list[RoomObject], patches: tuple[WallPatch, ...], rng: np.random.Generator
) -> list[RoomObject]:
    """One piece, clear of walls, of the others, of door and window and of the walk; none if no try finds a place."""
    kind, tables = FURNITURE[name], [other for other in objects if other.name == "table"]
    taken: list[Box] = [*objects, *(_zone(patch, size) for patch in patches)]
    extent = rng.uniform([low for low, _ in kind.sizes], [high for _, high in kind.sizes])
    colour = as_vector((np.array(kind.colours[rng.integers(len(kind.colours))]) * rng.uniform(0.85, 1.15)).clip(0, 1))
    parts = kind.build(*as_vector(extent), rng)
    low, high = _hull(parts)
    for _ in range(_ROUNDS):
        if kind.place == "table" and tables:
            places, yaws = _poses_at_tables(tables, extent, rng)
        elif kind.place == "wall":
            places, yaws = _poses_at_walls(size, high[1] - low[1], rng)
        else:
            places = rng.uniform(0.5, np.array(size[:2]) - 0.5, (_TRIES, 2))
            yaws = rng.integers(4, size=_TRIES) * np.pi / 2 + rng.uniform(-0.25, 0.25, _TRIES)
        for choice in np.flatnonzero(_is_free(places, yaws, high - low, size, taken))[:1]:
            return [_assemble(name, parts, colour, places[choice, 0], places[choice, 1], float(yaws[choice]))]
    return []


def _poses_at_walls(size: Vector, depth: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Places [T, 2] and yaws [T] with the back to one of the walls, 3 cm off it."""
    wall, places, gap = rng.integers(4, size=_TRIES), rng.uniform((0, 0), size[:2], (_TRIES, 2)), depth / 2 + 0.03
    axis = wall // 2
    places[np.arange(_TRIES), axis] = np.where(wall % 2, np.array(size)[axis] - gap, gap)
    return places, np.array([-np.pi / 2, np.pi / 2, 0.0, np.pi])[wall]


def _poses_at_tables(tables: list[RoomObject], extent: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Places [T, 2] and yaws [T] at one of the four sides of a table, facing it, a little askew."""
    table, side = rng.integers(len(tables), size=_TRIES), rng.integers(4, size=_TRIES)
    sizes, yaws = np.array([t.size[:2] for t in tables])[table], np.array([t.yaw for t in tables])[table]
    across, along = np.take_along_axis(sizes, np.stack([1 - side % 2, side % 2], 1), 1).T
    facing = yaws + side * np.pi / 2
    slide = rng.uniform(-0.5, 0.5, _TRIES) * (along - extent[0])
    back = (across + extent[1]) / 2 + rng.uniform(0.1, 0.3, _TRIES)
    offset = np.stack([slide, -back], 1)[:, None] @ _plan_axes(facing)
    return np.array([t.center[:2] for t in tables])[table] + offset[:, 0], facing + rng.uniform(-0.2, 0.2, _TRIES)


def _is_free(places: Array, yaws: Array, extent: Array, size: Vector, taken: list[Box]) -> Array:
    """Whether a piece of `extent` [3] can stand at each of the places [T, 2], turned by yaws [T]."""
    axes, half = _plan_axes(yaws), extent[:2] / 2
    reach = (np.abs(axes) * half[:, None]).sum(1)  # half of its extent along the world's x and y [T, 2]
    free = ((places - reach > 0.01) & (places + reach < np.array(size[:2]) - 0.01)).all(1)
    walk = _walk(size, 1.0 if min(size[:2]) > _NARROW else 0.4, np.linspace(0, 2 * np.pi, 64))[:, :2]
    beyond = np.abs((walk - places[:, None]) @ axes.transpose(0, 2, 1)) - half  # [T, 64, 2]
    free &= np.linalg.norm(np.maximum(beyond, 0), axis=-1).min(1) > CLEARANCE + 0.02

    # Separating axes: two rectangles are apart if they are so along a side of one of them.
    others, other_half = np.array([box.center for box in taken]), np.array([box.size for box in taken]) / 2
    other_axes = _plan_axes(np.array([box.yaw for box in taken]))
    between, cosines = places[:, None] - others[:, :2], np.abs(np.einsum("tik,mjk->tmij", axes, other_axes))
    along = np.abs(np.einsum("tmk,tik->tmi", between, axes)) - half
    along -= (cosines * other_half[:, None, :2]).sum(3)
    along_other = np.abs(np.einsum("tmk,mjk->tmj", between, other_axes)) - other_half[:, :2]
    along_other -= (cosines * half[:, None]).sum(2)
    above = (others - other_half)[:, 2] - extent[2]
    gap = np.maximum(np.maximum(along.max(2), along_other.max(2)), above)
    return free & (gap > _MARGIN).all(1)


def _assemble(name: str, parts: list[Part], colour: Vector, x: float, y: float, yaw: float) -> RoomObject:
    """Put parts, given in the furniture's own axes, on the floor at x, y; the furniture's box is their hull."""
    extent = np.array([part[3:6] for part in parts])
    middle = np.array([part[:3] for part in parts]) + extent * (0, 0, 0.5)
    low, high = _hull(parts)
    middle = (middle - (low + high) * (0.5, 0.5, 0)) @ box_from_world(yaw) + (x, y, 0)
    boxes = []
    for center, size, (*_, paint) in zip(middle, extent, parts, strict=True):
        rgb = paint if isinstance(paint, tuple) else as_vector(np.array(colour) * paint)
        boxes.append(Box(as_vector(center), as_vector(size), yaw, rgb))
    return RoomObject(as_vector(np.array([x, y, high[2] / 2])), as_vector(high - low), yaw, colour, name, tuple(boxes))


def _hull(parts: list[Part]) -> tuple[Array, Array]:
    """Lowest and highest coordinates [3] of parts in the furniture's own axes."""
    middle, extent = np.array([part[:6] for part in parts]).reshape(-1, 2, 3).transpose(1, 0, 2)
    return (middle - extent * (0.5, 0.5, 0)).min(0), (middle + extent * (0.5, 0.5, 1)).max(0)


def _plan_axes(yaws: Array) -> Array:
    """The own x and y axes [T, 2, 2] of boxes turned by yaws [T], seen from above."""
    cos, sin = np.cos(yaws), np.sin(yaws)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
