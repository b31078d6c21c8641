"""Work shared among processes: in order, and an end that is told when one of them is gone."""

import os
import signal

import pytest

from spatial_mllm_hf.data.shared_work import share


def process_and_square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def end_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_come_in_order_from_other_processes() -> None:
    processes, squares = zip(*share(process_and_square, range(40), 2))
    assert squares == tuple(number**2 for number in range(40))
    assert os.getpid() not in processes


def test_one_worker_works_here_and_on_demand() -> None:
    results = share(process_and_square, iter([2, "no number"]), 1)
    assert next(results) == (os.getpid(), 4)
    with pytest.raises(TypeError):
        next(results)


def test_a_process_that_ends_is_told() -> None:
    with pytest.raises(ChildProcessError, match="has ended \\(out of memory\\?\\)"):
        list(share(end_at_three, range(8), 2))
