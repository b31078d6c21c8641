"""Where work is done: in this process, or by Ray Data's actors on many GPUs and nodes.

Both give results as they come. A Ray actor that dies is started again and its scene is done anew; nothing of it had
been handed on, so nothing comes twice.
"""

import importlib.util
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

W = TypeVar("W")
R = TypeVar("R")
Worker = Callable[[W], Iterator[R]]


def run_here(work: Sequence[W], make_worker: Callable[[], Worker[W, R]]) -> Iterator[R]:
    """Does the work in this process, in order; each result as soon as it is there."""
    if work:
        worker = make_worker()
        for piece in work:
            yield from worker(piece)


def run_on_ray(
    work: Sequence[W], make_worker: Callable[[], Worker[W, R]], num_workers: int, num_gpus: float | None = None
) -> Iterator[R]:
    """Does the work in `num_workers` Ray actors, each of which makes its worker once; a piece's results come together.

    Args:
        work: picklable pieces.
        make_worker: picklable.
        num_workers: actors, at least 1.
        num_gpus: GPUs that each actor asks for; by default one, where the cluster has any.

    Raises:
        ValueError: if Ray is not installed, or `num_workers` is below 1.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError('--engine ray needs Ray, which is not installed: pip install "spatial-mllm-hf[ray]".')
    if num_workers < 1:
        raise ValueError(f"--workers must be at least 1, got {num_workers}.")
    if not work:
        return
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    if num_gpus is None:
        num_gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
    pieces = ray.data.from_items(
        [{"piece": pickle.dumps(piece)} for piece in work], override_num_blocks=max(len(work), num_workers)
    )
    done = pieces.map_batches(
        _Actor,
        fn_constructor_kwargs={"make_worker": make_worker},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_gpus=num_gpus,
    )
    for row in done.iter_rows():
        yield from pickle.loads(row["results"])


class _Actor:
    """Holds a worker, and so the model, for as long as the pool lives."""

    def __init__(self, make_worker: Callable[[], Worker[Any, Any]]) -> None:
        self.worker = make_worker()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"results": [pickle.dumps(list(self.worker(pickle.loads(piece)))) for piece in batch["piece"]]}
