"""Configurations: VGGT, the connector, and Spatial-MLLM as a whole.

Field names are those of the public checkpoints (`img_size`, `embed_dim`, `connector_config` with `connector_type` and
`spatial_embeds_layer_idx`); what the public files leave out takes the value of VGGT-1B. Spatial-MLLM's configuration
is Qwen2.5-VL's (flat public files are read too) with `spatial_config`, `connector_config` and a few settings of the
fusion added.
"""

import copy
import math
import os
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig

from .remote_code_spatial_mllm import AUTO_MAP, CUSTOM_PIPELINES, IS_REMOTE, copy_remote_code
from .version_spatial_mllm import __version__

GeometryHead = Literal["camera", "depth", "points"]
GEOMETRY_HEADS: tuple[GeometryHead, ...] = ("camera", "depth", "points")
MOST_FRAMES_MERGED = 2  # into one token, by both branches: Qwen2.5-VL's 2, or 1
CONNECTOR_TYPES = ("mlp_add", "merger")
# What the two public formats call their model. v1.0 files carry neither a spatial nor a connector configuration.
V1_0_ARCHITECTURE = "Qwen2_5_VL_VGGTForConditionalGeneration"
READABLE_MODEL_TYPES = ("spatial-mllm", "qwen2_5_vl")
VERSION_FIELD = "spatial_mllm_hf_version"  # of the package that wrote a file


