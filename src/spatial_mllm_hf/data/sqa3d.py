"""SQA3D (arXiv 2210.07474): questions about scenes of ScanNet, asked from a situation that is described.

Officially two files a split: `v1_balanced_questions_{split}_scannetv2.json`, an object with `"questions": [{"scene_id",
"situation", "alternative_situation": [...], "question", "question_id"}]`, and `v1_balanced_sqa_annotations_...`, with
`"annotations": [{"question_id", "answers": [{"answer", ...}], "position", "rotation", ...}]`. The first answer counts.
Conversations follow Video-3D-LLM: in training also one for each alternative situation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .conversations import Conversation
from .free_form_questions import (
    FreeFormStyle,
    Split,
    check_entries,
    free_form_conversation,
    read_json,
    text_of,
    texts_of,
)

PROMPT = "{situation} {question} Answer the question using a single word or phrase."  # Video-3D-LLM; after the media


@dataclass(frozen=True)
class SQA3DQuestion:
    """One question.

    Attributes:
        question_id: unique within its split.
        scene_name: "scene0380_00".
        situation: where the one who asks is, in the first person.
        alternative_situations: the same place in other words.
        question: the text.
        answers: in practice one.
    """

    question_id: str
    scene_name: str
    situation: str
    alternative_situations: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


def sqa3d_prompt(situation: str, question: str) -> str:
    """The question as the published evaluation asks it; text only, the media comes before."""
    return PROMPT.format(situation=situation, question=question)


def read_sqa3d(questions_path: Path, annotations_path: Path) -> Iterator[SQA3DQuestion]:
    """The questions of a split with their answers, in the order of the questions.

    Raises:
        ValueError: at an entry that lacks a field, or whose id came before; names its index and the field. And where a
            question has no annotation, or the other way round: the files are then of two splits.
    """
    questions = _by_id(questions_path, "questions")
    annotations = _by_id(annotations_path, "annotations")
    alone = sorted(questions.keys() ^ annotations.keys())
    if alone:
        raise ValueError(
            f"{questions_path.name} and {annotations_path.name} do not fit: {len(alone)} of "
            f"{len(questions | annotations)} question_ids are in one only, such as {alone[0]}. Take both of one split."
        )
    for question_id, (place, entry) in questions.items():
        yield SQA3DQuestion(
            question_id=question_id,
            scene_name=text_of(entry, "scene_id", place),
            situation=text_of(entry, "situation", place),
            alternative_situations=texts_of(entry, "alternative_situation", place),
            question=text_of(entry, "question", place),
            answers=_answers(*annotations[question_id]),
        )


def _by_id(path: Path, key: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Entries with the place that errors name, by question_id."""
    content = read_json(path)
    if not isinstance(content, Mapping) or key not in content:
        raise ValueError(f"{path.name} must be an object with {key!r}, as SQA3D's file of {key} is.")
    entries: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for index, entry in enumerate(check_entries(content[key], f"{path.name}: {key}")):
        place = f"{path.name}: {key}[{index}]"
        question_id = entry.get("question_id")
        if not isinstance(question_id, int | str) or question_id == "":
            raise ValueError(f"{place}.question_id must be a number or text, got {question_id!r}.")
        if str(question_id) in entries:
            raise ValueError(f"{place}.question_id {question_id} came before.")
        entries[str(question_id)] = (place, entry)
    return entries


def _answers(place: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    found = check_entries(entry.get("answers"), f"{place}.answers")
    if not found:
        raise ValueError(f"{place}.answers is empty.")
    return tuple(text_of(answer, "answer", f"{place}.answers[{index}]") for index, answer in enumerate(found))


def sqa3d_conversations(
    questions: Iterable[SQA3DQuestion],
    split: Split,
    style: FreeFormStyle = "sft",
    exclude: Collection[str] = (),
) -> Iterator[Conversation]:
    """Training samples; `exclude` names scenes to leave out.

    Raises:
        ValueError: for a style that is not one.
    """
    for question in questions:
        if question.scene_name in exclude:
            continue
        situations = (question.situation, *(question.alternative_situations if split == "train" else ()))
        for number, situation in enumerate(situations):
            yield free_form_conversation(
                id=f"sqa3d-{question.question_id}-{number}" if split == "train" else f"sqa3d-{question.question_id}",
                dataset="sqa3d",
                scene_name=question.scene_name,
                question=f"{situation} {question.question}",
                plain_prompt=sqa3d_prompt(situation, question.question),
                answer=question.answers[0],
                answers=question.answers,
                style=style,
            )
