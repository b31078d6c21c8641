"""What a saved scene depends on: the content of its videos and images, the model, and the settings.

Each is brought down to a string; two scenes with equal strings are the same scene. Content is hashed whole; a URL goes
by what its server says of its version. Weights are summed as integers, in as many sums as a row of `COLUMNS` has
places, each row times an odd number of its own, so that a changed, exchanged or moved weight shows without gigabytes
being hashed.
"""

import hashlib
import json
import os
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import torch
import transformers
from PIL import Image

FORMAT = "1"  # of the file and of the meaning of what is in it
COLUMNS = 1024
ROWS_AT_ONCE = 1024  # 8 MiB
TIMEOUT_SECONDS = 30
Key = dict[str, str]


def describe_scene(pipeline: Any, media: dict[str, Any], options: dict[str, Any]) -> Key:
    """What a scene depends on, by name. The content is "" where it cannot be told: a URL without a version."""
    model, processor = pipeline.model, pipeline.processor
    geometry = processor.video_processor._geometry.model  # the pipeline's own model unless another was bound
    try:
        content = hash_content([[name, media[name]] for name in sorted(media)])
    except UnknownVersionError:
        content = ""
    settings = [
        processor.video_processor.to_json_string(),
        processor.image_processor.to_json_string(),
        str(processor.chat_template),
        processor.tokenizer.get_vocab(),
    ]
    return {
        "format": FORMAT,
        "content": content,
        "model": hash_model(model),
        "geometry": "" if geometry in (None, model) else f"{type(geometry).__name__} {_hash_if_model(geometry)}",
        "model_revision": str(getattr(model.config, "_commit_hash", None)),
        "settings": _digest(json.dumps(settings, sort_keys=True)),
        "options": json.dumps(options, sort_keys=True, default=str),
        "precision": str(model.dtype),
        "transformers": transformers.__version__,
    }


class UnknownVersionError(ValueError):
    """A URL whose server does not say which version of the file it has."""


def hash_content(media: Any) -> str:
    """SHA-256 of a video, an image, frames, or a nested list of them.

    Raises:
        UnknownVersionError: for a URL whose server names neither ETag nor Last-Modified.
    """
    digest = hashlib.sha256()
    _add_content(digest, media)
    return digest.hexdigest()


def _add_content(digest: Any, media: Any) -> None:
    if isinstance(media, (list, tuple)):
        digest.update(f"list of {len(media)};".encode())
        for item in media:
            _add_content(digest, item)
    elif isinstance(media, str) and media.startswith(("http://", "https://")):
        digest.update(f"URL {media} {_version_of(media)};".encode())
    elif isinstance(media, (str, os.PathLike)):
        text = os.fspath(media)
        path = Path(url2pathname(urlparse(text).path) if text.startswith("file://") else text)
        if not path.is_file():
            digest.update(f"text {text};".encode())
            return
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    elif isinstance(media, (torch.Tensor, np.ndarray)):
        digest.update(f"array {str(media.dtype).removeprefix('torch.')} {list(media.shape)};".encode())
        if isinstance(media, torch.Tensor):
            media = media.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(np.ascontiguousarray(media).data)
    elif isinstance(media, Image.Image):
        digest.update(f"image {media.mode} {media.size} {media.getpalette()};".encode())
        digest.update(media.tobytes())
    else:
        digest.update(media if isinstance(media, bytes) else repr(media).encode())


def _version_of(url: str) -> str:
    """What a server says of a file without sending it."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            headers = response.headers
    except OSError as error:
        raise UnknownVersionError(f"{url} does not answer: {error}") from error
    version = headers.get("ETag") or headers.get("Last-Modified")
    if version is None:
        raise UnknownVersionError(f"{url}: its server does not say which version of the file it has.")
    return f"{version} {headers.get('Content-Length')}"


def hash_model(model: Any) -> str:
    """Of the configuration, of every weight, and of which adapters are at work. Reads a weight once, where it lies."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "torch_dtype"):
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
            _add_weight(digest, tensor.detach())
    for name, module in model.named_modules():
        disabled = getattr(module, "disable_adapters", None)
        if isinstance(disabled, bool):  # a layer with PEFT's adapters; of a model it is a method
            state = [disabled, module.active_adapters, getattr(module, "scaling", None)]
            digest.update(f"{name} {state};".encode())
    return digest.hexdigest()


def _hash_if_model(geometry: Any) -> str:
    return hash_model(geometry) if hasattr(geometry, "config") and hasattr(geometry, "state_dict") else ""


def _add_weight(digest: Any, tensor: torch.Tensor) -> None:
    if hasattr(tensor, "__tensor_flatten__"):  # quantised: its plain tensors
        for name in tensor.__tensor_flatten__()[0]:
            _add_weight(digest, getattr(tensor, name))
        return
    if tensor.is_meta or not tensor.numel():  # offloaded to a disk: its name and shape are all there is
        return
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 8:  # a slice of another tensor, which cannot be seen as integers of 8 bytes
        data = data.clone()
    width = 8 * COLUMNS
    whole = len(data) // width * width
    rows = data[:whole].view(torch.int64).view(-1, COLUMNS)
    sums = rows.new_zeros(COLUMNS)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        factors = 2 * torch.arange(start, start + len(some), device=rows.device) + 1  # odd: no change is lost
        sums += (some * factors[:, None]).sum(dim=0)
    digest.update(sums.cpu().numpy().data)
    digest.update(data[whole:].cpu().numpy().data)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
