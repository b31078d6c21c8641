"""Computing what the feature cache keeps, and giving it back to the model in training.

The trained parts that follow the frozen encoders (the vision tower's merger, the connector) run inside the model's
forward, so that wrappers of data parallelism see them: a forward pre-hook on the backbone turns cached features into
the `mm_encoder_outputs` that Qwen2.5-VL's forward takes in place of pixels. Nothing of the model is replaced.

Shapes: n clips, N patches, D and C the widths of VGGT and of the vision tower, a clip's grid (T, h, w), S = 2T frames.
"""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..modeling.frame_recovery_spatial_mllm import frames_from_patches, image_scenes
from ..modeling.modeling_spatial_mllm import SpatialMLLMModel
from ..pipelines.scene_keys_spatial_mllm import hash_model
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from .feature_cache import CachedFeatures, MediaKind
from .media import MediaSettings

PIXELS = {"video": "pixel_values_videos", "image": "pixel_values"}


def digest_encoders(model: SpatialMLLMModel, vision_tower: bool) -> dict[str, str]:
    """Of the weights that cached features depend on. The merger's are left out: it comes after.

    Seconds for the full-size encoders.
    """
    digests = {"vggt": hash_model(model.spatial_encoder)}
    if vision_tower:
        merger = model.visual.merger
        model.visual.merger = torch.nn.Identity()
        try:
            digests["vision_tower"] = hash_model(model.visual)
        finally:
            model.visual.merger = merger
    return digests


@torch.no_grad()
def encode_media(
    model: SpatialMLLMModel,
    processor: SpatialMLLMProcessor,
    settings: MediaSettings,
    kind: MediaKind,
    paths: list[str],
    vision_tower: bool,
) -> CachedFeatures:
    """Features of one video, or of the images of one sample.

    Raises:
        ValueError, OSError: if the media cannot be read.
    """
    content = [{"type": kind, kind: path} for path in paths]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=settings.processor_kwargs(),
    )
    grid_thw = inputs[f"{kind}_grid_thw"]
    pixels = inputs[PIXELS[kind]].to(model.device)
    scenes = image_scenes(grid_thw, torch.tensor([len(paths)])) if kind == "image" else [[0]]
    frames = _frames(model, pixels, grid_thw)
    geometry: dict[int, torch.Tensor] = {}
    for scene in scenes:
        tokens = _patch_tokens(model, torch.cat([frames[index] for index in scene]))
        geometry.update(zip(scene, tokens.chunk(len(scene))))
    vision = None
    if vision_tower:
        output = model.visual(pixels.to(model.visual.dtype), grid_thw=grid_thw.to(pixels.device))
        vision = _unwindowed(model, output.last_hidden_state, grid_thw)
    return CachedFeatures(grid_thw, torch.cat([geometry[index] for index in range(len(grid_thw))]), vision)


def attach_cached_features(model: SpatialMLLMModel) -> torch.utils.hooks.RemovableHandle:
    """Lets the backbone take `cached_video_geometry`, `cached_video_vision` and the same of images.

    `cached_*_geometry` stands for VGGT; `cached_*_vision` for the vision tower before its merger, else the patches have
    to be there. The grids are given as ever.
    """
    return model.register_forward_pre_hook(_use_cached_features, with_kwargs=True)


