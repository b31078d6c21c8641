"""`spatial-mllm data ...`: make training data out of annotated scenes, and check how.

Other verbs of the group are in files of their own, which main.py hooks in with `data.command()`.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import typer
from rich.console import Console

from . import common

if TYPE_CHECKING:
    from ..data.question_generation import GenerationSettings
    from ..data.scene_annotations import SceneAnnotation
    from ..data.spatial_questions import QuestionType, SpatialQuestion
    from ..data.vsibench_check import CheckReport

data = typer.Typer(name="data", help="Make training data, and check how.", no_args_is_help=True, add_completion=False)
ANNOTATIONS = typer.Option(
    ...,
    "--annotations",
    "-a",
    help="Scenes in the form of VSI-Bench's meta information: .json, or .jsonl with a scene a line. Repeatable.",
)
OUT_SUFFIXES = (".jsonl", ".parquet")


@data.command()
def generate(
    annotations: list[Path] = ANNOTATIONS,
    out: Path = typer.Option(..., "--out", "-o", help="File to write, .jsonl or .parquet."),
    style: Literal["sft", "grpo"] = typer.Option(
        "sft", "--style", help="Prompts that ask for the answer alone, or for thoughts before it."
    ),
    wording: Literal["vlm3r", "vsibench"] = typer.Option(
        "vlm3r", "--wording", help="The paper's and VLM-3R's texts, or VSI-Bench's own."
    ),
    exclude: list[Path] = typer.Option(
        [],
        "--exclude",
        help="Scenes to leave out: .txt with a name a line, annotations, or VSI-Bench's questions. Repeatable.",
    ),
    tasks: str = typer.Option(None, "--tasks", help="Types of questions, separated by commas. [default: all]"),
    mixture: Literal["all", "paper"] = typer.Option(
        "all", "--mixture", help="All questions, or as many as possible in the paper's proportions."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Draws questions and the order of options."),
    max_absolute_distance: int = typer.Option(50, min=0, help="Most questions of this task in a scene."),
    max_relative_distance: int = typer.Option(100, min=0, help="The same for relative distance."),
    max_relative_direction: int = typer.Option(20, min=0, help="The same for each difficulty of relative direction."),
    max_other: int = typer.Option(10_000, min=0, help="The same for each other task."),
) -> None:
    """Make questions with answers out of annotated scenes, in the LLaVA conversation form."""
    if out.suffix not in OUT_SUFFIXES:
        raise ValueError(f"--out {out} must end in {' or '.join(OUT_SUFFIXES)}, got {out.suffix or 'no suffix'}.")
    _check_files("--annotations", annotations)
    _check_files("--exclude", exclude)
    from ..data.conversations import write_conversations
    from ..data.question_generation import GENERATED_TYPES, GenerationSettings
    from ..data.question_mixture import draw, mixture_targets
    from ..data.scene_exclusion import read_excluded_scenes
    from ..data.training_prompts import as_conversation

    settings = GenerationSettings(
        tasks=GENERATED_TYPES if tasks is None else _tasks(tasks),
        wording=wording,
        max_absolute_distance=max_absolute_distance,
        max_relative_distance=max_relative_distance,
        max_relative_direction=max_relative_direction,
        max_other=max_other,
    )
    scenes = _Scenes(annotations, frozenset().union(*map(read_excluded_scenes, exclude)))
    questions = _questions(scenes, seed, settings)
    if mixture == "paper":
        available = Counter(question.question_type for question in questions)
        questions = draw(_questions(scenes, seed, settings), available, mixture_targets(available), seed)
    counts: Counter[QuestionType] = Counter()
    rows = (as_conversation(question, style) for question in _counted(questions, counts))
    write_conversations(rows, out)
    _print_mixture(counts)
    console = common.report_console()
    console.print(scenes.summary())
    console.print(f"Wrote {out}: {counts.total():,} questions.")


@data.command("check-vsibench")
def check_vsibench(
    questions: Path = typer.Option(..., "--questions", "-q", help="VSI-Bench's questions: .parquet, .jsonl or .json."),
    annotations: list[Path] = ANNOTATIONS,
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON instead."),
) -> None:
    """Answer VSI-Bench's questions again from its annotation, and list where its answers differ.

    Ends with code 1 where a task agrees less than it should: 99 %, absolute distance 95 % within 0.1 m.
    """
    _check_files("--questions", [questions])
    _check_files("--annotations", annotations)
    from ..data.vsibench_check import check_questions
    from ..data.vsibench_questions import read_vsibench_questions

    scenes = _Scenes(annotations)
    report = check_questions(read_vsibench_questions(questions), scenes)
    if all(item.ours is None for item in report.checked):
        raise ValueError(
            f"--annotations: none of the {len(report.checked)} questions of {questions} is decided by these scenes; "
            "are they of the same benchmark?"
        )
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
    else:
        _print_check(report)
        common.report_console().print(scenes.summary())
    if report.below_target():
        raise typer.Exit(1)


def _check_files(option: str, paths: list[Path]) -> None:
    """Before any work is done for the first of them."""
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{option} {path}: there is no such file.")


def _tasks(names: str) -> "tuple[QuestionType, ...]":
    """Types of questions out of an option; the settings look at their names."""
    return cast("tuple[QuestionType, ...]", tuple(name.strip() for name in names.split(",") if name.strip()))


class _Scenes:
    """The scenes of several files, one after the other, without the excluded ones, as often as wanted.

    What cannot be read, and a name that came before, is said on stderr and skipped; the first time round, it is
    counted.
    """

    def __init__(self, paths: list[Path], excluded: frozenset[str] = frozenset()) -> None:
        self._paths, self._excluded = paths, excluded
        self._rounds = self._read = self._skipped = self._left_out = 0

    def __iter__(self) -> "Iterator[SceneAnnotation]":
        from ..data.scene_annotations import read_scene_annotations

        self._rounds += 1
        names: set[tuple[str, str]] = set()
        with Console(stderr=True).status("") as status:
            for path in self._paths:
                for scene in read_scene_annotations(path):
                    if isinstance(scene, ValueError):
                        self._skip(str(scene))
                    elif scene.name in self._excluded:
                        self._left_out += self._rounds == 1
                    elif (scene.dataset, scene.name) in names:
                        self._skip(f"Scene {scene.name} of {scene.dataset}: it came before; {path} has it again.")
                    else:
                        names.add((scene.dataset, scene.name))
                        status.update(f"{len(names)} scenes")
                        yield scene
        self._read = len(names)

    def _skip(self, reason: str) -> None:
        if self._rounds == 1:
            self._skipped += 1
            sys.stderr.write(f"spatial-mllm: warning: skipped: {reason}\n")

    def summary(self) -> str:
        """How many scenes there were."""
        counts = [f"{self._read:,} scenes", f"{self._skipped:,} skipped"]
        if self._excluded:
            counts.append(f"{self._left_out:,} left out of the {len(self._excluded):,} to exclude")
        return ", ".join(counts) + "."


def _questions(scenes: _Scenes, seed: int, settings: "GenerationSettings") -> "Iterator[SpatialQuestion]":
    from ..data.question_generation import generate_questions

    for scene in scenes:
        yield from generate_questions(scene, seed, settings)


def _counted(questions: "Iterator[SpatialQuestion]", counts: "Counter[QuestionType]") -> "Iterator[SpatialQuestion]":
    """Counts questions as they pass; no question at all is an error, before a file is written."""
    for question in questions:
        counts[question.question_type] += 1
        yield question
    if not counts:
        raise ValueError("--annotations: no scene has a question to ask; are all excluded or skipped, or too bare?")


def _print_mixture(counts: "Counter[QuestionType]") -> None:
    from ..data.question_mixture import PAPER_MIXTURE

    table = common.plain_table("task", "questions", "share", "paper")
    for group in PAPER_MIXTURE:
        number = sum(counts[task] for task in group.tasks)
        table.add_row(group.name, f"{number:,}", f"{number / counts.total():.1%}", f"{group.share:.1%}")
        for task in group.tasks:
            table.add_row(f"  {task}", f"{counts[task]:,}", "", "")
    common.report_console().print(table)


def _print_check(report: "CheckReport") -> None:
    console = common.report_console()
    table = common.plain_table("task", "data set", "questions", "decided", "agree", "share", "target")
    from ..data.vsibench_check import TARGETS

    for row in (*report.rows(), *report.totals()):
        if row.dataset == "all" and not table.rows[-1].end_section:
            table.rows[-1].end_section = True
        share = "" if row.share is None else f"{row.share:.2%}"
        target = f"{TARGETS[row.question_type]:.0%}" if row.question_type in TARGETS else ""
        numbers = (f"{number:,}" for number in (row.questions, row.decided, row.agreeing))
        table.add_row(row.question_type, row.dataset, *numbers, share, target)
    console.print(table)
    for (question_type, reason), number in report.undecided().items():
        console.print(f"Not decided: {number:,} of {question_type}: {reason}")
    for item in report.disagreements():
        asked = item.question
        place = f"{asked.id} {asked.dataset}/{asked.scene_name}"
        console.print(f"Differs: {place}: {' '.join(asked.question.split())} theirs {item.theirs}, ours {item.ours}")
    for row in report.below_target():
        console.print(f"Below its target: {row.question_type}, {row.share:.2%} of {TARGETS[row.question_type]:.0%}")
