"""What fewer or smaller candidates cost in coverage, and what they save: `make bench-tradeoff`.

    python benchmarks/sampling_tradeoff.py [--rooms 3]

Walks through rendered rooms with exact geometry stand for what VGGT would predict. From each set of candidates 16
frames are chosen; how much of the scene they see is measured with all 128 candidates at full size, and compared with
what the choice from those sees. Cost is VGGT's floating-point operations (computed), which is what time follows.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from measuring import environment

from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room
from spatial_mllm_hf.modeling.vggt_geometry import unproject_depth
from spatial_mllm_hf.processing.frame_sampling_spatial_mllm import find_sightings, select_frames, uniform_indices

CHOSEN, ALL = 16, 128
STEPS, PACE = 1280, 0.85  # of the whole round; how much slower than on average it begins and ends
SIZES = {518: (518, 392), 392: (392, 294), 294: (294, 224), 224: (224, 168), 112: (112, 84)}
SETTINGS = [(ALL, 518), (64, 518), (32, 518), (ALL, 392), (ALL, 294), (ALL, 224), (64, 224), (32, 224), (ALL, 112)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=3)
    arguments = parser.parse_args()
    kept: dict[tuple[int, int], list[float]] = {setting: [] for setting in SETTINGS}
    uniform = []
    for seed in range(arguments.rooms):
        maps = {size: _walk(seed, size) for size in SIZES}
        sightings = find_sightings(maps[518], np.ones(maps[518].shape[:3]))
        best = sightings.coverage(select_frames(maps[518], np.ones(maps[518].shape[:3]), CHOSEN).order)[-1]
        uniform.append(sightings.coverage(uniform_indices(ALL, CHOSEN))[-1] / best)
        for candidates, size in SETTINGS:
            numbers = uniform_indices(ALL, candidates)
            points = maps[size][numbers]
            chosen = select_frames(points, np.ones(points.shape[:3]), CHOSEN).order
            kept[candidates, size].append(sightings.coverage([numbers[index] for index in chosen])[-1] / best)
        print(f"room {seed} done", flush=True)
    lines = ["| num_candidate_frames | candidate_size | coverage kept | lowest | cost |", "|---|---|---|---|---|"]
    for (candidates, size), shares in kept.items():
        cost = _operations(candidates, size) / _operations(ALL, 518)
        lines.append(f"| {candidates} | {size} | {np.mean(shares):.1%} | {min(shares):.1%} | {cost:.1%} |")
    lines.append(f"| none: `uniform` | | {np.mean(uniform):.1%} | {min(uniform):.1%} | 0 |")
    print("\n".join(lines))
    report = {"environment": environment(), "rooms": arguments.rooms, "uniform": uniform}
    report["kept"] = [{"candidates": c, "size": s, "shares": shares} for (c, s), shares in kept.items()]
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "sampling_tradeoff.json").write_text(json.dumps(report, indent=1) + "\n")


def _walk(seed: int, size: int) -> np.ndarray:
    """World points `[128, H, W, 3]` of a walk that lingers where it begins and ends, as people do."""
    room, time = make_room(seed=seed), np.linspace(0, 1, ALL, endpoint=False)
    places = ((time - PACE * np.sin(2 * np.pi * time) / (2 * np.pi)) * STEPS).round().astype(int)
    extrinsics, intrinsics = (cameras[places].copy() for cameras in camera_path(room, STEPS, SIZES[size]))
    depth = render(room, extrinsics, intrinsics, SIZES[size]).depth
    intrinsics[:, :2, 2] -= 0.5  # a pixel's coordinates are those of its centre
    return unproject_depth(*(torch.from_numpy(values).double() for values in (depth, extrinsics, intrinsics))).numpy()


def _operations(frames: int, size: int) -> float:
    """Floating-point operations of VGGT's aggregator and point head; see docs/performance.md."""
    width, height = SIZES[size]
    patches = (width // 14) * (height // 14)
    tokens = frames * (patches + 5)
    return tokens * (1.812e9 + 1.966e5 * (patches + 5) + 9.83e4 * tokens) + 2.177e8 * patches * frames


if __name__ == "__main__":
    main()
