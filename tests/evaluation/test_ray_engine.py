"""Ray's actors: all results, each once, also when an actor is killed in the middle of its work."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spatial_mllm_hf.evaluation.engines import run_here, run_on_ray

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two CPUs for two actors, whatever the machine has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


class Doubler:
    """Doubles numbers. Leaves a note of each number begun, with its process."""

    def __init__(self, notes: Path, deadly: int | None = None) -> None:
        self.notes, self.deadly = notes, deadly

    def __call__(self, number: int) -> Iterator[int]:
        with (self.notes / f"{number}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        yield 2 * number
        if number == self.deadly and len((self.notes / f"{number}").read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)  # the first time only
        time.sleep(0.05)
        yield 2 * number + 1


def begun_by(notes: Path, number: int) -> list[str]:
    return (notes / f"{number}").read_text().splitlines()


def test_both_engines_give_the_same(tmp_path: Path) -> None:
    make = partial(Doubler, tmp_path)
    expected = sorted(range(2, 26))
    assert sorted(run_here(range(1, 13), make)) == expected
    assert sorted(run_on_ray(range(1, 13), make, num_workers=2)) == expected


def test_two_actors_share_the_work(tmp_path: Path) -> None:
    list(run_on_ray(range(12), partial(Doubler, tmp_path), num_workers=2))
    assert len({begun_by(tmp_path, number)[0] for number in range(12)}) == 2


def test_a_killed_actor_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    results = list(run_on_ray(range(12), partial(Doubler, tmp_path, deadly=5), num_workers=2))
    assert sorted(results) == list(range(24))
    assert len(begun_by(tmp_path, 5)) == 2, "its piece was begun anew"


def test_an_error_in_the_work_reaches_the_caller(tmp_path: Path) -> None:
    class Refusing:
        def __call__(self, number: int) -> Iterator[int]:
            raise ValueError(f"{number} is odd")
            yield 0

    with pytest.raises(Exception, match="1 is odd"):
        list(run_on_ray([1], Refusing, num_workers=1))


def test_no_work_starts_no_actor() -> None:
    def refuse() -> Any:
        raise AssertionError("nothing is to be done")

    assert list(run_on_ray([], refuse, num_workers=1)) == []


def test_at_least_one_worker_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--workers must be at least 1, got 0"):
        list(run_on_ray([1], partial(Doubler, tmp_path), num_workers=0))
