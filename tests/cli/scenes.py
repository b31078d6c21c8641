"""Scenes made of numbers, sampled the way a user's are."""

from typing import Any

import torch

from spatial_mllm_hf import SpatialMLLMVideoProcessor
from spatial_mllm_hf.modeling.vggt_geometry import SceneGeometry
from spatial_mllm_hf.processing.video_processing_spatial_mllm import SceneSample

HEIGHT, WIDTH = 28, 42  # of a frame


class GivenGeometry:
    """A geometry model that says what it is told to."""

    def __init__(self, scene: SceneGeometry) -> None:
        self._scene = scene

    def predict_geometry(self, frames: torch.Tensor, **options: Any) -> SceneGeometry:
        return self._scene


def make_sample(points: torch.Tensor, confidence: torch.Tensor | None = None, num_frames: int = 2) -> SceneSample:
    """Samples a video of noise whose pixels lie at `points` `[S, h, w, 3]`, one candidate for each.

    Camera s stands at x = s and looks along z, 90 degrees wide.
    """
    S, height, width = points.shape[:3]
    extrinsics = torch.eye(3, 4).repeat(S, 1, 1)
    extrinsics[:, 0, 3] = -torch.arange(S)
    focal = width / 2
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).repeat(S, 1, 1)
    confidence = torch.ones(S, height, width) if confidence is None else confidence
    frames = torch.randint(0, 256, (S, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    processor = SpatialMLLMVideoProcessor(candidate_size=max(height, width))
    processor.bind_geometry(GivenGeometry(SceneGeometry(points, confidence, extrinsics, intrinsics)))
    return processor.sample_scene(frames, num_frames=num_frames)


def scatter_points(num_candidates: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """Points all over a cube before the cameras, each candidate seeing its own part of it."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(num_candidates, height, width, 3, generator=generator)
    points[..., 0] = (points[..., 0] + torch.arange(num_candidates)[:, None, None]) / num_candidates
    return points + torch.tensor([0.0, 0.0, 1.0])
