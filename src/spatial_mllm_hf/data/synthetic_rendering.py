"""Pictures of synthetic rooms: rgb, depth and the object behind each pixel, by numpy ray casting.

Choices: everything is a box, met by the slab method inside the window of pixels that it can cover. The room's own faces
carry a baked texture, paint times light with soft shadows; the boxes of furniture are lit as they are seen.

Conventions are those of `synthetic_rooms`: metres, z up; camera from world, OpenCV axes; pixel (column c,
row r) has its centre at (c + 0.5, r + 0.5). Faces of a box: 2 * axis + (1 on the high side).

Shapes: S frames, H height, W width, P boxes of furniture, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .synthetic_furniture import Vector
from .synthetic_rooms import (
    FACE_AXES,
    Array,
    Box,
    Room,
    WallPatch,
    as_vector,
    box_corners,
    box_distance,
    box_from_world,
    checked_size,
)

_TEXEL, _LIGHT_TEXEL, _NEAR = 0.01, 0.05, 0.05  # metres; nothing nearer to the camera than _NEAR is drawn
_SIDE_LIGHT = np.array([0.10, -0.06, 0.05])  # what tells the sides of a box apart
_EDGES = np.array([(a, b) for a in range(8) for b in range(a) if (a ^ b) in (1, 2, 4)])  # pairs of corners [12, 2]


@dataclass(frozen=True)
class RenderedFrames:
    """`rgb` uint8 [S, H, W, 3]; `depth` float32 [S, H, W], metres along the camera's z; `object_index` int16 [S, H, W],
    the place in `Room.objects`, or -1 for the room itself. Depth and index are those of the pixel's centre."""

    rgb: Array
    depth: Array
    object_index: Array


def render(room: Room, extrinsics: Array, intrinsics: Array, size: tuple[int, int] = (224, 168)) -> RenderedFrames:
    """Draw the room: depth and object index at the centre of each pixel, rgb as the mean of four samples in it.

    Args:
        extrinsics: [S, 3, 4] or [S, 4, 4], camera from world.
        intrinsics: [S, 3, 3], pinhole without skew, in pixels of a picture of `size` (width, height).

    Raises:
        ValueError: shapes that do not fit, a size below 2 pixels, or a camera outside the room or inside furniture.
    """
    width, height = checked_size(size)
    origins, num_frames = _checked_cameras(room, extrinsics, intrinsics), len(extrinsics)
    scene = _Scene(room)
    out = RenderedFrames(
        np.empty((num_frames, height, width, 3), np.uint8),
        np.empty((num_frames, height, width), np.float32),
        np.empty((num_frames, height, width), np.int16),
    )
    for frame in range(num_frames):
        rotation, origin = extrinsics[frame, :3, :3], origins[frame]
        fx, fy, cx, cy = intrinsics[frame, [0, 1, 0, 1], [0, 1, 2, 2]]
        columns, rows = (np.arange(width) + 0.5 - cx) / fx, (np.arange(height) + 0.5 - cy) / fy
        out.depth[frame], surface = scene.cast(rotation, origin, columns, rows)
        out.object_index[frame] = scene.owner[surface // 6]
        columns, rows = (np.arange(2 * width) / 2 + 0.25 - cx) / fx, (np.arange(2 * height) / 2 + 0.25 - cy) / fy
        fine = scene.shade(rotation, origin, columns, rows)  # [2H, 2W, 3]
        mean = fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]
        out.rgb[frame] = np.clip(mean * (255 / 4), 0, 255)
    return out


