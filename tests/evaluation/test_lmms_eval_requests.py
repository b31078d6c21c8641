"""How lmms-eval's requests become scenes, questions and options; lmms-eval itself is not needed here."""

import ast
import doctest
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from spatial_mllm_hf import VideoQuestionAnsweringPipeline
from spatial_mllm_hf.evaluation import lmms_eval_requests
from spatial_mllm_hf.evaluation.lmms_eval_plugin import CLASS_PATH
from spatial_mllm_hf.evaluation.lmms_eval_requests import (
    Chat,
    ChatRequest,
    RequestAnswerer,
    SceneMedia,
    as_scene,
    generation_options,
    stop_texts,
)
from spatial_mllm_hf.processing.video_source_spatial_mllm import VideoNotFoundError

FEW: dict[str, Any] = {"num_frames": 4, "num_candidate_frames": 6, "candidate_size": 56}
SHORT: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}


def user(*parts: Any) -> Chat:
    """A chat of one message; an .mp4 is a video, another text a text, and anything else a picture."""
    return [{"role": "user", "content": [part(value) for value in parts]}]


def part(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        return {"type": "image", "image": value}
    kind = "video" if value.endswith(".mp4") else "image" if value.endswith(".png") else "text"
    return {"type": kind, kind: value}


class RecordingPipeline:
    """Answers a question with itself, between what `answers` holds for it.

    Attributes:
        scenes: media of each scene that was opened.
        asked: questions of each batch on a scene.
        chats: chats of each batch that was no scene's.
        options: of generation, for each batch of either.
    """

    def __init__(self, answers: dict[str, str] | None = None, broken: str = "") -> None:
        self.answers, self.broken = answers or {}, broken
        self.scenes: list[dict[str, Any]] = []
        self.asked: list[list[str]] = []
        self.chats: list[list[Chat]] = []
        self.options: list[dict[str, Any]] = []

    def open_scene(self, *, num_frames: int, **media: Any) -> "RecordingPipeline":
        if self.broken in [path for paths in media.values() for path in paths]:
            raise VideoNotFoundError(f"There is no video file at '{self.broken}'.")
        self.scenes.append(media)
        return self

    def ask(self, questions: list[str], **options: Any) -> list[dict[str, str]]:
        self.asked.append(questions)
        self.options.append(options)
        return [{"generated_text": self.answers.get(question, question)} for question in questions]

    def __call__(self, chats: list[Chat], *, batch_size: int, num_frames: int, **options: Any) -> list[dict[str, str]]:
        assert batch_size == len(chats)
        if any(part.get("video") == self.broken for chat in chats for message in chat for part in message["content"]):
            raise VideoNotFoundError(f"There is no video file at '{self.broken}'.")
        self.chats.append(chats)
        self.options.append(options)
        return [{"generated_text": chat[-1]["content"][-1]["text"]} for chat in chats]


def answer(pipe: Any, requests: list[ChatRequest], **options: Any) -> list[str]:
    """The answers in the order of the requests, each of which is answered once."""
    done = list(RequestAnswerer(pipe, {"num_frames": 4}, options.pop("settings", {}), **options)(requests))
    assert sorted(number for number, _ in done) == list(range(len(requests)))
    return [text for _, text in sorted(done)]


def test_the_examples_in_the_docstrings_are_true() -> None:
    results = doctest.testmod(lmms_eval_requests)
    assert results.attempted >= 4
    assert results.failed == 0


def test_scenes_that_take_turns_are_each_opened_once() -> None:
    pipe = RecordingPipeline()
    requests = [ChatRequest(user(f"{'ab'[number % 2]}.mp4", f"What is {number}?"), SHORT) for number in range(5)]
    assert answer(pipe, requests, batch_size=2) == [f"What is {number}?" for number in range(5)]
    assert pipe.scenes == [{"videos": ["a.mp4"]}, {"videos": ["b.mp4"]}]
    assert pipe.asked == [["What is 0?", "What is 2?"], ["What is 4?"], ["What is 1?", "What is 3?"]]
    assert pipe.chats == []


def test_questions_are_answered_together_only_if_generated_alike() -> None:
    pipe = RecordingPipeline()
    limits = [4, 9, 4, 9]
    requests = [ChatRequest(user("a.mp4", f"{place}?"), {"max_new_tokens": n}) for place, n in enumerate(limits)]
    assert answer(pipe, requests, batch_size=8) == ["0?", "1?", "2?", "3?"]
    assert len(pipe.scenes) == 1
    assert pipe.asked == [["0?", "2?"], ["1?", "3?"]]
    assert [options["max_new_tokens"] for options in pipe.options] == [4, 9]


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        (user("a.mp4", "Why?"), (SceneMedia(("a.mp4",), ()), "Why?")),
        (user("a.mp4", "b.mp4", "c.png", "Why", " so?"), (SceneMedia(("a.mp4", "b.mp4"), ("c.png",)), "Why so?")),
        (user("c.png", "Why?"), (SceneMedia((), ("c.png",)), "Why?")),
        (user("Why?"), None),
        (user("a.mp4"), None),
        (user("Why?", "a.mp4"), None),
        (user("c.png", "a.mp4", "Why?"), None),
        (user("a.mp4", "first", "b.mp4", "second"), None),
        (user(Image.new("RGB", (8, 8)), "Why?"), None),
        ([{"role": "system", "content": [part("Be brief.")]}, *user("a.mp4", "Why?")], None),
        ([{"role": "assistant", "content": [part("a.mp4"), part("Why?")]}], None),
    ],
)
def test_a_scene_is_media_by_name_and_then_a_question(chat: Chat, expected: Any) -> None:
    assert as_scene(chat) == expected


