"""What a camera sees of a room's boxes along a grid of rays: inverse depth, and the surface that is met.

Choices: the inverse depth of a plane changes by equal steps along a row of a picture and down a column. A ray meets a
box where the least inverse depth of the planes that face the camera is above the greatest of the others. So a box costs
a few sums and comparisons in the window of samples that it can cover.

Conventions are those of `synthetic_rooms`. A surface is 6 * box + face; the last box is the room, seen from inside.

Shapes: P boxes of furniture, F = 6 (P + 1) surfaces, H, W rows and columns of a grid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .synthetic_rooms import Array, Box, Room, as_vector, box_corners, box_from_world

_NEAR = 0.05  # metres; where a box reaches behind the camera, its window is that of the part beyond this depth
_EDGES = np.array([(a, b) for a in range(8) for b in range(a) if (a ^ b) in (1, 2, 4)])  # pairs of corners [12, 2]


class RayGrid(NamedTuple):
    """Rays (x[column] + shift[row], y[row], 1) in a camera; x [W] and y [H] ascend, shift [H] is at least 0."""

    x: Array
    y: Array
    shift: Array


class View(NamedTuple):
    """`planes` float64 [F, 3]: a surface's inverse depth along a ray is their product. `inverse_depth` float32 [H, W],
    1 / metres along the camera's z, and `surface` int64 [H, W] are of the nearest surface."""

    planes: Array
    inverse_depth: Array
    surface: Array


class Solids:
    """The boxes of a room as planes.

    Attributes:
        owner: int16 [F], the place in `Room.objects` of the object that has a surface, -1 for the room itself.
        turn: [P + 1, 3, 3], box from world; half: [P + 1, 3], half of the boxes' sizes; center: [P + 1, 3].
        normals, offsets: [F, 3] and [F]; inside of a box, normals @ point <= offsets for its six.
        corners: [P, 8, 3], of the boxes of furniture.
    """

    def __init__(self, room: Room) -> None:
        parts = [part for obj in room.objects for part in obj.parts]
        boxes = [*parts, Box(as_vector(np.array(room.size) / 2), room.size, 0.0)]
        self.room_box = len(parts)
        self.owner = np.array([k for k, obj in enumerate(room.objects) for _ in obj.parts] + [-1], np.int16).repeat(6)
        self.center = np.array([box.center for box in boxes])
        self.half = np.array([box.size for box in boxes]) / 2
        self.turn = np.array([box_from_world(box.yaw) for box in boxes])
        self.normals = np.stack([-self.turn, self.turn], 2).reshape(-1, 3)
        self.offsets = (self.normals * self.center.repeat(6, 0)).sum(1) + self.half.repeat(2, 1).reshape(-1)
        self.corners = np.array([box_corners(part) for part in parts]).reshape(-1, 8, 3)

    def look(self, rotation: Array, origin: Array, grid: RayGrid) -> View:
        """The nearest surface along rays of a camera at `origin` [3], in the room; a box that it is in is not seen.

        Args:
            rotation: [3, 3], camera from world.
        """
        distance = self.offsets - self.normals @ origin  # to the planes; below 0 where a face is turned to the camera
        distance[np.abs(distance) < 1e-9] = 1e-9
        planes = (self.normals @ rotation.T) / distance[:, None]
        inverse_depth, surface = self._look_at_room(planes[-6:], grid)
        windows = _windows((self.corners - origin) @ rotation.T, grid)
        facing = (distance.reshape(-1, 6)[:-1] < 0).sum(1)
        shown = np.flatnonzero((windows[:, 0] < windows[:, 1]) & (windows[:, 2] < windows[:, 3]) & (facing > 0))
        faces = distance.reshape(-1, 6)[shown].argsort(1, kind="stable") + 6 * shown[:, None]  # turned to it come first
        columns, rows = _affine_terms(planes[faces], grid)
        for place, (left, right, top, bottom) in enumerate(windows[shown].tolist()):
            front, names = facing[shown[place]], faces[place]
            inverse = columns[place, :, None, left:right] + rows[place, :, top:bottom, None]  # [6, h, w]
            near, face = inverse[0], names[0]
            for other in range(1, front):
                face = np.where(inverse[other] < near, names[other], face)
                near = np.minimum(near, inverse[other])
            behind = inverse_depth[top:bottom, left:right]
            seen = near > np.maximum(np.maximum.reduce(inverse[front:]), behind)
            np.copyto(behind, near, where=seen)
            np.copyto(surface[top:bottom, left:right], face, where=seen)
        return View(planes, inverse_depth, surface)

    def _look_at_room(self, planes: Array, grid: RayGrid) -> tuple[Array, Array]:
        """The room's own faces [6, 3], met from inside: the plane of the greatest inverse depth."""
        columns, rows = _affine_terms(planes, grid)
        inverse = columns[:, None, :] + rows[:, :, None]
        inverse_depth: Array = np.maximum.reduce(inverse)
        surface = np.full(inverse_depth.shape, 6 * self.room_box)
        for face in range(1, 6):
            np.copyto(surface, 6 * self.room_box + face, where=inverse[face] == inverse_depth)
        return inverse_depth, surface


def _affine_terms(planes: Array, grid: RayGrid) -> tuple[Array, Array]:
    """Float32 [..., W] and [..., H] whose sums are planes [..., 3] @ (x + shift, y, 1)."""
    x, y, shift = (line.astype(np.float32) for line in grid)
    a, b, c = (planes[..., k, None].astype(np.float32) for k in range(3))
    return a * x, b * y + (a * shift + c)


def _windows(corners: Array, grid: RayGrid) -> Array:
    """Samples [P, 4] (left, right, top, bottom; half open) that boxes can cover; `corners` [P, 8, 3] in the camera."""
    low, high = np.full((len(corners), 2), np.inf), np.full((len(corners), 2), -np.inf)
    shown = corners[..., 2] >= _NEAR
    whole, cut = shown.all(1), shown.any(1) & ~shown.all(1)
    flat = corners[whole, :, :2] / corners[whole, :, 2:]
    low[whole], high[whole] = flat.min(1), flat.max(1)

    first, second = corners[cut][:, _EDGES[:, 0]], corners[cut][:, _EDGES[:, 1]]
    crossing = shown[cut][:, _EDGES[:, 0]] != shown[cut][:, _EDGES[:, 1]]
    drop = np.where(crossing, second[..., 2] - first[..., 2], 1)
    on_near = first + ((_NEAR - first[..., 2]) / drop)[..., None] * (second - first)
    points = np.concatenate([corners[cut], on_near], 1)
    valid = np.concatenate([shown[cut], crossing], 1)[..., None]
    flat = points[..., :2] / np.where(valid, points[..., 2:], 1)
    low[cut], high[cut] = np.where(valid, flat, np.inf).min(1), np.where(valid, flat, -np.inf).max(1)

    low, high = low - 1e-6, high + 1e-6
    low[:, 0] -= grid.shift.max()
    sides = [np.searchsorted(line, edge[:, k]) for k, line in enumerate((grid.x, grid.y)) for edge in (low, high)]
    return np.stack(sides, 1)
