"""Shards that safetensors reads back as they were meant, and what stops a writer."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from checkpoint_files import INDEX, SINGLE, assert_same_bits, header_size, weights_of
from safetensors import safe_open
from safetensors.torch import load_file

from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.checkpoint_writing import TensorToWrite, check_space, parse_size, write_weights

MIXED = {
    "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.25),
    "matrix": torch.arange(35, dtype=torch.float32).reshape(5, 7).to(torch.bfloat16),
    "cube": torch.arange(120).reshape(4, 5, 6),
    "odd bytes": torch.arange(7, dtype=torch.uint8),
    "double": torch.linspace(0, 1, 8, dtype=torch.float64).reshape(4, 2),
    "nothing": torch.zeros(0),
    "no columns": torch.zeros(3, 0, dtype=torch.bfloat16),
    "half": torch.arange(3, dtype=torch.float16),
}


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def to_write(name: str, tensor: torch.Tensor, dtype: torch.dtype | None = None, pieces: int = 1) -> TensorToWrite:
    """A tensor in so many pieces."""

    def cut() -> Iterator[torch.Tensor]:
        yield from tensor.reshape(-1).tensor_split(pieces)

    return TensorToWrite(name, tuple(tensor.shape), dtype or tensor.dtype, cut)


def of_sizes(*sizes: int) -> list[TensorToWrite]:
    return [to_write(f"{number}", torch.full((size,), number, dtype=torch.uint8)) for number, size in enumerate(sizes)]


def names_in(files: Sequence[Path]) -> list[list[str]]:
    found = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found.append(sorted(opened.keys(), key=int))
    return found


# --- what is written ---


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_safetensors_reads_back_what_was_written(tmp_path: Path, pieces: int) -> None:
    files = write_weights([to_write(name, MIXED[name], pieces=pieces) for name in MIXED], tmp_path, None)
    assert files == [tmp_path / SINGLE]
    assert_same_bits(load_file(files[0]), MIXED)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    with safe_open(files[0], framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_every_tensor_is_aligned_to_its_type(tmp_path: Path) -> None:
    """Wider types come first, and the header is padded."""
    (file,) = write_weights([to_write(name, MIXED[name]) for name in MIXED], tmp_path, None)
    start = header_size(file)
    header = json.loads(file.read_bytes()[8:start])
    del header["__metadata__"]
    offsets = {name: start + entry["data_offsets"][0] for name, entry in header.items()}
    assert [name for name, offset in offsets.items() if offset % MIXED[name].dtype.itemsize] == []
    assert file.stat().st_size == start + sum(tensor.nbytes for tensor in MIXED.values())


def test_types_change_on_the_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = {"a": torch.randn(50, 3), "b": torch.randn(7, dtype=torch.float64)}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        write_weights([to_write(name, wide[name], dtype, pieces=4) for name in wide], folder, None)
        assert_same_bits(weights_of(folder), {name: tensor.to(dtype) for name, tensor in wide.items()})


def test_progress_adds_up_to_the_bytes(tmp_path: Path) -> None:
    told: list[int] = []
    tensors = [to_write(name, MIXED[name], pieces=2) for name in MIXED]
    write_weights(tensors, tmp_path, 200, told.append)
    assert sum(told) == sum(tensor.nbytes for tensor in tensors)
    assert len(told) == 2 * len(tensors)


# --- shards ---


def test_shards_keep_the_order_and_the_maximum(tmp_path: Path) -> None:
    """One larger tensor has a file of its own."""
    files = write_weights(of_sizes(400, 400, 400, 2000, 100, 900, 1000, 0, 1), tmp_path, 1000)
    assert [file.name for file in files] == [f"model-0000{number}-of-00006.safetensors" for number in range(1, 7)]
    assert names_in(files) == [["0", "1"], ["2"], ["3"], ["4", "5"], ["6", "7"], ["8"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(file.name for file in files), INDEX]


def test_the_index_says_where_every_tensor_is(tmp_path: Path) -> None:
    files = write_weights(of_sizes(400, 400, 400, 2000), tmp_path, 1000)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 3200
    assert index["weight_map"] == {
        name: file.name for file, names in zip(files, names_in(files), strict=True) for name in names
    }
    assert Checkpoint(tmp_path).nbytes == 3200


def test_what_fits_is_one_file_without_an_index(tmp_path: Path) -> None:
    write_weights(of_sizes(400, 600), tmp_path, 1000)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


def test_a_real_checkpoint_in_shards(v1_1: Path, tmp_path: Path) -> None:
    source = Checkpoint(v1_1)
    tensors = [
        TensorToWrite(name, stored.shape, stored.dtype, lambda name=name: source.pieces(name, 1000))
        for name, stored in source.tensors.items()
    ]
    limit = 300_000
    files = write_weights(tensors, tmp_path, limit)
    assert_same_bits(weights_of(tmp_path), weights_of(v1_1))
    for file in files:
        sizes = [tensor.nbytes for tensor in load_file(file).values()]
        assert sum(sizes) <= limit or len(sizes) == 1
    assert len(files) > 5
    total = sum(file.stat().st_size - header_size(file) for file in files)
    assert total == source.nbytes == json.loads((tmp_path / INDEX).read_text())["metadata"]["total_size"]


# --- sizes in words ---


@pytest.mark.parametrize(
    ("size", "parsed"),
    [
        ("4GB", 4 * 10**9),
        ("500MB", 5 * 10**8),
        ("1.5 GB", 15 * 10**8),
        ("10kb", 10_000),
        (" 2TB ", 2 * 10**12),
        ("7B", 7),
        ("0.5KB", 500),
    ],
)
def test_sizes_are_read(size: str, parsed: int) -> None:
    assert parse_size(size) == parsed


@pytest.mark.parametrize(
    "size", ["", "4", "GB", "-1GB", "0GB", "0.5B", "4GiB", "4 G", "4GB5", "1,5GB", "1e3MB", "nan B"]
)
def test_other_sizes_are_refused(size: str) -> None:
    with pytest.raises(ValueError, match="max_shard_size must be a size such as '4GB' or '500MB', got") as raised:
        parse_size(size)
    assert repr(size) in str(raised.value)


# --- what stops it ---


@pytest.mark.parametrize("number", [1e5, -1e5, 65520.0])
def test_a_number_too_large_for_float16_is_named(tmp_path: Path, number: float) -> None:
    weight = torch.tensor([1.0, number])
    with pytest.raises(ValueError, match=r"'big' holds \S+, too large for float16: take bfloat16"):
        write_weights([to_write("big", weight, torch.float16)], tmp_path, None)
    write_weights([to_write("big", weight, torch.bfloat16)], tmp_path, None)
    assert torch.equal(weights_of(tmp_path)["big"], weight.to(torch.bfloat16))


def test_an_infinity_may_stay_one_in_float16(tmp_path: Path) -> None:
    weight = torch.tensor([1.0, float("inf"), 65504.0, float("nan")])
    write_weights([to_write("a", weight, torch.float16)], tmp_path, None)
    assert_same_bits(weights_of(tmp_path), {"a": weight.to(torch.float16)})


def test_an_infinity_does_not_hide_what_becomes_one(tmp_path: Path) -> None:
    weight = torch.tensor([float("inf"), 1e5])
    with pytest.raises(ValueError, match="too large for float16"):
        write_weights([to_write("a", weight, torch.float16)], tmp_path, None)


@pytest.mark.parametrize("length", [0, 5, 7])
def test_pieces_that_do_not_add_up_are_an_error(tmp_path: Path, length: int) -> None:
    short = TensorToWrite("a", (2, 3), torch.float32, lambda: iter([torch.ones(length)]))
    with pytest.raises(ValueError, match=rf"'a': read {4 * length} bytes, but its shape \[2, 3\] takes 24"):
        write_weights([short], tmp_path, None)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the disk seem to have so many bytes left."""
    return lambda size: monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 10**12 - size, size))


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    tmp_path: Path, free: Callable[[int], None]
) -> None:
    free(999)
    with pytest.raises(OSError, match=r"No space left: cannot write \S+ GB of weights into .*GB are free") as raised:
        write_weights(of_sizes(400, 600), tmp_path, None)
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    free(1000)
    write_weights(of_sizes(400, 600), tmp_path, None)
    assert weights_of(tmp_path).keys() == {"0", "1"}


def test_the_message_says_how_much_is_wanted_and_where(tmp_path: Path, free: Callable[[int], None]) -> None:
    free(2_340_000_000)
    with pytest.raises(OSError, match=r"No space left: cannot write 12\.6 GB") as raised:
        check_space(tmp_path / ".out.partial", 12_560_000_000)
    assert str(tmp_path) in str(raised.value)
    assert "2.3 GB are free" in str(raised.value)


def fail_with(code: int) -> Callable[[int], None]:
    def fail(_: int) -> None:
        raise OSError(code, "so it is")

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_up_on_the_way_is_told(tmp_path: Path, code: int) -> None:
    with pytest.raises(OSError, match=r"cannot write 0\.0 GB of weights into") as raised:
        write_weights(of_sizes(400), tmp_path, None, fail_with(code))
    assert raised.value.errno == code


def test_another_failure_of_the_disk_is_not_called_full(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="so it is") as raised:
        write_weights(of_sizes(400), tmp_path, None, fail_with(errno.EIO))
    assert raised.value.errno == errno.EIO
    assert "space" not in str(raised.value)
