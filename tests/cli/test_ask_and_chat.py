"""`spatial-mllm ask` with several questions, `spatial-mllm chat`, and the folder of scenes that both keep."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.cli import common

from .conftest import Command, Result

QUESTIONS = ["How many chairs are in this room?", "Where?", "What is nearest to the window, and how far is it?"]
OPTIONS: dict[str, Any] = {"num_frames": 4, "max_new_tokens": 6}
STAGES = ["load", "decode", "geometry", "encode"]


@pytest.fixture(scope="module")
def answers(tiny_checkpoint: Path, room_clip: Path) -> dict[str, str]:
    """What the pipeline answers to each question alone."""
    pipe = pipeline("video-question-answering", model=str(tiny_checkpoint))
    texts = {question: pipe(room_clip, question, **OPTIONS)["generated_text"] for question in QUESTIONS}
    assert len(set(texts.values())) == len(QUESTIONS)
    return texts


@pytest.fixture
def options(tiny_checkpoint: Path) -> tuple[Any, ...]:
    return ("--model", tiny_checkpoint, "--num-frames", 4, "--max-new-tokens", 6)


@pytest.fixture
def chat(
    run: Command, monkeypatch: pytest.MonkeyPatch, room_clip: Path, options: tuple[Any, ...]
) -> Callable[..., Result]:
    """Runs `chat` with these lines for its input."""

    def call(typed: str | io.StringIO, *more: Any) -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed) if isinstance(typed, str) else typed)
        return run("chat", room_clip, *options, *more)

    return call


def stages_of(result: Result) -> list[str]:
    """Lines such as "[2/4] decode (0.3 s)", all that there is on stderr."""
    return [line.split()[1] for line in result.err.splitlines()]


# ---------------------------------------------------------------------------------------------- ask


def test_several_questions_are_printed_with_their_answers(
    run: Command, room_clip: Path, options: tuple[Any, ...], answers: dict[str, str]
) -> None:
    result = run("ask", room_clip, "-q", QUESTIONS[0], "--question", QUESTIONS[1], "-q", QUESTIONS[2], *options)
    assert result.code == 0
    assert result.out == "".join(f"Q: {question}\nA: {answers[question]}\n" for question in QUESTIONS)
    assert stages_of(result) == STAGES  # once, however many questions


def test_a_question_in_front_comes_first(
    run: Command, room_clip: Path, options: tuple[Any, ...], answers: dict[str, str]
) -> None:
    result = run("ask", room_clip, "-q", QUESTIONS[0], *options, QUESTIONS[1])
    assert result.code == 0
    first, second = QUESTIONS[1], QUESTIONS[0]
    assert result.out == f"Q: {first}\nA: {answers[first]}\nQ: {second}\nA: {answers[second]}\n"


def test_one_question_is_answered_alone_however_it_is_given(
    run: Command, room_clip: Path, options: tuple[Any, ...], answers: dict[str, str]
) -> None:
    result = run("ask", room_clip, "-q", QUESTIONS[2], *options)
    assert result.code == 0
    assert result.out == answers[QUESTIONS[2]] + "\n"


def test_json_of_several_questions(
    run: Command, room_clip: Path, options: tuple[Any, ...], answers: dict[str, str]
) -> None:
    result = run("ask", room_clip, QUESTIONS[0], "-q", QUESTIONS[1], "-q", QUESTIONS[0], *options, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    asked = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]]
    assert report["answers"] == [{"question": question, "answer": answers[question]} for question in asked]
    assert "answer" not in report
    assert "question" not in report
    assert report["video"] == str(room_clip)
    assert len(report["frames"]) == 4


def test_json_of_one_question(run: Command, room_clip: Path, options: tuple[Any, ...], answers: dict[str, str]) -> None:
    result = run("ask", room_clip, "-q", QUESTIONS[1], *options, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert (report["question"], report["answer"]) == (QUESTIONS[1], answers[QUESTIONS[1]])
    assert "answers" not in report


def test_a_folder_of_scenes_spares_the_second_look(
    run: Command,
    room_clip: Path,
    options: tuple[Any, ...],
    answers: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "new" / "scenes"
    first = run("ask", room_clip, QUESTIONS[0], *options, "--scene-cache", cache)
    assert (first.code, stages_of(first)) == (0, STAGES)
    second = run("ask", room_clip, QUESTIONS[0], *options, "--scene-cache", cache)
    assert (second.code, stages_of(second)) == (0, ["load"])
    assert first.out == second.out == answers[QUESTIONS[0]] + "\n"
    monkeypatch.setenv("SPATIAL_MLLM_SCENES", str(cache))
    named = run("ask", room_clip, QUESTIONS[1], *options, "--json", "--contact-sheet", tmp_path / "sheet.png")
    assert (named.code, stages_of(named)) == (0, ["load"])
    report = json.loads(named.out)
    assert report["answer"] == answers[QUESTIONS[1]]
    assert len(report["frames"]) == 4
    assert (tmp_path / "sheet.png").stat().st_size > 0
    assert len(list(cache.iterdir())) == 1
    assert stages_of(run("ask", room_clip, "Where?", *options, "--frame-sampling", "uniform")) == [
        "load",
        "decode",
        "encode",
    ]
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_scene_is_a_warning_and_no_answer(
    run: Command, room_clip: Path, options: tuple[Any, ...], answers: dict[str, str], tmp_path: Path
) -> None:
    options = (*options, "--scene-cache", tmp_path)
    assert run("ask", room_clip, QUESTIONS[0], *options).code == 0
    (scene,) = tmp_path.iterdir()
    scene.write_bytes(b"garbage")
    with pytest.warns(UserWarning, match=rf"{scene.name} is damaged"):
        result = run("ask", room_clip, QUESTIONS[0], *options)
    assert (result.code, result.out) == (0, answers[QUESTIONS[0]] + "\n")
    assert stages_of(result) == STAGES


# ---------------------------------------------------------------------------------------------- chat


def test_chat_answers_line_by_line_as_ask_does(chat: Callable[..., Result], answers: dict[str, str]) -> None:
    """Blank lines are no questions, and nothing is asked after the last line."""
    typed = f"\n{QUESTIONS[0]}\n\n   \n  {QUESTIONS[1]}  \n{QUESTIONS[0]}\n{QUESTIONS[2]}"
    result = chat(typed)
    assert result.code == 0
    asked = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0], QUESTIONS[2]]
    assert result.out == "".join(answers[question] + "\n" for question in asked)
    assert stages_of(result) == STAGES


@pytest.mark.parametrize("ending", ["/exit", "  /q "])
def test_chat_ends_when_told(chat: Callable[..., Result], answers: dict[str, str], ending: str) -> None:
    result = chat(f"{QUESTIONS[0]}\n{ending}\n{QUESTIONS[1]}\n")
    assert result.code == 0
    assert result.out == answers[QUESTIONS[0]] + "\n"


def test_chat_without_questions_says_nothing(chat: Callable[..., Result], tmp_path: Path) -> None:
    result = chat("", "--scene-cache", tmp_path)
    assert (result.code, result.out, stages_of(result)) == (0, "", STAGES)
    again = chat("\n\n", "--scene-cache", tmp_path)
    assert (again.code, again.out, stages_of(again)) == (0, "", ["load"])


def test_ask_and_chat_share_a_folder_of_scenes(
    run: Command,
    chat: Callable[..., Result],
    room_clip: Path,
    options: tuple[Any, ...],
    answers: dict[str, str],
    tmp_path: Path,
) -> None:
    assert chat(QUESTIONS[1], "--scene-cache", tmp_path).out == answers[QUESTIONS[1]] + "\n"
    result = run("ask", room_clip, QUESTIONS[2], *options, "--scene-cache", tmp_path)
    assert (result.out, stages_of(result)) == (answers[QUESTIONS[2]] + "\n", ["load"])


def test_an_interrupt_ends_the_answer_and_not_the_chat(
    chat: Callable[..., Result], answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after two pieces of the first answer."""
    made: list[Any] = []
    make = common.answer_streamer

    def make_interrupted(*arguments: Any) -> Any:
        streamer = make(*arguments)
        made.append(streamer)
        if len(made) == 1:
            put, left = streamer.put, iter(range(3))

            def put_or_interrupt(value: Any) -> None:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                put(value)

            streamer.put = put_or_interrupt
        return streamer

    monkeypatch.setattr(common, "answer_streamer", make_interrupted)
    result = chat(f"{QUESTIONS[0]}\n{QUESTIONS[2]}\n")
    assert result.code == 0
    cut, whole = result.out.splitlines()
    assert answers[QUESTIONS[0]].startswith(cut)
    assert cut != answers[QUESTIONS[0]]
    assert whole == answers[QUESTIONS[2]]


