"""What the readers and converters of ScanQA and SQA3D share: fields of their JSON, and conversations made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from .conversations import VIDEO_TAG, Conversation
from .training_prompts import grpo_prompt, sft_prompt

# "sft" and "grpo" ask as the paper's training does and answer within <answer> tags; "plain" asks as the published
# evaluation does and answers with the bare words.
FreeFormStyle = Literal["sft", "grpo", "plain"]
Split = Literal["train", "val"]  # one conversation for each answer (and situation), or one for each question


def read_json(path: Path) -> Any:
    """The content of a JSON file; one array or object, so it is read whole (ScanQA's is 10 MB, SQA3D's 15).

    Raises:
        ValueError: if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def check_entries(entries: Any, place: str) -> list[Mapping[str, Any]]:
    """The entries of an array of objects.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(entries, list):
        raise ValueError(f"{place} must be an array of objects, got a {type(entries).__name__}.")
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(f"{place}[{index}] must be an object, got a {type(entry).__name__}.")
    return entries


def text_of(entry: Mapping[str, Any], field: str, place: str) -> str:
    """A field that must hold text that is not empty."""
    value = entry.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}.{field} must be text, got {value!r}.")
    return value


def texts_of(entry: Mapping[str, Any], field: str, place: str) -> tuple[str, ...]:
    """A field that must hold a list of texts; none if it is absent."""
    values = entry.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(f"{place}.{field} must be a list of texts, got {values!r}.")
    return tuple(values)


def free_form_conversation(
    id: str,
    dataset: str,
    scene_name: str,
    question: str,
    plain_prompt: str,
    answer: str,
    answers: Sequence[str],
    style: FreeFormStyle,
) -> Conversation:
    """A question about a scene of ScanNet with its answer.

    Args:
        question: what the prompts of training put before their instructions.
        plain_prompt: the whole prompt of the style "plain".
        answer: what is learned; `answers`, all that are right, go into the metadata.

    Raises:
        ValueError: for a style that is not one.
    """
    if style not in get_args(FreeFormStyle):
        raise ValueError(f"style must be one of {', '.join(get_args(FreeFormStyle))}, got {style!r}.")
    if style == "plain":
        prompt, reply = plain_prompt, answer
    else:
        prompt, reply = (sft_prompt if style == "sft" else grpo_prompt)(question, "text"), f"<answer>{answer}</answer>"
    return Conversation(
        id=id,
        videos=(f"scannet/{scene_name}.mp4",),
        images=(),
        turns=(("human", f"{VIDEO_TAG}\n{prompt}"), ("gpt", reply)),
        metadata={
            "dataset": dataset,
            "scene_name": scene_name,
            "question_type": "text",
            "ground_truth": answer,
            "answers": list(answers),
        },
    )
