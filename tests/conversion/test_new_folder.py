"""A new folder appears whole or not at all: errors, interrupts, kills, full disks and a second process."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkpoint_files import INDEX, assert_same_bits, change_weights, contents, copy_folder, weights_of

from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.new_folder import new_folder
from spatial_mllm_hf.hub.checkpoint_folders import extract_vggt, from_official, merge, to_official

# Dies among the shards, as if the machine had run out of memory.
KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.hub.checkpoint_folders import from_official

written = 0

def count_and_die(size):
    global written
    written += size
    if written > 1_200_000:
        os.kill(os.getpid(), signal.SIGKILL)

from_official(Checkpoint(sys.argv[1]), sys.argv[2], max_shard_size="1MB", progress=lambda total: count_and_die)
"""

HOLDS_A_FOLDER = """
import sys
from spatial_mllm_hf.conversion.new_folder import new_folder

with new_folder(sys.argv[1]) as folder:
    (folder / "theirs.txt").write_text("theirs")
    sys.stdout.write("writing\\n")
    sys.stdout.flush()
    sys.stdin.readline()
"""


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


Convert = Callable[..., Any]


@pytest.fixture(params=["merge", "from-official", "to-official", "extract-vggt"])
def convert(request: pytest.FixtureRequest, plain_qwen: Path, vggt: Path, v1_1: Path) -> Convert:
    """Each conversion, given where to."""
    sources = {
        "merge": lambda out, **options: merge(Checkpoint(plain_qwen), Checkpoint(vggt), out, **options),
        "from-official": lambda out, **options: from_official(Checkpoint(v1_1), out, **options),
        "to-official": lambda out, **options: to_official(Checkpoint(v1_1), out, **options),
        "extract-vggt": lambda out, **options: extract_vggt(Checkpoint(v1_1), out, **options),
    }
    return sources[request.param]


def raising(error: BaseException, after: int = 100_000) -> Callable[[int], Callable[[int], None]]:
    """A progress bar that fails once so many bytes are written."""

    def start(_total: int) -> Callable[[int], None]:
        written = 0

        def advance(size: int) -> None:
            nonlocal written
            written += size
            if written > after:
                raise error

        return advance

    return start


# --- the folder itself ---


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "new"
    with new_folder(target) as folder:
        (folder / "a").write_text("a")
        assert not target.exists()
        assert folder.parent == target.parent  # on one disk, so that it can be renamed
    assert contents(tmp_path) == {"deep/new/a": b"a"}


def fill(target: Path, error: type[BaseException] | None) -> None:
    """Fails half-way, or has somebody else's folder appear meanwhile."""
    with new_folder(target) as folder:
        (folder / "a").write_text("a")
        if error is not None:
            raise error
        target.mkdir()
        (target / "mine").write_text("precious")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("empty", [True, False], ids=["empty folder", "no folder"])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException], empty: bool) -> None:
    target = tmp_path / "new"
    if empty:
        target.mkdir()
    with pytest.raises(error):
        fill(target, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["new"] if empty else [])
    assert contents(tmp_path) == {}


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path)
    with new_folder("new") as folder:
        (folder / "a").write_text("a")
    assert contents(tmp_path) == {"new/a": b"a"}


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    before = contents(tmp_path)
    for name in ("full", "file", "link", "dangling"):
        with pytest.raises(ValueError, match=rf"{name} exists and is not an empty folder"), new_folder(tmp_path / name):
            pytest.fail("it was opened")
    assert contents(tmp_path) == before


def test_what_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "new"
    with pytest.raises(OSError, match="not empty"):
        fill(target, None)
    assert contents(tmp_path) == {"new/mine": b"precious"}


def test_the_leftover_of_a_killed_run_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".new.partial").mkdir()
    (tmp_path / ".new.partial" / "stale").write_text("stale")
    (tmp_path / ".new.lock").touch()
    (tmp_path / ".other.partial").mkdir()
    with new_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("a")
    assert contents(tmp_path) == {"new/a": b"a"}
    assert (tmp_path / ".other.partial").is_dir()  # another's


def test_a_second_process_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS_A_FOLDER, str(tmp_path / "new")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(ValueError, match=r"Another process is writing \S+new; wait"), new_folder(tmp_path / "new"):
            pytest.fail("it was opened")
        with new_folder(tmp_path / "neighbour") as folder:
            (folder / "a").write_text("a")
        other.communicate("go on\n")
    assert other.returncode == 0
    assert contents(tmp_path) == {"new/theirs.txt": b"theirs", "neighbour/a": b"a"}


# --- conversions ---


def test_a_conversion_fills_an_empty_folder_and_counts_its_bytes(convert: Convert, tmp_path: Path) -> None:
    totals: list[int] = []
    told: list[int] = []

    def start(total: int) -> Callable[[int], None]:
        totals.append(total)
        return told.append

    out = tmp_path / "out"
    out.mkdir()
    convert(out, progress=start)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "config.json").exists()
    assert totals == [sum(told)] == [sum(tensor.nbytes for tensor in weights_of(out).values())]


def test_a_conversion_leaves_a_folder_that_holds_something(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists and is not an empty folder; name a new one, or remove it"):
        convert(tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"precious"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "bad sector")], ids=["interrupt", "disk"])
def test_a_conversion_that_is_stopped_leaves_nothing(convert: Convert, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        convert(tmp_path / "out", progress=raising(error))
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_disk_known_to_be_too_small_leaves_nothing(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(OSError, match=r"cannot write 0\.0 GB of weights") as raised:
        convert(tmp_path / "out")
    assert raised.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses files of more bytes, in the middle of a write, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_disk_that_refuses_in_the_middle_of_a_file_leaves_nothing(convert: Convert, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write 0\.0 GB of weights") as raised, largest_file(500_000):
        convert(tmp_path / "out")
    assert raised.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_number_too_large_for_float16_leaves_nothing(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    change_weights(source, {"connector.mlp.2.bias": torch.full((64,), 1e6)})
    with pytest.raises(ValueError, match=r"'connector.mlp.2.bias' holds 1e\+06, too large for float16: take bfloat16"):
        from_official(Checkpoint(source), tmp_path / "out", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_killed_run_leaves_the_target_alone_and_can_be_run_again(v1_1: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(v1_1), str(out)]
    killed = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    shards = sorted((tmp_path / ".out.partial").glob("model-*"))
    assert 1 < len(shards) < int(shards[0].stem.split("-")[-1])
    assert not (tmp_path / ".out.partial" / INDEX).exists()
    from_official(Checkpoint(v1_1), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert_same_bits(weights_of(out), weights_of(v1_1))
    assert not list(out.glob("model-*"))
