"""Teachers, who answer questions about videos with their thoughts: behind an endpoint, or a local checkpoint.

An endpoint is any that speaks the chat completions of OpenAI's API (vLLM, SGLang, llama.cpp, a provider's). It is asked
over urllib: huggingface_hub's client reaches nobody where HF_HUB_OFFLINE is set, which on a cluster with a teacher of
its own is usual, and one POST is no reason for a dependency. A video goes as frames in JPEG, taken evenly over it.
"""

from __future__ import annotations

import base64
import functools
import http.client
import io
import json
import logging
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..data.training_prompts import SYSTEM_PROMPT
from ..processing.video_decoding_spatial_mllm import decode_frames, index_video

logger = logging.getLogger(__name__)

JPEG_QUALITY = 90
VIDEOS_KEPT = 16  # frames of so many videos are kept for the next question: about 1 MB each
RETRIED = frozenset({408, 409, 425, 429})  # and all above 499
REFUSED = frozenset({401, 403, 404, 405})  # for whatever is asked
LONGEST_PAUSE = 60.0  # seconds
MOST_QUOTED = 200  # characters of a server's own words


class TeacherError(Exception):
    """One answer could not be had; another may be.

    Attributes:
        is_down: whether nothing that the question could have caused is wrong, but the teacher itself.
    """

    def __init__(self, message: str, is_down: bool = False) -> None:
        super().__init__(message)
        self.is_down = is_down


