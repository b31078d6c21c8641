"""Weights to safetensors shards, piece by piece.

A shard's header is known before its first byte (the plan holds every shape and type), so tensors go straight from the
file they are read from to the file they are written to. safetensors' own writer wants a whole shard in memory; the
format itself is a length, a JSON header and the bytes. What is written is read back through safetensors' reader.
"""

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from .checkpoint_reading import DTYPE_NAMES, INDEX_FILE, SINGLE_FILE

HEADER_ALIGNMENT = 8
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# Errors of a disk that takes no more, and what each means.
OUT_OF_SPACE = {
    errno.ENOSPC: "No space left",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "The file system takes no file so large (see --max-shard-size)",
}
Pieces = Callable[[], Iterator[torch.Tensor]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor of the new checkpoint: name, shape and type in the file, and where its flat pieces come from."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Pieces

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def parse_size(size: str) -> int:
    """Bytes in a size such as "4GB" (powers of ten, as on the Hub).

    Raises:
        ValueError: for anything else, or a size of nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B", size.strip(), re.IGNORECASE)
    parsed = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if parsed <= 0:
        raise ValueError(f"max_shard_size must be a size such as '4GB' or '500MB', got {size!r}.")
    return parsed


def write_weights(
    tensors: Sequence[TensorToWrite], folder: Path, max_shard_size: int | None, progress: Progress = lambda _: None
) -> list[Path]:
    """Writes weights into `folder`, in one file or in shards with an index.

    Args:
        tensors: in the order in which they are to be read and written.
        folder: exists already.
        max_shard_size: bytes of a shard's tensors at most (one larger tensor has its own shard); None for one file.
        progress: told the number of bytes written, after each piece.

    Returns:
        The weight files.

    Raises:
        OSError: if the disk is full, before anything is written where that can be told.
        ValueError: if a value does not fit the new type, or pieces do not add up to the shape.
    """
    check_space(folder, sum(tensor.nbytes for tensor in tensors))
    shards = _split(tensors, max_shard_size)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards):
        try:
            _write_shard(shard, folder / name, progress)
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                raise OSError(
                    error.errno, _space_message(folder, sum(t.nbytes for t in tensors), error.errno)
                ) from error
            raise
    if len(shards) > 1:
        _write_index(names, shards, folder)
    return [folder / name for name in names]


def check_space(folder: Path, needed: int) -> None:
    """Raises OSError if the disk has less than `needed` bytes free."""
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, _space_message(folder, needed))


def _space_message(folder: Path, needed: int, reason: int = errno.ENOSPC) -> str:
    free = shutil.disk_usage(folder).free
    what = f"{needed / 1e9:.1f} GB of weights into {folder.parent}, where {free / 1e9:.1f} GB are free"
    return f"{OUT_OF_SPACE[reason]}: cannot write {what}."


def _split(tensors: Sequence[TensorToWrite], max_shard_size: int | None) -> list[list[TensorToWrite]]:
    """Shards in order; inside each the wider types first, so that every tensor is aligned to its own type."""
    shards: list[list[TensorToWrite]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and max_shard_size is not None and size + tensor.nbytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return [sorted(shard, key=lambda tensor: -tensor.dtype.itemsize) for shard in shards]


def _write_shard(shard: Sequence[TensorToWrite], path: Path, progress: Progress) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in shard:
        end = offset + tensor.nbytes
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % HEADER_ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor in shard:
            _write_tensor(tensor, file, progress)


def _write_tensor(tensor: TensorToWrite, file: BinaryIO, progress: Progress) -> None:
    written = 0
    for piece in tensor.pieces():
        converted = _convert(piece, tensor)
        file.write(converted.view(torch.uint8).numpy().data)
        written += converted.numel() * tensor.dtype.itemsize
        progress(converted.numel() * tensor.dtype.itemsize)
    if written != tensor.nbytes:
        raise ValueError(
            f"{tensor.name!r}: read {written} bytes, but its shape {list(tensor.shape)} takes {tensor.nbytes}."
        )


def _convert(piece: torch.Tensor, tensor: TensorToWrite) -> torch.Tensor:
    if piece.dtype == tensor.dtype:
        return piece.contiguous()
    converted = piece.to(tensor.dtype).contiguous()
    # float16 is the one type whose range is smaller than that of what checkpoints come in.
    if tensor.dtype == torch.float16 and (too_large := converted.isinf() & piece.isfinite()).any():
        largest = piece[too_large].abs().max()
        raise ValueError(f"{tensor.name!r} holds {largest:.4g}, too large for float16: take bfloat16.")
    return converted


def _write_index(names: Sequence[str], shards: Sequence[Sequence[TensorToWrite]], folder: Path) -> None:
    weight_map = {tensor.name: name for name, shard in zip(names, shards) for tensor in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
