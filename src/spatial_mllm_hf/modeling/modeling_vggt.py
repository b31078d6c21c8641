"""VGGT, the feed-forward 3D reconstruction transformer (arXiv 2503.11651), without its point tracker.

`VGGTModel.from_pretrained` reads facebook/VGGT-1B as it is, and the VGGT inside a Spatial-MLLM checkpoint.

Shapes: B clips, S frames, H x W pixels (multiples of the patch size), P tokens of a frame (one camera token, the
register tokens, then the patches row by row), C channels of a block.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_spatial_mllm import GeometryHead, VGGTConfig
from .key_mapping_spatial_mllm import DROPPED_KEYS, SPATIAL_MLLM_PARTS, VGGT_PREFIXES
from .quantization_spatial_mllm import KEPT_VGGT_MODULES, leave_out_by_default
from .vggt_aggregator import VGGTAggregator
from .vggt_blocks import VGGTBlock, VGGTLayerScale
from .vggt_camera_head import VGGTCameraHead
from .vggt_dpt_head import VGGTDPTHead
from .vggt_geometry import PointMap, SceneGeometry, decode_pose, takes_chunks, unproject_depth
from .vggt_layer_keeper import LayerKeeper
from .vggt_patch_embed import VGGTPatchEmbed

# Modules that a device map leaves in one piece: their own forward reads weights or adds what two children return.
UNDIVIDED = ("VGGTBlock", "VGGTPatchEmbed", "VGGTCameraHead", "VGGTDPTHead")
PointSource = Literal["points", "depth"]


@dataclass
class VGGTOutput(ModelOutput):
    """What VGGT says of `[B, S, 3, H, W]` frames; heads that were not asked for are None.

    Attributes:
        last_hidden_state: `[B, S, P, 2C]`, frame and global tokens side by side.
        hidden_states: every layer's `[B, S, P, 2C]`, when asked for.
        pose_enc: `[B, S, 9]`, see `vggt_geometry.decode_pose`.
        depth: `[B, S, H, W, 1]` along the camera's axis, in the scene's own unit.
        depth_conf: `[B, S, H, W]`, at least 1.
        world_points: `[B, S, H, W, 3]` in the first camera's frame.
        world_points_conf: `[B, S, H, W]`, at least 1.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    pose_enc: torch.Tensor | None = None
    depth: torch.Tensor | None = None
    depth_conf: torch.Tensor | None = None
    world_points: torch.Tensor | None = None
    world_points_conf: torch.Tensor | None = None


class VGGTPreTrainedModel(PreTrainedModel):
    """Weight initialisation, attention backends and loading for VGGT."""

    config_class = VGGTConfig
    config: VGGTConfig
    base_model_prefix = "spatial_encoder"
    main_input_name = "frames"
    input_modalities = ("image", "video")
    supports_gradient_checkpointing = True
    _no_split_modules = list(UNDIVIDED)  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = list(DROPPED_KEYS)  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VGGTPatchEmbed):
            for token in (module.cls_token, module.register_tokens, module.pos_embed):
                init.trunc_normal_(token, std=std)
            init.zeros_(module.mask_token)
            for block in module.blocks:  # DINOv2's scales start at 1, those of VGGT's own blocks near 0
                self._init_layer_scales(block, 1.0)
        elif isinstance(module, VGGTAggregator):
            init.trunc_normal_(module.camera_token, std=std)
            init.trunc_normal_(module.register_token, std=std)
            for block in (*module.frame_blocks, *module.global_blocks):
                self._init_layer_scales(block, self.config.layer_scale_init_value)
        elif isinstance(module, VGGTCameraHead):
            init.zeros_(module.empty_pose_tokens)
            for block in module.trunk:
                self._init_layer_scales(block, self.config.layer_scale_init_value)

    @staticmethod
    def _init_layer_scales(block: nn.Module, value: float) -> None:
        for scale in block.modules():
            if isinstance(scale, VGGTLayerScale):
                init.constant_(scale.gamma, value)


