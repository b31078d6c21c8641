"""What a prompt shows the model, encoded once for all that ask about it.

In reinforcement learning a prompt is answered many times, and each answer is scored by the policy and by a reference
model. The encoders and the connector are frozen there, so all of them share one result: a few megabytes a video, which
rows of a batch hold by reference.

Shapes: T, h and w of a clip's grid of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration

# Inputs of the language model that say where and when its visual tokens are.
DESCRIPTIONS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")


@dataclass(frozen=True, eq=False)
class PromptVisuals:
    """The videos and images of one prompt as the language model gets them.

    Attributes:
        features: for "video" and "image", where the prompt has any, one `[T * h/2 * w/2, hidden]` for each.
        descriptions: those of `DESCRIPTIONS` that the prompt has, one row for each video or image.
    """

    features: Mapping[str, tuple[torch.Tensor, ...]]
    descriptions: Mapping[str, torch.Tensor]


@torch.no_grad()
def encode_visuals(model: SpatialMLLMForConditionalGeneration, inputs: Mapping[str, Any]) -> PromptVisuals:
    """Runs the encoders and the connector on the inputs of one prompt, as the processor makes them."""
    device = model.device
    tensors = {name: value.to(device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    features: dict[str, tuple[torch.Tensor, ...]] = {}
    if "pixel_values_videos" in tensors:
        output = model.model.get_video_features(tensors["pixel_values_videos"], tensors["video_grid_thw"])
        features["video"] = tuple(output.pooler_output)
    if "pixel_values" in tensors:
        images = (tensors[name] for name in ("pixel_values", "image_grid_thw", "num_images_per_sample"))
        features["image"] = tuple(model.model.get_image_features(*images).pooler_output)
    return PromptVisuals(features, {name: tensors[name] for name in DESCRIPTIONS if name in tensors})


def model_inputs(rows: Sequence[PromptVisuals]) -> dict[str, Any]:
    """What the model's forward and `generate` take for a batch with these rows, in their order."""
    outputs = {}
    for kind in ("video", "image"):
        features = [tensor for row in rows for tensor in row.features.get(kind, ())]
        if features:
            outputs[kind] = BaseModelOutputWithPooling(pooler_output=features)
    descriptions = {
        name: torch.cat([row.descriptions[name] for row in rows if name in row.descriptions])
        for name in DESCRIPTIONS
        if any(name in row.descriptions for row in rows)
    }
    return {"mm_encoder_outputs": outputs, **descriptions}