def test_pictures_in_memory_are_held_for_one_batch_only() -> None:
    pipe = RecordingPipeline()
    made: list[int] = []

    def requests() -> Iterator[ChatRequest]:
        for number in range(5):
            made.append(number)
            yield ChatRequest(user(Image.new("RGB", (8, 8)), f"{number}?"), SHORT)

    answers = RequestAnswerer(pipe, {"num_frames": 4}, {}, batch_size=2)(requests())
    assert next(answers) == (0, "0?")
    assert made == [0, 1]
    assert dict(answers) == {number: f"{number}?" for number in range(1, 5)}
    assert [len(batch) for batch in pipe.chats] == [2, 2, 1]


def test_a_video_that_cannot_be_read_costs_its_own_answers_only() -> None:
    pipe = RecordingPipeline(broken="b.mp4")
    plain = [ChatRequest(user(f"{name}.mp4", f"{name}?"), SHORT) for name in "abcb"]
    with pytest.warns(UserWarning, match=r"no video file at 'b\.mp4'\. 2 of the answers are empty"):
        assert answer(pipe, plain) == ["a?", "", "c?", ""]
    interleaved = [ChatRequest(user("Look:", f"{name}.mp4", f"{name}?"), SHORT) for name in "abc"]
    with pytest.warns(UserWarning, match=r"no video file at 'b\.mp4'\. 1 of the answers are empty"):
        assert answer(pipe, interleaved, batch_size=2) == ["a?", "", "c?"]


def test_what_the_model_cannot_take_in_is_an_error() -> None:
    sound = user("a.mp4", "What is said?")
    sound[0]["content"].append({"type": "audio", "audio": "a.wav"})
    with pytest.raises(ValueError, match="a part of type 'audio': Spatial-MLLM takes text, images and videos"):
        answer(RecordingPipeline(), [ChatRequest(sound, {})])
    cutting = user("a.mp4", "What then?")
    cutting[0]["content"][0] |= {"video_start": 2.0, "video_end": 5.0}
    with pytest.raises(ValueError, match=r"a part of 'a\.mp4' \(from 2\.0 to 5\.0 seconds\)"):
        answer(RecordingPipeline(), [ChatRequest(cutting, {})])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"do_sample": False}),
        ({"temperature": None, "do_sample": True, "top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"temperature": 0.0, "do_sample": True, "top_p": 0.9}, {"do_sample": False}),
        ({"temperature": 0.7, "do_sample": False, "top_p": 0.9}, {"temperature": 0.7, "do_sample": True, "top_p": 0.9}),
        (
            {"max_new_tokens": 16, "num_beams": 3, "top_p": None},
            {"max_new_tokens": 16, "num_beams": 3, "do_sample": False},
        ),
    ],
)
def test_options_of_generation(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generation_options(settings) == expected


def test_options_for_other_models_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"\['image_aspect_ratio'\] mean nothing to Spatial-MLLM"):
        assert generation_options({"image_aspect_ratio": "pad", "max_new_tokens": 3}) == {
            "max_new_tokens": 3,
            "do_sample": False,
        }


