"""Questions read from both public forms, and every damage named with its place."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spatial_mllm_hf.data.spatial_questions import SpatialQuestion
from spatial_mllm_hf.data.vsibench_questions import ROWS_AT_A_TIME, read_vsibench_questions

COUNT = {
    "id": 3,
    "dataset": "scannet",
    "scene_name": "scene0011_00",
    "question_type": "object_counting",
    "question": "How many chair(s) are in this room?",
    "options": None,
    "ground_truth": "4",
    "pruned": True,
}
EASY = {
    "id": 4,
    "dataset": "arkitscenes",
    "scene_name": "41069025",
    "question_type": "object_rel_direction_easy",
    "question": "Is the tv to the left or the right of the bed?",
    "options": ["A. left", "B. right"],
    "ground_truth": "B",
    "pruned": False,
}
EVALUATION_COUNT = {
    "problem_id": 0,
    "problem": COUNT["question"],
    "data_type": "video",
    "problem_type": "regression",
    "original_question_type": "object_counting",
    "options": None,
    "process": "",
    "solution": "<answer>4</answer>",
    "path": "./scannet/scene0011_00.mp4",
    "data_source": "",
}
EVALUATION_EASY = {
    **EVALUATION_COUNT,
    "problem_id": 1,
    "problem": EASY["question"],
    "original_question_type": "object_rel_direction_easy",
    "options": EASY["options"],
    "solution": "<answer>B</answer>",
    "path": "./arkitscenes/41069025.mp4",
}


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def error_of(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        list(read_vsibench_questions(path))
    return str(raised.value).replace(str(path), "FILE")


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_published_rows(write: Callable[[Path, list[Any]], Path], tmp_path: Path) -> None:
    suffix = write.__name__.removeprefix("write_")
    count, easy = read_vsibench_questions(write(tmp_path / f"test.{suffix}", [COUNT, EASY]))
    assert count == SpatialQuestion(
        "3", "scannet", "scene0011_00", "object_counting", str(COUNT["question"]), None, "4", pruned=True
    )
    assert easy.options == ("A. left", "B. right")
    assert (easy.ground_truth, easy.pruned, easy.video_path) == ("B", False, "arkitscenes/41069025.mp4")
    assert {**easy.to_dict(), "id": 4} == EASY


def test_rows_of_the_evaluation_file(tmp_path: Path) -> None:
    path = tmp_path / "eval_vsibench.json"
    elsewhere = {**EVALUATION_COUNT, "problem_id": 2, "path": "./videos/scannet/scene0011_00.mp4"}
    path.write_text(json.dumps([EVALUATION_COUNT, EVALUATION_EASY, elsewhere]))
    count, easy, third = read_vsibench_questions(path)
    assert count == SpatialQuestion(
        "0", "scannet", "scene0011_00", "object_counting", str(COUNT["question"]), None, "4"
    )
    assert (easy.id, easy.dataset, easy.options, easy.ground_truth) == (
        "1",
        "arkitscenes",
        ("A. left", "B. right"),
        "B",
    )
    assert easy.video_path == "arkitscenes/41069025.mp4"
    assert (third.dataset, third.video_path) == ("scannet", "videos/scannet/scene0011_00.mp4")


def test_editions_without_pruned(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "pruned"} for row in (COUNT, EASY)]
    for path in (write_jsonl(tmp_path / "a.jsonl", rows), write_parquet(tmp_path / "a.parquet", rows)):
        assert [question.pruned for question in read_vsibench_questions(path)] == [None, None]


def test_rows_come_one_after_the_other(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "long.jsonl", [COUNT, {**EASY, "id": 3}])
    questions = read_vsibench_questions(path)
    assert next(questions).id == "3"  # although the next row is wrong
    with pytest.raises(ValueError, match="line 2"):
        next(questions)


def test_parquet_of_several_batches(tmp_path: Path) -> None:
    rows = [{**COUNT, "id": number} for number in range(ROWS_AT_A_TIME + 5)]
    rows[-1]["id"] = 7
    questions = read_vsibench_questions(write_parquet(tmp_path / "long.parquet", rows))
    assert [next(questions).id for _ in rows[:-1]] == [str(row["id"]) for row in rows[:-1]]
    with pytest.raises(ValueError, match=f"row {len(rows)}: the id '7' was used before, at .*row 8"):
        next(questions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_type": "object_colour"}, "question_type must be one of object_counting, .*got 'object_colour'"),
        ({"ground_truth": "C"}, "must be the letter of one of its options, got 'C' and 2 options"),
        ({"ground_truth": "right"}, "got 'right' and 2 options"),
        ({"ground_truth": ""}, "got '' and 2 options"),
        ({"options": None}, "got 'B' and 0 options"),
        ({"options": "A. left"}, "options must be a list of texts or nothing, got 'A. left'"),
        ({"options": ["A. left", None]}, "options must be a list of texts"),
        ({"question_type": "room_size_estimation"}, "answered by a number and has no options, got 'B' and 2 options"),
        ({"scene_name": None}, "scene_name must be text, got None"),
        ({"question": "  "}, "question must be text"),
        ({"id": None}, "id must be a number or text, got None"),
    ],
)
def test_wrong_rows(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", [COUNT, {**EASY, **change}])
    with pytest.raises(ValueError, match=message) as raised:
        list(read_vsibench_questions(path))
    assert str(raised.value).startswith(f"{path}, line 2: ")


@pytest.mark.parametrize("truth", ["four", "nan", "inf"])
def test_numbers_that_are_none(truth: str, tmp_path: Path) -> None:
    message = error_of(write_jsonl(tmp_path / "test.jsonl", [{**COUNT, "ground_truth": truth}]))
    assert f"got '{truth}' and 0 options" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solution": "4"}, "solution must be <answer>...</answer>, got '4'"),
        ({"path": "scene0011_00.mp4"}, "path must be data set/scene.mp4, got 'scene0011_00.mp4'"),
        ({"original_question_type": "size"}, "got 'size'"),
    ],
)
def test_wrong_rows_of_the_evaluation_file(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_text(json.dumps([EVALUATION_EASY, {**EVALUATION_COUNT, **change}]))
    assert error_of(path).startswith("FILE, question 2: ")
    assert message in error_of(path)


def test_missing_keys(tmp_path: Path) -> None:
    row = {key: value for key, value in COUNT.items() if key not in ("options", "dataset")}
    assert error_of(write_jsonl(tmp_path / "a.jsonl", [row])).startswith(
        "FILE, line 1: dataset, options missing, found id,"
    )
    assert error_of(write_parquet(tmp_path / "a.parquet", [row])).startswith(
        "FILE: column dataset, options missing, found"
    )
    evaluation = {key: value for key, value in EVALUATION_COUNT.items() if key != "solution"}
    assert "solution missing" in error_of(write_jsonl(tmp_path / "b.jsonl", [evaluation]))


def test_a_line_that_is_cut_off(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", [COUNT, EASY])
    path.write_bytes(path.read_bytes()[:-40])
    message = error_of(path)
    assert message.startswith("FILE, line 2: not JSON (")
    assert message.endswith("The file seems to be cut off: get it again.")


def test_a_bad_line_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_bytes(b'{"id": 1\n' + json.dumps(COUNT).encode() + b"\n")
    message = error_of(path)
    assert message.startswith("FILE, line 1: not JSON (")
    assert "cut off" not in message


def test_files_that_are_something_else(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.json", b'{"a": 1}', "FILE must hold a list of questions, got a dict."),
        ("b.json", b"[{", "FILE is not JSON ("),
        ("c.jsonl", b"[1]\n", "FILE, line 1: a question must be an object, got a list."),
        ("d.jsonl", b"\xff\xfe\n", "FILE, line 1: not JSON ("),
        ("e.csv", b"", "FILE must end in .json, .jsonl, .parquet, got .csv."),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert error_of(path).startswith(message)


def test_parquet_that_is_cut_off(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "test.parquet", [COUNT, EASY])
    path.write_bytes(path.read_bytes()[:-10])
    assert error_of(path).startswith("FILE is not a whole parquet file: ")
