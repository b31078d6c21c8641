"""A checkpoint on disk: its headers, read and checked at once, and its tensors, read piece by piece.

Reads safetensors, one file or sharded with an index, and the zipped `.pt` of VGGT's older release with torch's
restricted unpickler. Nothing else: a pickle can run code, and so can a configuration that names modules of its own.
"""

import json
import math
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PIECE_BYTES = 16 * 2**20
LENGTH_BYTES = 8  # of a safetensors file, before its header
# The types of safetensors files that checkpoints of these models come in.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Settings that may name code; all are looked at before anything is done with a checkpoint.
SETTINGS_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
# `file.Class` of code in the checkpoint's own folder is what this package writes; nothing of it is run by conversion.
CODE_REFERENCE = re.compile(r"\w+_spatial_mllm\.\w+")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: what its header says."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    offset: int = 0  # of its first byte in a safetensors file

    @property
    def numel(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.numel * self.dtype.itemsize


class CheckpointHeaders(Protocol):
    """What can be known of a checkpoint without reading its weights; see `Checkpoint` for the fields."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]


class Checkpoint:
    """The weights and the configuration of a folder, or of a single weight file.

    Args:
        path: folder with `config.json` and weights, or a `.safetensors` or `.pt` file.
        allow_pt: whether a `.pt` file may be read where there is no safetensors file (VGGT's older release).
        name: what to call it in reports; its own name by default.

    Attributes:
        folder: where it lies.
        name: what reports call it.
        config: what `config.json` holds, empty without one.
        tensors: headers by name, in the order of the files.

    Raises:
        ValueError: if something is missing, damaged, contradictory or not safe to read.
    """

    def __init__(self, path: str | Path, allow_pt: bool = False, name: str | None = None) -> None:
        path = Path(path)
        self.name = name or path.resolve().name
        if not path.exists():
            raise ValueError(f"{path}: there is no such folder or file.")
        self.folder = path if path.is_dir() else path.parent
        settings = {name: read_json(self.folder / name) for name in SETTINGS_FILES if (self.folder / name).exists()}
        for name, content in settings.items():
            refuse_foreign_code(content, self.folder / name)
        self.config = settings.get("config.json", {})
        self._pickled: dict[str, torch.Tensor] = {}
        self.tensors: dict[str, StoredTensor] = {}
        for file in [path] if path.is_file() else weight_files(path, allow_pt):
            self._read_header(file, allow_pt)
        if path.is_dir():
            self._check_index()

    @property
    def nbytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def pieces(self, name: str, piece_bytes: int = PIECE_BYTES) -> Iterator[torch.Tensor]:
        """A tensor's elements in order, flat, in pieces of at most about `piece_bytes`."""
        stored = self.tensors[name]
        step = max(1, piece_bytes // stored.dtype.itemsize)
        if name in self._pickled:
            yield from self._pickled[name].reshape(-1).split(step)
            return
        with open(stored.file, "rb") as file:
            file.seek(stored.offset)
            for start in range(0, stored.numel, step):
                piece = bytearray(min(step, stored.numel - start) * stored.dtype.itemsize)
                if file.readinto(piece) != len(piece):
                    raise ValueError(f"{stored.file} became shorter while it was read. Get it again.")
                yield torch.frombuffer(piece, dtype=stored.dtype)

    def are_equal(self, one: str, other: str) -> bool:
        """Whether two of its tensors have the same shape, type and bits."""
        a, b = self.tensors[one], self.tensors[other]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        pairs = zip(self.pieces(one), self.pieces(other))
        return all(torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8)) for x, y in pairs)

    def _read_header(self, file: Path, allow_pt: bool) -> None:
        if file.suffix == ".safetensors":
            headers = safetensors_header(file)
        elif file.suffix == ".pt" and allow_pt:
            self._pickled = load_pt(file)
            headers = [
                StoredTensor(name, tuple(tensor.shape), tensor.dtype, file) for name, tensor in self._pickled.items()
            ]
        else:
            raise ValueError(_pickle_message(file.parent, [file.name]))
        for stored in headers:
            if stored.name in self.tensors:
                first = self.tensors[stored.name].file
                raise ValueError(f"{stored.name!r} is in two files, {first.name} and {file.name}.")
            self.tensors[stored.name] = stored

    def _check_index(self) -> None:
        """The index has to say of every tensor where it lies, and the truth."""
        index = self.folder / INDEX_FILE
        if not index.exists() or (self.folder / SINGLE_FILE).exists() or not self.tensors:
            return
        weight_map = read_json(index)["weight_map"]
        wrong = sorted(
            name
            for name, file in weight_map.items()
            if name not in self.tensors or self.tensors[name].file.name != file
        )
        if wrong:
            raise ValueError(
                f"{index} lies: {len(wrong)} weights are not where it says, such as {wrong[0]!r} in "
                f"{weight_map[wrong[0]]}. Get the checkpoint's files again."
            )
        unlisted = sorted(set(self.tensors) - set(weight_map))
        if unlisted:
            raise ValueError(
                f"{index} does not name {len(unlisted)} weights that are in the files, such as {unlisted[0]!r}. "
                "Get the checkpoint's files again."
            )


def weight_files(folder: Path, allow_pt: bool = False) -> list[Path]:
    """The weight files of a folder: what its index names, or the one there is.

    Raises:
        ValueError: if there are none, one that the index names is missing, or there are only pickles.
    """
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).exists():
        return _indexed_files(folder)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if allow_pt and pickles == ["model.pt"]:
        return [folder / "model.pt"]
    if pickles:
        raise ValueError(_pickle_message(folder, pickles))
    raise ValueError(f"{folder} holds no weights: expected {SINGLE_FILE}, or {INDEX_FILE} with the files it names.")


