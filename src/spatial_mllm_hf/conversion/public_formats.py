"""Import and export of the public formats: Spatial-MLLM v1.1 and v1.0, and VGGT-1B.

Sources: the checkpoints Diankun/Spatial-MLLM-v1.1-Instruct-* and -subset-sft, and facebook/VGGT-1B; the official
code is diankun-wu/Spatial-MLLM (master for v1.1, branch v1.0).
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..modeling.configuration_spatial_mllm import V1_0_ARCHITECTURE, SpatialMLLMConfig, VGGTConfig
from ..modeling.key_mapping_spatial_mllm import DROPPED_KEYS
from .checkpoint_reading import Checkpoint, CheckpointHeaders, read_json
from .checkpoint_writing import TensorToWrite
from .coverage import make_row
from .key_tables import SPATIAL, SPATIAL_MLLM_FORMATS, Format, detect_format, from_module_name, to_module_name
from .planning import ConversionPlan, WeightMatcher, expected_weights, make_config
from .sources import describe_source

# A v1.0 checkpoint has no configuration for VGGT; one of another size than VGGT-1B may bring it in a file of its own.
SPATIAL_CONFIG_FILE = "spatial_config.json"
ARCHITECTURE = "SpatialMLLMForConditionalGeneration"
VGGT_PUBLIC_FIELDS = ("img_size", "patch_size", "embed_dim")
VISION_PUBLIC_FIELDS = (
    "depth",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "in_channels",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "window_size",
    "fullatt_block_indexes",
    "tokens_per_second",
    "temporal_patch_size",
)
TEXT_PUBLIC_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "attention_dropout",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
TOP_PUBLIC_FIELDS = (
    "image_token_id",
    "video_token_id",
    "vision_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "tie_word_embeddings",
)
OUTSIDE_VGGT = "not VGGT's"


def spatial_mllm_config(checkpoint: CheckpointHeaders, heads: Sequence[str] | None = None) -> SpatialMLLMConfig:
    """Our configuration of a Spatial-MLLM checkpoint of any format.

    Args:
        checkpoint: the checkpoint.
        heads: geometry heads, instead of those that its configuration names (by default all).

    Raises:
        ValueError: if it is no Spatial-MLLM, or its configuration is wrong.
    """
    layout = detect_format(checkpoint.tensors)
    if layout not in SPATIAL_MLLM_FORMATS:
        raise ValueError(
            f"{checkpoint.folder} is of format {layout}, not a Spatial-MLLM. `spatial-mllm convert merge` makes one "
            "out of Qwen2.5-VL and VGGT."
        )
    if not checkpoint.config:
        raise ValueError(f"{checkpoint.folder} has no config.json, which says what its weights are.")
    settings = {name: value for name, value in checkpoint.config.items() if name not in ("model_type", "auto_map")}
    if layout == "v1.0":
        settings["architectures"] = [V1_0_ARCHITECTURE]
    spatial_file = checkpoint.folder / SPATIAL_CONFIG_FILE
    spatial = settings.get("spatial_config") or (read_json(spatial_file) if spatial_file.exists() else {})
    if heads is not None:
        spatial = {**spatial, "heads": list(heads)}
    origin = str(checkpoint.folder / "config.json")
    return make_config(SpatialMLLMConfig, {**settings, "spatial_config": spatial}, origin)


def plan_from_official(
    source: Checkpoint, dtype: torch.dtype | None = None, heads: Sequence[str] | None = None, strict: bool = True
) -> ConversionPlan:
    """The plan to make a complete checkpoint of this package out of a public v1.1 or v1.0 one.

    Args:
        source: the checkpoint; one of this package's works as well.
        dtype: type of all weights; None keeps each one's own.
        heads: VGGT's geometry heads to keep; all that the configuration names by default.
        strict: whether unknown and missing weights are errors.

    Raises:
        ValueError: if it is no Spatial-MLLM or not complete.
    """
    layout = detect_format(source.tensors)
    config = spatial_mllm_config(source, heads)
    config.architectures = [ARCHITECTURE]
    if dtype is not None:
        config.dtype = dtype
    matcher = _match(source, layout, config, "v1.1", dtype, strict)
    return ConversionPlan(config, matcher.tensors, matcher.rows, "v1.1", [describe_source(source)])


def plan_to_official(source: Checkpoint, dtype: torch.dtype | None = None, strict: bool = True) -> ConversionPlan:
    """The plan to write the public layout that the official code loads: v1.1, or v1.0 where the connector is v1.0's.

    Args:
        source: a Spatial-MLLM of any format.
        dtype: type of all weights; None keeps each one's own.
        strict: whether unknown and missing weights are errors.

    Raises:
        ValueError: if it is no Spatial-MLLM or not complete.
    """
    layout = detect_format(source.tensors)
    config = spatial_mllm_config(source)
    is_v1_0 = config.connector_config.connector_type == "merger"
    target: Format = "v1.0" if is_v1_0 else "v1.1"
    matcher = _match(source, layout, config, target, dtype, strict)
    notes = []
    if is_v1_0:
        notes.append("The connector is v1.0's, which the official v1.1 code does not have: this is the v1.0 layout.")
    if config.spatial_fusion_scale != 1.0:
        notes.append("The official code does not know spatial_fusion_scale: it fuses with 1.0.")
    if is_v1_0 and config.connector_config.spatial_embeds_layer_idx != -1:
        notes.append("The official v1.0 code reads VGGT's last layer, this model another one.")
    absent = sorted(set(VGGTConfig().heads) - set(config.spatial_config.heads))
    if absent:
        notes.append(f"Without the heads {absent}: the official code fills them with random weights and uses none.")
    if dtype is not None:
        config.dtype = dtype
    return ConversionPlan(
        flat_config(config, target), matcher.tensors, matcher.rows, target, [describe_source(source)], notes
    )


def plan_extract_vggt(source: Checkpoint, dtype: torch.dtype | None = None) -> ConversionPlan:
    """The plan to write the VGGT inside a Spatial-MLLM in VGGT-1B's layout, its point tracker too where it is there.

    Raises:
        ValueError: if it is no Spatial-MLLM, or its VGGT is not complete.
    """
    layout = detect_format(source.tensors)
    config = spatial_mllm_config(source)
    tensors, rows = [], []
    for name, stored in source.tensors.items():
        ours = to_module_name(name, layout)
        if not ours.startswith(SPATIAL):
            rows.append(make_row(name, None, ours, stored.shape, stored.dtype, OUTSIDE_VGGT))
            continue
        written = dtype if dtype is not None and stored.dtype.is_floating_point else stored.dtype
        target = from_module_name(ours, "vggt")
        tensors.append(TensorToWrite(target, stored.shape, written, partial(source.pieces, name)))
        rows.append(make_row(name, target, ours, stored.shape, written))
    _check_vggt(source, config, {tensor.name: tensor.shape for tensor in tensors})
    public = vggt_public_config(config.spatial_config)
    return ConversionPlan(public, tensors, rows, "vggt", [describe_source(source)])


def flat_config(config: SpatialMLLMConfig, target: Format) -> dict[str, Any]:
    """`config.json` as the official code (transformers 4.51) reads it: the language model's fields at the top."""
    text, vision = config.text_config.to_dict(), config.vision_config.to_dict()
    rope = text["rope_parameters"]
    flat = {name: text[name] for name in TEXT_PUBLIC_FIELDS if name in text}
    flat |= {name: getattr(config, name) for name in TOP_PUBLIC_FIELDS if hasattr(config, name)}
    flat["rope_theta"] = rope["rope_theta"]
    kind = rope.get("rope_type", "default")
    others = {name: value for name, value in rope.items() if name not in ("rope_theta", "rope_type", "type")}
    flat["rope_scaling"] = {"type": "mrope" if kind == "default" else kind, **others}
    if config.spatial_fusion_scale != 1.0:
        flat["spatial_fusion_scale"] = config.spatial_fusion_scale
    flat["vision_config"] = {name: vision[name] for name in VISION_PUBLIC_FIELDS if name in vision}
    flat["vision_config"]["in_chans"] = flat["vision_config"].pop("in_channels", 3)
    flat["torch_dtype"] = str(config.dtype or torch.float32).removeprefix("torch.")
    spatial = vggt_public_config(config.spatial_config)
    layer = config.connector_config.spatial_embeds_layer_idx
    connector = {"connector_type": config.connector_config.connector_type, "spatial_embeds_layer_idx": layer}
    if target == "v1.0":
        flat |= {"architectures": [V1_0_ARCHITECTURE], "model_type": "qwen2_5_vl"}
        if set(spatial) > set(VGGT_PUBLIC_FIELDS):  # public v1.0 files have none: VGGT is VGGT-1B there
            flat["spatial_config"] = spatial
        if connector["spatial_embeds_layer_idx"] != -1:
            flat["connector_config"] = connector
        return flat
    return flat | {
        "architectures": [ARCHITECTURE],
        "model_type": config.model_type,
        "spatial_config": spatial,
        "connector_config": connector,
    }


