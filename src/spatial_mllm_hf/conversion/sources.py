"""Where a checkpoint comes from: a folder, a file or a Hub repository; and under which licence its weights are."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download

from .checkpoint_reading import Checkpoint
from .key_tables import LANGUAGE, SPATIAL, detect_format, to_module_name

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# All of a checkpoint but pickled weights, pictures and other formats' files.
WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "LICENSE*", "NOTICE*", "README.md"]
PT_FILE = "model.pt"
UNKNOWN_LICENCE = "not stated by its files"

# Repository and licence of the public backbones, told by their sizes.
QWEN_BY_WIDTH = {
    2048: ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen-research"),
    3584: ("Qwen/Qwen2.5-VL-7B-Instruct", "apache-2.0"),
    5120: ("Qwen/Qwen2.5-VL-32B-Instruct", "apache-2.0"),
    8192: ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen"),
}
VGGT_1B, VGGT_1B_WIDTH = ("facebook/VGGT-1B", "cc-by-nc-4.0"), 1024


def open_source(source: str | Path, revision: str | None = None, allow_pt: bool = False) -> Checkpoint:
    """Opens a checkpoint from a folder, a weight file or a Hub repository, which is downloaded (and resumed).

    Raises:
        ValueError: if there is no such thing, or it cannot be read (see `Checkpoint`).
        OSError: if the repository cannot be reached or read.
    """
    if Path(source).exists():
        return Checkpoint(source, allow_pt)
    if not is_repository(str(source)):
        raise ValueError(f"{source}: there is no such folder or file, and it is not the name of a Hub repository.")
    wanted = list(WANTED_FILES)
    if allow_pt and not constants.HF_HUB_OFFLINE:
        names = HfApi().list_repo_files(str(source), revision=revision)
        if PT_FILE in names and not any(name.endswith(".safetensors") for name in names):
            wanted.append(PT_FILE)
    folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))
    return Checkpoint(folder, allow_pt, name=str(source))


def is_repository(name: str) -> bool:
    """Whether this could be the name of a Hub repository."""
    return REPOSITORY.fullmatch(name) is not None


def describe_source(checkpoint: Checkpoint) -> dict[str, str]:
    """What a report says of a source: name, format, licence, and of a Hub download its revision."""
    described = {
        "name": checkpoint.name,
        "format": detect_format(checkpoint.tensors),
        "licence": licence_of(checkpoint),
    }
    if is_repository(checkpoint.name) and checkpoint.folder.parent.name == "snapshots":
        described["revision"] = checkpoint.folder.name
    return described


def licence_of(checkpoint: Checkpoint) -> str:
    """The licence that a checkpoint's own card states, or that of the public backbones that it is made of."""
    card = card_metadata(checkpoint.folder / "README.md")
    stated = card.get("license_name") or card.get("license")
    if stated:
        return str(stated)
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    return ", ".join(f"{licence} ({name})" for name, licence in backbones_of(shapes)) or UNKNOWN_LICENCE


def card_metadata(readme: Path) -> dict[str, Any]:
    """Metadata of a model card; nothing where there is none, or none that can be read."""
    if not readme.exists():
        return {}
    try:
        return ModelCard.load(readme, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        return {}


def backbones_of(shapes: Mapping[str, Sequence[int]]) -> list[tuple[str, str]]:
    """Repository and licence of the public backbones in a checkpoint, told by its weights' shapes.

    >>> backbones_of({"visual.a": [1], "model.embed_tokens.weight": [151936, 2048]})
    [('Qwen/Qwen2.5-VL-3B-Instruct', 'qwen-research')]
    """
    layout = detect_format(shapes)
    found = []
    for name, shape in shapes.items():
        ours = to_module_name(name, layout)
        if ours == f"{LANGUAGE}embed_tokens.weight" and shape[1] in QWEN_BY_WIDTH:
            found.append(QWEN_BY_WIDTH[shape[1]])
        if ours == f"{SPATIAL}aggregator.camera_token" and shape[-1] == VGGT_1B_WIDTH:
            found.append(VGGT_1B)
    return found
