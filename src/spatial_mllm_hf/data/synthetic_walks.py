"""How people film a room: cameras that turn on a spot, pass along a wall, walk round or from place to place.

`camera_path` in `synthetic_rooms` is the even round of the demo; the walks here differ from seed to seed, for data
sets. Conventions are those of `synthetic_rooms`.

Shapes: S frames, N points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from .synthetic_rooms import CLEARANCE, Array, Room, box_distance, cameras_along, checked_size, free_round

WalkKind = Literal["round", "turn", "line", "tour"]

_EYE_HEIGHTS = (1.35, 1.65)  # metres
_SLOWEST = 0.85  # how much slower than on average a walk may begin and end, as a share
_DRAWS, _STEP = 64, 0.05  # places or lines to choose from; metres between the points of a way that are looked at
_ROOMY, _BESIDE = 0.6, 0.45  # metres about a place where somebody stops to look, and about a line along a wall
_SWEEP = np.radians(80)  # to each side, on a walk along a wall
_SHORTEST_LINE, _SHORTEST_LEG, _MOST_LEGS = 1.0, 1.0, 4  # metres, metres, legs of a tour
_TOURS, _SPOTS = 8, 16  # to begin, before it is given up; that a tour may lead to

# Progress [S] from 0 to 1, the heading to start with or None -> points of the floor plan [S, 2] and headings [S]; None
# where the room has no such way.
Way = Callable[[Room, Array, np.random.Generator, "float | None"], "tuple[Array, Array] | None"]


def draw_camera_path(
    room: Room,
    num_frames: int,
    size: tuple[int, int] = (224, 168),
    seed: int = 0,
    kind: WalkKind | None = None,
    start_heading: float | None = None,
) -> tuple[Array, Array]:
    """A walk through free space, at least `CLEARANCE` from walls and furniture; the same arguments give the same walk.

    Args:
        kind: "round" about the middle, "turn" on a spot, along a "line", or a "tour" of several places; by default
            drawn from those that the room has.
        start_heading: where the first frame looks, in radians as for `cameras_along`; drawn by default. A walk along a
            line looks into the room first and cannot begin elsewhere.

    Returns:
        extrinsics and intrinsics as of `camera_path`.

    Raises:
        ValueError: fewer than 1 frame, a size below 2 pixels, an unknown kind, a line with a heading to start with, or
            a room without such a way.
    """
    checked_size(size)
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if kind is not None and kind not in get_args(WalkKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(WalkKind))}, got {kind!r}")
    if kind == "line" and start_heading is not None:
        raise ValueError(
            f"start_heading must be None for a walk of kind line, which looks into the room first, got {start_heading}"
        )
    rng = np.random.default_rng([room.seed, seed])
    time = np.arange(num_frames) / num_frames
    progress = time - rng.uniform(0, _SLOWEST) * np.sin(2 * np.pi * time) / (2 * np.pi)
    kinds = rng.permutation(get_args(WalkKind)).tolist() if kind is None else [kind]
    if start_heading is not None:
        kinds = [name for name in kinds if name != "line"]
    for name in kinds:
        way = _WAYS[name](room, progress, rng, start_heading)
        if way is not None:
            break
    else:
        raise ValueError(f"room has no free way for a walk of kind {', '.join(kinds)}; move its objects to the walls")
    centers, heading = np.column_stack([way[0], np.full(num_frames, rng.uniform(*_EYE_HEIGHTS))]), way[1]
    pitch = rng.uniform(-0.3, -0.2) + 0.08 * np.sin(2 * np.pi * (rng.uniform(1, 3) * time + rng.random()))
    return cameras_along(centers, heading, pitch, size)


def clearance(room: Room, points: Array) -> Array:
    """Metres [N] from points [N, 2] of the floor plan to the nearest wall or furniture; 0 or less inside of them."""
    gap: Array = np.minimum(points, np.array(room.size[:2]) - points).min(1)
    on_floor = np.column_stack([points, np.zeros(len(points))])
    for obj in room.objects:
        gap = np.minimum(gap, box_distance(on_floor, obj, plan=True))
    return gap


def _round(room: Room, progress: Array, rng: np.random.Generator, start: float | None) -> tuple[Array, Array] | None:
    """About the middle, looking across it."""
    drawn = rng.uniform(0, 2 * np.pi)
    turn = (drawn if start is None else start - np.pi) + rng.choice((-1, 1)) * 2 * np.pi * progress
    try:
        return free_round(room, turn)[:, :2], turn + np.pi + rng.uniform(0, 0.3) * (
            np.sin(2 * turn) - (0 if start is None else np.sin(2 * turn[0]))
        )
    except ValueError:
        return None


def _turn(room: Room, progress: Array, rng: np.random.Generator, start: float | None) -> tuple[Array, Array] | None:
    """On a spot, once about and a little more."""
    spots = _free_spots(room, rng)
    return (np.tile(spots[0], (len(progress), 1)), _turning(progress, rng, start)) if len(spots) else None


def _line(room: Room, progress: Array, rng: np.random.Generator, start: float | None) -> tuple[Array, Array] | None:
    """Along one of the walls, looking into the room, from one side to the other."""
    best: Array = np.zeros((0, 2))
    for _ in range(_DRAWS // 4):
        axis = int(rng.integers(2))
        across = rng.uniform(CLEARANCE, room.size[1 - axis] - CLEARANCE)
        line = np.arange(CLEARANCE, room.size[axis] - CLEARANCE, _STEP)
        points = np.column_stack([line, np.full(len(line), across)][:: -1 if axis else 1])
        runs = np.split(points, np.flatnonzero(clearance(room, points) <= _BESIDE))
        best = max(best, *(run[1:] for run in runs[1:]), runs[0], key=len)
    if len(best) * _STEP < _SHORTEST_LINE:
        return None
    start, end = best[[0, -1]][:: rng.choice((-1, 1))]
    inward = np.array(room.size[:2]) / 2 - start
    along = (end - start) / np.linalg.norm(end - start)
    inward -= along * (inward @ along)
    sweep = rng.choice((-1, 1)) * _SWEEP * (2 * progress - 1)
    return start + (end - start) * progress[:, None], np.arctan2(inward[1], inward[0]) + sweep


def _tour(room: Room, progress: Array, rng: np.random.Generator, start: float | None) -> tuple[Array, Array] | None:
    """Straight from place to place, the corners rounded where there is room, turning once about on the way."""
    for _ in range(_TOURS):
        places = _places_in_sight(room, _free_spots(room, rng))
        if len(places) > 2:
            break
    else:
        return None
    smooth = places
    for _ in range(2):  # each corner gives way to two, a quarter along its sides
        cut = np.stack([0.75 * smooth[:-1] + 0.25 * smooth[1:], 0.25 * smooth[:-1] + 0.75 * smooth[1:]], 1)
        smooth = np.vstack([smooth[:1], cut.reshape(-1, 2), smooth[-1:]])
    if clearance(room, _resample(smooth, np.linspace(0, 1, 400))).min() <= CLEARANCE:
        smooth = places
    return _resample(smooth, progress), _turning(progress, rng, start)


_WAYS: dict[str, Way] = {"round": _round, "turn": _turn, "line": _line, "tour": _tour}


def _free_spots(room: Room, rng: np.random.Generator) -> Array:
    """Free places [N, 2], drawn evenly over the room; those with little about them only where there are no others."""
    spots = rng.uniform((0, 0), room.size[:2], (_DRAWS, 2))
    gap = clearance(room, spots)
    free: Array = spots[gap > (_ROOMY if (gap > _ROOMY).sum() > 1 else CLEARANCE)]
    return free


def _places_in_sight(room: Room, spots: Array) -> Array:
    """Those of the spots [N, 2], in turn, to which a free straight leg leads from the one before."""
    places = spots[:1]
    for spot in spots[1:_SPOTS]:
        if len(places) <= _MOST_LEGS and np.linalg.norm(spot - places[-1]) >= _SHORTEST_LEG:
            leg = _resample(np.stack([places[-1], spot]), np.linspace(0, 1, 100))
            if clearance(room, leg).min() > CLEARANCE:
                places = np.vstack([places, spot])
    return places


def _turning(progress: Array, rng: np.random.Generator, start: float | None) -> Array:
    """Headings [S] that turn once about and a little more."""
    drawn = rng.uniform(0, 2 * np.pi)
    return (drawn if start is None else start) + rng.choice((-1, 1)) * rng.uniform(1.0, 1.25) * 2 * np.pi * progress


def _resample(line: Array, progress: Array) -> Array:
    """Points [S, 2] at shares `progress` [S] of the length of a line through points [N, 2]."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    return np.stack([np.interp(progress * length[-1], length, line[:, k]) for k in (0, 1)], 1)
