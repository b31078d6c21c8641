"""What a checkpoint is, told by its headers and settings alone; of a Hub repository no weights are downloaded."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

from ..modeling.configuration_spatial_mllm import GEOMETRY_HEADS, VERSION_FIELD, VGGTConfig
from ..modeling.key_mapping_spatial_mllm import DROPPED_KEYS
from ..modeling.remote_code_spatial_mllm import CODE_ENTRIES
from .checkpoint_reading import DTYPES, Checkpoint, StoredTensor, read_json
from .companions import GENERATION_FILE, OLD_PROCESSOR_FILE, OLD_TEMPLATE_FILE, PROCESSOR_FILE, TEMPLATE_FILE
from .coverage import count_dtypes
from .key_tables import (
    CONNECTOR,
    EMBEDDINGS,
    GEOMETRY_HEAD_PREFIXES,
    HEAD,
    LANGUAGE,
    PARTS,
    SPATIAL,
    Format,
    detect_format,
    part_of,
    to_module_name,
)
from .planning import expected_weights
from .public_formats import SPATIAL_CONFIG_FILE, spatial_mllm_config
from .sources import UNKNOWN_LICENCE, backbones_of, card_metadata, is_repository

SETTINGS_FILES = ("config.json", PROCESSOR_FILE, OLD_PROCESSOR_FILE, SPATIAL_CONFIG_FILE, "README.md")
# Bytes of a weight of the language model's linear layers, and of any other weight, when loaded in each type.
MEMORY_BYTES = {"float32": (4, 4), "bfloat16": (2, 2), "float16": (2, 2), "int8": (1, 2), "int4": (0.5, 2)}
TITLES: dict[Format, str] = {
    "v1.1": "Spatial-MLLM, v1.1 names",
    "v1.0": "Spatial-MLLM, public v1.0",
    "transformers": "transformers 5's own names",
    "qwen2.5-vl": "Qwen2.5-VL",
    "vggt": "VGGT",
}


@dataclass
class Headers:
    """What can be known of a checkpoint without its weights (`CheckpointHeaders`), and of what lies beside them.

    Attributes:
        folder: where it lies, or the name of its repository.
        name: what reports call it.
        config: `config.json`.
        tensors: headers by name.
        files: names of all its files.
        card: metadata of its README.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    files: set[str]
    card: dict[str, Any] = field(default_factory=dict)


