"""VSI-Bench's questions answered again from its annotation, and compared with its own answers.

This is the proof of the generator: the same templates read the questions, the same functions answer them. Questions
that boxes do not decide (route planning, and the order of appearance unless the annotation has `first_seen`) are
counted with the reason. Numbers and options must be equal; only distances may differ by 0.1 m, because which points of
a grid count hangs on the last bit (`box_distances`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .question_templates import parse_question
from .scene_annotations import SceneAnnotation
from .scene_answers import SceneAnswers, Undecidable, answer
from .spatial_questions import LETTERS, QUESTION_TYPES, QuestionType, SpatialQuestion

DISTANCE_TOLERANCE = 0.1  # metres, between two numbers of one decimal
# Least shares of the decided questions that agree.
TARGETS: Mapping[QuestionType, float] = {
    "object_counting": 0.99,
    "object_abs_distance": 0.95,
    "object_size_estimation": 0.99,
    "room_size_estimation": 0.99,
    "object_rel_distance": 0.99,
    "object_rel_direction_easy": 0.99,
    "object_rel_direction_medium": 0.99,
    "object_rel_direction_hard": 0.99,
}
NO_ANNOTATION = "the scene is not annotated"
NO_TEMPLATE = "the question follows no template"

_ROUNDING = 1e-6


@dataclass(frozen=True)
class CheckedQuestion:
    """A question and what comes out for it.

    Attributes:
        theirs: VSI-Bench's answer; of a multiple choice, what the right option says.
        ours: the answer from the annotation; None where it does not decide.
        undecided: why it does not; None where it does.
    """

    question: SpatialQuestion
    theirs: str
    ours: str | None = None
    undecided: str | None = None

    @property
    def agrees(self) -> bool:
        if self.ours is None:
            return False
        if self.question.question_type == "object_abs_distance":
            return abs(float(self.ours) - float(self.theirs)) <= DISTANCE_TOLERANCE + _ROUNDING
        if self.question.is_numerical:
            return abs(float(self.ours) - float(self.theirs)) <= _ROUNDING
        return self.ours == self.theirs

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.question.id,
            "dataset": self.question.dataset,
            "scene_name": self.question.scene_name,
            "question_type": self.question.question_type,
            "question": self.question.question,
            "theirs": self.theirs,
            "ours": self.ours,
        }


@dataclass(frozen=True)
class CheckRow:
    """How many questions of a task and data set there are, are decided, and agree."""

    question_type: QuestionType
    dataset: str
    questions: int
    decided: int
    agreeing: int

    @property
    def share(self) -> float | None:
        return self.agreeing / self.decided if self.decided else None


@dataclass(frozen=True)
class CheckReport:
    """The comparison; `checked` is in the order of the questions."""

    checked: tuple[CheckedQuestion, ...]

    def rows(self) -> list[CheckRow]:
        """By task and data set, in VSI-Bench's order of tasks."""
        groups: dict[tuple[QuestionType, str], list[CheckedQuestion]] = {}
        for item in self.checked:
            groups.setdefault((item.question.question_type, item.question.dataset), []).append(item)
        ordered = sorted(groups, key=lambda group: (QUESTION_TYPES.index(group[0]), group[1]))
        return [_row(*group, groups[group]) for group in ordered]

    def totals(self) -> list[CheckRow]:
        """By task, over all data sets."""
        types = [name for name in QUESTION_TYPES if any(item.question.question_type == name for item in self.checked)]
        return [
            _row(name, "all", [item for item in self.checked if item.question.question_type == name]) for name in types
        ]

    def disagreements(self) -> list[CheckedQuestion]:
        return [item for item in self.checked if item.ours is not None and not item.agrees]

    def undecided(self) -> Counter[tuple[QuestionType, str]]:
        """How many questions of each type are not decided, for each reason."""
        return Counter((item.question.question_type, item.undecided) for item in self.checked if item.undecided)

    def below_target(self) -> list[CheckRow]:
        """Tasks whose agreement, over all data sets, is less than `TARGETS` asks."""
        return [row for row in self.totals() if row.share is not None and row.share < TARGETS.get(row.question_type, 0)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [vars(row) | {"share": row.share} for row in (*self.rows(), *self.totals())],
            "targets": dict(TARGETS),
            "below_target": [row.question_type for row in self.below_target()],
            "undecided": [
                {"question_type": name, "reason": reason, "questions": number}
                for (name, reason), number in self.undecided().items()
            ],
            "disagreements": [item.to_dict() for item in self.disagreements()],
        }


def check_questions(questions: Iterable[SpatialQuestion], scenes: Iterable[SceneAnnotation]) -> CheckReport:
    """Answers each question from the annotation of its scene; scenes are taken one after the other."""
    asked = list(questions)
    places: dict[tuple[str, str], list[int]] = {}
    for place, question in enumerate(asked):
        places.setdefault((question.dataset, question.scene_name), []).append(place)
    checked: dict[int, CheckedQuestion] = {}
    for scene in scenes:
        answers = SceneAnswers(scene)
        for place in places.pop((scene.dataset, scene.name), ()):
            checked[place] = check_question(asked[place], answers)
    return CheckReport(
        tuple(
            checked.get(place) or CheckedQuestion(question, their_answer(question), undecided=NO_ANNOTATION)
            for place, question in enumerate(asked)
        )
    )


def check_question(question: SpatialQuestion, answers: SceneAnswers) -> CheckedQuestion:
    """One question about the scene of `answers`."""
    theirs = their_answer(question)
    fields = parse_question(question.question_type, question.question)
    if fields is None:
        return CheckedQuestion(question, theirs, undecided=NO_TEMPLATE)
    try:
        return CheckedQuestion(question, theirs, ours=answer(answers, question.question_type, fields))
    except Undecidable as error:
        return CheckedQuestion(question, theirs, undecided=str(error))


def their_answer(question: SpatialQuestion) -> str:
    """The given answer; of a multiple choice, what the right option says, without its letter."""
    if question.options is None:
        return question.ground_truth
    letter = question.ground_truth
    return question.options[LETTERS.index(letter)].removeprefix(f"{letter}. ")


def _row(question_type: QuestionType, dataset: str, items: list[CheckedQuestion]) -> CheckRow:
    decided = [item for item in items if item.ours is not None]
    return CheckRow(question_type, dataset, len(items), len(decided), sum(item.agrees for item in decided))
