"""Independent pieces of work shared among processes, their results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def share(work: Callable[[Piece], Result], pieces: Iterable[Piece], workers: int) -> Iterator[Result]:
    """What `work` makes of each piece; with one worker in this process, piece by piece as they are asked for.

    Args:
        work: can be pickled if there are several workers, as can pieces and results.
        workers: processes, at least 1.

    Raises:
        ChildProcessError: if one of the processes ends before its work is done.
    """
    if workers == 1:
        yield from map(work, pieces)
        return
    # "spawn": the process that asks may run threads, which forks do not survive.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(work, pieces)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "One of the processes that share the work has ended (out of memory?). "
                "Start again: what is complete on disk is kept."
            ) from error