class Teacher(Protocol):
    """Answers questions about videos. `answer` may be called by several threads if `is_parallel`."""

    is_parallel: bool

    def answer(self, video: str, prompt: str, seed: int) -> str:
        """One answer, drawn anew for each seed.

        Raises:
            TeacherError: if there is none this time.
            ValueError: for a video that cannot be read, or a teacher that will never answer.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What its answers depend on, as JSON can say it; without secrets and without where it runs."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature, top_p: of the next token.
        max_new_tokens: longest answer.
        num_frames: that the teacher sees of a video, even.
        max_pixels: of such a frame; larger ones are made smaller. Endpoints only: a local model has limits of its own.
    """

    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 1024
    num_frames: int = 16
    max_pixels: int = 324576

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of range."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}: answers have to differ.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}.")
        if self.num_frames < 2 or self.num_frames % 2:
            raise ValueError(f"num_frames must be a positive even number, got {self.num_frames}.")
        for name in ("max_new_tokens", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


class EndpointTeacher:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        base_url: up to and without "/chat/completions", as in http://localhost:8000/v1.
        model: as the endpoint knows it.
        sampling: how answers are drawn.
        api_key: sent as a bearer token.
        timeout: seconds without a byte after which a request is given up.
        attempts: requests for one answer, with pauses of 1, 2, 4, ... times `pause` seconds between them.

    Raises:
        ValueError: for a URL that is none, or a number out of range.
    """

    is_parallel = True

    def __init__(
        self,
        base_url: str,
        model: str,
        sampling: Sampling,
        api_key: str | None = None,
        timeout: float = 300.0,
        attempts: int = 5,
        pause: float = 1.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint must be a URL such as http://localhost:8000/v1, got {base_url!r}.")
        if attempts < 1 or not timeout > 0:
            raise ValueError(f"attempts must be at least 1 and timeout positive, got {attempts} and {timeout}.")
        self.url = base_url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model, self.sampling = model, sampling
        self.attempts, self.timeout, self.pause = attempts, timeout, pause
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._frames = functools.lru_cache(VIDEOS_KEPT)(self._encode_frames)

    def describe(self) -> dict[str, Any]:
        return {"teacher": self.model, **vars(self.sampling)}

    def answer(self, video: str, prompt: str, seed: int) -> str:
        body = json.dumps(self._request(video, prompt, seed)).encode()
        for attempt in range(self.attempts):
            try:
                return self._post(body)
            except _TryAgainError as error:
                if attempt + 1 == self.attempts:
                    raise TeacherError(f"{self.url}: {error} ({self.attempts} attempts)", is_down=True) from error
                pause = min(LONGEST_PAUSE, max(error.pause, self.pause * 2**attempt))
                logger.info("%s: %s; again in %.1f s", self.url, error, pause)
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _request(self, video: str, prompt: str, seed: int) -> dict[str, Any]:
        pictures = [{"type": "image_url", "image_url": {"url": frame}} for frame in self._frames(video)]
        return {
            "model": self.model,
            "messages": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": [*pictures, {"type": "text", "text": prompt}]},
            ],
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_new_tokens,
            "seed": seed,
        }

    def _encode_frames(self, video: str) -> tuple[str, ...]:
        """Frames as data URLs."""
        index = index_video(video)
        numbers = np.linspace(0, index.num_frames - 1, self.sampling.num_frames).round().astype(int).tolist()
        frames = decode_frames(video, numbers, index=index, num_threads=1).frames
        return tuple(_data_url(Image.fromarray(frame), self.sampling.max_pixels) for frame in frames)

    def _post(self, body: bytes) -> str:
        request = urllib.request.Request(self.url, body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:  # nobody there, too slow, cut off
            raise _TryAgainError(_reason(error)) from error
        return _text_of(content)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What an error status means."""
        try:
            said = " ".join(error.read().decode(errors="replace").split())[:MOST_QUOTED]
        except (OSError, http.client.HTTPException):
            said = ""
        message = f"{error.code} {error.reason}{': ' if said else ''}{said}"
        if error.code in RETRIED or error.code >= 500:
            pause = error.headers.get("Retry-After", "")
            return _TryAgainError(message, float(pause) if pause.isdigit() else 0.0)
        if error.code in REFUSED:
            return ValueError(f"{self.url} refuses: {message}. Are --endpoint, --teacher and the key right?")
        return TeacherError(f"{self.url}: {message}")


class LocalTeacher:
    """A local checkpoint, asked by the pipeline; a video is seen once for all that follows on it.

    Args:
        pipeline: a `VideoQuestionAnsweringPipeline`.
        name: of the checkpoint.
        sampling: how answers are drawn.
        frame_sampling: how the pipeline chooses frames.
    """

    is_parallel = False

    def __init__(self, pipeline: Any, name: str, sampling: Sampling, frame_sampling: str = "uniform") -> None:
        self.pipeline, self.name, self.sampling, self.frame_sampling = pipeline, name, sampling, frame_sampling
        self._scene: tuple[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        return {"teacher": self.name, "frame_sampling": self.frame_sampling, **vars(self.sampling)}

    def answer(self, video: str, prompt: str, seed: int) -> str:
        if self._scene is None or self._scene[0] != video:
            options = {"frame_sampling": self.frame_sampling, "num_frames": self.sampling.num_frames}
            self._scene = (video, self.pipeline.open_scene(video, **options))
        torch.manual_seed(seed)
        answer = self._scene[1].ask(
            prompt,
            do_sample=True,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_new_tokens=self.sampling.max_new_tokens,
        )
        return answer["generated_text"]


class _TryAgainError(Exception):
    """A request failed in a way that another may not; `pause` is how many seconds the server wants between them."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


def _text_of(content: bytes) -> str:
    """The text of the first choice of a response."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        said = " ".join(content[:MOST_QUOTED].decode(errors="replace").split())
        raise _TryAgainError(f"the response is no chat completion: {said!r}") from error
    if text is None:
        return ""  # it thought until it was cut off
    if not isinstance(text, str):
        raise _TryAgainError(f"the response's content must be text, got a {type(text).__name__}")
    return text


def _reason(error: Exception) -> str:
    """Words for what went wrong with a connection."""
    cause = getattr(error, "reason", error)
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, BaseException) else str(cause)


def _data_url(frame: Image.Image, max_pixels: int) -> str:
    scale = (max_pixels / (frame.width * frame.height)) ** 0.5
    if scale < 1:
        frame = frame.resize((max(1, int(frame.width * scale)), max(1, int(frame.height * scale))))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
