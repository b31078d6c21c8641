"""Merge of the two backbones: Qwen2.5-VL and VGGT become a Spatial-MLLM that answers as the Qwen model did.

The connector is new (section 3.1 of the paper; both public shapes of it). Its last layer starts at zero, so that it
adds nothing to Qwen2.5-VL's visual tokens until it is trained.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch

from ..modeling.configuration_spatial_mllm import GEOMETRY_HEADS, SpatialMLLMConfig, VGGTConfig
from .checkpoint_reading import Checkpoint
from .key_tables import CONNECTOR, detect_format
from .planning import ConversionPlan, WeightMatcher, expected_weights, fresh_values, make_config
from .sources import describe_source

ConnectorVersion = Literal["v1.1", "v1.0"]
CONNECTOR_OF: dict[ConnectorVersion, str] = {"v1.1": "mlp_add", "v1.0": "merger"}
LAST_LAYER: dict[ConnectorVersion, str] = {"v1.1": "mlp.2.", "v1.0": "vgg_to_language_mlp.2."}
ZERO_REASON = "last layer of the new connector, at zero: it adds nothing until it is trained"
NEW_REASON = "new connector"
# What config.json of a Qwen2.5-VL says that is not for the merged model to say.
NOT_INHERITED = ("architectures", "model_type", "transformers_version", "auto_map", "torch_dtype", "dtype")


def plan_merge(
    qwen: Checkpoint,
    vggt: Checkpoint,
    connector: ConnectorVersion = "v1.1",
    heads: Sequence[str] = GEOMETRY_HEADS,
    dtype: torch.dtype | None = torch.bfloat16,
    strict: bool = True,
    seed: int = 0,
) -> ConversionPlan:
    """The plan of a merge.

    Args:
        qwen: a Qwen2.5-VL of any size.
        vggt: VGGT-1B, or another VGGT in its layout.
        connector: which public connector to start.
        heads: VGGT's geometry heads to keep; space-aware sampling needs "points", or "depth" and "camera".
        dtype: type of all weights; None keeps each one's own.
        strict: whether unknown and missing weights are errors.
        seed: of the connector's first layers.

    Raises:
        ValueError: if a source is not what it should be, or the two do not fit together.
    """
    if connector not in CONNECTOR_OF:
        raise ValueError(f"connector must be one of {list(CONNECTOR_OF)}, got {connector!r}.")
    qwen_format = _check_qwen(qwen)
    vggt_format = detect_format(vggt.tensors)
    if vggt_format != "vggt":
        raise ValueError(
            f"{vggt.folder} is of format {vggt_format}, not VGGT's own. `spatial-mllm convert extract-vggt` takes VGGT "
            "out of a Spatial-MLLM."
        )
    config = merged_config(qwen.config, vggt.config, connector, heads, dtype)
    matcher = WeightMatcher(
        expected_weights(config), "v1.1", dtype, strict, config.spatial_config.heads, config.tie_word_embeddings
    )
    matcher.take(qwen, qwen_format)
    matcher.take(vggt, vggt_format)
    last = CONNECTOR + LAST_LAYER[connector]
    std = config.text_config.initializer_range
    for name in [name for name in matcher.missing() if name.startswith(CONNECTOR)]:
        shape = matcher.expected[name]
        reason = ZERO_REASON if name.startswith(last) else NEW_REASON
        fresh = partial(_zeros, shape) if name.startswith(last) else partial(fresh_values, name, shape, std, seed)
        matcher.make(name, fresh, torch.float32 if dtype is None else dtype, reason)
    matcher.check(f"{qwen.folder} and {vggt.folder}")
    sources = [describe_source(qwen), describe_source(vggt)]
    notes = [] if "points" in config.spatial_config.heads else [_no_points_note(config.spatial_config.heads)]
    return ConversionPlan(config, matcher.tensors, matcher.rows, "v1.1", sources, notes)


def merged_config(
    qwen: dict[str, Any],
    vggt: dict[str, Any],
    connector: ConnectorVersion,
    heads: Sequence[str],
    dtype: torch.dtype | None,
) -> SpatialMLLMConfig:
    """Configuration of the merged model out of the two sources' `config.json`."""
    inherited = {name: value for name, value in qwen.items() if name not in NOT_INHERITED}
    own = ("model_type", "heads", "dtype", "torch_dtype", "architectures", "transformers_version")
    spatial = {name: value for name, value in vggt.items() if name not in own}
    precision = dtype or qwen.get("dtype") or qwen.get("torch_dtype") or "bfloat16"
    settings = {
        **inherited,
        "architectures": ["SpatialMLLMForConditionalGeneration"],
        "spatial_config": make_config(VGGTConfig, {**spatial, "heads": list(heads)}, "VGGT's config.json"),
        "connector_config": {"connector_type": CONNECTOR_OF[connector]},
        "dtype": str(precision).removeprefix("torch."),
    }
    return make_config(SpatialMLLMConfig, settings, "Qwen2.5-VL's config.json")


def _check_qwen(qwen: Checkpoint) -> Any:
    layout = detect_format(qwen.tensors)
    if qwen.config.get("model_type") != "qwen2_5_vl" or layout not in ("qwen2.5-vl", "transformers"):
        raise ValueError(
            f"{qwen.folder} is not a Qwen2.5-VL: its config.json says {qwen.config.get('model_type')!r} and its "
            f"weights are of format {layout}."
        )
    return layout


def _no_points_note(heads: Sequence[str]) -> str:
    if {"depth", "camera"} <= set(heads):
        return "Without the points head, space-aware sampling needs geometry_source='depth'."
    return f"With the heads {list(heads)} the model cannot choose frames itself: space-aware sampling needs points."


def _zeros(shape: Sequence[int]) -> Iterator[torch.Tensor]:
    yield torch.zeros(torch.Size(shape).numel())
