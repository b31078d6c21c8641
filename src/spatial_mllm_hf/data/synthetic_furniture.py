"""The classes of furniture in synthetic rooms: boxes, sizes, colours, counts and where each stands.

A piece looks along its own +y, its back at -y; its origin is on the floor under its middle; metres, z up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Vector = tuple[float, float, float]
Part = tuple[float, float, float, float, float, float, "float | Vector"]  # middle x, y, bottom z, size x, y, z, paint


# Builders: width, depth, height in metres -> parts in the furniture's own axes. Paint is a factor on the piece's colour
# (above 1 it glows), or a colour of its own.
def _legs(w: float, d: float, h: float, thick: float, paint: float) -> list[Part]:
    x, y = (w - thick) / 2, (d - thick) / 2
    return [(a, b, 0, thick, thick, h, paint) for a in (-x, x) for b in (-y, y)]


def _table(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    top: list[Part] = [(0, 0, h - 0.04, w, d, 0.04, 1.0), (0, 0, h - 0.12, w - 0.12, d - 0.12, 0.08, 0.85)]
    return top + _legs(w - 0.06, d - 0.06, h - 0.04, 0.06, 0.8)


def _chair(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    post, back = 0.04, 0.02 - d / 2
    posts: list[Part] = [(x, back, 0.47, post, post, h - 0.47, 0.75) for x in ((post - w) / 2, (w - post) / 2)]
    slats: list[Part] = [(0, back, z, w - 2 * post, 0.025, 0.11, 1.0) for z in (h - 0.12, h - 0.28)]
    return [(0, 0, 0.42, w, d, 0.05, 1.0), *_legs(w, d, 0.42, post, 0.75), *posts, *slats]


def _sofa(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    arm, back, seats = 0.18, 0.22, 2 if w < 1.9 else 3
    wide = (w - 2 * arm) / seats
    parts: list[Part] = [(0, 0, 0.06, w, d, 0.22, 1.0), (0, (back - d) / 2, 0.28, w, back, h - 0.28, 0.95)]
    parts += [(x, 0, 0.28, arm, d, 0.3, 0.92) for x in ((arm - w) / 2, (w - arm) / 2)]
    for x in [wide * (k + 0.5) - w / 2 + arm for k in range(seats)]:
        parts += [(x, back / 2 - 0.01, 0.28, wide - 0.02, d - back, 0.15, 1.1)]
        parts += [(x, back - d / 2 + 0.07, 0.43, wide - 0.04, 0.14, h - 0.52, 1.05)]
    return parts + _legs(w - 0.08, d - 0.08, 0.06, 0.06, 0.3)


def _bed(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    cover, pillows, white = _CLOTHS[rng.integers(len(_CLOTHS))], 2 if w > 1.2 else 1, (0.95, 0.94, 0.9)
    parts: list[Part] = [(0, 0, 0.1, w, d, 0.2, 1.0), (0, 0.04 - d / 2, 0.3, w, 0.08, h - 0.3, 0.9)]
    parts += [(0, 0.03, 0.3, w - 0.06, d - 0.1, 0.2, white), (0, d * 0.16, 0.3, w - 0.02, d * 0.66, 0.24, cover)]
    for x in [((k + 0.5) / pillows - 0.5) * (w - 0.1) for k in range(pillows)]:
        parts += [(x, 0.32 - d / 2, 0.5, (w - 0.1) / pillows - 0.08, 0.36, 0.12, (1.0, 1.0, 1.0))]
    return parts + _legs(w - 0.04, d - 0.04, 0.1, 0.08, 0.7)


def _bookshelf(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    boards = np.linspace(0, h - 0.03, round(h / 0.38) + 1).tolist()
    parts: list[Part] = [(x, 0, 0, 0.03, d, h, 1.0) for x in ((0.03 - w) / 2, (w - 0.03) / 2)]
    parts += [(0, 0.01 - d / 2, 0, w - 0.06, 0.02, h, 0.6)]
    parts += [(0, 0.01, z, w - 0.06, d - 0.02, 0.03, 1.0) for z in boards]
    for z in boards[:-1]:
        x = 0.04 - w / 2
        while x < w / 2 - 0.2:
            wide, tall = rng.uniform((0.06, 0.55), (0.15, 0.85)).tolist()
            if rng.random() < 0.8:
                book = _CLOTHS[rng.integers(len(_CLOTHS))]
                parts += [(x + wide / 2, -0.01, z + 0.03, wide - 0.006, d * 0.7, tall * boards[1], book)]
            x += wide
    return parts


def _refrigerator(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    split, front = h * 0.36, d / 2 - 0.055
    parts: list[Part] = [(0, -0.04, 0, w, d - 0.08, h, 0.8), (0, front, 0.05, w, 0.05, split - 0.065, 1.0)]
    parts += [(0, front, split, w, 0.05, h - split, 1.0)]
    return parts + [(w * 0.4, d / 2 - 0.015, z, 0.03, 0.03, 0.35, 0.4) for z in (split - 0.43, split + 0.08)]


def _lamp(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    shade: list[Part] = [(0, 0, h - 0.3 + 0.05 * k, w - 0.04 * k, w - 0.04 * k, 0.05, 1.5) for k in range(6)]
    return [*shade, (0, 0, 0, w * 0.75, w * 0.75, 0.03, 0.25), (0, 0, 0.03, 0.035, 0.035, h - 0.33, 0.25)]


class FurnitureClass(NamedTuple):
    """`sizes`: ranges of width, depth and height in metres; `counts`: fewest and most of them in a room."""

    build: Callable[[float, float, float, np.random.Generator], list[Part]]
    place: Literal["wall", "free", "table"]
    counts: tuple[int, int]
    sizes: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    colours: tuple[Vector, ...]


_CLOTHS = ((0.25, 0.38, 0.58), (0.66, 0.25, 0.2), (0.3, 0.48, 0.35), (0.85, 0.68, 0.35), (0.8, 0.78, 0.72))
_WOODS = ((0.55, 0.36, 0.2), (0.68, 0.48, 0.28), (0.42, 0.26, 0.15))
_FABRICS, _WHITES = ((0.2, 0.42, 0.45), (0.6, 0.3, 0.2), (0.42, 0.44, 0.5)), ((0.86, 0.88, 0.9), (0.68, 0.7, 0.73))
_PAINTS, _GLOW = ((0.75, 0.3, 0.18), (0.8, 0.62, 0.25), (0.3, 0.45, 0.3)), ((0.95, 0.82, 0.55),)

# In the order in which a room is furnished: large pieces first, chairs after the tables that they belong to.
FURNITURE: dict[str, FurnitureClass] = {
    "bed": FurnitureClass(_bed, "wall", (1, 1), ((1.0, 1.7), (2.0, 2.1), (0.9, 1.1)), _WOODS),
    "sofa": FurnitureClass(_sofa, "wall", (1, 2), ((1.5, 2.2), (0.85, 0.95), (0.8, 0.9)), _FABRICS),
    "refrigerator": FurnitureClass(_refrigerator, "wall", (0, 1), ((0.6, 0.75), (0.62, 0.72), (1.6, 1.85)), _WHITES),
    "bookshelf": FurnitureClass(_bookshelf, "wall", (1, 2), ((0.8, 1.2), (0.28, 0.35), (1.6, 2.1)), _WOODS),
    "table": FurnitureClass(_table, "free", (1, 2), ((1.0, 1.6), (0.7, 0.9), (0.72, 0.77)), _WOODS),
    "chair": FurnitureClass(_chair, "table", (3, 5), ((0.42, 0.48), (0.42, 0.5), (0.85, 0.98)), _PAINTS),
    "lamp": FurnitureClass(_lamp, "wall", (1, 3), ((0.38, 0.46), (0.38, 0.46), (1.5, 1.75)), _GLOW),
}
