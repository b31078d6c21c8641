"""The paint of a synthetic room's own faces before any light: planks or tiles, stripes, door, window and pictures.

Conventions are those of `synthetic_rooms`; columns and rows of a face run along `FACE_AXES`.
"""

from __future__ import annotations

import numpy as np

from .synthetic_furniture import Vector
from .synthetic_rooms import FACE_AXES, Array, Room, WallPatch, as_vector

_CEILING_TEXEL = 0.04  # metres


def paint_face(room: Room, face: int, texel: float) -> Array:
    """Colours float32 [rows, columns, 3] of a face, a texel each `texel` metres; fewer of the plain ceiling."""
    rng = np.random.default_rng([room.seed, face])
    texel = max(texel, _CEILING_TEXEL) if face == 5 else texel
    x, y = (np.arange(round(room.size[axis] / texel)) * texel + texel / 2 for axis in FACE_AXES[face // 2])
    if face == 4:
        return _paint_floor(x, y, rng)
    if face == 5:
        return np.full((len(y), len(x), 3), 1.2, np.float32)  # above 1: stands for the light that the floor throws up
    walls = ((0.87, 0.84, 0.77), (0.8, 0.85, 0.84), (0.86, 0.8, 0.76), (0.84, 0.85, 0.88))
    accents = ((0.5, 0.62, 0.6), (0.78, 0.62, 0.48), (0.55, 0.6, 0.7), (0.7, 0.7, 0.52))
    drawn = (accents if face == room.seed % 4 else walls)[room.seed // 4 % 4]
    wall = room.wall_colours[face] if room.wall_colours else drawn
    paint = _colour(np.tile(1 - 0.03 * (x // 0.2 % 2), (len(y), 1)), wall)
    paint[y < 0.1], paint[y < 0.09] = (0.7, 0.69, 0.67), (0.93, 0.92, 0.9)  # the skirting board and its upper edge
    for patch in room.patches:
        if patch.face == face:
            _paint_patch(paint, texel, patch, rng)
    return paint


def _paint_floor(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Planks 15 cm wide with staggered ends, or tiles of 40 cm; x, y: metres of columns and rows."""
    if rng.random() < 0.3:
        tile = np.where((x // 0.4 + y[:, None] // 0.4) % 2, 0.8, 0.66)
        return _colour(tile * np.where((x % 0.4 < 0.01) | (y[:, None] % 0.4 < 0.01), 0.85, 1), (1.0, 0.97, 0.92))
    bands = (y // 0.15).astype(int)
    along = x + rng.uniform(0, 1.4, bands[-1] + 1)[:, None]  # [bands, columns]
    tint = rng.uniform(0.85, 1.08, (len(along), int(along.max() // 1.4) + 1))
    planks = np.take_along_axis(tint, (along // 1.4).astype(int), 1) * np.where(along % 1.4 < 0.01, 0.72, 1)
    grain = rng.uniform(0.97, 1.03, len(y)) * np.where(y % 0.15 < 0.01, 0.72, 1)
    woods = ((0.72, 0.54, 0.36), (0.6, 0.44, 0.3), (0.76, 0.63, 0.47))
    return _colour(planks[bands] * grain[:, None], woods[rng.integers(3)])


def _colour(tone: Array, colour: Vector) -> Array:
    """Float32 [rows, columns, 3]: a colour in tones [rows, columns]."""
    return tone.astype(np.float32)[..., None] * np.array(colour, np.float32)


def _paint_patch(paint: Array, texel: float, patch: WallPatch, rng: np.random.Generator) -> None:
    """Paint a patch onto its wall [rows, columns, 3] in place."""

    def fill(left: float, right: float, bottom: float, top: float, colour: Vector) -> None:
        """Fill a part of the patch; the borders are fractions of its width and height."""
        (u, v), (w, h) = patch.corner, patch.size
        edges = np.array([u + left * w, u + right * w, v + bottom * h, v + top * h])
        a, b, c, d = (edges / texel).round().astype(int)
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