def vggt_public_config(config: VGGTConfig) -> dict[str, Any]:
    """VGGT's configuration as public files have it: their three fields, and others only where they differ."""
    fields, default = config.to_diff_dict(), VGGTConfig().to_dict()
    public: dict[str, Any] = {name: getattr(config, name) for name in VGGT_PUBLIC_FIELDS}
    left_out = ("model_type", "dtype", "transformers_version", "architectures")
    for name, value in fields.items():
        same = value == default.get(name) or (isinstance(value, (list, tuple)) and list(value) == list(default[name]))
        if name not in left_out and not same:
            public[name] = list(value) if isinstance(value, tuple) else value
    return public


def _match(
    source: Checkpoint,
    layout: Format,
    config: SpatialMLLMConfig,
    target: Format,
    dtype: torch.dtype | None,
    strict: bool,
) -> WeightMatcher:
    matcher = WeightMatcher(
        expected_weights(config), target, dtype, strict, config.spatial_config.heads, config.tie_word_embeddings
    )
    matcher.take(source, layout)
    matcher.check(str(source.folder))
    return matcher


def _check_vggt(source: Checkpoint, config: SpatialMLLMConfig, found: dict[str, tuple[int, ...]]) -> None:
    expected = {
        from_module_name(name, "vggt"): shape
        for name, shape in expected_weights(config).items()
        if name.startswith(SPATIAL)
    }
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(f"{source.folder} lacks {len(missing)} weights of VGGT, such as {missing[0]!r}.")
    dropped = re.compile("|".join(DROPPED_KEYS))
    unknown = [name for name in found if name not in expected and not dropped.search(name)]
    if unknown:
        raise ValueError(f"{source.folder}: {len(unknown)} weights of VGGT are unknown, such as {unknown[0]!r}.")
    wrong = [name for name, shape in expected.items() if found[name] != shape]
    if wrong:
        raise ValueError(
            f"{source.folder}: VGGT's {wrong[0]!r} has shape {list(found[wrong[0]])}, but the configuration makes it "
            f"{list(expected[wrong[0]])}."
        )
