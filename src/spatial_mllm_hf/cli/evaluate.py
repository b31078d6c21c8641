"""`spatial-mllm eval BENCHMARK`: asks a benchmark's questions, scores the answers, and writes reports.

Answers go to the folder `--out` as they come. The same command goes on with what is left after a kill; several
processes, with `--shard i/n` or under torchrun or accelerate, share a folder. The report is written when every question
has its answer.
"""

import json
import math
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.markdown import Markdown

from . import common

if TYPE_CHECKING:
    from ..evaluation.evaluation_items import Benchmark
    from ..evaluation.reports import RunReport

Name = Literal["vsibench", "scanqa", "sqa3d"]
Prompt = Literal["official-code", "benchmark", "sft", "grpo"]
Scoring = Literal["official-code", "benchmark", "lenient"]
DATA = typer.Option(..., "--data", help="The benchmark's file, a folder with it, or a Hub data set.")
VIDEOS = typer.Option(..., "--videos", help="Folder of the videos.")
OUT = typer.Option(..., "--out", "-o", help="Folder of answers and reports; a run that it holds goes on.")
PROMPT = typer.Option("official-code", "--prompt", help="Whose words put the question; sft and grpo: training's.")
SCORING = typer.Option("official-code", "--scoring", help="VSI-Bench: which score is the headline; all are reported.")
EDITION = typer.Option("full", "--edition", help="VSI-Bench: which of its questions.")
CANDIDATES = typer.Option(None, "--num-candidate-frames", help="To choose from. [default: the processor's, 128]")
CANDIDATE_SIZE = typer.Option(None, "--candidate-size", help="Their longer side in pixels. [default: 518]")
NEW_TOKENS = typer.Option(None, "--max-new-tokens", min=1, help="Longest answer. [default: the published one]")
TEMPERATURE = typer.Option(0.0, "--temperature", min=0, help="0 is greedy; above, answers are drawn.")
SEED = typer.Option(0, "--seed", min=0, help="Of answers that are drawn.")
BATCH_SIZE = typer.Option(8, "--batch-size", min=1, help="Questions on a scene that are answered together.")
LIMIT = typer.Option(None, "--limit", min=1, help="Only the first so many questions.")
SHARD = typer.Option(None, "--shard", help="i/n: this process takes every n-th scene, from i on. [default: torchrun's]")
RETRY = typer.Option(False, "--retry-failed", help="Try videos again that could not be read.")
MODEL_INDEX = typer.Option(None, "--write-model-index", help="Write the scores for `push --results` here.")


