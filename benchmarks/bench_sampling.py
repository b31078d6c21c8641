"""The sampler without its geometry model: voxels and choice of frames, and how candidates get to it."""

import tempfile
from functools import partial

import numpy as np
import torch
from baseline.sampling import choose_frames, png_round_trip
from measuring import Comparison, compare, describe, peak_resident_bytes

from spatial_mllm_hf.processing.candidate_frames_spatial_mllm import shrink
from spatial_mllm_hf.processing.frame_sampling_spatial_mllm import select_frames

FRAMES, HEIGHT, WIDTH, CHOSEN = 128, 392, 518, 16


def run(repeats: int) -> list[Comparison]:
    """Voxels and choice; its memory; and the whole from decoded frames to chosen ones, without the geometry model."""
    points, confidence = walk_of_boxes()
    select = partial(select_frames, points, confidence, CHOSEN, fill="none")
    assert select().indices == choose_frames(points, confidence, CHOSEN)
    setting = f"{FRAMES} maps of {WIDTH}x{HEIGHT} points"
    rows = [
        compare(
            "voxels and choice", setting, lambda: choose_frames(points, confidence, CHOSEN), select, repeats, target=50
        )
    ]
    given = points.nbytes + confidence.nbytes
    with peak_resident_bytes() as peak:
        select()
    # With the inputs themselves: twice the inputs is the limit, so a ratio of 1 or more keeps it.
    memory = Comparison("memory of it, of twice the input", setting, [2.0 * given], [given + peak[0]], 1, "bytes")
    print(describe(memory), flush=True)
    return [*rows, memory, _whole(points, confidence, repeats)]


def _whole(points: torch.Tensor, confidence: torch.Tensor, repeats: int) -> Comparison:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (FRAMES, 24, 32, 3), dtype=np.uint8)
    frames = small.repeat(20, axis=1).repeat(20, axis=2)  # [S, 480, 640, 3]
    frames[:, ::2, ::3] //= 2  # some texture, so that PNG has something to do

    def published() -> None:
        with tempfile.TemporaryDirectory() as folder:
            png_round_trip(frames, folder)
        choose_frames(points, confidence, CHOSEN)

    def ours() -> None:
        for frame in frames:
            shrink(torch.from_numpy(frame).permute(2, 0, 1)[None], WIDTH, 14)
        select_frames(points, confidence, CHOSEN)

    setting = f"{FRAMES} frames of 640x480, PNG files against memory"
    return compare("sampling without geometry", setting, published, ours, repeats)


def walk_of_boxes() -> tuple[torch.Tensor, torch.Tensor]:
    """Points as a camera might see on a walk: for each frame a box of 1.5 x 1 x 2 a little further on."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=generator) * torch.tensor([1.5, 1.0, 2.0])
    steps = torch.linspace(0, 4, FRAMES)[:, None, None, None]
    points += steps * torch.tensor([1.0, 0.1, 0.5])
    return points, 1 + 5 * torch.rand(FRAMES, HEIGHT, WIDTH, generator=generator)