def _indexed_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map. Get the checkpoint's files again.")
    names = sorted({str(name) for name in weight_map.values()})
    strange = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if strange:
        raise ValueError(f"{index} names {strange[0]!r}, which is not a safetensors file of its own folder.")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}. Get them again."
        )
    return [folder / name for name in names]


def safetensors_header(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in the order in which they lie there.

    Checks what the format promises: a header, and after it the tensors' bytes without gaps up to the end of the file.
    (safetensors' own reader maps the whole file into memory, which a large one does not always fit.)

    Raises:
        ValueError: if the file is damaged or holds a type that no such checkpoint has.
    """
    size = file.stat().st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
        start = LENGTH_BYTES + length
        if size < start:
            raise ValueError(f"{file} is damaged or cut short (no whole header). Get it again.")
        try:
            header = json.loads(opened.read(length))
            header.pop("__metadata__", None)
            tensors = [_stored_tensor(name, entry, file, start) for name, entry in header.items()]
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged or cut short (unreadable header: {error}). Get it again.") from error
    tensors.sort(key=lambda stored: (stored.offset, stored.nbytes))  # an empty one lies before its neighbour
    end = start
    for stored in tensors:
        if stored.offset != end:
            raise ValueError(
                f"{file} is damaged or cut short ({stored.name!r} is not where it should be). Get it again."
            )
        end += stored.nbytes
    if end != size:
        raise ValueError(f"{file} is damaged or cut short ({size} bytes instead of {end}). Get it again.")
    return tensors


def _stored_tensor(name: str, entry: dict[str, Any], file: Path, start: int) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{file}: {name!r} is of type {entry['dtype']}; expected one of {sorted(DTYPES)}.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if len(offsets) != 2 or not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
        raise TypeError(f"{name!r} has the shape {shape} and the offsets {offsets}")
    begin, end = offsets
    stored = StoredTensor(name, tuple(shape), DTYPES[entry["dtype"]], file, start + begin)
    if stored.nbytes != end - begin:
        raise ValueError(
            f"{file} is damaged or cut short ({name!r} has {end - begin} bytes for its shape). Get it again."
        )
    return stored


def load_pt(file: Path) -> dict[str, torch.Tensor]:
    """A `.pt` file of tensors by name, mapped into memory, not read. No code in it is run.

    Raises:
        ValueError: if it holds anything but tensors, or has the old unzipped form that cannot be mapped.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not a zipped torch file, or is cut short. Get it again, or its safetensors file.")
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} holds more than tensors and is not read: it could run code.") from error
    except (RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is damaged ({str(error).splitlines()[0]}). Get it again.") from error
    by_name = isinstance(loaded, dict) and all(isinstance(name, str) for name in loaded)
    if not by_name or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(f"{file} is not a dictionary of tensors.")
    for name, tensor in loaded.items():
        if tensor.dtype not in DTYPE_NAMES or tensor.layout != torch.strided:
            raise ValueError(f"{file}: {name!r} is of type {tensor.dtype}, {tensor.layout}, which no such model has.")
    return loaded


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: if the file holds anything else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}). Get it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__} instead of a JSON object.")
    return content


def refuse_foreign_code(settings: dict[str, Any], file: Path) -> None:
    """Stops at a settings file that asks for code other than this package's own, at any depth.

    Raises:
        ValueError: for such an `auto_map` or custom pipeline.
    """
    for key, value in settings.items():
        if key in ("auto_map", "custom_pipelines"):
            for reference in _code_references(value):
                if not CODE_REFERENCE.fullmatch(reference):
                    raise ValueError(
                        f"{file} asks for code of its own ({key}: {reference!r}). Conversion runs none and writes none "
                        f"but this package's: if you trust the weights, take {key} out of that file."
                    )
        elif isinstance(value, dict):
            refuse_foreign_code(value, file)


def _code_references(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        entries = [value["impl"]] if "impl" in value else value.values()
        for entry in entries:
            yield from _code_references(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _code_references(entry)


def _pickle_message(folder: Path, names: list[str]) -> str:
    return (
        f"{folder} holds its weights as pickles ({', '.join(names)}), which can run code when read. Only safetensors "
        "are read, and VGGT's own model.pt; get the checkpoint in that form."
    )