def _use_cached_features(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    outputs = dict(kwargs.get("mm_encoder_outputs") or {})
    for kind in ("video", "image"):
        geometry = kwargs.pop(f"cached_{kind}_geometry", None)
        vision = kwargs.pop(f"cached_{kind}_vision", None)
        if geometry is not None:
            pixels = kwargs.pop(PIXELS[kind], None)
            features = fuse_cached(model, kwargs[f"{kind}_grid_thw"], geometry, vision, pixels)
            outputs[kind] = BaseModelOutputWithPooling(pooler_output=features)
    if outputs:
        kwargs["mm_encoder_outputs"] = outputs
    return args, kwargs


def fuse_cached(
    model: SpatialMLLMModel,
    grid_thw: torch.Tensor,
    geometry: torch.Tensor,
    vision: torch.Tensor | None,
    pixels: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """What `get_video_features` and `get_image_features` give: for each clip `[T * h/2 * w/2, hidden]`.

    Args:
        grid_thw: `[n, 3]`.
        geometry: `[2N, D]`.
        vision: `[N, C]`, or None to run the vision tower on `pixels`.
        pixels: patches `[N, 3 * 2 * p * p]`.
    """
    grids = [(int(T), int(h), int(w)) for T, h, w in grid_thw.tolist()]
    patches = [T * h * w for T, h, w in grids]
    if vision is not None:
        merged = model.visual.merger(_as_input_of(model.visual.merger, vision))
    else:
        assert pixels is not None, "the vision tower needs patches where its features are not cached"
        merged = model.visual(pixels.to(model.visual.dtype), grid_thw=grid_thw).pooler_output
    unit = model.config.vision_config.spatial_merge_size**2
    visual = merged.split([count // unit for count in patches])
    scale = model.config.spatial_fusion_scale
    if scale == 0:
        return visual
    frames_merged = model.config.vision_config.temporal_patch_size
    clips = geometry.split([frames_merged * count for count in patches])
    alike: dict[tuple[int, int, int], list[int]] = {}  # clips of one shape pass the connector together
    for number, grid in enumerate(grids):
        alike.setdefault(grid, []).append(number)
    spatial: dict[int, torch.Tensor] = {}
    for (T, h, w), members in alike.items():
        tokens = torch.stack([clips[number] for number in members]).view(len(members), frames_merged * T, h, w, -1)
        spatial.update(zip(members, model.connector(_as_input_of(model.connector, tokens))))
    return tuple(features + scale * spatial[number].to(features.dtype) for number, features in enumerate(visual))


def _as_input_of(module: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Features in the module's precision; under autocast as they are, as when the encoder had just given them."""
    if torch.is_autocast_enabled(features.device.type):
        return features
    return features.to(next(module.parameters()).dtype)


def _frames(model: SpatialMLLMModel, pixels: torch.Tensor, grid_thw: torch.Tensor) -> list[torch.Tensor]:
    """VGGT's frames `[S, 3, H, W]` of each clip or image."""
    config, grids = model.config, grid_thw.tolist()
    vision = config.vision_config
    sizes = (vision.patch_size, vision.spatial_merge_size)
    return [
        frames_from_patches(patches, grid, *sizes, config.image_mean, config.image_std)
        for patches, grid in zip(pixels.split([T * h * w for T, h, w in grids]), grids)
    ]


def _patch_tokens(model: SpatialMLLMModel, frames: torch.Tensor) -> torch.Tensor:
    """VGGT's fused layer of one scene `[S, 3, H, W]` → its patch tokens `[S * h * w, D]`."""
    encoder = model.spatial_encoder
    tokens = encoder.encode(frames[None], model.config.connector_config.spatial_embeds_layer_idx)  # [1, S, P, D]
    return tokens[0, :, encoder.patch_token_start :].flatten(0, 1)


def _unwindowed(model: SpatialMLLMModel, hidden: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
    """The vision tower's tokens `[N, C]`, which it leaves window by window, in the order of the patches."""
    vision = model.config.vision_config
    unit = vision.spatial_merge_size**2
    order = window_order(grid_thw, vision.spatial_merge_size, vision.window_size // vision.patch_size)
    units = hidden.view(-1, unit, hidden.shape[-1])
    return units[torch.argsort(order).to(hidden.device)].flatten(0, 1)


def window_order(grid_thw: torch.Tensor, merge_size: int, window: int) -> torch.Tensor:
    """Numbers of the merged patches in the order in which Qwen2.5-VL's vision tower keeps them (section 2.1.1 of
    arXiv 2502.13923): grid step by grid step, window by window, each row by row.

    Args:
        grid_thw: `[n, 3]`.
        merge_size: patches along a side of a merged patch.
        window: patches along a side of a window.
    """
    side, start, order = window // merge_size, 0, []
    for T, h, w in grid_thw.tolist():
        numbers = torch.arange(T * (h // merge_size) * (w // merge_size)).view(T, h // merge_size, w // merge_size)
        for step in numbers + start:
            order += [cell.flatten() for rows in step.split(side, dim=0) for cell in rows.split(side, dim=1)]
        start += numbers.numel()
    return torch.cat(order)
