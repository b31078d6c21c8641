"""Space-aware sampling as published: candidates go to disk and back, voxels are Python sets of tuples.

Follows sa_sampling.py of the public code: what it computes and when, not its text. Its frames may be fewer than those
asked for, and it fails on a scene without a usable point, as the public code does.

Shapes: S candidate frames of H x W points or pixels.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

PERCENTILE = 50
MIN_CONFIDENCE = 0.1
VOXELS_PER_SHORTEST_SIDE = 20
Voxel = tuple[int, ...]


def voxel_sets(points: Any, confidence: Any) -> list[set[Voxel]]:
    """The voxels that each frame sees.

    Args:
        points: world points `[S, H, W, 3]`, tensor or array, any unit.
        confidence: `[S, H, W]`. Points above 0.1 and at or above the median of all frames are used.
    """
    points, confidence = torch.as_tensor(points), torch.as_tensor(confidence)
    threshold = float(np.percentile(confidence.cpu().numpy(), PERCENTILE))
    usable = (confidence >= threshold) & (confidence > MIN_CONFIDENCE)
    low, high = points[usable].min(dim=0).values, points[usable].max(dim=0).values
    side = (high - low).min() / VOXELS_PER_SHORTEST_SIDE
    seen: list[set[Voxel]] = []
    for frame_points, frame_usable in zip(points, usable):
        cells = ((frame_points[frame_usable] - low) / side).floor().long()
        seen.append({tuple(cell) for cell in cells.unique(dim=0).cpu().numpy().tolist()})
    return seen


def choose_frames(points: Any, confidence: Any, num_frames: int) -> list[int]:
    """At most `num_frames` frame numbers in order of time: each time the frame that sees most voxels not yet seen.

    Ties go to the earliest frame. Stops when no frame sees anything new. Arguments as in `voxel_sets`.
    """
    seen = voxel_sets(points, confidence)
    chosen: list[int] = []
    covered: set[Voxel] = set()
    left = list(range(len(seen)))
    while left and len(chosen) < num_frames:
        best, best_gain = left[0], 0
        for frame in left:
            gain = len(seen[frame] - covered)
            if gain > best_gain:
                best, best_gain = frame, gain
        if best_gain == 0:
            break
        chosen.append(best)
        covered |= seen[best]
        left.remove(best)
    return sorted(chosen)


def png_round_trip(frames: np.ndarray, folder: str | PathLike) -> np.ndarray:
    """Writes frames, uint8 `[S, H, W, 3]`, into a folder as PNG and reads them back."""
    paths = [Path(folder) / f"frame_{number:04d}.png" for number in range(len(frames))]
    for path, frame in zip(paths, frames):
        Image.fromarray(frame).save(path)
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