def _checked_cameras(room: Room, extrinsics: Array, intrinsics: Array) -> Array:
    """World positions [S, 3] of the cameras."""
    if extrinsics.shape[1:] not in ((3, 4), (4, 4)) or intrinsics.shape != (len(extrinsics), 3, 3):
        raise ValueError(
            "extrinsics must be [S, 3, 4] or [S, 4, 4] and intrinsics [S, 3, 3],"
            f" got {list(extrinsics.shape)} and {list(intrinsics.shape)}"
        )
    origins: Array = -np.einsum("sij,si->sj", extrinsics[:, :3, :3], extrinsics[:, :3, 3])
    for frame in np.flatnonzero(((origins <= 0) | (origins >= room.size)).any(1)):
        place = f"at {as_vector(origins[frame].round(2))}, expected inside the room of {room.size} metres"
        raise ValueError(f"extrinsics[{frame}] has its camera {place}")
    for name, part in ((obj.name, part) for obj in room.objects for part in obj.parts):
        for frame in np.flatnonzero(box_distance(origins, part) == 0):
            raise ValueError(f"extrinsics[{frame}] has its camera inside a {name}, expected in free space")
    return origins


class _Scene:
    """A room as arrays. A surface is 6 * box + face; the last box is the room itself, seen from inside."""

    def __init__(self, room: Room) -> None:
        boxes = [part for obj in room.objects for part in obj.parts]
        hull = Box(as_vector(np.array(room.size) / 2), room.size, 0.0)
        self.room, self.size, self.shell = room, np.array(room.size), 6 * len(boxes)
        self.owner = np.array([k for k, obj in enumerate(room.objects) for _ in obj.parts] + [-1], np.int16)
        self.corners = np.array([box_corners(box) for box in boxes]).reshape(-1, 8, 3)
        boxes = [*boxes, hull]
        self.center = np.array([box.center for box in boxes])
        self.half = np.array([box.size for box in boxes]) / 2
        self.turn = np.array([box_from_world(box.yaw) for box in boxes])  # box from world [P + 1, 3, 3]
        self.colour = np.array([box.colour for box in boxes], np.float32)
        self.light = self.size * (0.5, 0.5, 1) - (0, 0, 0.35)
        normals = np.stack([-self.turn, self.turn], 2).reshape(-1, 3)  # [6 (P + 1), 3]
        normals[self.shell :] *= -1
        reach = np.repeat(self.half, 2, 1).reshape(-1) * np.where(np.arange(len(normals)) < self.shell, 1, -1)
        self.lift = (((self.light - np.repeat(self.center, 6, 0)) * normals).sum(1) - reach).astype(np.float32)
        self.side = (normals @ _SIDE_LIGHT).astype(np.float32)
        textures = [self._bake(face) for face in range(6)]
        self.texture = np.concatenate([texture.reshape(-1, 3) for texture in textures]).astype(np.float32)
        self.layout = [texture.shape[:2] for texture in textures]

    def cast(self, rotation: Array, origin: Array, columns: Array, rows: Array) -> tuple[Array, Array]:
        """The nearest surface along rays (columns[c], rows[r], 1) of a camera.

        Args:
            rotation: [3, 3], camera from world; origin: [3], the camera in the world, inside the room.
            columns, rows: [W], [H], ascending, x and y in the camera at z = 1.

        Returns:
            depth float32 [H, W], metres along the camera's z; surface int32 [H, W].
        """
        to_box = (self.turn @ rotation.T).astype(np.float32)  # box from camera
        start = np.einsum("pij,pj->pi", self.turn, origin - self.center).astype(np.float32)
        x, y = columns.astype(np.float32), rows.astype(np.float32)
        depth, surface = self._cast_shell(to_box[-1], start[-1], x, y)
        windows = _windows((self.corners - origin) @ rotation.T, columns, rows)
        for box in np.flatnonzero((windows[:, 0] < windows[:, 1]) & (windows[:, 2] < windows[:, 3])):
            left, right, top, bottom = windows[box]
            near, far, face = _slabs(to_box[box], start[box], self.half[box], x[left:right], y[top:bottom])
            behind = depth[top:bottom, left:right]
            hit = (near < far) & (near < behind)
            np.copyto(behind, near, where=hit)
            np.copyto(surface[top:bottom, left:right], face + 6 * box, where=hit)
        return depth, surface

    def _cast_shell(self, to_room: Array, start: Array, x: Array, y: Array) -> tuple[Array, Array]:
        directions = [_direction(row, x, y) for row in to_room]
        half = self.half[-1].astype(np.float32)
        leave = [(np.copysign(half[k], directions[k]) - start[k]) / directions[k] for k in range(3)]
        depth = np.minimum(np.minimum(leave[0], leave[1]), leave[2])
        surface = np.full(depth.shape, self.shell, np.int32)
        for axis in range(3):
            np.copyto(surface, (directions[axis] > 0) + np.int32(self.shell + 2 * axis), where=depth == leave[axis])
        return depth, surface

    def shade(self, rotation: Array, origin: Array, columns: Array, rows: Array) -> Array:
        """Colours float32 [H, W, 3] along the same rays as `cast`; glowing ones exceed 1."""
        depth, surface = (values.reshape(-1) for values in self.cast(rotation, origin, columns, rows))
        x, y = columns.astype(np.float32), rows.astype(np.float32)
        to_world = rotation.T.astype(np.float32)
        points = [np.float32(origin[k]) + depth * _direction(to_world[k], x, y).reshape(-1) for k in range(3)]
        rgb = np.empty((len(depth), 3), np.float32)
        start = 0
        for face, (height, width) in enumerate(self.layout):
            seen = np.flatnonzero(surface == self.shell + face)
            across, up = FACE_AXES[face // 2]
            column = (points[across][seen] * np.float32(width / self.size[across])).astype(np.int32).clip(0, width - 1)
            row = (points[up][seen] * np.float32(height / self.size[up])).astype(np.int32).clip(0, height - 1)
            rgb[seen] = self.texture[row * width + column + start]
            start += height * width
        seen = np.flatnonzero(surface < self.shell)
        rgb[seen] = self._shade_boxes(np.stack([p[seen] for p in points]), surface[seen])
        return rgb.reshape(len(rows), len(columns), 3)

    def _shade_boxes(self, points: Array, surface: Array) -> Array:
        """Colours [N, 3] of points [3, N] on furniture: light, darker along edges and towards the floor."""
        box, axis = surface // 6, surface % 6 // 2
        cos, sin = self.turn[:, 0, 0].astype(np.float32)[box], self.turn[:, 0, 1].astype(np.float32)[box]
        x, y, z = points - self.center.T.astype(np.float32)[:, box]
        half_x, half_y, half_z = self.half.T.astype(np.float32)[:, box]
        edge = np.where(axis == 0, 1, half_x - np.abs(cos * x + sin * y))
        edge = np.minimum(edge, np.where(axis == 1, 1, half_y - np.abs(cos * y - sin * x)))
        edge = np.minimum(edge, np.where(axis == 2, 1, half_z - np.abs(z)))
        dark = (1 - 0.25 * np.exp(edge * -60)) * (1 - 0.35 * np.exp(points[2] * -8))
        return self.colour[box] * (self._brightness(points, surface) * dark)[:, None]

    def _brightness(self, points: Array, surface: Array, shadow: Array | float = 1.0) -> Array:
        """Light [N] on points [3, N] of surfaces [N]: ambient, a lamp by Lambert's law, a little from the side."""
        square = sum((points[k] - np.float32(self.light[k])) ** 2 for k in range(3))
        lambert = np.maximum(self.lift[surface], 0) / np.sqrt(square)
        return 0.55 + self.side[surface] + shadow * lambert * (0.75 / (1 + np.float32(0.06) * square))

    def _bake(self, face: int) -> Array:
        """Texture [rows, columns, 3] of a face of the room: paint times lamp light, soft shadows, dark corners."""
        axis, (across, up) = face // 2, FACE_AXES[face // 2]
        paint = _paint(self.room, face)
        width, height = np.ceil(self.size[[across, up]] / _LIGHT_TEXEL).astype(int)
        points = np.empty((3, height, width))
        points[axis] = self.size[axis] * (face % 2)
        points[across] = across_line = (np.arange(width) + 0.5) * self.size[across] / width
        up_line = (np.arange(height) + 0.5) * self.size[up] / height
        points[up] = up_line[:, None]
        rotation = np.eye(3)[[across, up, axis]] * [[1], [1], [face % 2 * 2 - 1]]
        lit = np.zeros((height, width))
        for shift in np.stack(np.meshgrid((-0.3, 0.0, 0.3), (-0.3, 0.0, 0.3), 0.0), -1).reshape(-1, 3):
            lamp = self.light + shift
            reach = abs(self.size[axis] * (face % 2) - lamp[axis])
            _, surface = self.cast(rotation, lamp, (across_line - lamp[across]) / reach, (up_line - lamp[up]) / reach)
            lit += (surface >= self.shell) / 9
        bright = self._brightness(points.reshape(3, -1), np.full(width * height, self.shell + face), lit.reshape(-1))
        for other in (across, up):
            gap = np.minimum(points[other], self.size[other] - points[other]).reshape(-1)
            bright *= 1 - 0.3 * np.exp(gap * -5)
        touch = np.full(width * height, np.inf)  # metres to the nearest furniture
        for part in (part for obj in self.room.objects for part in obj.parts):
            if np.abs(box_corners(part)[:, axis] - points[axis, 0, 0]).min() < 0.4:
                touch = np.minimum(touch, box_distance(points.reshape(3, -1).T, part))
        light = (bright * (1 - 0.45 * np.exp(touch * -8))).reshape(height, width)
        return paint * (_stretch(paint.shape[0], height) @ light @ _stretch(paint.shape[1], width).T)[..., None]


def _direction(to_axis: Array, x: Array, y: Array) -> Array:
    """One coordinate [H, W] of the rays (x, y, 1), never exactly 0."""
    direction = (to_axis[0] * x + to_axis[2]) + (to_axis[1] * y)[:, None]
    np.copyto(direction, 1e-12, where=direction == 0)
    return direction


def _slabs(to_box: Array, start: Array, half: Array, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Where rays (x, y, 1) from `start` (in the box's axes) enter and leave a box [H, W], and the face of entry."""
    near: Array = np.zeros((), np.float32)
    far: Array = np.full((), np.inf, np.float32)
    face: Array = np.zeros((), np.int32)
    for axis in range(3):
        inverse = 1 / _direction(to_box[axis], x, y)
        reach = np.float32(half[axis])
        if abs(start[axis]) <= reach:  # between the two planes: the rays can only leave by them
            far = np.minimum(far, reach * np.abs(inverse) - start[axis] * inverse)
            continue
        reach = np.copysign(reach, start[axis])
        enter = (reach - start[axis]) * inverse
        face = np.where(enter > near, np.int32(2 * axis + (start[axis] > 0)), face)
        near, far = np.maximum(near, enter), np.minimum(far, (-reach - start[axis]) * inverse)
    return near, far, face


def _windows(corners: Array, columns: Array, rows: Array) -> Array:
    """Pixels [P, 4] (left, right, top, bottom; half open) that boxes can cover; `corners` [P, 8, 3] in the camera."""
    first, second = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = (_NEAR - first[..., 2:]) / (second[..., 2:] - first[..., 2:])  # where an edge crosses the near plane
        points = np.concatenate([corners, first + cut * (second - first)], 1)
        shown = np.concatenate([corners[..., 2] >= _NEAR, (cut[..., 0] > 0) & (cut[..., 0] < 1)], 1)
        flat = points[..., :2] / points[..., 2:]
    low = np.where(shown[..., None], flat, np.inf).min(1) - 1e-6
    high = np.where(shown[..., None], flat, -np.inf).max(1) + 1e-6
    sides = [np.searchsorted(line, edge[:, k]) for k, line in enumerate((columns, rows)) for edge in (low, high)]
    return np.stack(sides, 1)


def _stretch(fine: int, coarse: int) -> Array:
    """Matrix [fine, coarse] that interpolates linearly between the middles of cells."""
    place = ((np.arange(fine) + 0.5) * coarse / fine - 0.5).clip(0, coarse - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(coarse)))


# ---------- paint
def _paint(room: Room, face: int) -> Array:
    """Colours [rows, columns, 3] of a face of the room before any light, a texel for each centimetre."""
    rng = np.random.default_rng([room.seed, face])
    columns, rows = (round(room.size[axis] / _TEXEL) for axis in FACE_AXES[face // 2])
    if face == 4:
        return _paint_floor(columns, rows, rng)
    if face == 5:
        return np.full((rows, columns, 3), 1.2)  # above 1: stands for the light that the floor throws up
    walls = ((0.87, 0.84, 0.77), (0.8, 0.85, 0.84), (0.86, 0.8, 0.76), (0.84, 0.85, 0.88))
    accents = ((0.5, 0.62, 0.6), (0.78, 0.62, 0.48), (0.55, 0.6, 0.7), (0.7, 0.7, 0.52))
    wall = np.array((accents if face == room.seed % 4 else walls)[room.seed // 4 % 4])
    paint = np.tile(wall, (rows, columns, 1)) * (1 - 0.03 * (np.arange(columns) // 20 % 2))[:, None]
    paint[:9], paint[9] = (0.93, 0.92, 0.9), (0.7, 0.69, 0.67)  # the skirting board and its upper edge
    for patch in room.patches:
        if patch.face == face:
            _paint_patch(paint, patch, rng)
    return paint


def _paint_floor(columns: int, rows: int, rng: np.random.Generator) -> Array:
    """Planks 15 cm wide with staggered ends, or tiles of 40 cm."""
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    if rng.random() < 0.3:
        tile = np.where((x // 40 + y // 40) % 2, 0.8, 0.66) * np.where((x % 40 == 0) | (y % 40 == 0), 0.85, 1)
        return tile[..., None] * (1.0, 0.97, 0.92)
    band = y // 15
    along = x + rng.integers(0, 140, rows)[band]
    tint = rng.uniform(0.85, 1.08, (rows, columns // 140 + 2))[band, along // 140] * rng.uniform(0.97, 1.03, rows)[y]
    seam = np.where((y % 15 == 0) | (along % 140 == 0), 0.72, 1)
    return (tint * seam)[..., None] * ((0.72, 0.54, 0.36), (0.6, 0.44, 0.3), (0.76, 0.63, 0.47))[rng.integers(3)]


def _paint_patch(paint: Array, patch: WallPatch, rng: np.random.Generator) -> None:
    """Paint a patch onto its wall [rows, columns, 3] in place."""

    def fill(left: float, right: float, bottom: float, top: float, colour: Vector) -> None:
        """Fill a part of the patch; the borders are fractions of its width and height."""
        (u, v), (w, h) = patch.corner, patch.size
        edges = np.array([u + left * w, u + right * w, v + bottom * h, v + top * h])
        a, b, c, d = (edges / _TEXEL).round().astype(int)
        paint[c:d, a:b] = colour

    white = (0.95, 0.94, 0.92)
    fill(0, 1, 0, 1, (0.22, 0.17, 0.13) if patch.kind == "picture" else white)
    if patch.kind == "door":
        fill(0.08, 0.92, 0, 0.96, (0.6, 0.42, 0.27))
        for bottom, top in ((0.08, 0.42), (0.52, 0.88)):
            fill(0.2, 0.8, bottom, top, (0.48, 0.32, 0.2))
            fill(0.23, 0.77, bottom + 0.015, top - 0.015, (0.56, 0.39, 0.25))
        fill(0.84, 0.89, 0.46, 0.5, (0.85, 0.75, 0.4))
    elif patch.kind == "window":
        for k in range(20):
            fill(0.05, 0.95, 0.06 + k * 0.044, 0.94, (1.3 - 0.03 * k, 1.4 - 0.02 * k, 1.5))
        fill(0.05, 0.95, 0.06, 0.25, (0.6, 0.85, 0.5))
        fill(0.05, 0.4, 0.25, 0.34, (0.5, 0.75, 0.45))
        fill(0.48, 0.52, 0, 1, white)
        fill(0, 1, 0.6, 0.63, white)
    else:
        fill(0.06, 0.94, 0.08, 0.92, white)
        for top in (0.82, rng.uniform(0.5, 0.7), rng.uniform(0.25, 0.45)):
            fill(0.16, 0.84, 0.18, top, as_vector(rng.uniform(0.2, 0.95, 3)))
