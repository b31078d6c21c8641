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
MIN_ROOM_SIZE = (4.0, 4.0, 2.3)  # metres
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
    """A room of `size` (x, y, z) metres, its furniture, and what is on its walls. `seed` also picks the paint."""

    size: Vector
    objects: tuple[RoomObject, ...]
    seed: int
    patches: tuple[WallPatch, ...] = ()


def make_room(seed: int, size: Vector | None = None) -> Room:
    """Furnish a room; the same arguments give the same room. A piece that finds no place is left out.

    Args:
        seed: at least 0.
        size: x, y, z in metres; drawn from the seed by default.

    Raises:
        ValueError: a negative seed, or a size below `MIN_ROOM_SIZE`.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    rng = np.random.default_rng(seed)
    drawn = as_vector(rng.uniform((5.6, 5.0, 2.5), (7.2, 6.4, 2.8)).round(2))
    size = drawn if size is None else size
    if len(size) != 3 or any(length < least for length, least in zip(size, MIN_ROOM_SIZE, strict=True)):
        raise ValueError(f"size must be (x, y, z) in metres, at least {MIN_ROOM_SIZE}, got {size}")
    patches = _draw_patches(size, rng)
    objects: list[RoomObject] = []
    for name, kind in FURNITURE.items():
        for _ in range(rng.integers(kind.counts[0], kind.counts[1] + 1)):
            objects += _find_place(name, size, objects, patches, rng)
    return Room(size, tuple(objects), seed, patches)


def camera_path(room: Room, num_frames: int, size: tuple[int, int] = (224, 168)) -> tuple[Array, Array]:
    """Walk once round the middle of the room at eye height, looking across it, so that all of it is seen.

    Returns:
        extrinsics float64 [S, 3, 4], camera from world; intrinsics float64 [S, 3, 3] in pixels of a picture of `size`
        (width, height), 75 degrees wide.

    Raises:
        ValueError: fewer than 1 frame, a size below 2 pixels, or furniture that leaves no round to walk.
    """
    width, height = checked_size(size)
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    for reach in (1.0, 0.7, 0.4, 0.1):
        if all(box_distance(_walk(room.size, reach, 256), obj, plan=True).min() > CLEARANCE for obj in room.objects):
            break
    else:
        raise ValueError(f"room has no free round of {CLEARANCE} m about its middle; move its objects to the walls")
    centers = _walk(room.size, reach, num_frames)
    turn = 2 * np.pi * np.arange(num_frames) / num_frames
    heading, pitch = turn + np.pi + 0.2 * np.sin(2 * turn), -0.26 + 0.08 * np.sin(3 * turn)
    flat, zero = np.cos(pitch), np.zeros(num_frames)
    forward = np.stack([flat * np.cos(heading), flat * np.sin(heading), np.sin(pitch)], -1)
    right = np.stack([np.sin(heading), -np.cos(heading), zero], -1)
    rotation = np.stack([right, np.cross(forward, right), forward], 1)  # [S, 3, 3]
    focal = width / 2 / np.tan(np.radians(75 / 2))
    pinhole = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return np.concatenate([rotation, -rotation @ centers[:, :, None]], -1), np.tile(pinhole, (num_frames, 1, 1))


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


def _overlap(a: Box, b: Box, margin: float = 0.06) -> bool:
    """Whether two boxes come within `margin` metres of sharing space (separating axes; both are upright)."""
    axes = np.concatenate([box_from_world(a.yaw), box_from_world(b.yaw)[:2]]).T
    along_a, along_b = box_corners(a) @ axes, box_corners(b) @ axes
    return bool((np.maximum(along_a.min(0) - along_b.max(0), along_b.min(0) - along_a.max(0)) < margin).all())


def _walk(size: Vector, reach: float, steps: int) -> Array:
    """Points [steps, 3] of an ellipse about the middle of the room at eye height."""
    turn = 2 * np.pi * np.arange(steps) / steps
    circle = np.stack([np.cos(turn), np.sin(turn), np.zeros(steps)], -1)
    return circle * (0.14 * reach * np.array(size)) + (size[0] / 2, size[1] / 2, EYE_HEIGHT)


def _draw_patches(size: Vector, rng: np.random.Generator) -> tuple[WallPatch, ...]:
    """A door on one wall, a window on another, pictures on the two that are left."""
    door, window, *others = rng.permutation(4).tolist()
    length, wide = (size[1], size[1], size[0], size[0]), rng.uniform(1.4, 2.0)
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


def _find_place(
    name: str, size: Vector, objects: list[RoomObject], patches: tuple[WallPatch, ...], rng: np.random.Generator
) -> list[RoomObject]:
    """One piece, clear of walls, of the others, of door and window and of the walk; none if 150 tries find no place."""
    kind, tables = FURNITURE[name], [other for other in objects if other.name == "table"]
    walk, taken = _walk(size, 1.0, 64), [*objects, *(_zone(patch, size) for patch in patches)]
    extent = rng.uniform([low for low, _ in kind.sizes], [high for _, high in kind.sizes])
    colour = as_vector((np.array(kind.colours[rng.integers(len(kind.colours))]) * rng.uniform(0.9, 1.1)).clip(0, 1))
    parts = kind.build(*as_vector(extent), rng)
    for _ in range(150):
        if kind.place == "table" and tables and rng.random() < 0.85:
            x, y, yaw = _pose_at_table(tables[rng.integers(len(tables))], extent, rng)
        elif kind.place == "wall":
            x, y, yaw = _pose_at_wall(size, extent, rng)
        else:
            x, y = rng.uniform(0.5, np.array(size[:2]) - 0.5)
            yaw = rng.integers(4) * np.pi / 2 + rng.uniform(-0.25, 0.25)
        placed = _assemble(name, parts, colour, x, y, float(yaw))
        corners = box_corners(placed)[:, :2]
        inside = corners.min() > 0.01 and (corners < np.array(size[:2]) - 0.01).all()
        off_walk = box_distance(walk, placed, plan=True).min() > CLEARANCE + 0.02
        if inside and off_walk and not any(_overlap(placed, other) for other in taken):
            return [placed]
    return []


def _pose_at_wall(size: Vector, extent: Array, rng: np.random.Generator) -> tuple[float, float, float]:
    """x, y, yaw with the back to one of the walls, 3 cm off it."""
    face, position = int(rng.integers(4)), rng.uniform(0, size[:2])
    gap = extent[1] / 2 + 0.03
    position[face // 2] = size[face // 2] - gap if face % 2 else gap
    return position[0], position[1], (-np.pi / 2, np.pi / 2, 0.0, np.pi)[face]


def _pose_at_table(table: RoomObject, extent: Array, rng: np.random.Generator) -> tuple[float, float, float]:
    """x, y, yaw at one of the four sides of a table, facing it, a little askew."""
    quarter = int(rng.integers(4))
    across, along = table.size[1 - quarter % 2], table.size[quarter % 2]
    facing = table.yaw + quarter * np.pi / 2
    slide, back = rng.uniform(-0.5, 0.5) * (along - extent[0]), (across + extent[1]) / 2 + rng.uniform(0.1, 0.3)
    x, y, _ = np.array([slide, -back, 0]) @ box_from_world(facing) + table.center
    return x, y, facing + rng.uniform(-0.2, 0.2)


def _assemble(name: str, parts: list[Part], colour: Vector, x: float, y: float, yaw: float) -> RoomObject:
    """Put parts, given in the furniture's own axes, on the floor at x, y; the furniture's box is their hull."""
    extent = np.array([part[3:6] for part in parts])
    middle = np.array([part[:3] for part in parts]) + extent * (0, 0, 0.5)
    low, high = (middle - extent / 2).min(0), (middle + extent / 2).max(0)
    middle = (middle - (low + high) * (0.5, 0.5, 0)) @ box_from_world(yaw) + (x, y, 0)
    boxes = []
    for center, size, (*_, paint) in zip(middle, extent, parts, strict=True):
        rgb = paint if isinstance(paint, tuple) else as_vector(np.array(colour) * paint)
        boxes.append(Box(as_vector(center), as_vector(size), yaw, rgb))
    return RoomObject(as_vector(np.array([x, y, high[2] / 2])), as_vector(high - low), yaw, colour, name, tuple(boxes))
