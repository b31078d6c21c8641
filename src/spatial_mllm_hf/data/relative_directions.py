"""Where an object is, seen by somebody who stands by one object and faces another; VSI-Bench's three difficulties.

All is measured on the floor plan between the boxes' centroids. A bearing is the angle from the line of sight to the
object, counter-clockwise seen from above, in degrees from 0 to 360: 90 is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .oriented_boxes import Array

Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)

# Where one sector ends and the next begins. Easy questions share those of medium ones and never ask for what is behind.
_SECTOR_BOUNDARIES: Mapping[Difficulty, tuple[float, ...]] = {
    "easy": (0, 135, 225, 360),
    "medium": (0, 135, 225, 360),
    "hard": (0, 90, 180, 270, 360),
}
DIRECTIONS: Mapping[Difficulty, tuple[str, ...]] = {
    "easy": ("left", "right"),
    "medium": ("left", "back", "right"),
    "hard": ("front-left", "back-left", "back-right", "front-right"),
}
_EASY_BACK_SECTOR = 1

# When a question is too close to call; VLM-3R's values, after VSI-Bench.
MAX_STRAY_CORNERS = 2  # of the object's box, in another sector than its centroid
MIN_BOUNDARY_GAP = 10.0  # degrees between its centroid and a boundary


def bearings(standing: Array, facing: Array, points: Array) -> Array:
    """Degrees `[..., N]` of points `[..., N, 2 or 3]` for somebody at `standing` who faces `facing`, `[..., 2 or
    3]`."""
    ahead = (facing - standing)[..., None, :2]
    towards = points[..., :2] - standing[..., None, :2]
    cross = ahead[..., 0] * towards[..., 1] - ahead[..., 1] * towards[..., 0]
    turned = np.degrees(np.arctan2(cross, (ahead * towards).sum(-1))) % 360
    return np.where(turned == 360, 0.0, turned)  # % gives 360 for the smallest negative numbers


def direction(bearing: float, difficulty: Difficulty) -> str:
    """The word for a bearing."""
    if difficulty == "easy":
        return "left" if bearing < 180 else "right"
    return DIRECTIONS[difficulty][int(_sectors(np.asarray(bearing), difficulty))]


def is_clear(bearing: Array, corner_bearings: Array, difficulty: Difficulty) -> NDArray[np.bool_]:
    """Whether questions `[...]` can be answered without doubt, given the bearings of the centroid and of the box's
    corners.

    Args:
        bearing: `[...]`, degrees.
        corner_bearings: `[..., 8]`, degrees.
    """
    sectors = _sectors(bearing, difficulty)
    stray = (_sectors(corner_bearings, difficulty) != sectors[..., None]).sum(-1)
    gap = np.abs(bearing[..., None] - _SECTOR_BOUNDARIES[difficulty]).min(-1)
    clear = (stray <= MAX_STRAY_CORNERS) & (gap >= MIN_BOUNDARY_GAP)
    return clear & (sectors != _EASY_BACK_SECTOR) if difficulty == "easy" else clear


def _sectors(angles: Array, difficulty: Difficulty) -> NDArray[np.int64]:
    return (np.searchsorted(_SECTOR_BOUNDARIES[difficulty], angles, side="right") - 1).astype(np.int64)
