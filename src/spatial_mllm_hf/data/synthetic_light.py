"""The light in a synthetic room, on the furniture and on the room's own faces.

Choices: a lamp under the middle of the ceiling by Lambert's law, with soft shadows on floor and walls; a little more
light from one side, which tells the sides of a box apart; dark corners; furniture that is darker along its edges and
darkens what it stands by.

Conventions and surfaces are those of `synthetic_visibility`.

Shapes: F surfaces, N points, h and w rows and columns of points on a face of the room.
"""

from __future__ import annotations

import numpy as np

from .synthetic_rooms import FACE_AXES, Array, Room, box_distance
from .synthetic_visibility import RayGrid, Solids

LIGHT_TEXEL = 0.05  # metres between the points of a face of the room where its light is known
_BELOW_CEILING = 0.35  # metres; where the lamp hangs
_LAMP_POINTS = ((-0.2, -0.12, 0.0), (0.2, -0.12, 0.0), (0.0, 0.23, 0.0))  # metres; several, for soft shadows
_SIDE_LIGHT = np.array([0.10, -0.06, 0.05])
_REACH = 0.5  # metres; how far furniture darkens a wall or the floor


class RoomLight:
    """The light in a room; 1 shows paint as it is."""

    def __init__(self, room: Room, solids: Solids) -> None:
        self._solids, self._size = solids, np.array(room.size)
        self._parts = [part for obj in room.objects for part in obj.parts]
        self._lamp = self._size * (0.5, 0.5, 1) - (0, 0, _BELOW_CEILING)
        front = np.where(
            np.arange(len(solids.normals)) < 6 * solids.room_box, 1.0, -1.0
        )  # the room is seen from inside
        self._lift = ((solids.normals @ self._lamp - solids.offsets) * front).astype(np.float32)  # of the lamp, metres
        self._side = (solids.normals @ _SIDE_LIGHT * front).astype(np.float32)

    def on_furniture(self, points: Array, surface: Array, edge: Array) -> Array:
        """Light [N] on points [3, N] of surfaces [N]; `edge`: metres [N] to the nearest edge of the surface."""
        dark = (1 - 0.25 * np.exp(edge * -60)) * (1 - 0.35 * np.exp(points[2] * -8))
        return self._brightness(points, surface) * dark

    def on_face(self, face: int) -> Array:
        """Light float32 [h, w] on a face of the room, at points about `LIGHT_TEXEL` apart."""
        axis, (across, up) = face // 2, FACE_AXES[face // 2]
        width, height = np.ceil(self._size[[across, up]] / LIGHT_TEXEL).astype(int)
        points = np.empty((3, height, width), np.float32)
        points[axis] = self._size[axis] * (face % 2)
        points[across] = (np.arange(width) + 0.5) * self._size[across] / width
        points[up] = ((np.arange(height) + 0.5) * self._size[up] / height)[:, None]
        surface = np.full((height, width), 6 * self._solids.room_box + face)
        lit = 1.0 if face == 5 else self._lamp_light(face, points)  # nothing stands between ceiling and lamp
        light = self._brightness(points, surface, lit)
        for other in (across, up):
            gap = np.minimum(points[other], self._size[other] - points[other])
            light *= 1 - 0.3 * np.exp(gap * -5)
        light *= 1 - 0.45 * np.exp(self._gap_to_furniture(face, points) * -8)
        return light.astype(np.float32)

    def _brightness(self, points: Array, surface: Array, lit: Array | float = 1.0) -> Array:
        """Light on points [3, ...] of surfaces [...], where the share `lit` of the lamp reaches them."""
        square = sum((points[k] - np.float32(self._lamp[k])) ** 2 for k in range(3))
        lambert = np.maximum(self._lift[surface], 0) / np.sqrt(square)
        return 0.55 + self._side[surface] + lit * lambert * (0.75 / (1 + 0.06 * square))

    def _lamp_light(self, face: int, points: Array) -> Array:
        """Share [h, w] of the lamp that reaches points [3, h, w] of a face of the room."""
        axis, (across, up) = face // 2, FACE_AXES[face // 2]
        rotation = np.eye(3)[[across, up, axis]] * [[1], [1], [face % 2 * 2 - 1]]
        lit = np.zeros(points.shape[1:])
        for shift in _LAMP_POINTS:
            lamp = self._lamp + shift
            reach = abs(points[axis, 0, 0] - lamp[axis])
            x, y = (points[across, 0] - lamp[across]) / reach, (points[up, :, 0] - lamp[up]) / reach
            surface = self._solids.look(rotation, lamp, RayGrid(x, y, np.zeros(len(y)))).surface
            lit += (surface >= 6 * self._solids.room_box) / len(_LAMP_POINTS)
        return lit

    def _gap_to_furniture(self, face: int, points: Array) -> Array:
        """Metres [h, w] from points [3, h, w] of a face of the room to the nearest furniture, where below `_REACH`."""
        axis, (across, up) = face // 2, FACE_AXES[face // 2]
        low, high = self._solids.corners.min(1) - _REACH, self._solids.corners.max(1) + _REACH  # [P, 3]
        columns = [np.searchsorted(points[across, 0], edge[:, across]) for edge in (low, high)]
        rows = [np.searchsorted(points[up, :, 0], edge[:, up]) for edge in (low, high)]
        gap = np.full(points.shape[1:], np.inf, np.float32)
        for part in np.flatnonzero((low[:, axis] < points[axis, 0, 0]) & (high[:, axis] > points[axis, 0, 0])):
            window = slice(rows[0][part], rows[1][part]), slice(columns[0][part], columns[1][part])
            near = points[:, *window]
            distance = box_distance(near.reshape(3, -1).T, self._parts[part]).reshape(near.shape[1:])
            gap[window] = np.minimum(gap[window], distance)
        return gap
