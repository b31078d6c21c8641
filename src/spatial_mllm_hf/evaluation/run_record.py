"""What a run depends on, written beside its answers: a run goes on only as what it was begun as."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import AutoConfig

from .answer_log import PATTERN as ANSWERS

RECORD = "run.json"
FREE_TO_CHANGE = ("batch_size",)  # when a run goes on: a greedy answer does not depend on it but for rounding
# What decides a checkpoint's answers; other files may lie beside it.
CHECKPOINT_FILES = ("*config.json", "tokenizer*", "vocab*", "merges*", "chat_template*", "*.safetensors", "*.bin")
PACKAGES = ("spatial-mllm-hf", "torch", "transformers", "av")


def describe_versions() -> dict[str, str]:
    """Versions of what has a part in the numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def checkpoint_revision(model: str) -> str:
    """Which weights these are: the commit of a Hub repository, or the SHA-256 of a folder's settings and weights."""
    folder = Path(model)
    if not folder.is_dir():
        return str(getattr(AutoConfig.from_pretrained(model), "_commit_hash", None))
    digest = hashlib.sha256()
    for path in sorted({path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name};".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def begin_run(folder: Path, record: dict[str, Any]) -> None:
    """Writes the record of a new run, or compares it with that of the run that is already in the folder.

    Raises:
        ValueError: if the folder holds another run, names each difference; or if it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file, and a run needs a folder: give the name of a new one.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORD
    with FileLock(f"{path}.lock"):  # several workers may begin one run
        if not path.exists():
            write_whole(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            return
        known = json.loads(path.read_text(encoding="utf-8"))
    differences = _differences(_bound(known), _bound(json.loads(json.dumps(record))))
    if differences:
        way_out = "Give --out another folder, or the same settings."
        if not any(path.stat().st_size for path in folder.glob(ANSWERS)):
            way_out = "It has no answers yet: delete it, or give --out another folder."
        raise ValueError(f"{folder} holds another run: {'; '.join(differences)}. {way_out}")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that others see whole or not at all."""
    unfinished = path.with_suffix(path.suffix + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _bound(record: dict[str, Any]) -> dict[str, Any]:
    drawn = record["settings"]["generation"].get("do_sample", False)  # answers that are drawn go by the batch
    return {name: value for name, value in record.items() if drawn or name not in FREE_TO_CHANGE}


def _differences(known: Any, wanted: Any, name: str = "") -> list[str]:
    if isinstance(known, dict) and isinstance(wanted, dict):
        found = []
        for key in sorted({*known, *wanted}):
            found += _differences(known.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if known == wanted else [f"{name} was {known!r} and is {wanted!r}"]
