"""What a run came to: `results.json`, `report.md`, `report.png`, and the Hub's `model-index`.

Everything is made anew from the answers on disk, so a report can be written as often as wanted.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from .answer_log import Answer
from .evaluation_items import Benchmark, EvaluationItem, ScoreTable
from .published_scores import PUBLISHED
from .run_record import write_whole

RESULTS, REPORT, CHART = "results.json", "report.md", "report.png"
DATASETS = {"vsibench": "nyu-visionx/VSI-Bench", "scanqa": "ScanQA", "sqa3d": "SQA3D"}
OWN, OTHERS = "#d95f02", ("#374151", "#9ca3af", "#d1d5db")
PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class RunReport:
    """A run's results.

    Attributes:
        benchmark: which.
        table: its scores.
        record: what the run depends on, as in `run.json`.
        num_available: questions that the data holds.
        num_items: those that belong to the run; fewer if it has a limit.
        num_answered: of them, those that the model answered.
        problems: why others were not asked, by the video's path.
    """

    benchmark: Benchmark
    table: ScoreTable
    record: Mapping[str, Any]
    num_available: int
    num_items: int
    num_answered: int
    problems: Mapping[str, str]

    @property
    def num_missing(self) -> int:
        return self.num_items - self.num_answered


def summarize(
    benchmark: Benchmark,
    items: Sequence[EvaluationItem],
    answers: Mapping[str, Answer],
    record: Mapping[str, Any],
    num_available: int,
) -> RunReport:
    """Scores a run. A question that could not be asked counts as answered wrongly.

    Args:
        num_available: questions that the data holds, of which `items` may be the first.
    """
    of_run = [(item, answers[item.id]) for item in items if item.id in answers]
    predictions = {item.id: answer.prediction for item, answer in of_run if answer.prediction is not None}
    problems = {item.video: str(answer.problem) for item, answer in of_run if answer.prediction is None}
    table = benchmark.score(items, predictions)
    return RunReport(benchmark, table, record, num_available, len(items), len(predictions), problems)


def write_reports(report: RunReport, folder: Path) -> None:
    """Writes `results.json`, `report.md` and, where matplotlib is installed, `report.png`; one process at a time."""
    results = {
        **report.record,
        "questions_in_data": report.num_available,
        "questions": report.num_items,
        "answered": report.num_answered,
        "unanswered_videos": dict(report.problems),
        "headline": report.table.headline,
        "scores": {way: dict(scores) for way, scores in report.table.rows.items()},
        "published": [row._asdict() for row in PUBLISHED[report.benchmark.name]],
        "details": dict(report.table.details),
        "notes": list(report.table.notes),
    }
    with FileLock(folder / f"{RESULTS}.lock"):  # all shards of a finished run report it
        write_whole(folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        write_whole(folder / REPORT, markdown(report))
        if importlib.util.find_spec("matplotlib") is not None:
            draw(report, folder / CHART)


def markdown(report: RunReport) -> str:
    """A table of the run's scores above the published ones, and what a reader has to know of it."""
    table, record = report.table, report.record
    columns = table.columns
    lines = [
        f"# {report.benchmark.title}: {record['model']}",
        "",
        f"| in percent | scored as | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    ways = sorted(table.rows, key=lambda way: way != table.headline)
    lines += [
        _line("**this run**" if way == table.headline else "this run", way, columns, table.rows[way]) for way in ways
    ]
    lines += [_line(row.model, row.source, columns, row.scores) for row in PUBLISHED[report.benchmark.name]]
    lines += ["", f"{report.num_answered} of {report.num_items} questions answered."]
    if report.num_items < report.num_available:
        lines.append(
            f"They are the first of {report.num_available}: these scores do not compare with those of the whole."
        )
    if report.num_missing:
        lines.append("Those that are not count as answered wrongly; `--retry-failed` asks them again.")
    lines += [f"- `{video}`: {problem}" for video, problem in list(report.problems.items())[:PROBLEMS_SHOWN]]
    if len(report.problems) > PROBLEMS_SHOWN:
        lines.append(f"- and {len(report.problems) - PROBLEMS_SHOWN} videos more (all are in {RESULTS})")
    lines += ["", *table.notes, "", "```json", json.dumps(record, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _line(name: str, way: str, columns: Sequence[str], scores: Mapping[str, float | None]) -> str:
    cells = ("" if scores.get(column) is None else f"{scores[column]:.1f}" for column in columns)
    return f"| {name} | {way} | {' | '.join(cells)} |"


def draw(report: RunReport, path: Path) -> None:
    """Bars of each score: this run beside the published rows that have one for most columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = report.table
    rows = [(f"{Path(str(report.record['model'])).name} (this run)", OWN, table.rows[table.headline])]
    complete = [row for row in PUBLISHED[report.benchmark.name] if 2 * len(row.scores) > len(table.columns)]
    rows += [(f"{row.model} ({row.source})", colour, row.scores) for row, colour in zip(complete, OTHERS)]
    figure = Figure(figsize=(1.6 + 1.05 * len(table.columns), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, (label, colour, scores) in enumerate(rows):
        places = [place + (number - (len(rows) - 1) / 2) * width for place in range(len(table.columns))]
        heights = [scores.get(column) or 0 for column in table.columns]
        bars = axes.bar(places, heights, width * 0.92, color=colour, label=label)
        if number == 0:
            texts = ["" if scores.get(column) is None else f"{scores[column]:.0f}" for column in table.columns]
            axes.bar_label(bars, texts, fontsize=8, color=colour)
    axes.set_xticks(range(len(table.columns)), table.columns, fontsize=9)
    axes.set_ylabel("percent")
    axes.set_title(f"{report.benchmark.title}, scored as {table.headline}, {report.num_items} questions", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def model_index(report: RunReport) -> list[dict[str, Any]]:
    """The run's headline scores in the Hub's `model-index` form, for `spatial-mllm push --results`."""
    name = str(report.record["model"]).rstrip("/").split("/")[-1]
    results = [
        EvalResult(
            task_type="video-text-to-text",
            dataset_type=DATASETS[report.benchmark.name],
            dataset_name=report.benchmark.title,
            metric_type=column,
            metric_name=f"{column} ({report.table.headline})",
            metric_value=round(score, 2),
        )
        for column, score in report.table.rows[report.table.headline].items()
        if score is not None
    ]
    return eval_results_to_model_index(name, results)
