"""Spatial-MLLM (arXiv 2505.23747): Qwen2.5-VL whose visual tokens carry VGGT's geometry.

Everything is Qwen2.5-VL's but `get_video_features` and `get_image_features`: they add, to the 2D features of a token,
what the connector makes of VGGT's last layer at the same place. VGGT's frames are recovered from the patches, so the
inputs are Qwen2.5-VL's own; `num_images_per_sample` may say which images are one scene.

Shapes: S frames of H x W pixels, P tokens of a VGGT frame, a clip's grid (T, h, w) of patches with S = 2T.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLPreTrainedModel,
    Qwen2_5_VLRMSNorm,
)
from transformers.utils.generic import can_return_tuple

from .configuration_spatial_mllm import SpatialMLLMConfig
from .connector_spatial_mllm import build_connector
from .frame_recovery_spatial_mllm import frames_from_patches, image_scenes
from .key_mapping_spatial_mllm import DROPPED_KEYS, register_key_mappings
from .loading_spatial_mllm import is_plain_qwen, is_spatial_weight, missing_message
from .modeling_vggt import UNDIVIDED, PointSource, VGGTModel
from .position_ids_spatial_mllm import IMAGE, TEXT, VIDEO, Grid, sequence_positions
from .quantization_spatial_mllm import KEPT_MODULES, leave_out_by_default
from .vggt_geometry import PointMap, SceneGeometry, takes_chunks
from .vision_attention_spatial_mllm import GroupedVisionAttention

register_key_mappings()

# What transformers calls keys and values: "past_key_values" up to 5.23, then "cache".
CACHE_NAMES = ("past_key_values", "cache")
CACHE_NAME = CACHE_NAMES["cache" in inspect.signature(Qwen2_5_VLModel.forward).parameters]


class SpatialMLLMPreTrainedModel(Qwen2_5_VLPreTrainedModel):
    """Loading of the public formats, weight initialisation and the train mode of a frozen VGGT."""

    config_class = SpatialMLLMConfig
    config: SpatialMLLMConfig
    _no_split_modules = ["Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock", *UNDIVIDED]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = list(DROPPED_KEYS)  # noqa: RUF012
    # Its attention masks depend on the batch; VGGT's and the connector's shapes on the video.
    _can_compile_fullgraph = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, allow_missing_spatial: bool = False, **kwargs: Any
    ) -> Any:
        """Reads this package's checkpoints, the public v1.1 and v1.0 ones, and Qwen2.5-VL as they are.

        Takes all options of transformers' `from_pretrained`. A `quantization_config` without a list of modules to
        leave out applies to the language model alone (see `quantization_spatial_mllm.py`).

        Args:
            pretrained_model_name_or_path: folder or repository.
            allow_missing_spatial: start with new (random) weights where the checkpoint has none for VGGT or the
                connector, as for a plain Qwen2.5-VL. Otherwise that is an error.

        Raises:
            ValueError: if weights of the geometry branch are missing and `allow_missing_spatial` is False.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs = leave_out_by_default(kwargs, KEPT_MODULES)
        if not allow_missing_spatial and is_plain_qwen(pretrained_model_name_or_path, kwargs):
            raise ValueError(missing_message(pretrained_model_name_or_path, "the whole"))
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        missing = sorted(key for key in info["missing_keys"] if is_spatial_weight(key))
        if missing and not allow_missing_spatial:
            lacking = f"{len(missing)} weights, such as {missing[0]!r}, of the"
            raise ValueError(missing_message(pretrained_model_name_or_path, lacking))
        # transformers would save by the renamings that this file happened to need; by default it takes our table.
        # Of a quantised checkpoint it would undo the reading of its tensors too, and has no way to.
        model._weight_conversions = None
        return (model, info) if wants_info else model

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Qwen2_5_VLRMSNorm):
            init.ones_(module.weight)

    def train(self, mode: bool = True) -> "SpatialMLLMPreTrainedModel":
        """As usual, but a VGGT without trainable weights stays in eval mode (no gradient checkpointing inside)."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, VGGTModel) and not _is_trained(module):
                module.eval()
        return self


class SpatialMLLMModel(SpatialMLLMPreTrainedModel, Qwen2_5_VLModel):
    """Qwen2.5-VL's backbone with a spatial encoder (VGGT) and a connector; no language-model head."""

    def __init__(self, config: SpatialMLLMConfig) -> None:
        Qwen2_5_VLModel.__init__(self, config)
        for block in self.visual.blocks:
            block.attn = GroupedVisionAttention(block.attn.config)
        self.spatial_encoder = VGGTModel._from_config(config.spatial_config)
        self.connector = build_connector(config)
        self.post_init()

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, video_grid_thw: torch.Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Fused features of videos, each one scene.

        Args:
            pixel_values_videos: patches of all videos, `[sum(T * h * w), 3 * 2 * p * p]`.
            video_grid_thw: `[videos, 3]`, T, h and w of each.

        Returns:
            Qwen2.5-VL's output; `pooler_output` is a tuple of `[T * h/2 * w/2, hidden]`, one for each video.
        """
        output = super().get_video_features(pixel_values_videos, video_grid_thw, return_dict=True, **kwargs)
        scenes = [[index] for index in range(len(video_grid_thw))]
        output.pooler_output = self._fuse(output.pooler_output, pixel_values_videos, video_grid_thw, scenes)
        return output

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        num_images_per_sample: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Fused features of images.

        Args:
            pixel_values: patches of all images, `[sum(h * w), 3 * 2 * p * p]`; each image fills both frames of a patch.
            image_grid_thw: `[images, 3]`, 1, h and w of each.
            num_images_per_sample: `[samples]`; the images of a sample that have one size are one scene. Without it
                each image is its own.

        Raises:
            ValueError: if `num_images_per_sample` does not add up to the number of images.
        """
        output = super().get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
        scenes = image_scenes(image_grid_thw, num_images_per_sample)
        output.pooler_output = self._fuse(output.pooler_output, pixel_values, image_grid_thw, scenes)
        return output

    def get_spatial_features(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, scenes: Sequence[Sequence[int]] | None = None
    ) -> list[torch.Tensor]:
        """The geometry branch alone: for each clip or image, tokens `[T * h/2 * w/2, hidden]` that are to be added.

        Args:
            pixel_values: patches as the model gets them.
            grid_thw: `[clips, 3]`.
            scenes: indices of the clips that make one scene each, all of one size; by default each clip is one.
                Scenes of equal shape are encoded together.
        """
        if scenes is None:
            scenes = [[index] for index in range(len(grid_thw))]
        frames = self._recover_frames(pixel_values, grid_thw)
        clips = [torch.cat([frames[index] for index in scene]) for scene in scenes]  # each [S, 3, H, W]
        groups: dict[torch.Size, list[int]] = {}
        for number, clip in enumerate(clips):
            groups.setdefault(clip.shape, []).append(number)
        features: dict[int, torch.Tensor] = {}
        for members in groups.values():
            encoded = self._encode_clips(torch.stack([clips[number] for number in members]))
            for number, tokens in zip(members, encoded):
                features.update(zip(scenes[number], tokens.chunk(len(scenes[number]))))
        return [features[index] for index in range(len(grid_thw))]

    @takes_chunks
    def predict_geometry(
        self,
        frames: torch.Tensor | Iterable[torch.Tensor],
        source: PointSource = "points",
        return_cameras: bool = False,
    ) -> PointMap | SceneGeometry:
        """World points of every pixel of frames `[S, 3, H, W]` in [0, 1]; see `VGGTModel.predict_geometry`."""
        return self.spatial_encoder.predict_geometry(frames, source, return_cameras)

    def get_rope_index(
        self,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions in time, height and width `[3, B, L]` and what generation adds to later ones, `[B, 1]`.

        Follows the code of the public checkpoints (see `position_ids_spatial_mllm.py`); padding stands at 1 as there.

        Raises:
            ValueError: if the placeholders in `input_ids` do not fit the images and videos.
        """
        vision = self.config.vision_config
        if mm_token_type_ids is None:
            mm_token_type_ids = self.token_types(input_ids)
        images, videos = _grids(image_grid_thw), _grids(video_grid_thw)
        seconds = (
            [1.0] * input_ids.numel() if second_per_grid_ts is None else torch.as_tensor(second_per_grid_ts).tolist()
        )
        strides = iter([second * vision.tokens_per_second for second in seconds])
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.device)
        positions = torch.ones(3, *input_ids.shape, dtype=torch.long, device=input_ids.device)
        deltas = []
        for sample, kept in enumerate(mask.bool()):
            token_types = mm_token_type_ids[sample][kept].tolist()
            sequence = sequence_positions(token_types, images, videos, strides, vision.spatial_merge_size)
            positions[:, sample, kept] = sequence.to(positions.device)
            deltas.append(int(sequence.max()) + 1 - len(token_types))
        if (grid := next(images, None) or next(videos, None)) is not None:
            raise ValueError(
                f"More images or videos were given than the text has placeholders for: the one of grid {grid} is left."
            )
        return positions, torch.tensor(deltas, device=input_ids.device)[:, None]

    def compute_3d_position_ids(
        self, input_ids: torch.Tensor | None = None, mm_token_type_ids: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor | None:
        """Qwen2.5-VL's; of ids and token types one is enough."""
        if mm_token_type_ids is None and input_ids is not None:
            mm_token_type_ids = self.token_types(input_ids)
        elif input_ids is None and mm_token_type_ids is not None:
            input_ids = mm_token_type_ids.long()  # embeddings: only their shape counts
        return super().compute_3d_position_ids(input_ids=input_ids, mm_token_type_ids=mm_token_type_ids, **kwargs)

    def token_types(self, input_ids: torch.Tensor) -> torch.Tensor:
        """0 for text, 1 for image and 2 for video placeholders: what the processor gives as mm_token_type_ids."""
        types = torch.full_like(input_ids, TEXT, dtype=torch.int)
        types[input_ids == self.config.image_token_id] = IMAGE
        types[input_ids == self.config.video_token_id] = VIDEO
        return types

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        num_images_per_sample: torch.Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Qwen2.5-VL's forward with one optional input more, `num_images_per_sample` (see `get_image_features`).

        Keys and values may come as `cache` or `past_key_values`, whichever transformers it is.
        """
        if pixel_values is not None and num_images_per_sample is not None and mm_encoder_outputs is None:
            # Qwen2.5-VL's forward cannot hand this input on, so both modalities are encoded here.
            encode = {"return_dict": True, **kwargs}
            mm_encoder_outputs = {
                "image": self.get_image_features(pixel_values, image_grid_thw, num_images_per_sample, **encode)
            }
            if pixel_values_videos is not None:
                mm_encoder_outputs["video"] = self.get_video_features(pixel_values_videos, video_grid_thw, **encode)
            pixel_values = pixel_values_videos = None
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: past_key_values if cache is None else cache},
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            second_per_grid_ts=second_per_grid_ts,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )

    def _fuse(
        self,
        visual_features: Sequence[torch.Tensor],
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        scenes: Sequence[Sequence[int]],
    ) -> tuple[torch.Tensor, ...]:
        scale = self.config.spatial_fusion_scale
        if scale == 0:
            return tuple(visual_features)
        spatial_features = self.get_spatial_features(pixel_values, grid_thw, scenes)
        return tuple(
            visual + scale * spatial.to(visual.device, visual.dtype)
            for visual, spatial in zip(visual_features, spatial_features)
        )

    def _recover_frames(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> list[torch.Tensor]:
        config = self.config
        grids = grid_thw.tolist()
        patches = pixel_values.split([t * h * w for t, h, w in grids])
        return [
            frames_from_patches(
                clip,
                grid,
                config.vision_config.patch_size,
                config.vision_config.spatial_merge_size,
                config.image_mean,
                config.image_std,
            )
            for clip, grid in zip(patches, grids)
        ]

    def _encode_clips(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips of one shape `[B, S, 3, H, W]` → connector's tokens `[B, T * h/2 * w/2, hidden]`."""
        encoder = self.spatial_encoder
        H, W = clips.shape[-2:]
        with torch.set_grad_enabled(torch.is_grad_enabled() and _is_trained(encoder)):
            tokens = encoder.encode(clips, self.config.connector_config.spatial_embeds_layer_idx)
        patch = encoder.config.patch_size
        grid = tokens[:, :, encoder.patch_token_start :].unflatten(2, (H // patch, W // patch))
        return self.connector(grid)


class SpatialMLLMForConditionalGeneration(SpatialMLLMPreTrainedModel, Qwen2_5_VLForConditionalGeneration):
    """Spatial-MLLM with its language-model head: video, images and text in, text out.

    Attributes:
        cache_name: under which `generate` of this transformers takes keys and values.
    """

    cache_name = CACHE_NAME

    def __init__(self, config: SpatialMLLMConfig) -> None:
        Qwen2_5_VLPreTrainedModel.__init__(self, config)  # past Qwen's own generator, which would build its backbone
        self.model = SpatialMLLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        num_images_per_sample: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """See `SpatialMLLMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, image_grid_thw, num_images_per_sample, **kwargs)

    @takes_chunks
    def predict_geometry(
        self,
        frames: torch.Tensor | Iterable[torch.Tensor],
        source: PointSource = "points",
        return_cameras: bool = False,
    ) -> PointMap | SceneGeometry:
        """World points of every pixel of frames `[S, 3, H, W]` in [0, 1]; see `VGGTModel.predict_geometry`."""
        return self.model.predict_geometry(frames, source, return_cameras)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        num_images_per_sample: torch.Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Qwen2.5-VL's forward; its names are listed because `generate` reads them. See `SpatialMLLMModel.forward`."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: past_key_values if cache is None else cache},
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            second_per_grid_ts=second_per_grid_ts,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            num_images_per_sample=num_images_per_sample,
            **kwargs,
        )

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Of the whole prompt, also where a cache holds its beginning: what an earlier call left is not relied on."""
        token_types = model_kwargs.get("mm_token_type_ids")
        if token_types is None and not inputs_tensor.is_floating_point():
            model_kwargs["mm_token_type_ids"] = self.model.token_types(inputs_tensor)
        elif token_types is not None and inputs_tensor.is_floating_point():
            inputs_tensor = token_types.long()  # embeddings: only their shape counts
        described = any(model_kwargs.get(name) is not None for name in ("image_grid_thw", "video_grid_thw"))
        types = model_kwargs.get("mm_token_type_ids")
        is_text = types is not None and not bool(types.any())
        mask = model_kwargs.get("attention_mask")
        if (described or is_text) and (mask is None or mask.shape[1] == inputs_tensor.shape[1]):
            model_kwargs = {name: value for name, value in model_kwargs.items() if name not in CACHE_NAMES}
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _grids(grid_thw: torch.Tensor | None) -> Iterator[Grid]:
    return iter([] if grid_thw is None else [(t, h, w) for t, h, w in grid_thw.tolist()])


__all__ = ["SpatialMLLMForConditionalGeneration", "SpatialMLLMModel", "SpatialMLLMPreTrainedModel"]
