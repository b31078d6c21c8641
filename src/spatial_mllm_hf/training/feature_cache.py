"""Frozen encoders' outputs on disk, so that a run over many questions computes each video once.

Two thirds of the work on a sample are VGGT and the vision tower, which are frozen, on frames that are always the same.
Kept are VGGT's fused layer (its patch tokens) and the vision tower's output before its merger: the connector and the
merger, which are trained, come after. At the size of training a video takes about 100 MB and 32 MB in bfloat16.

A file holds the features of one video, or of the images of one sample, which are one scene. Its name is the content of
the media; its folder the weights of the encoders, the settings of the frames and the precision. So nothing stale is
ever read, several runs share a cache, and a cache may be deleted at any time between runs.

    FOLDER/<what the features depend on>/<content>.safetensors    `geometry` [M, D], `vision` [N, C], `grid_thw` [n, 3]
    FOLDER/<what the features depend on>/settings.json            the same in words

Shapes: n clips or images, N patches of all of them, M = 2N patch tokens of VGGT, D and C the encoders' widths.
"""

import functools
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..pipelines.scene_keys_spatial_mllm import hash_content
from .media import MediaSettings

FORMAT = 1  # goes up when files mean something else
SETTINGS_FILE = "settings.json"
MediaKind = Literal["video", "image"]


@dataclass(frozen=True)
class CachedFeatures:
    """Features of clips or images, in their order.

    Attributes:
        grid_thw: `[n, 3]`, patches over time, height and width.
        geometry: `[M, D]`, VGGT's patch tokens: clip by clip, frame by frame, row by row.
        vision: `[N, C]`, the vision tower's tokens in the order of the patches; None where the tower is not cached.
    """

    grid_thw: torch.Tensor
    geometry: torch.Tensor
    vision: torch.Tensor | None

    @classmethod
    def join(cls, parts: Sequence["CachedFeatures | None"]) -> "CachedFeatures":
        """Features of several as one."""
        found = [part for part in parts if part is not None]
        vision = [part.vision for part in found if part.vision is not None]
        return cls(
            torch.cat([part.grid_thw for part in found]),
            torch.cat([part.geometry for part in found]),
            torch.cat(vision) if vision else None,
        )


class FeatureCache:
    """A folder of features of one pair of encoders under one choice of settings. Picklable; any process may read.

    Args:
        folder: of all caches.
        dependencies: what the features depend on besides the media, as `describe_encoders` says it.
        has_vision_tower: whether the vision tower's features are kept too.
    """

    def __init__(self, folder: Path, dependencies: dict[str, Any], has_vision_tower: bool) -> None:
        self.has_vision_tower = has_vision_tower
        self.dependencies = dependencies | {"vision_tower": has_vision_tower}
        text = json.dumps(self.dependencies, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def find(self, kind: MediaKind, paths: Sequence[str]) -> CachedFeatures | None:
        """The features of a video, or of a sample's images, mapped into memory; None if they are not there.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.path_of(kind, paths)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                names = set(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
            return CachedFeatures(tensors["grid_thw"], tensors["geometry"], tensors.get("vision"))
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, and the next run writes it again") from error

    def write(self, kind: MediaKind, paths: Sequence[str], features: CachedFeatures) -> None:
        """Keeps features, whole or not at all.

        Raises:
            OSError: if the disk is full.
        """
        path = self.path_of(kind, paths)
        tensors = {"grid_thw": features.grid_thw, "geometry": features.geometry}
        if features.vision is not None:
            tensors["vision"] = features.vision
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / SETTINGS_FILE
        if not settings.exists():
            _replace(settings, lambda part: part.write_text(json.dumps(self.dependencies, indent=2) + "\n"))
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        _replace(path, lambda part: part.write_bytes(save(contiguous)))

    def path_of(self, kind: MediaKind, paths: Sequence[str]) -> Path:
        """Where the features of media lie, or are to lie."""
        contents = [kind, *(_content(path, *_state(path)) for path in paths)]
        return self.folder / f"{hashlib.sha256(json.dumps(contents).encode()).hexdigest()}.safetensors"


def describe_encoders(
    weights: dict[str, str], settings: MediaSettings, processor: Any, precision: str, layer: int
) -> dict[str, Any]:
    """What features depend on besides the media.

    Args:
        weights: digest of each encoder.
        settings: of frames and sizes; the time that the model is told is not among it.
        processor: of the checkpoint.
        precision: in which the encoders compute.
        layer: of VGGT that is fused.
    """
    frames = {"num_frames": settings.num_frames, "min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}
    return {
        "format": FORMAT,
        "weights": weights,
        "layer": layer,
        "frames": frames,
        "video_processor": processor.video_processor.to_json_string(),
        "image_processor": processor.image_processor.to_json_string(),
        "precision": precision,
        "transformers": transformers.__version__,
    }


def _state(path: str) -> tuple[int, int]:
    """Size and time of a file, to know one again that was read; of a URL, nothing."""
    if path.startswith(("http://", "https://")):
        return (0, 0)
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=65536)
def _content(path: str, size: int, changed: int) -> str:
    """Digest of a file's content; read once in a process for as long as the file stays as it is."""
    return hash_content(path)


def _replace(path: Path, write: Any) -> None:
    """Writes under another name and renames when all is there."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
