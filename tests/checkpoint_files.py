"""Checkpoint folders for tests: made tiny, read as they lie on disk, taken apart and spoiled."""

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from spatial_mllm_hf.hub.tiny_checkpoint import CHAT_TEMPLATE, tiny_processor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
REMOVED = object()
# Special tokens of the reference inputs, and the same in the tiny tokenizer.
SPECIAL_IDS = {
    500: "<|vision_start|>",
    501: "<|vision_end|>",
    502: "<|vision_pad|>",
    503: "<|image_pad|>",
    504: "<|video_pad|>",
    505: "<|endoftext|>",
    506: "<|im_end|>",
    507: "<|endoftext|>",
}
# `preprocessor_config.json` as transformers 4.51 wrote it for Qwen2.5-VL.
OLD_IMAGE_SETTINGS = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


# --- made ---


def write_plain_qwen(folder: Path, reference: Path, tied: bool = True, **save_options: Any) -> Path:
    """A Qwen2.5-VL of the reference's size, with tokenizer and processor; weights of seed 0."""
    settings = json.loads((reference / "official_v11_tiny" / "config.json").read_text())
    for name in ("spatial_config", "connector_config", "architectures", "model_type"):
        del settings[name]
    tokenizer = tiny_processor().tokenizer
    settings |= {name: tokenizer.convert_tokens_to_ids(SPECIAL_IDS[settings[name]]) for name in _id_fields(settings)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings | {"tie_word_embeddings": tied}))
    model.save_pretrained(folder, **save_options)
    processors = Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor()
    Qwen2_5_VLProcessor(*processors, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return folder


def write_public_v1_1(folder: Path, reference: Path, plain_qwen: Path) -> Path:
    """The reference's v1.1 with tokenizer and processor files as transformers 4.51 wrote them."""
    copy_folder(reference / "official_v11_tiny", folder)
    for name in ("tokenizer.json", "generation_config.json"):
        (folder / name).write_bytes((plain_qwen / name).read_bytes())
    settings = json.loads((plain_qwen / "tokenizer_config.json").read_text())
    del settings["backend"]
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "preprocessor_config.json").write_text(json.dumps(OLD_IMAGE_SETTINGS))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    return folder


def video_batch(reference: Path) -> dict[str, torch.Tensor]:
    """The reference's batch of two videos, its special tokens those of the tiny tokenizer."""
    inputs = reference_inputs(reference / "official_v11_tiny")
    tokenizer, ids = tiny_processor().tokenizer, inputs["input_ids"]
    for old, token in SPECIAL_IDS.items():
        ids = torch.where(inputs["input_ids"] == old, tokenizer.convert_tokens_to_ids(token), ids)
    return inputs | {"input_ids": ids}


def write_evil_pt(path: Path, witness: Path) -> None:
    """A `.pt` file that, unpickled freely, makes the folder `witness`."""
    torch.save({"aggregator.camera_token": torch.ones(2), "extra": _MakesFolder(str(witness))}, path)


class _MakesFolder:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.makedirs, (self.path,)


def _id_fields(settings: Mapping[str, Any]) -> list[str]:
    return [name for name, value in settings.items() if name.endswith("token_id") and value in SPECIAL_IDS]


# --- read ---


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's weight files, told by themselves, not by an index."""
    files = [file for file in sorted(folder.glob("*.safetensors")) if not is_reference_data(file)]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def reference_inputs(folder: Path) -> dict[str, torch.Tensor]:
    """What went into the public code for the outputs that lie beside; the tokens are of a tokenizer of its own."""
    inputs = load_file(folder / "inputs.safetensors")
    return {name: tensor for name, tensor in inputs.items() if "uint8" not in name}


def is_reference_data(path: Path) -> bool:
    """Whether a file of a reference folder is no part of the checkpoint."""
    return path.name.startswith(("inputs", "outputs"))


def assert_same_bits(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    """Names, types, shapes and bytes."""
    assert left.keys() == right.keys()
    unequal = [name for name in left if not same_bits(left[name], right[name])]
    assert unequal == []


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b)


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def header_size(file: Path) -> int:
    """Bytes of a safetensors file before its first tensor."""
    with open(file, "rb") as opened:
        return 8 + struct.unpack("<Q", opened.read(8))[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- changed ---


def copy_folder(source: Path, folder: Path) -> Path:
    """Configuration and weights of a reference folder, without its inputs and outputs; of others, every file."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if not is_reference_data(path):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change_json(path: Path, **changes: Any) -> None:
    """Sets fields of a JSON file, made if need be; `REMOVED` takes one out."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {name: value for name, value in (content | changes).items() if value is not REMOVED}
    path.write_text(json.dumps(content))


def change_weights(folder: Path, changes: Mapping[str, Any]) -> None:
    """Sets weights of a folder with one weight file; `REMOVED` takes one out."""
    weights = weights_of(folder) | changes
    kept = {name: tensor for name, tensor in weights.items() if tensor is not REMOVED}
    save_file(kept, folder / SINGLE, metadata={"format": "pt"})


def split_into_shards(folder: Path) -> list[Path]:
    """Makes two files and an index of a folder's one weight file."""
    weights = weights_of(folder)
    (folder / SINGLE).unlink()
    names = sorted(weights)
    files = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    for file, half in zip(files, halves, strict=True):
        save_file({name: weights[name] for name in half}, file, metadata={"format": "pt"})
    weight_map = {name: file.name for file, half in zip(files, halves, strict=True) for name in half}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def change_index(folder: Path, changes: Mapping[str, Any]) -> None:
    """Says of weights that they lie elsewhere; `REMOVED` says nothing of one."""
    index = json.loads((folder / INDEX).read_text())
    weight_map = index["weight_map"] | changes
    index["weight_map"] = {name: file for name, file in weight_map.items() if file is not REMOVED}
    (folder / INDEX).write_text(json.dumps(index))
