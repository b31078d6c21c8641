"""Which frames to show: evenly over time, or those that together see most of the scene (appendix B.1 of the paper).

Space-aware sampling voxelises the scene that VGGT reconstructs from many candidate frames and picks frames greedily,
each time the one that sees the most voxels not yet seen. Follows sa_sampling.py of the public code, choices included
(ties go to the earliest frame); unlike it, `fill="uniform"` always returns as many frames as were asked for.

Shapes: S candidate frames of H x W points, M points kept, K frames chosen.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch

MIN_CONFIDENCE = 0.1
VOXELS_PER_SHORTEST_SIDE = 20
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
    points, confidence = (torch.as_tensor(values).detach().float() for values in (points, confidence))
    _check_inputs(points, confidence, num_frames, fill)
    S = points.shape[0]
    kept = _confident(points, confidence)
    frame_of_point = torch.arange(S, device=points.device).repeat_interleave(kept[0].numel())[kept.flatten()]
    voxel_of_point, voxel_size = _voxelise(points[kept])
    total = int(voxel_of_point.max()) + 1 if voxel_of_point.numel() else 0
    sightings = (frame_of_point * total + voxel_of_point).unique().cpu().numpy()
    frames, voxels = np.divmod(sightings, max(total, 1))  # which frame sees which voxel, each pair once
    order = _greedy_cover(frames, voxels, S, num_frames)
    if fill == "uniform":
        order = _fill_over_time(order, S, num_frames)
    return FrameSelection(
        indices=sorted(order),
        order=order,
        covered=len(np.unique(voxels[np.isin(frames, order)])),
        voxel_size=voxel_size,
        total_voxels=total,
    )


def _check_inputs(points: torch.Tensor, confidence: torch.Tensor, num_frames: int, fill: str) -> None:
    if points.ndim != 4 or points.shape[-1] != 3 or points.shape[0] == 0:
        raise ValueError(f"points must be [S, H, W, 3] with at least one frame, got shape {list(points.shape)}.")
    if confidence.shape != points.shape[:-1]:
        raise ValueError(f"confidence must be {list(points.shape[:-1])} as the points, got {list(confidence.shape)}.")
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}.")
    if fill not in ("uniform", "none"):
        raise ValueError(f"fill must be 'uniform' or 'none', got {fill!r}.")


def _confident(points: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """Which points to use, bool `[S, H, W]`."""
    finite = points.isfinite().all(dim=-1) & confidence.isfinite()
    if not finite.any():
        return finite
    return finite & (confidence > MIN_CONFIDENCE) & (confidence >= _median(confidence[finite]))


def _median(values: torch.Tensor) -> float:
    """Median; the mean of the middle two for an even number (torch's takes the lower, its quantile has a limit)."""
    return float(np.median(values.cpu().numpy()))


def _voxelise(points: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Points `[M, 3]` → voxel numbers `[M]` counted from 0 without gaps, and the voxels' side.

    The side is 1/20 of the box's shortest side; a side of length 0 (a flat scene) does not count.
    """
    if points.shape[0] == 0:
        return torch.empty(0, dtype=torch.long), 0.0
    low, high = points.amin(dim=0), points.amax(dim=0)
    if not (high - low).isfinite().all():
        return _voxelise(points.double())
    steps = (high - low) / VOXELS_PER_SHORTEST_SIDE
    voxel_size = steps[steps > 0].min() if (steps > 0).any() else points.new_tensor(1.0)
    cells = torch.div(points - low, voxel_size).floor()
    sizes = ((high - low) / voxel_size).floor().double() + 1
    if sizes.prod() < 2**62:
        _, size_y, size_z = sizes.long().tolist()
        x, y, z = cells.long().unbind(-1)
        linear = (x * size_y + y) * size_z + z
        return linear.unique(return_inverse=True)[1], float(voxel_size)
    return cells.unique(dim=0, return_inverse=True)[1], float(voxel_size)


def _greedy_cover(frames: np.ndarray, voxels: np.ndarray, num_available: int, num_frames: int) -> list[int]:
    """Frames in the order picked, from the pairs "this frame sees this voxel"; stops when nothing new is left."""
    order: list[int] = []
    while len(order) < num_frames and len(frames) > 0:
        best = int(np.bincount(frames, minlength=num_available).argmax())
        order.append(best)
        new = ~np.isin(voxels, voxels[frames == best])
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


__all__ = ["FrameSelection", "select_frames", "uniform_indices"]
