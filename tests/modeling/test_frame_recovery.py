"""Frames come back out of Qwen's own patches."""

import pytest
import torch
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from spatial_mllm_hf.modeling.frame_recovery_spatial_mllm import frames_from_patches


@pytest.mark.parametrize("frames_merged", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(56, 84), (84, 56), (28, 28)])
def test_frames_survive_qwens_video_processor(height: int, width: int, frames_merged: int) -> None:
    torch.manual_seed(0)
    video = torch.randint(0, 256, (6, 3, height, width), dtype=torch.uint8)
    processor = Qwen2VLVideoProcessor(do_resize=False, cap_pixels_per_frame=False, temporal_patch_size=frames_merged)
    outputs = processor(video, return_tensors="pt", do_sample_frames=False)
    frames = frames_from_patches(
        outputs["pixel_values_videos"],
        outputs["video_grid_thw"][0].tolist(),
        processor.patch_size,
        processor.merge_size,
        processor.image_mean,
        processor.image_std,
    )
    torch.testing.assert_close(frames, video / 255, atol=1e-6, rtol=0)