@strict
class VGGTConfig(PreTrainedConfig):
    """Configuration of VGGT (arXiv 2503.11651); the defaults are facebook/VGGT-1B.

    Args:
        img_size: side in pixels of the square frames that the position embedding was made for.
        patch_size: side of a patch in pixels; frames are multiples of it.
        embed_dim: width C of a token. The aggregator's output is 2C wide (frame and global halves side by side).
        num_hidden_layers: pairs of a frame block and a global block in the aggregator.
        num_attention_heads: heads of each of those blocks.
        patch_embed_num_hidden_layers, patch_embed_num_attention_heads: the same for the DINOv2 patch embedding.
        num_register_tokens: register tokens of a frame, in the aggregator as in the patch embedding.
        mlp_ratio: width of a block's hidden layer in multiples of its own width.
        dpt_hidden_size: channels of the fusion in a DPT head.
        dpt_neck_hidden_sizes: channels of the four maps that enter it, coarsest last.
        dpt_layer_indices: aggregator layers that the DPT heads read.
        camera_num_hidden_layers, camera_num_attention_heads: the camera head's trunk.
        heads: geometry heads that the model has, out of "camera", "depth" and "points".
        initializer_range: standard deviation of newly made weights.
        layer_scale_init_value: initial layer scale of the aggregator's and the camera head's blocks.

    Raises:
        ValueError: for sizes that do not fit together or an unknown head.
    """

    model_type = "spatial-mllm-vggt"
    base_config_key = "spatial_config"

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_embed_num_hidden_layers: int = 24
    patch_embed_num_attention_heads: int = 16
    num_register_tokens: int = 4
    mlp_ratio: float = 4.0
    dpt_hidden_size: int = 256
    dpt_neck_hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 1024)
    dpt_layer_indices: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    camera_num_hidden_layers: int = 4
    camera_num_attention_heads: int = 16
    heads: list[str] | tuple[str, ...] = GEOMETRY_HEADS
    initializer_range: float = 0.02
    layer_scale_init_value: float = 0.01

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config_dict.get("model_type") not in READABLE_MODEL_TYPES:
            return config_dict, kwargs
        # A whole Spatial-MLLM: its part for VGGT, which a v1.0 file leaves out, in the precision of the whole.
        spatial = dict(config_dict.get("spatial_config") or {})
        dtype = config_dict.get("dtype") or config_dict.get("torch_dtype") or spatial.get("dtype")
        return {**spatial, "dtype": dtype}, kwargs

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check_sizes()
        self._check_heads()

    @property
    def hidden_size(self) -> int:
        """Width of the aggregator's output, 2C."""
        return 2 * self.embed_dim

    def _check_sizes(self) -> None:
        if self.img_size < self.patch_size or self.img_size % self.patch_size:
            raise ValueError(
                f"VGGTConfig: img_size must be a multiple of patch_size={self.patch_size}, got {self.img_size}."
            )
        for width, heads, field in (
            (self.embed_dim, self.num_attention_heads, "num_attention_heads"),
            (self.embed_dim, self.patch_embed_num_attention_heads, "patch_embed_num_attention_heads"),
            (self.hidden_size, self.camera_num_attention_heads, "camera_num_attention_heads"),
        ):
            if heads < 1 or width % heads:
                raise ValueError(f"VGGTConfig: {field}={heads} does not divide the width {width}.")
        if (self.embed_dim // self.num_attention_heads) % 4:
            raise ValueError(
                "VGGTConfig: embed_dim / num_attention_heads must be a multiple of 4 for 2D rotary positions, "
                f"got {self.embed_dim} / {self.num_attention_heads}."
            )

    def _check_heads(self) -> None:
        unknown = [head for head in self.heads if head not in GEOMETRY_HEADS]
        if unknown:
            raise ValueError(f"VGGTConfig: unknown heads {unknown}, expected some of {list(GEOMETRY_HEADS)}.")
        if len(self.dpt_layer_indices) != 4 or len(self.dpt_neck_hidden_sizes) != 4:
            raise ValueError(
                "VGGTConfig: dpt_layer_indices and dpt_neck_hidden_sizes need four entries each, got "
                f"{list(self.dpt_layer_indices)} and {list(self.dpt_neck_hidden_sizes)}."
            )
        reads_dpt = "depth" in self.heads or "points" in self.heads
        if reads_dpt and not all(0 <= index < self.num_hidden_layers for index in self.dpt_layer_indices):
            raise ValueError(
                f"VGGTConfig: dpt_layer_indices={list(self.dpt_layer_indices)} must lie below "
                f"num_hidden_layers={self.num_hidden_layers}."
            )


@strict
class SpatialConnectorConfig(PreTrainedConfig):
    """How VGGT's tokens become language-model tokens.

    Args:
        connector_type: "mlp_add" (public v1.1) or "merger" (public v1.0); see `connector_spatial_mllm.py`.
        spatial_embeds_layer_idx: aggregator layer that is fused; negative counts from the last.

    Raises:
        ValueError: for an unknown connector_type.
    """

    model_type = "spatial-mllm-connector"
    base_config_key = "connector_config"

    connector_type: str = "mlp_add"
    spatial_embeds_layer_idx: int = -1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.connector_type not in CONNECTOR_TYPES:
            raise ValueError(
                f"connector_config: unknown connector_type {self.connector_type!r}, expected one of "
                f"{list(CONNECTOR_TYPES)} ('mlp_add' is public v1.1, 'merger' is public v1.0)."
            )


def _sub_config_specs(sub_configs: dict[str, type[PreTrainedConfig]]) -> dict[str, Any]:
    """transformers' own specification of each; releases before 5.20 have none, and 5.20 takes nothing else."""
    specs = list(getattr(Qwen2_5_VLConfig, "sub_configs_defaults", {}).values())
    return {name: type(specs[0])(config_class=config) for name, config in sub_configs.items()} if specs else {}


@strict
class SpatialMLLMConfig(Qwen2_5_VLConfig):
    """Configuration of Spatial-MLLM: Qwen2.5-VL's, a `spatial_config` and a `connector_config`.

    A public v1.0 file (`architectures: Qwen2_5_VL_VGGTForConditionalGeneration`) gets the v1.0 connector and the
    default VGGT; a Qwen2.5-VL file gets the v1.1 connector and the default VGGT, as the start of a new merge.

    Args:
        spatial_config: VGGT's configuration, as an object or its dictionary.
        connector_config: the connector's, likewise.
        spatial_fusion_scale: factor on the geometry features before they are added to the 2D features; 0 skips
            VGGT altogether. Read at every call, so it can be set on a loaded model.
        image_mean, image_std: normalisation that the processor applied to the pixels. Undone to give VGGT its
            frames, so it has to be the processor's.

    Raises:
        ValueError: for a connector or layer that does not exist, or sizes that cannot be fused.
    """

    model_type = "spatial-mllm"
    sub_configs = {  # noqa: RUF012 - transformers 5.18 and 5.19 read this name, later ones `sub_configs_defaults`
        **Qwen2_5_VLConfig.sub_configs,
        "spatial_config": VGGTConfig,
    }
    sub_configs_defaults = _sub_config_specs(sub_configs)

    # Given as a dictionary, an object or None; after construction always the object.
    spatial_config: Any = None
    connector_config: Any = None
    spatial_fusion_scale: float | int = 1.0
    image_mean: list[float] | tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: list[float] | tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop(VERSION_FIELD, None)
        if not IS_REMOTE:  # an installed package serves the task itself; the entry would ask for trust_remote_code
            kwargs.pop("custom_pipelines", None)
        if self.connector_config is None:
            is_v1_0 = V1_0_ARCHITECTURE in (self.architectures or [])
            self.connector_config = {"connector_type": "merger" if is_v1_0 else "mlp_add"}
        if not isinstance(self.connector_config, (dict, PreTrainedConfig)):
            raise ValueError(f"connector_config must be a dictionary or an object, got {self.connector_config!r}.")
        if not isinstance(self.connector_config, PreTrainedConfig):
            self.connector_config = SpatialConnectorConfig(**self.connector_config)
        if not isinstance(self.spatial_config, PreTrainedConfig):
            self.spatial_config = VGGTConfig(**(self.spatial_config or {}))
        super().__post_init__(**kwargs)
        self._check_fusion()

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type not in READABLE_MODEL_TYPES:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {model_type!r} model; SpatialMLLMConfig reads "
                f"{list(READABLE_MODEL_TYPES)} (public v1.0 checkpoints and Qwen2.5-VL say 'qwen2_5_vl')."
            )
        # A v1.0 or Qwen2.5-VL file becomes ours here; without this, transformers warns about the type's name.
        return {**config_dict, "model_type": cls.model_type}, kwargs

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As in transformers, and beside `config.json` the code that it names (see `remote_code_spatial_mllm.py`).

        So whatever saves a model (transformers, a trainer, the pipeline) leaves a folder that works with
        `trust_remote_code=True` where this package is not installed.
        """
        if not os.path.isfile(save_directory):
            os.makedirs(save_directory, exist_ok=True)
            copy_remote_code(Path(save_directory), self.name_or_path, getattr(self, "_commit_hash", None))
        saved = copy.deepcopy(self)
        saved.auto_map, saved.custom_pipelines = dict(AUTO_MAP), copy.deepcopy(CUSTOM_PIPELINES)
        setattr(saved, VERSION_FIELD, __version__)
        super(SpatialMLLMConfig, saved).save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _check_fusion(self) -> None:
        spatial, vision = self.spatial_config, self.vision_config
        if not math.isfinite(self.spatial_fusion_scale):
            raise ValueError(
                f"SpatialMLLMConfig: spatial_fusion_scale must be finite, got {self.spatial_fusion_scale}."
            )
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                "SpatialMLLMConfig: image_mean and image_std need three values each and image_std positive ones, got "
                f"{list(self.image_mean)} and {list(self.image_std)}."
            )
        if not 1 <= vision.temporal_patch_size <= MOST_FRAMES_MERGED:
            raise ValueError(
                f"SpatialMLLMConfig: the connectors merge 1 or {MOST_FRAMES_MERGED} frames, but vision_config."
                f"temporal_patch_size={vision.temporal_patch_size}."
            )
        if spatial.patch_size != vision.patch_size:
            raise ValueError(
                f"SpatialMLLMConfig: spatial_config.patch_size={spatial.patch_size} and vision_config.patch_size="
                f"{vision.patch_size} must be equal: both branches see the same patches."
            )
        layer, depth = self.connector_config.spatial_embeds_layer_idx, spatial.num_hidden_layers
        if not -depth <= layer < depth:
            raise ValueError(
                f"SpatialMLLMConfig: connector_config.spatial_embeds_layer_idx={layer} does not exist in a VGGT "
                f"of {depth} layers."
            )


__all__ = ["SpatialConnectorConfig", "SpatialMLLMConfig", "VGGTConfig"]
