"""From encoded samples to a batch: tokens padded on the right, media one after the other as Qwen2.5-VL takes them.

A batch without any video or image (text alone, or all its samples failed) gets one row more that shows a single grey
merged patch and has no labels. It adds nothing to the loss or its gradients, and the encoders' trained parts run in
every batch: data-parallel processes would otherwise wait for each other for ever.

Shapes: B samples, L tokens of the longest.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..modeling.configuration_spatial_mllm import SpatialMLLMConfig
from .feature_cache import CachedFeatures
from .label_masks import IGNORED
from .sample_encoding import VIDEO_TYPE, EncodedSample, FailedSample

# Beside the tensors in a batch; the trainer takes them out.
TASKS, FAILURES = "sample_tasks", "failed_samples"


class SampleCollator:
    """Makes batches.

    Args:
        config: of the model; the shapes of the grey patch.
        pad_token_id: of the tokenizer.
        cached: which of the encoders' features stand in for patches: none, "vggt", or also "vision_tower".
    """

    def __init__(self, config: SpatialMLLMConfig, pad_token_id: int, cached: Sequence[str] = ()) -> None:
        self.pad_token_id = pad_token_id
        self.placeholder = _placeholder(config, cached)

    def __call__(self, samples: Sequence[EncodedSample | FailedSample]) -> dict[str, Any]:
        """Tensors of the model's inputs and `labels`; for each row its task, and the samples that failed.

        The first rows are the samples that did not fail, in their order.
        """
        encoded = [sample for sample in samples if isinstance(sample, EncodedSample)]
        tasks = [sample.task for sample in encoded]
        if not any(sample.media for sample in encoded):
            encoded = [*encoded, self.placeholder]
        batch: dict[str, Any] = self._pad(encoded)
        names = dict.fromkeys(name for sample in encoded for name in sample.media)
        for name in names:
            batch[name] = torch.cat([sample.media[name] for sample in encoded if name in sample.media])
        if "num_images_per_sample" in batch:  # also says that a sample has none
            none = torch.tensor([0])
            batch["num_images_per_sample"] = torch.cat(
                [sample.media.get("num_images_per_sample", none) for sample in encoded]
            )
        batch[TASKS] = tasks
        batch[FAILURES] = [sample for sample in samples if isinstance(sample, FailedSample)]
        return batch

    def _pad(self, samples: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
        fillers = {"input_ids": self.pad_token_id, "labels": IGNORED, "mm_token_type_ids": 0}
        padded = {
            name: torch.nn.utils.rnn.pad_sequence([sample.tokens[name] for sample in samples], True, filler)
            for name, filler in fillers.items()
        }  # [B, L]
        lengths = torch.tensor([len(sample.tokens["input_ids"]) for sample in samples])
        columns = torch.arange(padded["input_ids"].shape[1])
        return padded | {"attention_mask": (columns < lengths[:, None]).long()}


def _placeholder(config: SpatialMLLMConfig, cached: Sequence[str]) -> EncodedSample:
    """A row of one grey merged patch, without labels."""
    vision = config.vision_config
    merge = vision.spatial_merge_size
    grid_thw = torch.tensor([[1, merge, merge]])
    ids = torch.tensor([config.vision_start_token_id, config.video_token_id, config.vision_end_token_id])
    tokens = {
        "input_ids": ids,
        "labels": torch.full_like(ids, IGNORED),
        "mm_token_type_ids": torch.tensor([0, VIDEO_TYPE, 0]),
    }
    media = {"video_grid_thw": grid_thw, "second_per_grid_ts": torch.ones(1)}
    features = CachedFeatures(
        grid_thw,
        geometry=torch.zeros(vision.temporal_patch_size * merge**2, config.spatial_config.hidden_size),
        vision=torch.zeros(merge**2, vision.hidden_size),
    )
    if "vggt" in cached:
        media["cached_video_geometry"] = features.geometry
    if "vision_tower" in cached:
        assert features.vision is not None
        media["cached_video_vision"] = features.vision
    else:
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        media["pixel_values_videos"] = torch.zeros(merge**2, patch)
    return EncodedSample("placeholder", "placeholder", tokens, media)
