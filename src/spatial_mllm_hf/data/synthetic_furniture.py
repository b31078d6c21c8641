"""The classes of furniture in synthetic rooms: boxes, sizes, colours, how many and where each stands.

Names are categories of VSI-Bench's scenes, or of their kind. Each class keeps to a hue of its own, so that small
pictures tell them apart.

A piece looks along its own +y, its back at -y; its origin is on the floor under its middle; metres, z up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Vector = tuple[float, float, float]
Part = tuple[float, float, float, float, float, float, "float | Vector"]  # middle x, y, bottom z, size x, y, z, paint

_WHITE, _BLACK, _STEEL = (0.95, 0.94, 0.9), (0.07, 0.07, 0.08), (0.5, 0.52, 0.55)


# Builders: width, depth, height in metres -> parts in the furniture's own axes. Paint is a factor on the piece's colour
# (above 1 it glows), or a colour of its own.
def _legs(w: float, d: float, h: float, thick: float, paint: float | Vector) -> list[Part]:
    x, y = (w - thick) / 2, (d - thick) / 2
    return [(a, b, 0, thick, thick, h, paint) for a in (-x, x) for b in (-y, y)]


def _disc(w: float, h: float, y: float, z: float, thick: float, paint: float | Vector) -> list[Part]:
    """An upright disc about height z as three boxes."""
    return [(0, y, z - b / 2, a, thick, b, paint) for a, b in ((w, h * 0.5), (w * 0.5, h), (w * 0.8, h * 0.8))]


def _table(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    top: list[Part] = [(0, 0, h - 0.04, w, d, 0.04, 1.0), (0, 0, h - 0.12, w - 0.12, d - 0.12, 0.08, 0.85)]
    return top + _legs(w - 0.06, d - 0.06, h - 0.04, 0.06, 0.8)


def _closet(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    front, door = d / 2 - 0.025, w / 2 - 0.04
    parts: list[Part] = [(0, -0.03, 0, w, d - 0.06, h, 0.75), (0, 0, h - 0.05, w, d, 0.05, 1.1)]
    for side in (-1, 1):
        parts += [(side * w / 4, front - 0.02, 0.08, door, 0.03, h - 0.16, 1.0)]
        parts += [(side * w / 4, front, z, door - 0.2, 0.02, h * 0.36, 1.2) for z in (0.18, h * 0.52)]
        parts += [(side * 0.05, front, h * 0.45, 0.03, 0.05, 0.18, (0.85, 0.75, 0.4))]
    return parts


def _bathtub(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    rim, water = 0.08, (0.2, 0.62, 0.8)
    parts: list[Part] = [(0, 0, 0.04, w, d, h - 0.2, 1.0), (0, 0, h - 0.16, w - 2 * rim, d - 2 * rim, 0.03, water)]
    parts += [(x, 0, h - 0.16, rim, d, 0.16, 1.0) for x in ((rim - w) / 2, (w - rim) / 2)]
    parts += [(0, y, h - 0.16, w, rim, 0.16, 1.0) for y in ((rim - d) / 2, (d - rim) / 2)]
    return [*parts, (w / 2 - 0.14, 0, h - 0.02, 0.12, 0.04, 0.02, _STEEL), *_legs(w - 0.2, d - 0.2, 0.04, 0.08, _STEEL)]


def _radiator(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    ribs = np.linspace(0.03 - w / 2, w / 2 - 0.03, round(w / 0.11)).tolist()
    parts: list[Part] = [(x, 0, 0.1, 0.06, d, h - 0.1, 1.0) for x in ribs]
    parts += [(0, 0, z, w - 0.04, d * 0.5, 0.05, 0.75) for z in (0.15, h - 0.1)]
    return parts + _legs(w - 0.06, d * 0.6, 0.1, 0.03, 0.5)


def _nightstand(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    parts: list[Part] = [(0, 0, h - 0.03, w, d, 0.03, 1.0), (0, -0.01, 0.1, w - 0.04, d - 0.06, h - 0.13, 0.75)]
    for z in (0.13, 0.13 + (h - 0.16) / 2):
        parts += [(0, d / 2 - 0.03, z, w - 0.1, 0.02, (h - 0.16) / 2 - 0.03, 1.05)]
        parts += [(0, d / 2 - 0.015, z + (h - 0.16) / 4 - 0.03, 0.05, 0.03, 0.03, _WHITE)]
    return parts + _legs(w - 0.04, d - 0.06, 0.1, 0.04, 0.6)


def _chair(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    post, back = 0.04, 0.02 - d / 2
    posts: list[Part] = [(x, back, 0.47, post, post, h - 0.47, 0.75) for x in ((post - w) / 2, (w - post) / 2)]
    slats: list[Part] = [(0, back, z, w - 2 * post, 0.025, 0.13, 1.0) for z in (h - 0.14, h - 0.32)]
    return [(0, 0, 0.42, w, d, 0.05, 1.0), *_legs(w, d, 0.42, post, 0.75), *posts, *slats]


def _stool(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    seat: list[Part] = [(0, 0, h - 0.06, w, d * 0.7, 0.06, 1.0), (0, 0, h - 0.06, w * 0.7, d, 0.06, 1.0)]
    bars: list[Part] = [(0, 0, 0.16, w * 0.6, 0.03, 0.03, 0.7), (0, 0, 0.16, 0.03, d * 0.6, 0.03, 0.7)]
    return [*seat, *bars, *_legs(w * 0.68, d * 0.68, h - 0.06, 0.04, 0.75)]


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
    pillows, wood = 2 if w > 1.2 else 1, (0.5, 0.34, 0.2)
    parts: list[Part] = [(0, 0, 0.1, w, d, 0.2, wood), (0, 0.04 - d / 2, 0.3, w, 0.08, h - 0.3, wood)]
    parts += [(0, 0.03, 0.3, w - 0.06, d - 0.1, 0.2, _WHITE), (0, d * 0.16, 0.3, w - 0.02, d * 0.66, 0.24, 1.0)]
    for x in [((k + 0.5) / pillows - 0.5) * (w - 0.1) for k in range(pillows)]:
        parts += [(x, 0.32 - d / 2, 0.5, (w - 0.1) / pillows - 0.08, 0.36, 0.12, (1.0, 1.0, 1.0))]
    return parts + _legs(w - 0.04, d - 0.04, 0.1, 0.08, (0.35, 0.24, 0.14))


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


def _washer(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    body: list[Part] = [(0, -0.03, 0, w, d - 0.06, h, 1.0), (0, d / 2 - 0.05, h - 0.13, w, 0.04, 0.13, 0.8)]
    knob: Part = (w * 0.3, d / 2 - 0.02, h - 0.1, 0.07, 0.04, 0.07, _BLACK)
    rim, glass = _disc(w * 0.68, w * 0.68, d / 2 - 0.04, h * 0.43, 0.04, _STEEL), (0.16, 0.22, 0.3)
    return [*body, knob, *rim, *_disc(w * 0.5, w * 0.5, d / 2 - 0.03, h * 0.43, 0.06, glass)]


def _stove(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    front = d / 2 - 0.03
    parts: list[Part] = [(0, -0.02, 0, w, d - 0.04, h - 0.03, 1.0), (0, 0, h - 0.03, w, d, 0.02, _BLACK)]
    parts += [(x, y, h - 0.01, 0.19, 0.19, 0.01, (0.8, 0.2, 0.1)) for x in (-w / 4, w / 4) for y in (-d / 4, d / 4)]
    parts += [
        (0, front, h * 0.2, w * 0.75, 0.02, h * 0.36, _BLACK),
        (0, front + 0.01, h * 0.62, w * 0.8, 0.02, 0.03, 2.5),
    ]
    return parts + [(x * w, front, h * 0.78, 0.06, 0.04, 0.06, 2.5) for x in (-0.36, -0.12, 0.12, 0.36)]


def _tv(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    sky, ground = (0.35, 0.75, 1.3), ((0.35, 0.9, 0.4), (1.1, 0.75, 0.3))[rng.integers(2)]
    low, tall = h * 0.42, h * 0.58
    parts: list[Part] = [(0, 0, 0, w * 0.5, d, 0.03, _BLACK), (0, -0.02, 0.03, 0.1, 0.06, low, _BLACK)]
    parts += [(0, 0, low, w, 0.06, tall, _BLACK), (0, 0.03, low + 0.04, w - 0.08, 0.02, tall * 0.4 - 0.04, ground)]
    return [*parts, (0, 0.03, low + tall * 0.4, w - 0.08, 0.02, tall * 0.6 - 0.04, sky)]


def _toilet(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    back = 0.1 - d / 2
    parts: list[Part] = [(0, 0, 0, w * 0.6, d * 0.75, 0.3, 0.85), (0, 0.1, 0.27, w, d - 0.2, 0.13, 1.0)]
    parts += [(0, 0.12, 0.4, w * 0.6, d * 0.4, 0.01, (0.3, 0.5, 0.65)), (0, back, 0.36, w, 0.2, h - 0.39, 1.0)]
    parts += [(0, back, h - 0.03, w, 0.2, 0.03, 1.1), (0, back + 0.13, 0.42, w * 0.9, 0.03, 0.32, 0.95)]
    return parts


def _piano(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    parts: list[Part] = [(0, -d * 0.2, 0, w, d * 0.6, h - 0.04, 1.0), (0, -d * 0.2, h - 0.04, w, d * 0.6, 0.04, 1.5)]
    parts += [(0, d * 0.3, 0.6, w, d * 0.4, 0.1, 1.2), (0, d * 0.3, 0.7, w - 0.14, d * 0.34, 0.02, _WHITE)]
    parts += [(x, d * 0.24, 0.72, w / 26, d * 0.2, 0.015, _BLACK) for x in np.linspace(0.14 - w / 2, w / 2 - 0.14, 12)]
    parts += [(x, d / 2 - 0.06, 0, 0.07, 0.07, 0.6, 1.0) for x in (0.06 - w / 2, w / 2 - 0.06)]
    return [*parts, (0, 0.11 * d, 0.85, w * 0.5, 0.03, 0.2, (0.9, 0.88, 0.8))]


def _lamp(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    shade: list[Part] = [(0, 0, h - 0.3 + 0.05 * k, w - 0.04 * k, w - 0.04 * k, 0.05, 1.5) for k in range(6)]
    return [*shade, (0, 0, 0, w * 0.75, w * 0.75, 0.03, 0.25), (0, 0, 0.03, 0.035, 0.035, h - 0.33, 0.25)]


def _plant(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    pot, clay, low = h * 0.28, (0.72, 0.36, 0.2), h * 0.38
    parts: list[Part] = [
        (0, 0, 0, w * 0.4, w * 0.4, pot * 0.8, clay),
        (0, 0, pot * 0.8, w * 0.5, w * 0.5, pot * 0.2, clay),
    ]
    parts += [
        (0, 0, pot, 0.04, 0.04, low - pot + 0.1, (0.35, 0.25, 0.15)),
        (0, 0, h * 0.7, w * 0.3, d * 0.3, h * 0.3, 1.1),
    ]
    parts += [(0, 0, h * 0.55, w, d * 0.25, h * 0.12, 0.9), (0, 0, h * 0.5, w * 0.25, d, h * 0.12, 1.0)]
    for _ in range(8):
        x, y, z = rng.uniform((-0.28, -0.28, 0.38), (0.28, 0.28, 0.7)).tolist()
        parts += [(x * w, y * d, z * h, w * 0.4, d * 0.4, h * 0.2, rng.uniform(0.7, 1.25))]
    return parts


def _trash_bin(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    body: list[Part] = [(0, 0, h * k / 4, w * s, d * s, h / 4, 1.0) for k, s in enumerate((0.76, 0.84, 0.92))]
    return [*body, (0, 0, h * 0.75, w, d, h / 4 - 0.01, 1.15), (0, 0, h - 0.01, w - 0.05, d - 0.05, 0.01, _BLACK)]


def _suitcase(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    top = h * 0.74
    parts: list[Part] = [(0, 0, 0.05, w, d - 0.04, top - 0.05, 1.0), *_legs(w - 0.06, d - 0.06, 0.05, 0.05, _BLACK)]
    parts += [(x * w, 0, 0.1, 0.05, d, top - 0.15, 0.8) for x in (-0.3, 0.0, 0.3)]
    parts += [(x, 0, top, 0.025, 0.025, h - top, _STEEL) for x in (-w / 5, w / 5)]
    return [*parts, (0, 0, h - 0.03, w / 2.5, 0.04, 0.03, _BLACK)]


def _backpack(w: float, d: float, h: float, rng: np.random.Generator) -> list[Part]:
    parts: list[Part] = [
        (0, -0.03, 0, w, d - 0.06, h * 0.75, 1.0),
        (0, -0.03, h * 0.75, w * 0.75, d * 0.6, h * 0.18, 0.95),
    ]
    parts += [
        (0, d / 2 - 0.05, 0.04, w * 0.75, 0.1, h * 0.36, 0.75),
        (0, -0.03, h * 0.93, w * 0.3, 0.03, h * 0.07, _BLACK),
    ]
    return [*parts, (0, d / 2 - 0.055, h * 0.55, w * 0.6, 0.02, 0.03, (0.95, 0.9, 0.4))]


class FurnitureClass(NamedTuple):
    """`sizes`: ranges of width, depth and height in metres; `most`: how many a room may have; `place`: "table" is at a
    table, or anywhere where there is none."""

    build: Callable[[float, float, float, np.random.Generator], list[Part]]
    place: Literal["wall", "free", "table"]
    most: int
    sizes: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    colours: tuple[Vector, ...]


_CLOTHS = ((0.25, 0.38, 0.58), (0.66, 0.25, 0.2), (0.3, 0.48, 0.35), (0.85, 0.68, 0.35), (0.8, 0.78, 0.72))
_BLUES, _TEALS = ((0.16, 0.3, 0.68), (0.25, 0.42, 0.8)), ((0.1, 0.45, 0.45), (0.18, 0.55, 0.5))
_WOODS, _BROWNS = ((0.75, 0.53, 0.3), (0.68, 0.46, 0.24)), ((0.42, 0.27, 0.16), (0.5, 0.32, 0.18))
_MAHOGANIES, _MINTS = ((0.38, 0.12, 0.12), (0.45, 0.18, 0.16)), ((0.55, 0.78, 0.62), (0.62, 0.8, 0.7))
_WHITES, _GREYS = ((0.86, 0.9, 0.95), (0.74, 0.8, 0.87)), ((0.33, 0.34, 0.36), (0.42, 0.43, 0.45))
_ORANGES, _YELLOWS = ((0.85, 0.3, 0.1), (0.8, 0.36, 0.16)), ((0.92, 0.76, 0.12), (0.85, 0.68, 0.15))
_GREENS, _LIMES = ((0.16, 0.5, 0.18), (0.25, 0.58, 0.2)), ((0.55, 0.72, 0.1), (0.62, 0.78, 0.2))
_PINKS, _VIOLETS = ((0.8, 0.14, 0.42), (0.88, 0.25, 0.5)), ((0.42, 0.2, 0.68), (0.5, 0.3, 0.78))
_PALE_BLUES, _CREAMS = ((0.6, 0.86, 0.95), (0.68, 0.9, 0.95)), ((0.95, 0.88, 0.68), (0.92, 0.84, 0.6))
_GLOW, _SNOW, _INK = ((0.95, 0.82, 0.5),), ((0.97, 0.97, 0.95),), ((0.13, 0.1, 0.1), (0.2, 0.1, 0.07))

# In the order in which a room is furnished: large pieces first, chairs after the tables that they belong to.
FURNITURE: dict[str, FurnitureClass] = {
    "bed": FurnitureClass(_bed, "wall", 1, ((1.0, 1.7), (1.9, 2.1), (0.8, 1.1)), _BLUES),
    "sofa": FurnitureClass(_sofa, "wall", 2, ((1.4, 2.3), (0.85, 0.95), (0.78, 0.9)), _TEALS),
    "piano": FurnitureClass(_piano, "wall", 1, ((1.35, 1.5), (0.56, 0.64), (1.08, 1.25)), _INK),
    "refrigerator": FurnitureClass(_refrigerator, "wall", 1, ((0.6, 0.8), (0.62, 0.72), (1.5, 1.9)), _WHITES),
    "bookshelf": FurnitureClass(_bookshelf, "wall", 2, ((0.7, 1.2), (0.28, 0.35), (1.2, 2.1)), _BROWNS),
    "closet": FurnitureClass(_closet, "wall", 1, ((1.0, 1.6), (0.55, 0.65), (1.7, 2.1)), _MAHOGANIES),
    "bathtub": FurnitureClass(_bathtub, "wall", 1, ((1.4, 1.75), (0.7, 0.8), (0.5, 0.6)), _PALE_BLUES),
    "table": FurnitureClass(_table, "free", 2, ((0.8, 1.6), (0.7, 0.9), (0.7, 0.77)), _WOODS),
    "stove": FurnitureClass(_stove, "wall", 1, ((0.58, 0.75), (0.58, 0.66), (0.85, 0.94)), _GREYS),
    "washer": FurnitureClass(_washer, "wall", 1, ((0.58, 0.66), (0.55, 0.66), (0.83, 0.9)), _WHITES),
    "tv": FurnitureClass(_tv, "wall", 1, ((0.9, 1.4), (0.3, 0.4), (1.1, 1.4)), _INK),
    "toilet": FurnitureClass(_toilet, "wall", 1, ((0.36, 0.42), (0.64, 0.74), (0.74, 0.82)), _SNOW),
    "radiator": FurnitureClass(_radiator, "wall", 2, ((0.6, 1.3), (0.1, 0.14), (0.55, 0.75)), _CREAMS),
    "nightstand": FurnitureClass(_nightstand, "wall", 2, ((0.4, 0.55), (0.36, 0.45), (0.45, 0.6)), _MINTS),
    "chair": FurnitureClass(_chair, "table", 6, ((0.42, 0.48), (0.42, 0.5), (0.85, 0.98)), _ORANGES),
    "lamp": FurnitureClass(_lamp, "wall", 3, ((0.38, 0.46), (0.38, 0.46), (1.35, 1.75)), _GLOW),
    "plant": FurnitureClass(_plant, "wall", 3, ((0.45, 0.65), (0.45, 0.65), (0.8, 1.5)), _GREENS),
    "stool": FurnitureClass(_stool, "free", 3, ((0.34, 0.42), (0.34, 0.42), (0.45, 0.68)), _YELLOWS),
    "suitcase": FurnitureClass(_suitcase, "wall", 2, ((0.42, 0.52), (0.24, 0.32), (0.75, 1.0)), _PINKS),
    "trash bin": FurnitureClass(_trash_bin, "wall", 2, ((0.28, 0.38), (0.28, 0.38), (0.35, 0.6)), _LIMES),
    "backpack": FurnitureClass(_backpack, "free", 2, ((0.3, 0.38), (0.22, 0.3), (0.42, 0.55)), _VIOLETS),
}
