"""Processor: text, images and videos to the inputs of Spatial-MLLM.

Qwen2.5-VL's processor with three differences: the video processor chooses frames (uniform or space-aware), the time
between frame pairs that the model is told is a setting (`second_per_grid`) instead of the video's frame rate, and the
number of images of each sample goes with the images, because they are one scene.
"""

import os
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from .frame_loading_spatial_mllm import load_videos
from .geometry_slot_spatial_mllm import GeometryModel, GeometrySlot
from .video_processing_spatial_mllm import SpatialMLLMVideoProcessor

HUB_OPTIONS = ("revision", "subfolder", "cache_dir", "token", "local_files_only", "force_download")
# Settings of a Qwen2.5-VL video processor that describe the model's patches. Its pixel limits are not those of
# Spatial-MLLM's evaluation and stay behind.
PATCH_SETTINGS = ("image_mean", "image_std", "patch_size", "temporal_patch_size", "merge_size", "rescale_factor")


class SpatialMLLMProcessor(Qwen2_5_VLProcessor):
    """Tokenizer, image processor and video processor of Spatial-MLLM.

    Given a Qwen2.5-VL video processor, as in the public checkpoints, it takes over the patch settings and uses its own
    limits and sampling.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        if video_processor is not None and not hasattr(video_processor, "bind_geometry"):
            settings = {name: getattr(video_processor, name) for name in PATCH_SETTINGS}
            video_processor = SpatialMLLMVideoProcessor(**settings)
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Reads a processor; remembers where from, for `load_geometry`."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        options = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        processor.video_processor._geometry = GeometrySlot(str(pretrained_model_name_or_path), options)
        return processor

    def bind_geometry(self, model: GeometryModel | None) -> None:
        """Uses `model.predict_geometry` for space-aware sampling; None lets go of it. Never saved nor pickled.

        Raises:
            ValueError: if the object has no `predict_geometry`.
        """
        self.video_processor.bind_geometry(model)

    def load_geometry(self, device: Any = None, dtype: torch.dtype | str | None = None) -> GeometryModel:
        """Reads only VGGT's weights out of the processor's checkpoint and binds the model. Returns it.

        Raises:
            ValueError: if the processor was not made by `from_pretrained`, or the checkpoint lacks VGGT's weights.
        """
        return self.video_processor._geometry.load(device, dtype)

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepares a batch.

        Args:
            images: images of all samples, flat or nested by sample.
            text: one prompt or several, with one placeholder for each image and video.
            videos: see `SpatialMLLMVideoProcessor`.
            kwargs: options of the tokenizer and of the image and video processors; `return_metadata=True` adds
                `video_metadata` with the chosen frames and their time stamps.

        Returns:
            `input_ids`, `attention_mask` and `mm_token_type_ids` `[B, L]`; for images `pixel_values`,
            `image_grid_thw` and `num_images_per_sample` `[B]`; for videos `pixel_values_videos`, `video_grid_thw` and
            `second_per_grid_ts`.

        Raises:
            ValueError: for placeholders that do not match, and as `SpatialMLLMVideoProcessor.preprocess`.
        """
        samples = [text] if isinstance(text, str) else text
        if images is not None and not len(_flat(images)):
            images = None
        counts = None
        if images is not None and samples is not None:
            counts = [sample.count(self.image_token) for sample in samples]
            _check_images_by_sample(images, counts)
        inputs = super().__call__(images=images, text=text, videos=videos, **kwargs)
        if counts is not None:
            scenes = BatchFeature({"num_images_per_sample": counts})
            inputs.update(scenes.convert_to_tensors(_return_tensors(kwargs)))
        return inputs

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "num_images_per_sample"]

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> tuple:
        """As in transformers; videos become a flat list of sources and frames, and placeholders are counted."""
        if videos is not None:
            videos = load_videos(videos)
        if text is not None:
            texts = [text] if isinstance(text, str) else text
            _check_placeholders(texts, self.video_token, "video", len(videos or []))
            _check_placeholders(texts, self.image_token, "image", 0 if images is None else len(_flat(images)))
        return super().prepare_inputs_layout(images=images, text=text, videos=videos, **kwargs)

    def _process_images(self, images: Any, **kwargs: Any) -> tuple:
        for image in _flat(images):
            height, width = _image_size(image)
            patch = self.image_processor.patch_size
            if min(height, width) < patch:
                raise ValueError(
                    f"images: an image of {width}x{height} pixels is smaller than one patch of {patch}x{patch}."
                )
        return super()._process_images(images, **kwargs)

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple:
        inputs, replacements = super()._process_videos(videos, **kwargs)
        seconds = kwargs.get("second_per_grid")
        if seconds is None:
            seconds = self.video_processor.second_per_grid
        inputs["second_per_grid_ts"] = [float(seconds)] * len(inputs["video_grid_thw"])
        return inputs, replacements


def _return_tensors(kwargs: dict[str, Any]) -> Any:
    """The kind of tensors that a call asked for, flat or among its nested options."""
    nested = [kwargs.get(group) or {} for group in ("text_kwargs", "common_kwargs")]
    return next((group["return_tensors"] for group in (kwargs, *nested) if group.get("return_tensors")), None)


def _check_placeholders(texts: list[str], token: str, kind: str, num_given: int) -> None:
    total = sum(text.count(token) for text in texts)
    if total != num_given:
        raise ValueError(
            f"Found {total} {token} tokens in the text but {num_given or 'no'} {kind}s: each {kind} needs one "
            "placeholder, and each placeholder one of them."
        )


def _check_images_by_sample(images: Any, counts: list[int]) -> None:
    """Images nested by sample have to be those that each text speaks of; transformers compares the sums alone."""
    nested = isinstance(images, (list, tuple)) and all(isinstance(sample, (list, tuple)) for sample in images)
    if nested and len(images) == len(counts) and [len(sample) for sample in images] != counts:
        raise ValueError(
            f"images: the texts have {counts} image placeholders, but the samples hold "
            f"{[len(sample) for sample in images]} images."
        )


def _flat(images: Any) -> list:
    if hasattr(images, "ndim") and images.ndim == 4:
        return list(images)
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in _flat(item)]
    return [images]


def _image_size(image: Any) -> tuple[int, int]:
    """Height and width of a PIL image or of an array or tensor with the channels first or last."""
    if hasattr(image, "shape"):
        channels_first = image.ndim == 3 and image.shape[0] in (1, 3)
        return tuple(image.shape[-2:]) if channels_first or image.ndim == 2 else tuple(image.shape[-3:-1])
    return image.height, image.width


# Saved processors carry their code: transformers copies it beside them and names these classes in their files.
SpatialMLLMProcessor.register_for_auto_class("AutoProcessor")
SpatialMLLMVideoProcessor.register_for_auto_class("AutoVideoProcessor")

__all__ = ["SpatialMLLMProcessor"]
