"""What stays as it is when weights are quantised while they are read.

A quantisation of transformers converts every linear layer that it is not told to leave out. Only the language model's
are meant to be: it holds the larger part of the weights, while the encoders and the connector carry coordinates and
were trained in the weights' own precision.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

from transformers.quantizers import AutoQuantizationConfig

# Modules by the names that the generator and the backbone give them: what one saves, the other reads.
KEPT_MODULES = (
    "model.visual",
    "model.spatial_encoder",
    "model.connector",
    "visual",
    "spatial_encoder",
    "connector",
    "lm_head",
)
# VGGT on its own: its backbone may be quantised, the heads that turn tokens into numbers are not.
KEPT_VGGT_MODULES = ("camera_head", "depth_head", "point_head")
# What the configurations of transformers call their list: bitsandbytes; torchao and most others; HQQ.
SKIP_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert", "skip_modules")


def leave_out_by_default(options: dict[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """Options of `from_pretrained` whose quantization_config leaves `modules` out.

    A list that the configuration was given, also an empty one, is left as it is; so is a configuration without such a
    list. The configuration itself is copied, not changed.
    """
    config = options.get("quantization_config")
    if isinstance(config, dict):
        config = AutoQuantizationConfig.from_dict(copy.deepcopy(config))
    field = next((name for name in SKIP_LISTS if hasattr(config, name)), None)
    if field is None or not _is_default(config, field):
        return options
    config = copy.deepcopy(config)
    setattr(config, field, list(modules))
    return {**options, "quantization_config": config}


def _is_default(config: Any, field: str) -> bool:
    """Whether nobody gave the list: it is None, or the very object of the signature (HQQ's is `["lm_head"]`)."""
    value = getattr(config, field)
    parameter = inspect.signature(type(config)).parameters.get(field)
    return value is None or (parameter is not None and value is parameter.default)
