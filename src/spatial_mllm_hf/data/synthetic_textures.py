"""The textures of a synthetic room: paint times light for every surface, baked once into one row of texels.

Choices: with light in the textures, the colour of a sample is one look-up. The room's own faces have each texture in
several sizes, for what is near and what is far.

Conventions and surfaces are those of `synthetic_visibility`; a texture's columns and rows run along `FACE_AXES`.

Shapes: F surfaces, T textures, N texels.
"""

from __future__ import annotations

import numpy as np

from .synthetic_light import RoomLight
from .synthetic_paint import paint_face
from .synthetic_rooms import FACE_AXES, Array, Room
from .synthetic_visibility import Solids

FINEST_TEXEL = 0.01  # metres, of the room's faces
LEVELS = 4  # sizes of those textures, each half of the one before
_FURNITURE_TEXELS = 3.0  # of the room's faces, in one of the furniture
_INSET = 1e-3  # texels; keeps a surface's rim within its texture whatever the rounding


class Textures:
    """All textures of a room. Texture s < F is that of surface s; the 6 faces of the room follow in smaller sizes.

    Attributes:
        surface: [T], the surface of each texture.
        corner: [T, 3], the world's point at the first texel's outer corner; across, up: [T, 3], texels a metre.
        start, width: [T], a texture's first texel, and texels in a row of it.
        colours: uint32 [N]; the bytes are red, green, blue and nothing.
    """

    def __init__(self, room: Room, solids: Solids, texel: float = FINEST_TEXEL) -> None:
        """`texel`: metres, of the finest textures of the room's faces."""
        light, furniture = RoomLight(room, solids), 6 * solids.room_box
        corner, axes, lengths = _frames(solids)
        of_furniture, shapes = _bake_furniture(room, light, corner, axes, lengths, _FURNITURE_TEXELS * texel)
        of_faces = [_bake_face(room, light, face, texel) for face in range(6)]
        for _ in range(LEVELS - 1):
            of_faces += map(_halved, of_faces[-6:])
        shapes = np.concatenate([shapes, [texture.shape[1::-1] for texture in of_faces]])
        self.surface = np.concatenate([np.arange(furniture), np.tile(furniture + np.arange(6), LEVELS)])
        scale = (shapes - 2 * _INSET) / lengths[self.surface]
        self.corner = corner[self.surface]
        self.across, self.up = (axes[self.surface, k] * scale[:, k, None] for k in (0, 1))
        self.start, self.width = np.cumsum(shapes.prod(1)) - shapes.prod(1), shapes[:, 0]
        packed = np.zeros((shapes.prod(1).sum(), 4), np.uint8)
        packed[:, :3] = np.concatenate([of_furniture, *(texture.reshape(-1, 3) for texture in of_faces)])
        self.colours = packed.view(np.uint32).reshape(-1)

    def maps(self, planes: Array, rotation: Array, origin: Array) -> Array:
        """Float32 [6, T]: along a ray r = (x, y, 1), texel coordinates are depth * (first three @ r), (last three @ r).

        Args:
            planes: [F, 3], rotation: [3, 3], origin: [3] of a view.
        """
        start, planes = origin - self.corner, planes[self.surface]
        maps = [a @ rotation.T + ((a * start).sum(1) + _INSET)[:, None] * planes for a in (self.across, self.up)]
        return np.concatenate(maps, 1).T.astype(np.float32, order="C")


def _frames(solids: Solids) -> tuple[Array, Array, Array]:
    """For each surface the corner [F, 3] where its texture begins, the directions of its columns and rows [F, 2, 3],
    and its lengths along them [F, 2]."""
    low = np.full((3, 2, 3), -1.0)  # of each face, in halves of the box
    low[range(3), 1, range(3)] = 1
    corner = (low.reshape(1, 6, 3) * solids.half[:, None]) @ solids.turn + solids.center[:, None]
    axes = np.array(FACE_AXES).repeat(2, 0)
    return corner.reshape(-1, 3), solids.turn[:, axes].reshape(-1, 2, 3), 2 * solids.half[:, axes].reshape(-1, 2)


def _bake_furniture(
    room: Room, light: RoomLight, corner: Array, axes: Array, lengths: Array, texel: float
) -> tuple[Array, Array]:
    """Colours uint8 [N, 3] of all textures of furniture, and their columns and rows [F - 6, 2]."""
    corner, axes, lengths = (values[:-6].astype(np.float32) for values in (corner, axes, lengths))
    shapes = np.ceil(lengths / texel).astype(int)
    count = shapes.prod(1)
    surface = np.arange(len(count)).repeat(count)
    row, column = np.divmod(np.arange(len(surface)) - (np.cumsum(count) - count)[surface], shapes[:, 0][surface])
    step = (lengths / shapes)[surface].T
    u, v = (column + np.float32(0.5)) * step[0], (row + np.float32(0.5)) * step[1]  # metres from the corner
    points = corner[surface].T + axes[surface, 0].T * u + axes[surface, 1].T * v  # [3, N]
    width, height = lengths[surface].T
    edge = np.minimum(np.minimum(u, width - u), np.minimum(v, height - v))
    paint = np.array([part.colour for obj in room.objects for part in obj.parts], np.float32).reshape(-1, 3)
    return _to_bytes(paint[surface // 6] * light.on_furniture(points, surface, edge)[:, None]), shapes


def _bake_face(room: Room, light: RoomLight, face: int, texel: float) -> Array:
    """Texture uint8 [rows, columns, 3] of a face of the room."""
    paint, shade = paint_face(room, face, texel), light.on_face(face)
    (rows, columns), (height, width) = paint.shape[:2], shade.shape
    return _to_bytes(paint * (_stretch(rows, height) @ shade @ _stretch(columns, width).T)[..., None])


def _to_bytes(colours: Array) -> Array:
    return (np.minimum(colours, 1) * 255 + 0.5).astype(np.uint8)


def _halved(texture: Array) -> Array:
    """A texture uint8 [rows, columns, 3] at half its size, each texel the mean of four."""
    rows, columns = len(texture) // 2 * 2, texture.shape[1] // 2 * 2
    whole = texture[:rows, :columns].astype(np.uint16)
    pairs = whole[::2] + whole[1::2]
    return ((pairs[:, ::2] + pairs[:, 1::2] + 2) >> 2).astype(np.uint8)


def _stretch(fine: int, coarse: int) -> Array:
    """Float32 [fine, coarse] that interpolates linearly between the middles of cells."""
    place = ((np.arange(fine) + 0.5) * coarse / fine - 0.5).clip(0, coarse - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(coarse))).astype(np.float32)