def test_settings_of_the_model_hold_where_the_task_has_none() -> None:
    pipe = RecordingPipeline()
    requests = [ChatRequest(user("a.mp4", "0?"), {}), ChatRequest(user("a.mp4", "1?"), {"max_new_tokens": 16})]
    answer(pipe, requests, settings={"max_new_tokens": 512})
    assert [options["max_new_tokens"] for options in pipe.options] == [512, 16]


@pytest.mark.parametrize(
    ("until", "expected"),
    [(None, ()), ("USER:", ("USER:",)), (["\n\n"], ()), (["", "\n\n", "\n", "Q:"], ("\n", "Q:"))],
)
def test_lmms_evals_default_delimiter_ends_no_answer(until: Any, expected: tuple[str, ...]) -> None:
    assert stop_texts({"until": until}) == expected


def test_answers_end_before_the_first_stop_and_are_taken_out_of_their_block() -> None:
    said = {
        "cut": "left USER: and then? USER: right",
        "thought": "<think>It is\n\nbehind.</think>\n\n<answer> B </answer>",
        "stopped": "one <answer>two</answer>",
    }
    requests = [ChatRequest(user("a.mp4", question), {"until": ["\n\n", "USER:"]}) for question in said]
    requests[2] = ChatRequest(requests[2].chat, {"until": ["<answer>"]})
    assert answer(RecordingPipeline(said), requests) == ["left", "B", "one"]
    assert answer(RecordingPipeline(said), requests, extract=False) == ["left", said["thought"], "one"]


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: Path) -> VideoQuestionAnsweringPipeline:
    return pipeline("video-question-answering", model=str(tiny_checkpoint))


@pytest.fixture(scope="module")
def chats(room_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Chat]:
    """Of every form: scenes, pictures in memory and between text, text alone, with a system prompt."""
    noise = np.random.default_rng(3).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    saved = tmp_path_factory.mktemp("pictures") / "noise.png"
    pictures[0].save(saved)
    system = {"role": "system", "content": [part("Be brief.")]}
    return [
        user(str(room_clip), "How many chairs are there?"),
        user(str(room_clip), str(saved), "What differs?"),
        user(*pictures, "What is this?"),
        user("First", pictures[0], "then", pictures[1], "What changed?"),
        user("What is a room?"),
        [system, *user(str(room_clip), "How many chairs are there?")],
        user(str(room_clip), "And how many beds?"),
    ]


@pytest.fixture(scope="module")
def expected(pipe: VideoQuestionAnsweringPipeline, chats: list[Chat]) -> list[str]:
    answers = [pipe(chat, **FEW, **SHORT)["generated_text"] for chat in chats]
    assert len(set(answers)) > len(chats) // 2  # of random weights, so two may say the same on one machine or another
    return answers


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_the_pipeline_whatever_the_form_of_the_chat(
    pipe: VideoQuestionAnsweringPipeline, chats: list[Chat], expected: list[str], batch_size: int
) -> None:
    answerer = RequestAnswerer(pipe, FEW, {}, batch_size, extract=False)
    done = dict(answerer(ChatRequest(chat, SHORT) for chat in chats))
    assert [done[number] for number in range(len(chats))] == expected


def test_the_entry_point_imports_neither_torch_nor_lmms_eval() -> None:
    code = (
        "import sys; import spatial_mllm_hf.evaluation.lmms_eval_plugin; "
        "print({'torch', 'transformers', 'lmms_eval'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_entry_point_names_a_class_that_is_there() -> None:
    module, name = CLASS_PATH.rsplit(".", 1)
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
