"""What lies beside the weights and is carried over as it is: tokenizer, generation settings, licences."""

import json
import shutil
from pathlib import Path
from typing import Any

from .checkpoint_reading import read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
GENERATION_FILE = "generation_config.json"
PROCESSOR_FILE, OLD_PROCESSOR_FILE = "processor_config.json", "preprocessor_config.json"
TEMPLATE_FILE, OLD_TEMPLATE_FILE = "chat_template.jinja", "chat_template.json"
REPORT_FILE = "conversion_report.json"
# Of an image processor, what transformers 4.51 calls by the same name.
IMAGE_FIELDS = (
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "merge_size",
    "patch_size",
    "resample",
    "rescale_factor",
    "temporal_patch_size",
)


def copy_files(names: tuple[str, ...], source: Path, folder: Path) -> list[str]:
    """Copies those of the files that are there."""
    found = [name for name in names if (source / name).exists()]
    for name in found:
        shutil.copyfile(source / name, folder / name)
    return found


def has_tokenizer(source: Path) -> bool:
    """Whether a folder has a tokenizer and image settings to make a processor of.

    Raises:
        ValueError: if its tokenizer.json is damaged.
    """
    if (source / "tokenizer.json").exists():
        read_json(source / "tokenizer.json")
    has_settings = any((source / name).exists() for name in (PROCESSOR_FILE, OLD_PROCESSOR_FILE))
    return has_settings and any((source / name).exists() for name in ("tokenizer.json", "vocab.json"))


def copy_licences(source: Path, folder: Path, suffix: str) -> None:
    """Copies licence texts, which the weights may not be handed on without, each under the name of its source."""
    for path in sorted((*source.glob("LICENSE*"), *source.glob("NOTICE*"))):
        if path.is_file() and is_own_file(path):
            shutil.copyfile(path, folder / (f"{path.name}.{suffix}" if suffix else path.name))


def write_official_processor(source: Path, folder: Path) -> None:
    """Writes processor files as the official code (transformers 4.51) reads them."""
    if (source / OLD_PROCESSOR_FILE).exists():
        settings = read_json(source / OLD_PROCESSOR_FILE)
    else:
        settings = _old_image_settings(read_json(source / PROCESSOR_FILE)["image_processor"])
    write_json(settings, folder / OLD_PROCESSOR_FILE)
    if (source / OLD_TEMPLATE_FILE).exists():
        shutil.copyfile(source / OLD_TEMPLATE_FILE, folder / OLD_TEMPLATE_FILE)
    elif (source / TEMPLATE_FILE).exists():
        template = (source / TEMPLATE_FILE).read_text(encoding="utf-8")
        write_json({"chat_template": template}, folder / OLD_TEMPLATE_FILE)


def write_official_tokenizer(folder: Path) -> None:
    """Puts a copied tokenizer_config.json of transformers 5 into the form of 4.51; an older one is left as it is."""
    file = folder / "tokenizer_config.json"
    if not file.exists() or "backend" not in (settings := read_json(file)):
        return
    for name in ("backend", "auto_map", "processor_class"):
        settings.pop(name, None)
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    if settings.get("tokenizer_class") not in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        settings["tokenizer_class"] = "Qwen2TokenizerFast"
    write_json(settings, file)


def is_own_file(path: Path) -> bool:
    """Whether a file is a folder's own: no link to elsewhere, but for those of the Hub's cache to its blobs."""
    return not path.is_symlink() or path.resolve().parent.name == "blobs"


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _old_image_settings(settings: dict[str, Any]) -> dict[str, Any]:
    old = {name: settings[name] for name in IMAGE_FIELDS if name in settings}
    size = settings.get("size") or {}
    limits = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
    old |= {name: value for name, value in limits.items() if value is not None}
    return old | {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
