"""Teachers: what an endpoint is sent, what becomes of its faults, and a local model."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripted_endpoint import CUT, GARBAGE, HANG_UP, SLOW, serve

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.pipelines.pipeline_spatial_mllm import VideoQuestionAnsweringPipeline
from spatial_mllm_hf.processing.video_decoding_spatial_mllm import decode_frames
from spatial_mllm_hf.training.teachers import EndpointTeacher, LocalTeacher, Sampling, TeacherError

FEW = Sampling(num_frames=4, max_new_tokens=8)


def teacher(url: str, **changes: Any) -> EndpointTeacher:
    return EndpointTeacher(url, **{"model": "big", "sampling": FEW, "pause": 0.0, "timeout": 0.3} | changes)


def test_a_request_is_frames_and_a_question(room_clip: Path) -> None:
    with serve(lambda body, before: "Three.") as endpoint:
        sampling = Sampling(temperature=0.7, top_p=0.9, num_frames=4, max_new_tokens=99)
        asked = teacher(endpoint.url, sampling=sampling, api_key="secret")
        assert asked.answer(str(room_clip), "How many?", seed=5) == "Three."
    (body,), (headers,) = endpoint.bodies, endpoint.headers
    settings = {name: body[name] for name in body if name != "messages"}
    assert settings == {"model": "big", "temperature": 0.7, "top_p": 0.9, "max_tokens": 99, "seed": 5}
    assert headers["Authorization"] == "Bearer secret"
    system, user = body["messages"]
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    *pictures, text = user["content"]
    assert text == {"type": "text", "text": "How many?"}
    expected = decode_frames(str(room_clip), [0, 8, 15, 23]).frames  # evenly over 24
    assert len(pictures) == 4
    for picture, frame in zip(pictures, expected):
        head, data = picture["image_url"]["url"].split(",")
        assert head == "data:image/jpeg;base64"
        shown = np.array(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        assert shown.shape == frame.shape
        assert np.abs(shown - frame).mean() < 4


def test_large_frames_are_made_smaller(room_clip: Path) -> None:
    with serve(lambda body, before: "Three.") as endpoint:
        asked = teacher(endpoint.url, sampling=Sampling(num_frames=2, max_pixels=80 * 60))
        asked.answer(str(room_clip), "How many?", seed=5)
    data = endpoint.bodies[0]["messages"][1]["content"][0]["image_url"]["url"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (80, 60)


@pytest.mark.parametrize("url", ["{}", "{}/", "{}/chat/completions"])
def test_the_address_may_be_written_as_usual(room_clip: Path, url: str) -> None:
    with serve(lambda body, before: "Yes.") as endpoint:
        assert teacher(url.format(endpoint.url)).answer(str(room_clip), "?", seed=0) == "Yes."
    assert "Authorization" not in endpoint.headers[0]


@pytest.mark.parametrize(
    "fault",
    [
        (500, "out of memory"),
        (503, ""),
        (429, "slow down"),
        CUT,
        GARBAGE,
        HANG_UP,
        SLOW,
        (200, '{"choices": []}'),
        (200, '{"choices": [{"message": {"content": 3}}]}'),
    ],
)
def test_what_may_pass_is_tried_again(room_clip: Path, fault: Any) -> None:
    with serve(lambda body, before: fault if before < 2 else "Yes.") as endpoint:
        assert teacher(endpoint.url, attempts=3).answer(str(room_clip), "?", seed=0) == "Yes."
    assert len(endpoint.bodies) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((500, "out of\n memory"), r"500 Internal Server Error: out of memory \(2 attempts\)"),
        (GARBAGE, "the response is no chat completion: '<html>502"),
        (CUT, "IncompleteRead"),
        (HANG_UP, r"\(2 attempts\)"),
        (SLOW, "timed out"),
    ],
)
def test_and_given_up_in_the_end(room_clip: Path, fault: Any, message: str) -> None:
    with serve(lambda body, before: fault) as endpoint:
        with pytest.raises(TeacherError, match=message) as caught:
            teacher(endpoint.url, attempts=2).answer(str(room_clip), "?", seed=0)
        assert caught.value.is_down
    assert len(endpoint.bodies) == 2


def test_nobody_there(room_clip: Path) -> None:
    with serve(lambda body, before: "") as endpoint:
        pass
    with pytest.raises(TeacherError, match="ConnectionRefusedError") as caught:
        teacher(endpoint.url, attempts=2).answer(str(room_clip), "?", seed=0)
    assert caught.value.is_down


def test_pauses_grow_and_heed_the_server(room_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr("spatial_mllm_hf.training.teachers.time.sleep", paused.append)
    with serve(lambda body, before: (500, "")) as endpoint, pytest.raises(TeacherError):
        teacher(endpoint.url, attempts=9, pause=1.0).answer(str(room_clip), "?", seed=0)
    assert paused == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_question_that_is_refused_is_not_asked_again(room_clip: Path) -> None:
    with serve(lambda body, before: (400, "context too long")) as endpoint:
        with pytest.raises(TeacherError, match="400 Bad Request: context too long") as caught:
            teacher(endpoint.url).answer(str(room_clip), "?", seed=0)
        assert not caught.value.is_down
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_will_never_be_answered_is_an_error_of_the_user(room_clip: Path, status: int) -> None:
    with (
        serve(lambda body, before: (status, "no such model")) as endpoint,
        pytest.raises(ValueError, match=f"refuses: {status} .*no such model. Are --endpoint, --teacher and the key"),
    ):
        teacher(endpoint.url).answer(str(room_clip), "?", seed=0)


def test_no_text_is_an_empty_answer(room_clip: Path) -> None:
    with serve(lambda body, before: None) as endpoint:
        assert teacher(endpoint.url).answer(str(room_clip), "?", seed=0) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"num_frames": 3}, "num_frames must be a positive even number, got 3"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_sampling_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**changes)


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ValueError, match=r"--endpoint must be a URL.*got 'localhost:8000'"):
        teacher("localhost:8000")


def test_a_local_model_sees_a_video_once_and_answers_by_the_seed(tiny_checkpoint: Path, room_clip: Path) -> None:
    pipe = VideoQuestionAnsweringPipeline(
        model=SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint),
        processor=SpatialMLLMProcessor.from_pretrained(tiny_checkpoint),
        task="video-question-answering",
    )
    opened = []
    open_scene = pipe.open_scene
    pipe.open_scene = lambda video, **options: opened.append((video, options)) or open_scene(video, **options)
    local = LocalTeacher(pipe, "tiny", FEW)
    first, second, again = (local.answer(str(room_clip), "How many?", seed=seed) for seed in (1, 2, 1))
    assert first == again != second
    assert opened == [(str(room_clip), {"frame_sampling": "uniform", "num_frames": 4})]
    assert local.describe()["teacher"] == "tiny"
    assert not local.is_parallel
