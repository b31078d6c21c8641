"""Which frames to show: evenly over time, or those that together see most of the scene (appendix B.1 of the paper).

Space-aware sampling voxelises the scene that VGGT reconstructs from many candidate frames and picks frames greedily,
each time the one that sees the most voxels not yet seen. Follows sa_sampling.py of the public code, choices included
(ties go to the earliest frame); unlike it, `fill="uniform"` always returns as many frames as were asked for.

Shapes: S candidate frames of H x W points, M points of a frame that are used, V voxels, K frames chosen.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

LOWEST_CONFIDENCE = float(np.float32(0.1))
VOXELS_PER_SHORTEST_SIDE = 20
SAMPLE_OF_CONFIDENCE = 100_000
ROWS_ABREAST = 64
LARGEST_BITMAP = 2**22  # cells; a finer grid is sorted instead
Fill = Literal["uniform", "none"]


class FrameSelection(NamedTuple):
    """What `select_frames` chose.

    Attributes:
        indices: K frame numbers in order of time (fewer with `fill="none"`; with repeats when S < K).
        order: the same frames in the order in which they were picked, those that fill up last.
        covered: voxels that the chosen frames see.
        voxel_size: side of a voxel, in the unit of the points; 0.0 when no point could be used.
        total_voxels: voxels that all candidates see.
    """

    indices: list[int]
    order: list[int]
    covered: int
    voxel_size: float
    total_voxels: int


class VoxelSightings(NamedTuple):
    """Which frame sees which voxel; what `find_sightings` returns.

    Attributes:
        frames, voxels: `[N]`, the pairs "this frame sees this voxel", each once, in order of the frames.
        cells: `[V, 3]`, where each voxel lies in the grid, counted from `origin`.
        origin: `[3]`, smallest coordinates of the points used, in their unit.
        voxel_size: side of a voxel in the same unit; 0.0 when no point could be used.
        num_frames: frames that looked, S.
    """

    frames: np.ndarray
    voxels: np.ndarray
    cells: np.ndarray
    origin: np.ndarray
    voxel_size: float
    num_frames: int

    def seen_by(self, frame: int) -> np.ndarray:
        """The voxels that a frame sees."""
        return self.voxels[slice(*np.searchsorted(self.frames, (frame, frame + 1)))]

    def coverage(self, order: Sequence[int]) -> list[int]:
        """How many voxels have been seen after each of the frames in `order`."""
        first_seen = np.full(len(self.cells), len(order))
        for rank, frame in reversed(list(enumerate(order))):
            first_seen[self.seen_by(frame)] = rank
        return np.bincount(first_seen, minlength=len(order) + 1)[: len(order)].cumsum().tolist()


def uniform_indices(num_available: int, num_frames: int) -> list[int]:
    """`round(linspace(0, n - 1, K))`: both ends included, frames repeated when there are fewer than K."""
    return np.linspace(0, num_available - 1, num_frames).round().astype(int).tolist()


def select_frames(points: Any, confidence: Any, num_frames: int, fill: Fill = "uniform") -> FrameSelection:
    """Greedy maximum coverage of the scene's voxels.

    Args:
        points: world points `[S, H, W, 3]`, tensor or array, any unit. Points that are not finite are left out.
        confidence: `[S, H, W]`. Points above 0.1 and at or above the median of all frames are used.
        num_frames: K, at least 1.
        fill: when nothing new is left to see, "uniform" fills up evenly over time from the frames not chosen, "none"
            returns what was chosen, as the public code does.

    Raises:
        ValueError: for shapes that do not fit, no frames, K below 1 or an unknown fill.
    """
    return choose_by_coverage(find_sightings(points, confidence), num_frames, fill)


def choose_by_coverage(sightings: VoxelSightings, num_frames: int, fill: Fill = "uniform") -> FrameSelection:
    """The second half of `select_frames`: picks frames, given which sees which voxel."""
    _check_choice(num_frames, fill)
    order = _greedy_cover(sightings, num_frames)
    if fill == "uniform":
        order = _fill_over_time(order, sightings.num_frames, num_frames)
    covered = sightings.coverage(order)
    return FrameSelection(
        indices=sorted(order),
        order=order,
        covered=covered[-1] if covered else 0,
        voxel_size=sightings.voxel_size,
        total_voxels=len(sightings.cells),
    )


def find_sightings(points: Any, confidence: Any) -> VoxelSightings:
    """Which frame sees which voxel of the scene; arguments as in `select_frames`.

    The side of a voxel is 1/20 of the shortest side of the box around the points used; a side of length 0 (a flat
    scene) does not count. Runs where the points are; beside the inputs it holds the points that are used, once.

    Raises:
        ValueError: for shapes that do not fit, or no frames.
    """
    points, confidence = (torch.as_tensor(values).detach().float() for values in (points, confidence))
    _check_shapes(points, confidence)
    S = points.shape[0]
    used = _confident_points(points.reshape(S, -1, 3), confidence.reshape(S, -1))
    low, high = _bounding_box(used)
    if not (high - low).isfinite().all():
        used, low, high = [frame.double() for frame in used], low.double(), high.double()
    steps = (high - low) / VOXELS_PER_SHORTEST_SIDE
    voxel_size = steps[steps > 0].min() if (steps > 0).any() else steps.new_tensor(1.0)
    sizes = ((high - low) / voxel_size).floor().double() + 1
    seen = [_distinct_cells((frame - low).div_(voxel_size).floor_(), sizes) for frame in used]
    cells, voxels = _number_voxels(np.concatenate(seen), sizes)
    return VoxelSightings(
        frames=np.repeat(np.arange(S), [len(of_frame) for of_frame in seen]),
        voxels=voxels,
        cells=cells,
        origin=low.cpu().numpy(),
        voxel_size=float(voxel_size) if len(cells) else 0.0,
        num_frames=S,
    )


def _check_shapes(points: torch.Tensor, confidence: torch.Tensor) -> None:
    if points.ndim != 4 or points.shape[-1] != 3 or points.shape[0] == 0:
        raise ValueError(f"points must be [S, H, W, 3] with at least one frame, got shape {list(points.shape)}.")
    if confidence.shape != points.shape[:-1]:
        raise ValueError(f"confidence must be {list(points.shape[:-1])} as the points, got {list(confidence.shape)}.")


def _check_choice(num_frames: int, fill: str) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}.")
    if fill not in ("uniform", "none"):
        raise ValueError(f"fill must be 'uniform' or 'none', got {fill!r}.")


def _confident_points(points: torch.Tensor, confidence: torch.Tensor) -> list[torch.Tensor]:
    """Of points `[S, H * W, 3]` those to use, `[M, 3]` for each frame."""
    finite: list[torch.Tensor] | None = None
    values = list(confidence)
    if not (_is_finite(points) and _is_finite(confidence)):
        finite = [of_points.isfinite().all(-1) & own.isfinite() for of_points, own in zip(points, confidence)]
        values = [own[usable] for own, usable in zip(confidence, finite)]
    if not sum(frame.numel() for frame in values):
        return [frame[:0] for frame in points]
    middle = _median(values)
    kept = [
        own >= middle if middle > LOWEST_CONFIDENCE else (own > LOWEST_CONFIDENCE) & (own >= middle)
        for own in confidence
    ]
    if finite is not None:
        kept = [of_frame & usable for of_frame, usable in zip(kept, finite)]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(_pick, points, kept))


def _is_finite(values: torch.Tensor) -> bool:
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())  # a sum costs a fraction, and hides nothing


def _median(parts: list[torch.Tensor]) -> float:
    """Median of all values; the mean of the middle two for an even number.

    A sample brackets the middle; values below the bracket are counted and only those inside are copied and ordered.
    If the sample misled, the bracket becomes everything.
    """
    arrays = [part.numpy() if part.device.type == "cpu" else part for part in parts]  # numpy compares faster
    total = sum(len(values) for values in arrays)
    middle = ((total - 1) // 2, total // 2)
    step = max(1, total // SAMPLE_OF_CONFIDENCE)
    sample = np.sort(_joined([values[::step] for values in arrays]))
    spread = math.ceil(4 * len(sample) ** 0.5)  # beyond any error of a random sample
    centre, last = len(sample) // 2, len(sample) - 1
    bracket = float(sample[max(0, centre - spread)]), float(sample[min(last, centre + spread)])
    for low, high in (bracket, (-math.inf, math.inf)):
        below, parts_inside = 0, []
        for values in arrays:
            is_below = values < low
            below += int(is_below.sum())
            parts_inside.append(values[is_below ^ (values <= high)])
        inside = _joined(parts_inside)
        if below <= middle[0] and middle[1] < below + len(inside):
            break
    ranks = [rank - below for rank in middle]
    return float(np.partition(inside, ranks)[ranks].mean())


def _joined(parts: Sequence[Any]) -> np.ndarray:
    return np.concatenate([part.cpu().numpy() if isinstance(part, torch.Tensor) else part for part in parts])


def _pick(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`values[kept]`; on the CPU by way of numpy, which is several times faster at it."""
    if values.device.type != "cpu":
        return values[kept]
    return torch.from_numpy(values.numpy().take(np.flatnonzero(kept.numpy()), axis=0))


