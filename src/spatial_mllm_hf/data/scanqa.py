"""ScanQA (arXiv 2112.10482): free questions about scenes of ScanNet, each with several right answers.

The official files, `ScanQA_v1.0_{train,val}.json`, are one array of `{"scene_id", "question_id", "question", "answers",
"object_ids", "object_names"}`. Those of the test set have no answers and serve neither training nor scoring.
Conversations follow Video-3D-LLM: in training one for each answer, in validation one with the first answer, and all of
them in its metadata.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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

PROMPT = "{question} Answer the question simply."  # Video-3D-LLM; after the media


@dataclass(frozen=True)
class ScanQAQuestion:
    """One question.

    Attributes:
        question_id: "val-scene0011-0", say.
        scene_name: "scene0011_00".
        question: the text.
        answers: all that are right.
        object_names: what the question is about.
    """

    question_id: str
    scene_name: str
    question: str
    answers: tuple[str, ...]
    object_names: tuple[str, ...]


def scanqa_prompt(question: str) -> str:
    """The question as the published evaluation asks it; text only, the media comes before."""
    return PROMPT.format(question=question)


def read_scanqa(path: Path) -> Iterator[ScanQAQuestion]:
    """The questions of an official file.

    Raises:
        ValueError: at an entry that lacks a field, or whose id came before; names its index and the field.
    """
    seen: set[str] = set()
    for index, entry in enumerate(check_entries(read_json(path), path.name)):
        place = f"{path.name}[{index}]"
        question = ScanQAQuestion(
            question_id=text_of(entry, "question_id", place),
            scene_name=text_of(entry, "scene_id", place),
            question=text_of(entry, "question", place),
            answers=texts_of(entry, "answers", place),
            object_names=texts_of(entry, "object_names", place),
        )
        if not question.answers:
            raise ValueError(f"{place}.answers is empty; ScanQA's test files have no answers, take train or val.")
        if question.question_id in seen:
            raise ValueError(f"{place}.question_id {question.question_id!r} came before.")
        seen.add(question.question_id)
        yield question


def scanqa_conversations(
    questions: Iterable[ScanQAQuestion],
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
        answers = question.answers if split == "train" else question.answers[:1]
        for number, answer in enumerate(answers):
            yield free_form_conversation(
                id=f"{question.question_id}-{number}" if split == "train" else question.question_id,
                dataset="scanqa",
                scene_name=question.scene_name,
                question=question.question,
                plain_prompt=scanqa_prompt(question.question),
                answer=answer,
                answers=question.answers,
                style=style,
            )