class VGGTModel(VGGTPreTrainedModel):
    """VGGT's aggregator with the heads that its configuration names."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__(config)
        self.aggregator = VGGTAggregator(config)
        if "camera" in config.heads:
            self.camera_head = VGGTCameraHead(config)
        if "depth" in config.heads:
            self.depth_head = VGGTDPTHead(config, out_channels=2, activation="exp")
        if "points" in config.heads:
            self.point_head = VGGTDPTHead(config, out_channels=4, activation="inv_log")
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Reads facebook/VGGT-1B's layout, what `save_pretrained` wrote, or VGGT out of a Spatial-MLLM checkpoint.

        Only VGGT's tensors are read from the latter. Takes all options of transformers' `from_pretrained`. A
        `quantization_config` without a list of modules to leave out applies to the aggregator, not to the heads.

        Raises:
            ValueError: if weights that the configuration asks for are not in the checkpoint.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs = leave_out_by_default({"key_mapping": VGGT_PREFIXES, **kwargs}, KEPT_VGGT_MODULES)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} weights of VGGT, such as {missing[0]!r}. "
                "If it has fewer heads, say so: VGGTModel.from_pretrained(..., heads=['points'])."
            )
        model._weight_conversions = None  # prefixes were cut off on the way in: save under VGGT-1B's own names
        return (model, info) if wants_info else model

    def get_input_embeddings(self) -> nn.Module:
        """The projection of patches, as vision models of transformers say; torchao's quantisation asks for it."""
        return self.aggregator.patch_embed.patch_embed

    @property
    def patch_token_start(self) -> int:
        """Index of the first patch token of a frame, after the camera and register tokens."""
        return self.aggregator.patch_token_start

    def compile_blocks(self, **options: Any) -> None:
        """Compiles every transformer block with `torch.compile`, in place; it happens when they first run.

        Args:
            options: as for `torch.compile`. A new number of frames or frame size is compiled anew once, then for any.
        """
        for module in self.modules():
            if isinstance(module, VGGTBlock):
                module.compile(**options)

    def encode(self, frames: torch.Tensor, layer: int = -1) -> torch.Tensor:
        """Tokens of one layer: frames `[B, S, 3, H, W]` in [0, 1] → `[B, S, P, 2C]`. Later layers do not run.

        Raises:
            ValueError: if the frames have another shape, dtype or a size that is no multiple of the patch size.
        """
        self._check_frames(frames)
        layer = layer % self.config.num_hidden_layers
        kept = LayerKeeper({layer})
        self.aggregator([frames.flatten(0, 1)], len(frames), layer, kept)
        return kept.joined[layer]

    @can_return_tuple
    def forward(
        self,
        frames: torch.Tensor,
        heads: Collection[GeometryHead] | None = (),
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> VGGTOutput:
        """Runs the aggregator and the heads asked for.

        Args:
            frames: `[B, S, 3, H, W]` floats in [0, 1], H and W multiples of the patch size; all frames of a clip
                are one scene and the first sets its coordinate frame.
            heads: any of "camera", "depth", "points".
            output_hidden_states: return every layer, which takes memory in proportion.

        Raises:
            ValueError: for frames as in `encode`, or a head that is unknown or that this model does not have.
        """
        heads = () if heads is None else heads
        self._check_frames(frames)
        self._check_heads(heads)
        depth = self.config.num_hidden_layers
        whole = range(depth) if output_hidden_states else (depth - 1,)
        output, layers = self._run([frames.flatten(0, 1)], len(frames), heads, whole)
        output.last_hidden_state = layers[depth - 1]
        if output_hidden_states:
            output.hidden_states = tuple(layers[layer] for layer in range(depth))
        return output

    def _run(
        self, chunks: Iterable[torch.Tensor], num_clips: int, heads: Collection[str], whole: Collection[int]
    ) -> tuple[VGGTOutput, dict[int, torch.Tensor]]:
        """The heads' output for frames that come in chunks `[s, 3, H, W]`, and the layers to be kept whole."""
        config, dense = self.config, {}
        if "depth" in heads:
            dense["depth"] = self.depth_head
        if "points" in heads:
            dense["points"] = self.point_head
        kept = LayerKeeper(whole, self.patch_token_start, config.dpt_layer_indices, dense)
        self.aggregator(chunks, num_clips, config.num_hidden_layers - 1, kept)
        output = VGGTOutput()
        if "camera" in heads:
            output.pose_enc = self.camera_head(kept.camera_tokens)
        if "depth" in heads:
            output.depth, output.depth_conf = kept.run_dense("depth")
        if "points" in heads:
            output.world_points, output.world_points_conf = kept.run_dense("points")
        return output, kept.joined

    @takes_chunks
    def predict_geometry(
        self,
        frames: torch.Tensor | Iterable[torch.Tensor],
        source: PointSource = "points",
        return_cameras: bool = False,
    ) -> PointMap | SceneGeometry:
        """World points of every pixel of one scene.

        Args:
            frames: `[S, 3, H, W]` floats in [0, 1], on any device; or an iterable of such parts of the scene, in
                order, each of which is embedded as it comes.
            source: "points" reads the point head (what the released sampler does), "depth" unprojects the depth head
                with the predicted cameras (what the paper describes).
            return_cameras: run the camera head too and return the cameras.

        Returns:
            PointMap of points `[S, H, W, 3]` in the first camera's frame (units of VGGT) and confidence `[S, H, W]`;
            with `return_cameras` a SceneGeometry, which has extrinsics `[S, 3, 4]` and intrinsics `[S, 3, 3]` besides.

        Raises:
            ValueError: for an unknown source, frames as in `encode`, or a head that this model does not have.
        """
        if source not in ("points", "depth"):
            raise ValueError(f"source must be 'points' or 'depth', got {source!r}.")
        heads: list[GeometryHead] = ["points"] if source == "points" else ["depth"]
        if return_cameras or source == "depth":
            heads.append("camera")
        self._check_heads(heads)
        chunks = self._checked([frames] if isinstance(frames, torch.Tensor) else frames)
        output: Any
        with torch.no_grad():
            output, _ = self._run(chunks, 1, heads, whole=())
        if source == "points":
            points, confidence = output.world_points[0], output.world_points_conf[0]
        else:
            points, confidence = output.depth[0, ..., 0], output.depth_conf[0]
        if "camera" not in heads:
            return PointMap(points, confidence)
        extrinsics, intrinsics = decode_pose(output.pose_enc[0].to(points.device), *points.shape[1:3])
        if source == "depth":
            points = unproject_depth(points, extrinsics, intrinsics)
        return (
            SceneGeometry(points, confidence, extrinsics, intrinsics)
            if return_cameras
            else PointMap(points, confidence)
        )

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """Called on the model being loaded: read out of a Spatial-MLLM, the rest of it is no surprise."""
        super()._adjust_missing_and_unexpected_keys(loading_info)
        others = re.compile("|".join(SPATIAL_MLLM_PARTS))
        loading_info.unexpected_keys = {key for key in loading_info.unexpected_keys if not others.match(key)}

    def _checked(self, chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for chunk in chunks:
            self._check_frames(chunk[None])
            yield chunk

    def _check_frames(self, frames: torch.Tensor) -> None:
        patch = self.config.patch_size
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames must be [B, S, 3, H, W], got shape {list(frames.shape)}.")
        if not frames.is_floating_point():
            raise ValueError(f"frames must be floats in [0, 1], got {frames.dtype}: divide 8-bit frames by 255.")
        if 0 in frames.shape or frames.shape[-2] % patch or frames.shape[-1] % patch:
            raise ValueError(
                f"frames must have a height and a width that are multiples of {patch}, got {list(frames.shape)}."
            )

    def _check_heads(self, heads: Collection[GeometryHead]) -> None:
        absent = [head for head in heads if head not in self.config.heads]
        if isinstance(heads, str) or absent:
            raise ValueError(f"heads must be a collection out of {list(self.config.heads)}, got {heads!r}.")


__all__ = ["VGGTModel", "VGGTOutput", "VGGTPreTrainedModel"]
