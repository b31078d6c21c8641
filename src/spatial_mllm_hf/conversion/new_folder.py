"""A folder that appears whole or not at all: written beside its place under another name, renamed at the end."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def is_taken(target: Path) -> bool:
    """Whether something is there that a new folder would replace: a file, or a folder that is not empty."""
    return target.exists() and (not target.is_dir() or any(target.iterdir()))


@contextmanager
def new_folder(target: str | os.PathLike) -> Iterator[Path]:
    """Gives a folder to write into, which becomes `target` when the block ends without an error.

    An error (or an interrupt) removes it and leaves `target` as it was. A killed process leaves it behind, hidden
    beside `target`; the next run for the same target removes it.

    Raises:
        ValueError: if `target` exists and is not an empty folder, or another process is writing it.
    """
    target = Path(os.path.abspath(target))
    if target.is_symlink() or is_taken(target):
        raise ValueError(f"{target} exists and is not an empty folder; name a new one, or remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial"
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another process is writing {target}; wait for it, or name another folder.") from error
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
