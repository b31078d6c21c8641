"""ScanQA's official form into questions and conversations."""

import json
from pathlib import Path
from typing import Any

import pytest

from spatial_mllm_hf.data.conversations import Conversation
from spatial_mllm_hf.data.scanqa import ScanQAQuestion, read_scanqa, scanqa_conversations, scanqa_prompt

ENTRIES = [
    {
        "answers": ["brown", "dark brown"],
        "object_ids": [8],
        "object_names": ["cabinet"],
        "question": "What color is the cabinet?",
        "question_id": "train-scene0000-0",
        "scene_id": "scene0000_00",
    },
    {
        "answers": ["2"],
        "object_ids": [1, 2],
        "object_names": ["chair", "chair"],
        "question": "How many chairs are at the table?",
        "question_id": "train-scene0707-3",
        "scene_id": "scene0707_00",
    },
]


def write(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def changed(**changes: Any) -> list[dict[str, Any]]:
    """The entries with the second changed; None takes a field away."""
    second = {field: value for field, value in (ENTRIES[1] | changes).items() if value is not None}
    return [ENTRIES[0], second]


@pytest.fixture
def questions(tmp_path: Path) -> list[ScanQAQuestion]:
    return list(read_scanqa(write(tmp_path / "ScanQA_v1.0_train.json", ENTRIES)))


def test_questions_are_read(questions: list[ScanQAQuestion]) -> None:
    first, second = questions
    assert first == ScanQAQuestion(
        question_id="train-scene0000-0",
        scene_name="scene0000_00",
        question="What color is the cabinet?",
        answers=("brown", "dark brown"),
        object_names=("cabinet",),
    )
    assert second.object_names == ("chair", "chair")


def test_the_prompt_of_the_published_evaluation() -> None:
    assert scanqa_prompt("What is it?") == "What is it? Answer the question simply."


def test_training_learns_each_answer(questions: list[ScanQAQuestion]) -> None:
    rows = list(scanqa_conversations(questions, "train"))
    assert [row.id for row in rows] == ["train-scene0000-0-0", "train-scene0000-0-1", "train-scene0707-3-0"]
    assert rows[1] == Conversation(
        id="train-scene0000-0-1",
        videos=("scannet/scene0000_00.mp4",),
        images=(),
        turns=(
            (
                "human",
                "<video>\nWhat color is the cabinet? Please answer the question simply within the "
                "<answer> </answer> tags.",
            ),
            ("gpt", "<answer>dark brown</answer>"),
        ),
        metadata={
            "dataset": "scanqa",
            "scene_name": "scene0000_00",
            "question_type": "text",
            "ground_truth": "dark brown",
            "answers": ["brown", "dark brown"],
        },
    )


def test_validation_asks_once_and_keeps_all_answers(questions: list[ScanQAQuestion]) -> None:
    rows = list(scanqa_conversations(questions, "val", "plain"))
    assert [row.id for row in rows] == ["train-scene0000-0", "train-scene0707-3"]
    assert rows[0].turns == (
        ("human", "<video>\nWhat color is the cabinet? Answer the question simply."),
        ("gpt", "brown"),
    )
    assert rows[0].metadata["answers"] == ["brown", "dark brown"]


def test_grpo_asks_for_thoughts(questions: list[ScanQAQuestion]) -> None:
    (_, prompt), (_, reply) = next(scanqa_conversations(questions, "train", "grpo")).turns
    assert prompt.startswith("<video>\nWhat color is the cabinet?\nPlease think about this question")
    assert prompt.endswith(" and then answer the question simply within the <answer> </answer> tags.")
    assert reply == "<answer>brown</answer>"


def test_excluded_scenes_are_left_out(questions: list[ScanQAQuestion]) -> None:
    rows = list(scanqa_conversations(questions, "train", exclude={"scene0000_00"}))
    assert [row.videos for row in rows] == [("scannet/scene0707_00.mp4",)]


def test_an_unknown_style_is_an_error(questions: list[ScanQAQuestion]) -> None:
    with pytest.raises(ValueError, match="style must be one of sft, grpo, plain, got 'dpo'"):
        next(scanqa_conversations(questions, "train", "dpo"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"questions": []}, r"questions\.json must be an array of objects, got a dict"),
        (["hello"], r"questions\.json\[0\] must be an object, got a str"),
        (changed(question=None), r"questions\.json\[1\]\.question must be text, got None"),
        (changed(question=" "), r"questions\.json\[1\]\.question must be text, got ' '"),
        (changed(scene_id=7), r"questions\.json\[1\]\.scene_id must be text, got 7"),
        (changed(answers="two"), r"questions\.json\[1\]\.answers must be a list of texts, got 'two'"),
        (changed(answers=["two", None]), r"questions\.json\[1\]\.answers must be a list of texts"),
        (changed(answers=[]), r"questions\.json\[1\]\.answers is empty"),
        (changed(answers=None), r"\[1\]\.answers is empty; ScanQA's test files have no answers, take train or val"),
        (changed(question_id="train-scene0000-0"), r"\[1\]\.question_id 'train-scene0000-0' came before"),
    ],
)
def test_an_entry_that_is_wrong_is_named(entries: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_scanqa(write(tmp_path / "questions.json", entries)))


def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "questions.json", ENTRIES)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=r"questions\.json is not JSON"):
        list(read_scanqa(path))
