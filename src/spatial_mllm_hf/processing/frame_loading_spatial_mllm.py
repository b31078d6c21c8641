"""What users hand over as videos, brought into one form.

A video is a source to decode (path or URL), frames in one array or tensor, or a list of frames, each an image, an
array, or the path of an image file. Videos come alone, in lists, or in the nested lists of batched chats, mixed.

Shapes: T frames of H x W pixels.
"""

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
Video = str | torch.Tensor  # a source to decode, or uint8 or float frames [T, 3, H, W]


def load_videos(videos: Any) -> list[Video]:
    """Flattens any accepted input into a list of sources and `[T, 3, H, W]` frames.

    Raises:
        ValueError: for something that is no video, frames that differ in size, an image file that cannot be read.
    """
    loaded = _flatten(videos)
    if not loaded:
        raise ValueError("videos: got an empty list; a video needs at least one frame.")
    return loaded


def _flatten(videos: Any) -> list[Video]:
    if _is_path(videos):
        return [os.fspath(videos)]
    if _is_array(videos) and videos.ndim == 5:
        return [_channels_first(video) for video in videos]
    if _is_array(videos) and videos.ndim == 4:
        return [_channels_first(videos)]
    if isinstance(videos, Sequence) and not isinstance(videos, (str, bytes)):
        if len(videos) > 0 and all(_is_frame(item) for item in videos):
            return [_stack_frames(videos)]
        return [video for item in videos for video in _flatten(item)]
    raise ValueError(
        f"videos: cannot make a video of {_describe(videos)}. Pass a path or URL, frames as [T, H, W, 3] or "
        "[T, 3, H, W], a list of frames (images, arrays or image paths), or a list of these."
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _is_image_path(value: Any) -> bool:
    return _is_path(value) and PurePath(value).suffix.lower() in IMAGE_SUFFIXES


def _is_frame(value: Any) -> bool:
    return isinstance(value, Image.Image) or (_is_array(value) and value.ndim in (2, 3)) or _is_image_path(value)


def _stack_frames(frames: Sequence[Any]) -> torch.Tensor:
    tensors = [_channels_first(_load_frame(frame)[None])[0] for frame in frames]
    if len({tensor.is_floating_point() for tensor in tensors}) > 1:
        raise ValueError("videos: the frames of a video must be all integers in 0..255 or all floats, not mixed.")
    first = tensors[0].shape
    for number, tensor in enumerate(tensors):
        if tensor.shape != first:
            raise ValueError(
                f"videos: the frames of a video must have one size, but frame 0 is {_size(first)} and frame {number} "
                f"is {_size(tensor.shape)}. Pass pictures of different sizes as images."
            )
    return torch.stack(tensors)


def _load_frame(frame: Any) -> torch.Tensor:
    if _is_path(frame):
        frame = _read_image(os.fspath(frame))
    if isinstance(frame, Image.Image):
        frame = np.array(frame.convert("RGB"))
    frame = _as_tensor(frame)
    return frame if frame.ndim == 3 else frame[..., None].expand(-1, -1, 3)


def _as_tensor(frames: Any) -> torch.Tensor:
    """Arrays are copied where torch cannot look through them: flipped views and read-only memory."""
    if isinstance(frames, np.ndarray):
        frames = np.require(frames, requirements=["C", "W"])
    return torch.as_tensor(frames)


def _read_image(path: str) -> Image.Image:
    if path.startswith(("http://", "https://")):
        raise ValueError(f"videos: frames are not fetched from the network, got {path!r}; download the images first.")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise ValueError(f"videos: there is no image file {path!r}.") from error
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"videos: {path!r} cannot be read as an image ({error}).") from error


def _channels_first(video: Any) -> torch.Tensor:
    """`[T, H, W, C]` or `[T, C, H, W]` with 1 or 3 channels → `[T, 3, H, W]`."""
    video = _as_tensor(video)
    if video.shape[1] not in (1, 3) and video.shape[-1] in (1, 3):
        video = video.permute(0, 3, 1, 2)
    if video.shape[1] not in (1, 3):
        raise ValueError(f"videos: frames need 1 or 3 channels, got shape {list(video.shape)}.")
    if video.shape[0] == 0:
        raise ValueError("videos: got a video of zero frames; at least one is needed.")
    return video.expand(-1, 3, -1, -1).contiguous()


def has_levels(frames: torch.Tensor) -> bool:
    """Whether frames are in 0..255, as integers or floats, instead of [0, 1]."""
    return not frames.is_floating_point() or frames.numel() == 0 or bool(frames.max() > 1)


def _size(shape: torch.Size) -> str:
    return f"{shape[-1]}x{shape[-2]}"


def _describe(value: Any) -> str:
    if _is_array(value):
        return f"{type(value).__name__} of shape {list(value.shape)}"
    return f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