@dataclass
class CheckpointFacts:
    """What `inspect` says of a checkpoint.

    Attributes:
        name: folder or repository.
        layout: format of its weights' names; `title` in words.
        written_by: version of this package that wrote it, if any did.
        parts: weights, parameters and bytes of each part.
        quantisation: method of a quantised checkpoint, whose numbers are of packed weights.
        dtype: parameters of each type.
        connector: type of the connector, and the layer of VGGT that it reads.
        heads: VGGT's geometry heads that are there.
        missing: what a complete checkpoint has besides.
        backbones: repository and licence of each public backbone in it.
        licences: of those backbones, and what its own card states, in words.
        memory_by_part: bytes of weights when loaded, by part and type. int8 and int4 hold for the language model's
            linear layers, the rest being bfloat16.
    """

    name: str
    layout: Format
    title: str
    written_by: str | None
    parts: dict[str, dict[str, int]]
    quantisation: str | None
    dtype: dict[str, int]
    connector: str | None
    heads: list[str]
    missing: list[str]
    backbones: list[tuple[str, str]]
    licences: list[str]
    memory_by_part: dict[str, dict[str, int]]

    @property
    def base_models(self) -> list[str]:
        """Repositories of the public backbones."""
        return [name for name, _ in self.backbones]

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of all weights when loaded, by type."""
        return {dtype: sum(sizes[dtype] for sizes in self.memory_by_part.values()) for dtype in MEMORY_BYTES}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "base_models": self.base_models, "memory": self.memory}


def inspect_checkpoint(source: str | Path, revision: str | None = None) -> CheckpointFacts:
    """Describes a folder or a Hub repository.

    Raises:
        ValueError: if it is no such thing, or its files are damaged.
        OSError: if the repository cannot be reached.
    """
    headers = read_headers(source, revision)
    layout = detect_format(headers.tensors)
    shapes = {name: stored.shape for name, stored in headers.tensors.items()}
    backbones = backbones_of(shapes)
    stated = headers.card.get("license_name") or headers.card.get("license")
    licences = [f"{licence} ({name})" for name, licence in backbones]
    return CheckpointFacts(
        name=headers.name,
        layout=layout,
        title=TITLES[layout],
        written_by=headers.config.get(VERSION_FIELD),
        parts=_parts(headers.tensors, layout),
        quantisation=(headers.config.get("quantization_config") or {}).get("quant_method"),
        dtype=count_dtypes([(stored.dtype, stored.numel) for stored in headers.tensors.values()]),
        connector=_connector(headers, layout),
        heads=_heads(shapes, layout),
        missing=_missing(headers, layout),
        backbones=backbones,
        licences=[*licences, *([f"{stated} (its own card)"] if stated not in (None, "unknown") else [])]
        or [UNKNOWN_LICENCE],
        memory_by_part=_memory(headers, layout),
    )


def read_headers(source: str | Path, revision: str | None = None) -> Headers:
    """Headers and settings of a folder or a Hub repository."""
    if Path(source).exists():
        checkpoint = Checkpoint(source, allow_pt=True)
        files = {path.name for path in checkpoint.folder.iterdir()}
        name, config, tensors = checkpoint.name, checkpoint.config, checkpoint.tensors
        paths = {file: checkpoint.folder / file for file in SETTINGS_FILES if file in files}
        folder = checkpoint.folder
    elif is_repository(str(source)):
        files = set(HfApi().list_repo_files(str(source), revision=revision))
        tensors = _remote_tensors(str(source), revision)
        download = {
            file: hf_hub_download(str(source), file, revision=revision) for file in SETTINGS_FILES if file in files
        }
        paths = {file: Path(path) for file, path in download.items()}
        name, folder = str(source), paths["config.json"].parent if "config.json" in paths else Path(source)
        config = read_json(paths["config.json"]) if "config.json" in paths else {}
    else:
        raise ValueError(f"{source}: there is no such folder, and it is not the name of a Hub repository.")
    card = card_metadata(paths["README.md"]) if "README.md" in paths else {}
    return Headers(folder, name, config, tensors, files, card)


def _remote_tensors(repository: str, revision: str | None) -> dict[str, StoredTensor]:
    try:
        metadata = HfApi().get_safetensors_metadata(repository, revision=revision)
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise ValueError(f"{repository} has no readable safetensors weights: {error}") from error
    tensors = {}
    for file, header in metadata.files_metadata.items():
        for name, info in header.tensors.items():
            if info.dtype not in DTYPES:
                raise ValueError(
                    f"{repository}: {name!r} in {file} is of type {info.dtype}, expected {sorted(DTYPES)}."
                )
            tensors[name] = StoredTensor(name, tuple(info.shape), DTYPES[info.dtype], Path(file))
    return tensors


def _parts(tensors: Mapping[str, StoredTensor], layout: Format) -> dict[str, dict[str, int]]:
    parts: dict[str, dict[str, int]] = {}
    for name, stored in tensors.items():
        entry = parts.setdefault(part_of(to_module_name(name, layout)), {"weights": 0, "parameters": 0, "bytes": 0})
        entry["weights"] += 1
        entry["parameters"] += stored.numel
        entry["bytes"] += stored.nbytes
    return {part: parts[part] for part in (*PARTS, "other") if part in parts}


def _connector(headers: Headers, layout: Format) -> str | None:
    names = [to_module_name(name, layout) for name in headers.tensors]
    if not any(name.startswith(CONNECTOR) for name in names):
        return None
    kind = (
        "merger (v1.0)" if any(name.startswith(f"{CONNECTOR}vgg_to_language") for name in names) else "mlp_add (v1.1)"
    )
    layer = (headers.config.get("connector_config") or {}).get("spatial_embeds_layer_idx", -1)
    return f"{kind}, reads layer {layer} of VGGT"


def _heads(shapes: Mapping[str, Any], layout: Format) -> list[str]:
    names = [to_module_name(name, layout) for name in shapes]
    return [
        head
        for head in GEOMETRY_HEADS
        if any(name.startswith(SPATIAL + GEOMETRY_HEAD_PREFIXES[head]) for name in names)
    ]


def _missing(headers: Headers, layout: Format) -> list[str]:
    """What is not there: weights that the configuration asks for, and the files of a complete folder."""
    if layout == "vggt":
        return _missing_vggt(headers)
    if layout == "qwen2.5-vl" or not _parts(headers.tensors, layout).keys() & {"spatial", "connector"}:
        return ["VGGT", "connector", *_missing_files(headers.files, with_code=False)]
    config = spatial_mllm_config(headers)
    there = {to_module_name(name, layout) for name in headers.tensors}
    absent: dict[str, int] = {}
    for name in expected_weights(config):
        tied = name == f"{HEAD}weight" and config.tie_word_embeddings
        if name not in there and not tied:
            absent[part_of(name)] = absent.get(part_of(name), 0) + 1
    weights = [f"{count} weights of the part {part!r}" for part, count in absent.items()]
    return [*weights, *_missing_files(headers.files, with_code=True)]


def _missing_vggt(headers: Headers) -> list[str]:
    known = {name: value for name, value in headers.config.items() if name != "model_type"}
    heads = VGGTConfig(**known).heads
    return [f"{head} head" for head in heads if head not in _heads(headers.tensors, "vggt")]


def _missing_files(files: set[str], with_code: bool) -> list[str]:
    """Files that a published checkpoint needs, in words."""
    wanted = {
        "configuration (config.json)": {"config.json"},
        "tokenizer": {"tokenizer.json", "vocab.json"},
        "processor settings": {PROCESSOR_FILE, OLD_PROCESSOR_FILE},
        "chat template": {TEMPLATE_FILE, OLD_TEMPLATE_FILE},
        "generation settings": {GENERATION_FILE},
        "model card (README.md)": {"README.md"},
    }
    missing = [what for what, names in wanted.items() if not names & files]
    if with_code:
        missing += [f"code ({name})" for name in CODE_ENTRIES if name not in files]
    return missing


def _memory(headers: Headers, layout: Format) -> dict[str, dict[str, int]]:
    """Bytes of each part by type, of the weights that are loaded."""
    parts: dict[str, dict[str, float]] = {}
    left_out = [*DROPPED_KEYS, *([rf"^{re.escape(HEAD)}"] if headers.config.get("tie_word_embeddings") else [])]
    for name, stored in headers.tensors.items():
        ours = to_module_name(name, layout)
        is_linear = ours.startswith(LANGUAGE) and len(stored.shape) == 2 and ours != EMBEDDINGS
        sizes = parts.setdefault(part_of(ours), dict.fromkeys(MEMORY_BYTES, 0.0))
        if any(re.search(pattern, ours) for pattern in left_out):
            continue
        for dtype, (of_linear, of_other) in MEMORY_BYTES.items():
            sizes[dtype] += stored.numel * (of_linear if is_linear else of_other)
    return {part: {dtype: round(size) for dtype, size in sizes.items()} for part, sizes in parts.items()}
