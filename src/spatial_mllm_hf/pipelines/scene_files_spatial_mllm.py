"""Scenes on disk: one safetensors file each, with what it depends on and a checksum of all that it says.

A file that depends on something else (another video, model or setting) is stale, one whose content does not give its
checksum is damaged; neither is ever used.
"""

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .scene_keys_spatial_mllm import Key
from .scene_spatial_mllm import Scene, ScenePrefix


class SceneFileError(ValueError):
    """A file that cannot be used as a saved scene. The message says why and the way out."""


def scene_file_name(key: Key) -> str:
    """The name of a scene's file in a folder of many."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] + ".scene.safetensors"


def save_scene(scene: Scene, path: str | os.PathLike) -> None:
    """Writes a scene, whole or not at all.

    Raises:
        ValueError: if its content cannot be told apart from another's (a URL whose server names no version).
    """
    check_can_be_saved(scene.key)
    path = Path(path)
    tensors = {"input_ids": scene.prefix.input_ids, "token_types": scene.prefix.token_types}
    tensors |= {f"descriptions.{name}": tensor for name, tensor in scene.prefix.descriptions.items()}
    for number, (keys, values) in enumerate(scene.prefix.layers):
        tensors |= {f"layers.{number}.keys": keys, f"layers.{number}.values": values}
    described: list[list[dict[str, Any]]] = []
    for video, frames in enumerate(scene.frames):
        described.append([{"index": frame["index"], "timestamp": frame["timestamp"]} for frame in frames])
        pictures = np.stack([np.asarray(frame["image"]) for frame in frames])
        tensors[f"frames.{video}"] = torch.from_numpy(pictures)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"key": json.dumps(scene.key), "frames": json.dumps(described)}
    metadata["checksum"] = _checksum(tensors, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")  # with the permissions that files here get
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_can_be_saved(key: Key) -> None:
    """Raises the ValueError of `save_scene` if a scene cannot be known again."""
    if not key["content"]:
        raise ValueError(
            "This scene cannot be saved: its URL's server does not say which version of the file it has, so the scene "
            "could not be known again. Download the video and open the file."
        )


def load_scene(pipeline: Any, path: str | os.PathLike, current: Key) -> Scene:
    """Reads a scene for a pipeline.

    Args:
        current: what the scene has to depend on.

    Raises:
        SceneFileError: for a file that is stale, damaged or no scene.
        FileNotFoundError: if there is none.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no saved scene at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        damaged = metadata["checksum"] != _checksum(tensors, metadata)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise SceneFileError(f"{path} is damaged or no saved scene ({error}). Open the video anew.") from error
    if damaged:
        raise SceneFileError(f"{path} is damaged: its content does not give its checksum. Open the video anew.")
    key, described = json.loads(metadata["key"]), json.loads(metadata["frames"])
    changed = sorted(name for name in {*key, *current} if key.get(name) != current.get(name))
    if changed:
        raise SceneFileError(f"{path} is stale: {', '.join(changed)} changed since it was saved. Open the video anew.")
    return _assemble(pipeline, tensors, key, described)


def _assemble(
    pipeline: Any, tensors: dict[str, torch.Tensor], key: Key, described: list[list[dict[str, Any]]]
) -> Scene:
    device = pipeline.device
    layers = []
    for number, layer in enumerate(pipeline.model.get_decoder().layers):
        weight = next(layer.parameters())
        place = device if weight.is_meta else weight.device
        layers.append(tuple(tensors[f"layers.{number}.{part}"].to(place) for part in ("keys", "values")))
    head = "descriptions."
    prefix = ScenePrefix(
        input_ids=tensors["input_ids"].to(device),
        token_types=tensors["token_types"].to(device),
        descriptions={name.removeprefix(head): t.to(device) for name, t in tensors.items() if name.startswith(head)},
        layers=layers,  # type: ignore[arg-type]
    )
    frames = [
        [
            {**frame, "image": Image.fromarray(picture)}
            for frame, picture in zip(of_video, tensors[f"frames.{video}"].numpy())
        ]
        for video, of_video in enumerate(described)
    ]
    return Scene(pipeline, prefix, frames, key)


def _checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([metadata["key"], metadata["frames"]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
