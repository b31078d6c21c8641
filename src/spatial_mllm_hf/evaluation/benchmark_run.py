"""One run of a benchmark in a folder: read the questions, ask what is left, score, report.

    settings = AnswerSettings({"num_frames": 16}, {"max_new_tokens": 16})
    report = run_benchmark(VSIBench(), RunOptions(data, videos, out, model, settings), load)

The folder holds `run.json` (what the run depends on), `answers*.jsonl`, and in the end `results.json`, `report.md` and
`report.png`. Calling it again goes on with what is left.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .answer_log import Answer, AnswerLog, read_answers
from .engines import Worker, run_here
from .evaluation_items import Benchmark, digest_items
from .reports import RunReport, summarize, write_reports
from .run_record import begin_run, checkpoint_revision, describe_versions
from .runner import AnswerSettings, SceneAnswerer, SceneWork, plan_work, without_problems

Engine = Callable[[Sequence[SceneWork], Callable[[], Worker]], Iterator[list[Answer]]]


@dataclass(frozen=True)
class RunOptions:
    """What to ask of which model, and where.

    Attributes:
        data: the benchmark's file, a folder with it, or a Hub data set.
        videos: folder of the videos.
        out: folder of the run.
        model: folder or Hub repository, for the record.
        dtype: as the model was loaded, for the record.
        limit: only the first so many questions.
        shard: `(i, n)`, the scenes of this process.
        retry_failed: whether videos that could not be read are tried again.
    """

    data: str
    videos: Path
    out: Path
    model: str
    settings: AnswerSettings
    dtype: str = "auto"
    limit: int | None = None
    shard: tuple[int, int] | None = None
    retry_failed: bool = False


def run_benchmark(
    benchmark: Benchmark,
    options: RunOptions,
    load: Callable[[], Any],
    engine: Engine = run_here,
    progress: Callable[[int, int], None] | None = None,
) -> RunReport | int:
    """Asks what is left and, when every question has its answer, writes the reports.

    Args:
        load: gives the pipeline; called where and when there is something to ask.
        engine: `run_here`, or `run_on_ray` with its number of workers.
        progress: called with the questions answered and those there are, of this process, as answers come.

    Returns:
        The report; or how many questions other shards have left, while there are any.

    Raises:
        ValueError: if the data cannot be read, none of the videos is there, the folder holds another run, or another
            process writes to it.
    """
    everything = benchmark.read_items(options.data)
    record = _record(benchmark, options, digest_items(everything))
    begin_run(options.out, record)
    items = everything[: options.limit]
    name = "answers.jsonl" if options.shard is None else "answers-{}-of-{}.jsonl".format(*options.shard)
    with AnswerLog(options.out / name) as log:
        known = read_answers(options.out)
        if options.retry_failed:
            known = without_problems(known)
        work = plan_work(items, options.videos, known, options.shard or (0, 1))
        if not known:
            _check_videos(work, options.videos)
        _ask(log, engine(work, partial(SceneAnswerer, load, options.settings)), work, progress)
    answers = read_answers(options.out)
    if left := sum(item.id not in answers for item in items):
        return left
    report = summarize(benchmark, items, answers, record, len(everything))
    write_reports(report, options.out)
    return report


def _record(benchmark: Benchmark, options: RunOptions, questions: str) -> dict[str, Any]:
    settings = options.settings
    return {
        "benchmark": benchmark.name,
        "model": options.model,
        "model_revision": checkpoint_revision(options.model),
        "settings": {
            **benchmark.settings,
            "sampling": dict(settings.sampling),
            "generation": dict(settings.generation),
            "dtype": options.dtype,
        },
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "versions": describe_versions(),
        "questions_sha256": questions,
    }


def _check_videos(work: Sequence[SceneWork], videos: Path) -> None:
    """A run that begins finds at least one of its videos: a folder that is the wrong one is a mistake, not a score."""
    if work and not any(scene.video.is_file() for scene in work):
        raise ValueError(
            f"--videos {videos}: none of the {len(work)} videos is there. {work[0].video} was looked for, and "
            f"{work[0].video.name} in the folder itself."
        )


def _ask(
    log: AnswerLog,
    answered: Iterable[Sequence[Answer]],
    work: Sequence[SceneWork],
    progress: Callable[[int, int], None] | None,
) -> None:
    total, done = sum(scene.num_left for scene in work), 0
    for answers in answered:
        log.append(answers)
        done += len(answers)
        if progress is not None:
            progress(done, total)