def test_an_interrupt_at_a_question_ends_the_chat(chat: Callable[..., Result], answers: dict[str, str]) -> None:
    class Keyboard(io.StringIO):
        """One line, then Ctrl-C."""

        def readline(self, *_: Any) -> str:  # type: ignore[override]
            line = super().readline()
            if not line:
                raise KeyboardInterrupt
            return line

    result = chat(Keyboard(f"{QUESTIONS[1]}\n"))
    assert (result.code, result.out) == (0, answers[QUESTIONS[1]] + "\n")


def test_chat_in_a_pipe_of_its_own(room_clip: Path, options: tuple[Any, ...], answers: dict[str, str]) -> None:
    command = [Path(sys.executable).with_name("spatial-mllm"), "chat", room_clip, *options]
    typed = f"{QUESTIONS[0]}\n\n{QUESTIONS[1]}\n/quit\n{QUESTIONS[2]}\n"
    done = subprocess.run(
        [str(part) for part in command],
        input=typed,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(answers[question] + "\n" for question in QUESTIONS[:2])
    assert stages_of(Result(done.returncode, done.stdout, done.stderr)) == STAGES


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ask"], 'There is no question: spatial-mllm ask VIDEO "QUESTION", or -q'),
        (["ask", "--json"], "There is no question"),
        (["ask", "-q", " "], "The question is empty"),
        (["ask", "Where?", "-q", ""], "The question is empty"),
        (["chat", "--num-frames", 3], "num_frames must be a positive even number"),
        (["chat", "--device", "potato"], "--device 'potato' is not the name of a device"),
        (["chat", "--dtype", "int8"], "--dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        (["chat", "--model", "no such folder"], "--model no such folder: there is no such folder"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(
    run: Command, room_clip: Path, options: tuple[Any, ...], arguments: list[Any], says: str
) -> None:
    verb, *more = arguments
    result = run(verb, room_clip, *options, *more)
    assert result.code == 2
    assert result.out == ""
    assert says in result.error


@pytest.mark.parametrize("name", ["gone.mp4", "words.mp4", "empty folder"])
def test_chat_looks_at_the_video_before_the_model_is_loaded(
    run: Command, options: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    (tmp_path / "words.mp4").write_text("these are words\n" * 50)
    (tmp_path / "empty folder").mkdir()
    monkeypatch.setattr(SpatialMLLMForConditionalGeneration, "from_pretrained", load)
    result = run("chat", tmp_path / name, *options)
    assert result.code == 2
    assert result.out == ""
    assert str(tmp_path / name) in result.error


def test_a_folder_of_scenes_that_is_a_file_is_named(
    run: Command, room_clip: Path, options: tuple[Any, ...], tmp_path: Path
) -> None:
    (tmp_path / "scenes").write_text("mine")
    result = run("ask", room_clip, QUESTIONS[0], *options, "--scene-cache", tmp_path / "scenes")
    assert result.code == 2
    assert result.out == ""
    assert str(tmp_path / "scenes") in result.error
    assert (tmp_path / "scenes").read_text() == "mine"
