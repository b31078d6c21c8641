"""The file of answers: what a kill, a second process or a hand in it leaves."""

import json
import multiprocessing
from pathlib import Path

import pytest

from spatial_mllm_hf.evaluation.answer_log import Answer, AnswerLog, read_answers

FIRST, SECOND = Answer("1", "two chairs", frames=((0, 8), (4,))), Answer("2", None, problem="no such video")


def write(folder: Path, name: str = "answers.jsonl", answers: tuple[Answer, ...] = (FIRST, SECOND)) -> Path:
    with AnswerLog(folder / name) as log:
        log.append(answers)
    return folder / name


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_answers(tmp_path) == {"1": FIRST, "2": SECOND}


def test_text_of_any_kind_comes_back(tmp_path: Path) -> None:
    odd = Answer("ü", 'line\nbreak, "quotes", 椅子 and \u2028')
    write(tmp_path, answers=(odd,))
    assert read_answers(tmp_path) == {"ü": odd}


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_line_that_a_kill_cut_is_no_answer_and_goes_when_the_file_is_opened_again(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    path.write_bytes(whole[: len(whole) - 1] if kept == -1 else whole[: first_line + kept])
    assert read_answers(tmp_path) == {"1": FIRST}
    with AnswerLog(path) as log:
        log.append([SECOND])
    assert path.read_bytes() == whole


def test_an_empty_file_and_no_file_hold_no_answers(tmp_path: Path) -> None:
    assert read_answers(tmp_path) == {}
    (tmp_path / "answers.jsonl").touch()
    assert read_answers(tmp_path) == {}


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        '{"id": "3"}',
        "[]",
        '{"id": "3", "prediction": "x", "frames": 7}',
        '{"id": 3, "prediction": "x", "frames": []}',
        '{"id": "3", "prediction": NaN, "frames": []}',
    ],
)
def test_a_whole_line_that_is_no_answer_is_an_error_that_says_where(tmp_path: Path, line: str) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"answers\.jsonl:3 is not an answer .* Delete that line"):
        read_answers(tmp_path)


def test_files_of_several_shards_are_one_run(tmp_path: Path) -> None:
    write(tmp_path, "answers-0-of-2.jsonl", (FIRST,))
    write(tmp_path, "answers-1-of-2.jsonl", (SECOND,))
    assert read_answers(tmp_path) == {"1": FIRST, "2": SECOND}


def test_an_answer_takes_the_place_of_a_problem_and_nothing_else(tmp_path: Path) -> None:
    answered = Answer("2", "a sofa")
    write(tmp_path, answers=(FIRST, SECOND, answered, Answer("1", "something else"), SECOND))
    assert read_answers(tmp_path) == {"1": FIRST, "2": answered}


def _hold(path: Path, held: multiprocessing.Event, done: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with AnswerLog(path):
        held.set()
        done.wait(30)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "answers.jsonl", held, done))
    process.start()
    assert held.wait(30)
    with pytest.raises(ValueError, match=r"Another process writes .*answers\.jsonl.*--shard i/n"):
        AnswerLog(tmp_path / "answers.jsonl").__enter__()
    done.set()
    process.join(30)
    write(tmp_path)
    assert len(read_answers(tmp_path)) == 2


def test_lines_are_json_that_other_tools_read(tmp_path: Path) -> None:
    lines = write(tmp_path).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == ["two chairs", None]
