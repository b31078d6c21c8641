"""`spatial-mllm data cold-start`: a teacher's best reasoning on questions, to fine-tune on before GRPO."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from . import common

if TYPE_CHECKING:
    from ..training.cold_start import ColdStartReport
    from ..training.teachers import Sampling, Teacher

MOST_NAMED = 3  # failures, in the report


def cold_start(
    sources: list[str] = typer.Argument(
        help="Questions: files or Hub data sets written with --style grpo, each NAME or NAME%N for N percent."
    ),
    videos: Path = typer.Option(..., "--videos", help="Folder that the paths of the videos are relative to."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder to write; one that was begun goes on."),
    teacher: str = typer.Option(
        ..., "--teacher", help="The model: as the endpoint knows it, or a local checkpoint's folder or repository."
    ),
    endpoint: str | None = typer.Option(
        None, "--endpoint", help="OpenAI-compatible, as http://localhost:8000/v1. [default: the teacher is local]"
    ),
    api_key: str | None = typer.Option(
        None, "--api-key", envvar="OPENAI_API_KEY", show_default=False, help="Of the endpoint."
    ),
    paths: int = typer.Option(3, "--paths", min=1, help="Answers to each question."),
    count: int = typer.Option(5000, "--count", min=1, help="Draw so many questions."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the draw and of the answers."),
    temperature: float = typer.Option(1.0, "--temperature"),
    top_p: float = typer.Option(0.95, "--top-p"),
    max_new_tokens: int = typer.Option(1024, "--max-new-tokens", min=1, help="Longest answer."),
    num_frames: int = typer.Option(16, "--num-frames", "-n", help="Frames that the teacher sees, even."),
    parallel: int = typer.Option(8, "--parallel", min=1, help="Requests to the endpoint under way at a time."),
    timeout: float = typer.Option(300.0, "--timeout", help="Seconds of silence after which a request is given up."),
    attempts: int = typer.Option(5, "--attempts", min=1, help="Requests for one answer."),
    device: str = common.DeviceOption,
    dtype: str = common.DtypeOption,
) -> None:
    """Have a teacher answer questions several times with its thoughts, and keep the best of what is good."""
    from ..training.cold_start import CHOSEN, read_questions, run_cold_start
    from ..training.teachers import EndpointTeacher, Sampling

    sampling = Sampling(temperature, top_p, max_new_tokens, num_frames)
    questions = read_questions(sources, videos, count, seed)
    asked: Teacher
    if endpoint is None:
        asked = _local_teacher(teacher, sampling, device, dtype)
    else:
        asked = EndpointTeacher(endpoint, teacher, sampling, api_key, timeout, attempts)
    with common.Counter("answers") as counter:
        report = run_cold_start(out, questions, asked, paths, parallel, seed, counter.show)
    _print(report)
    sys.stdout.write(f"Wrote {out / CHOSEN}: {report.kept:,} of {len(questions):,} questions.\n")


def _local_teacher(model: str, sampling: "Sampling", device: str, dtype: str) -> "Teacher":
    from ..training.teachers import LocalTeacher

    return LocalTeacher(common.load_pipeline(model, device, dtype), model, sampling)


def _print(report: "ColdStartReport") -> None:
    table = common.plain_table("type", "questions", "answered", "median", "kept")
    for kind, counts in report.by_type.items():
        median = "" if counts.median is None else f"{counts.median:.2f}"
        table.add_row(kind, str(counts.questions), str(counts.answered), median, str(counts.kept))
    common.report_console().print(table)
    if report.failures:
        problems = "; ".join(f"{name}: {why}" for name, why in list(report.failures.items())[:MOST_NAMED])
        sys.stderr.write(
            f"spatial-mllm: warning: {len(report.failures):,} answers could not be had, which another run asks for "
            f"again: {problems}\n"
        )
