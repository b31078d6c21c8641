"""SQA3D's two official files into questions and conversations."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spatial_mllm_hf.data.sqa3d import SQA3DQuestion, read_sqa3d, sqa3d_conversations, sqa3d_prompt

QUESTIONS = {
    "info": {"version": "1.0"},
    "task_type": "Open-Ended",
    "questions": [
        {
            "scene_id": "scene0380_00",
            "situation": "I am facing a window.",
            "alternative_situation": ["I look out of the window.", "I stand behind the desk."],
            "question": "What is on my right?",
            "question_id": 220602000000,
        },
        {
            "scene_id": "scene0050_00",
            "situation": "I sit on the ottoman.",
            "alternative_situation": [],
            "question": "Is the door open?",
            "question_id": 220602000001,
        },
    ],
}
ANNOTATIONS = {
    "info": {"version": "1.0"},
    "annotations": [
        {
            "scene_id": "scene0050_00",
            "question_type": "",
            "answer_type": "other",
            "question_id": 220602000001,
            "answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": 1}],
            "rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1},
            "position": {"x": 0, "y": 1, "z": 0},
        },
        {"question_id": 220602000000, "answers": [{"answer": "desk"}, {"answer": "table"}]},
    ],
}
Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def write(folder: Path, change: Change | None = None) -> tuple[Path, Path]:
    questions, annotations = copy.deepcopy(QUESTIONS), copy.deepcopy(ANNOTATIONS)
    if change is not None:
        change(questions, annotations)
    paths = folder / "questions.json", folder / "annotations.json"
    for path, content in zip(paths, (questions, annotations)):
        path.write_text(json.dumps(content), encoding="utf-8")
    return paths


@pytest.fixture
def questions(tmp_path: Path) -> list[SQA3DQuestion]:
    return list(read_sqa3d(*write(tmp_path)))


def test_questions_find_their_answers(questions: list[SQA3DQuestion]) -> None:
    assert questions == [
        SQA3DQuestion(
            question_id="220602000000",
            scene_name="scene0380_00",
            situation="I am facing a window.",
            alternative_situations=("I look out of the window.", "I stand behind the desk."),
            question="What is on my right?",
            answers=("desk", "table"),
        ),
        SQA3DQuestion("220602000001", "scene0050_00", "I sit on the ottoman.", (), "Is the door open?", ("yes",)),
    ]


def test_the_prompt_of_the_published_evaluation() -> None:
    prompt = sqa3d_prompt("I am here.", "What is there?")
    assert prompt == "I am here. What is there? Answer the question using a single word or phrase."


def test_training_asks_from_each_situation(questions: list[SQA3DQuestion]) -> None:
    rows = list(sqa3d_conversations(questions, "train"))
    assert [row.id for row in rows] == [
        "sqa3d-220602000000-0",
        "sqa3d-220602000000-1",
        "sqa3d-220602000000-2",
        "sqa3d-220602000001-0",
    ]
    assert rows[2].videos == ("scannet/scene0380_00.mp4",)
    assert rows[2].turns == (
        (
            "human",
            "<video>\nI stand behind the desk. What is on my right? Please answer the question simply within the "
            "<answer> </answer> tags.",
        ),
        ("gpt", "<answer>desk</answer>"),
    )
    assert rows[2].metadata == {
        "dataset": "sqa3d",
        "scene_name": "scene0380_00",
        "question_type": "text",
        "ground_truth": "desk",
        "answers": ["desk", "table"],
    }


def test_validation_asks_once(questions: list[SQA3DQuestion]) -> None:
    rows = list(sqa3d_conversations(questions, "val", "plain"))
    assert [row.id for row in rows] == ["sqa3d-220602000000", "sqa3d-220602000001"]
    assert rows[0].turns == (
        (
            "human",
            "<video>\nI am facing a window. What is on my right? Answer the question using a single word or phrase.",
        ),
        ("gpt", "desk"),
    )


def test_excluded_scenes_are_left_out(questions: list[SQA3DQuestion]) -> None:
    rows = sqa3d_conversations(questions, "train", "grpo", exclude=["scene0380_00"])
    assert [row.metadata["scene_name"] for row in rows] == ["scene0050_00"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, a: q["questions"].pop(), r"do not fit: 1 of 2 question_ids are in one only, such as 220602000001"),
        (lambda q, a: a["annotations"].pop(), r"do not fit: 1 of 2 question_ids .* such as 220602000000"),
        (lambda q, a: q.pop("questions"), r"questions\.json must be an object with 'questions'"),
        (
            lambda q, a: a.update(annotations=3),
            r"annotations\.json: annotations must be an array of objects",
        ),
        (
            lambda q, a: q["questions"].append(q["questions"][0]),
            r"questions\[2\]\.question_id 220602000000 came",
        ),
        (lambda q, a: q["questions"][1].pop("question_id"), r"questions\[1\]\.question_id must be a number or text"),
        (lambda q, a: q["questions"][1].pop("situation"), r"questions\[1\]\.situation must be text, got None"),
        (lambda q, a: q["questions"][1].update(question=""), r"questions\[1\]\.question must be text, got ''"),
        (
            lambda q, a: q["questions"][0].update(alternative_situation="I look."),
            r"questions\[0\]\.alternative_situation must be a list of texts, got 'I look\.'",
        ),
        (lambda q, a: a["annotations"][1].update(answers=[]), r"annotations\[1\]\.answers is empty"),
        (
            lambda q, a: a["annotations"][1]["answers"][1].pop("answer"),
            r"annotations\[1\]\.answers\[1\]\.answer must be text",
        ),
        (lambda q, a: a["annotations"][0].pop("answers"), r"annotations\[0\]\.answers must be an array of objects"),
    ],
)
def test_an_entry_that_is_wrong_is_named(change: Change, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_sqa3d(*write(tmp_path, change)))


def test_the_files_in_the_wrong_order_are_an_error(tmp_path: Path) -> None:
    questions, annotations = write(tmp_path)
    with pytest.raises(ValueError, match=r"annotations\.json must be an object with 'questions'"):
        list(read_sqa3d(annotations, questions))