def _bounding_box(used: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest coordinates `[3]`; zeros without points."""
    seen = [frame for frame in used if len(frame)]
    if not seen:
        return used[0].new_zeros(3), used[0].new_zeros(3)
    low = torch.stack([_over_rows(frame, torch.amin) for frame in seen]).amin(dim=0)
    return low, torch.stack([_over_rows(frame, torch.amax) for frame in seen]).amax(dim=0)


def _over_rows(points: torch.Tensor, reduce: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Reduces `[M, 3]` to `[3]`, many rows abreast: three columns alone are too narrow for vector instructions."""
    whole = len(points) // ROWS_ABREAST * ROWS_ABREAST
    if not whole:
        return reduce(points, dim=0)
    abreast = reduce(points[:whole].reshape(-1, 3 * ROWS_ABREAST), dim=0).view(ROWS_ABREAST, 3)
    return reduce(torch.cat([abreast, points[whole:]]), dim=0)


def _distinct_cells(cells: torch.Tensor, sizes: torch.Tensor) -> np.ndarray:
    """Each cell of `[M, 3]` once: its linear number in a grid of `sizes`, or `[N, 3]` where no integer holds that."""
    total = float(sizes.prod())
    if total >= 2**62:
        return cells.unique(dim=0).cpu().numpy()
    _, size_y, size_z = sizes.tolist()
    if total >= LARGEST_BITMAP:
        x, y, z = cells.long().unbind(-1)
        return ((x * int(size_y) + y) * int(size_z) + z).unique().cpu().numpy()
    linear = (cells @ cells.new_tensor([size_y * size_z, size_z, 1.0])).long()  # exact: below 2**24
    if linear.device.type != "cpu":
        return linear.bincount().nonzero().squeeze(1).cpu().numpy()
    seen = np.zeros(int(total), dtype=bool)
    seen[linear.numpy()] = True
    return np.flatnonzero(seen)


def _number_voxels(seen: np.ndarray, sizes: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the cells that `_distinct_cells` found from 0 without gaps: their places `[V, 3]`, and the numbers."""
    if seen.ndim == 2:
        cells, voxels = np.unique(seen, axis=0, return_inverse=True)
        return cells, voxels.reshape(-1)
    if sizes.prod() < LARGEST_BITMAP:
        exists = np.zeros(int(sizes.prod()), dtype=bool)
        exists[seen] = True
        linear, voxels = np.flatnonzero(exists), (exists.cumsum() - 1)[seen]
    else:
        linear, voxels = np.unique(seen, return_inverse=True)
    return np.stack(np.unravel_index(linear, sizes.long().tolist()), axis=-1), voxels


def _greedy_cover(sightings: VoxelSightings, num_frames: int) -> list[int]:
    """Frames in the order picked; stops when nothing new is left."""
    order: list[int] = []
    frames, voxels = sightings.frames, sightings.voxels
    covered = np.zeros(len(sightings.cells), dtype=bool)
    while len(order) < num_frames and len(frames) > 0:
        best = int(np.bincount(frames, minlength=sightings.num_frames).argmax())
        order.append(best)
        covered[sightings.seen_by(best)] = True
        new = ~covered[voxels]
        frames, voxels = frames[new], voxels[new]
    return order


def _fill_over_time(order: list[int], num_available: int, num_frames: int) -> list[int]:
    """Adds frames until there are `num_frames`, at even steps through those not chosen."""
    if not order:
        return uniform_indices(num_available, num_frames)
    if num_available < num_frames:  # every frame, evenly repeated; the picked ones first
        repeated = uniform_indices(num_available, num_frames)
        for index in order:
            repeated.remove(index)
        return order + repeated
    left = sorted(set(range(num_available)) - set(order))
    missing = num_frames - len(order)
    return order + [left[(2 * step + 1) * len(left) // (2 * missing)] for step in range(missing)]


__all__ = [
    "FrameSelection",
    "VoxelSightings",
    "choose_by_coverage",
    "find_sightings",
    "select_frames",
    "uniform_indices",
]