def evaluate(
    benchmark: Name = typer.Argument(help="What to score the model on."),
    data: str = DATA,
    videos: Path = VIDEOS,
    out: Path = OUT,
    model: str = common.ModelOption,
    frame_sampling: common.FrameSampling = common.SamplingOption,
    num_frames: int | None = common.NumFramesOption,
    num_candidate_frames: int | None = CANDIDATES,
    candidate_size: int | None = CANDIDATE_SIZE,
    prompt: Prompt = PROMPT,
    scoring: Scoring = SCORING,
    edition: Literal["full", "debiased"] = EDITION,
    max_new_tokens: int | None = NEW_TOKENS,
    temperature: float = TEMPERATURE,
    seed: int = SEED,
    batch_size: int = BATCH_SIZE,
    limit: int | None = LIMIT,
    shard: str | None = SHARD,
    engine: common.EngineName = common.EngineOption,
    workers: int = common.WorkersOption,
    retry_failed: bool = RETRY,
    write_model_index: Path | None = MODEL_INDEX,
    device: str = common.DeviceOption,
    dtype: str = common.DtypeOption,
) -> None:
    """Score a model on VSI-Bench, ScanQA or SQA3D."""
    part = resolve_shard(shard, engine)
    if engine == "local":
        device = resolve_local_device(device)
    common.resolve_dtype(dtype), common.check_model(model)
    common.check_workers(engine, workers)
    if not math.isfinite(temperature):
        raise ValueError(f"--temperature must be a finite number, got {temperature}.")
    if not videos.is_dir():
        raise ValueError(f"--videos {videos}: there is no such folder.")
    if write_model_index is not None and limit is not None:
        raise ValueError("--write-model-index publishes scores of the whole benchmark: leave --limit out.")
    common.quiet_transformers()
    from ..evaluation.benchmark_run import AnswerSettings, RunOptions, run_benchmark

    chosen = _benchmark(benchmark, prompt, scoring, edition)
    sampling = _given(
        frame_sampling=frame_sampling,
        num_frames=num_frames,
        num_candidate_frames=num_candidate_frames,
        candidate_size=candidate_size,
    )
    generation = {"max_new_tokens": max_new_tokens or chosen.max_new_tokens, "do_sample": temperature > 0}
    generation |= _given(temperature=temperature or None)
    settings = AnswerSettings(sampling, generation, batch_size, seed)
    options = RunOptions(data, videos.absolute(), out, model, settings, dtype, limit, part, retry_failed)
    load = partial(common.load_pipeline, common.absolute_model(model), device, dtype)
    with common.Counter("questions") as counter:
        result = run_benchmark(chosen, options, load, make_engine(engine, workers), counter.show)
    if isinstance(result, int):
        sys.stderr.write(f"{result} questions are left to other shards; the last one writes the report.\n")
        return
    if write_model_index is not None:
        _write_model_index(result, write_model_index)
    _print(result, out)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def resolve_shard(shard: str | None, engine: str) -> tuple[int, int] | None:
    """The part of this process: as named, or its rank under torchrun or accelerate; None if it is alone.

    Raises:
        ValueError: for another form, a shard together with Ray, which shares the work out itself, or processes that
            do not know their rank.
    """
    if shard is None:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1 or engine == "ray":
            return None
        if "RANK" not in os.environ:
            raise ValueError(f"WORLD_SIZE is {count} and RANK is not set: unset the first, or give --shard i/n.")
        return int(os.environ["RANK"]), count
    if engine == "ray":
        raise ValueError("--shard and --engine ray exclude each other: Ray shares the scenes out among its actors.")
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard must be i/n with 0 <= i < n, such as 0/4, got {shard!r}.")
    return int(match[1]), int(match[2])


def resolve_local_device(device: str) -> str:
    """The device's name; "auto" under torchrun is the accelerator of this rank."""
    rank = os.environ.get("LOCAL_RANK")
    found = common.resolve_device(device)
    return f"{found.type}:{rank}" if device == "auto" and rank is not None and found.type != "cpu" else device


def make_engine(name: str, workers: int) -> Any:
    """`run_here`, or Ray with so many actors."""
    from ..evaluation.engines import run_here, run_on_ray

    return run_here if name == "local" else partial(run_on_ray, num_workers=workers)


def _benchmark(name: Name, prompt: Prompt, scoring: Scoring, edition: Literal["full", "debiased"]) -> "Benchmark":
    if name == "vsibench":
        from ..evaluation.vsibench import VSIBench

        return VSIBench(prompt, scoring, edition)
    from ..evaluation.scanqa import ScanQA
    from ..evaluation.sqa3d import SQA3D

    if prompt not in ("official-code", "sft"):
        raise ValueError(f"--prompt {prompt}: {name} is asked with official-code or sft.")
    if (scoring, edition) != ("official-code", "full"):
        raise ValueError(f"--scoring and --edition are VSI-Bench's: leave them out for {name}.")
    return ScanQA(prompt) if name == "scanqa" else SQA3D(prompt)


def _write_model_index(report: "RunReport", path: Path) -> None:
    from ..evaluation.reports import model_index

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"model-index": model_index(report)}, indent=2) + "\n", encoding="utf-8")


def _print(report: "RunReport", out: Path) -> None:
    from ..evaluation.reports import REPORT, markdown

    text = markdown(report).partition("```json")[0]
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        sys.stdout.write(text)
    sys.stderr.write(f"The report with the run's settings: {out / REPORT}\n")
