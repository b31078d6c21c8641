"""Answers chats as lmms-eval hands them over, each scene seen once. Imports nothing of lmms-eval (read at 0.7.3).

Videos and images named by path or URL and a question behind them are a scene that is asked: such requests are put
together by scene, whichever task or document they come from. All other chats (a system prompt, text between pictures,
pictures in memory) are answered as they come, so that never more than a batch of them is held.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from ..processing.video_source_spatial_mllm import VideoDecodeError
from .answers import extract_answer

Chat = list[dict[str, Any]]
T = TypeVar("T")

PARTS_OF_A_SCENE = ("video", "image", "text")  # in this order
# Of a task's generation_kwargs, what `generate` takes; the second only when answers are drawn.
OPTIONS = (
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
)
DRAWING_OPTIONS = ("temperature", "top_p", "top_k", "min_p")
READ_HERE = ("do_sample", "until")
# lmms-eval puts its delimiter of examples into `until` of every task that names none. A thought would end at its first
# paragraph, so lmms-eval's own Qwen2.5-VL leaves this one out as well.
DEFAULT_UNTIL = "\n\n"


class ChatRequest(NamedTuple):
    """A chat in transformers' form, and the task's generation_kwargs."""

    chat: Chat
    settings: Mapping[str, Any]


class SceneMedia(NamedTuple):
    """Paths and URLs of a scene."""

    videos: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    """A chat or a question that waits for others of its kind.

    Attributes:
        number: of its request.
        options: arguments of `generate`.
        until: the answer ends before the first of these.
    """

    number: int
    content: T
    options: dict[str, Any]
    until: tuple[str, ...]


class RequestAnswerer:
    """Answers requests with a pipeline.

    Args:
        pipe: a `VideoQuestionAnsweringPipeline`.
        sampling: options of frames: frame_sampling, num_frames, ...
        settings: generation_kwargs that hold where a task names none.
        batch_size: questions on one scene, or chats, that are answered together.
        extract: whether the text of the last `<answer>` block is the answer where there is one.
    """

    def __init__(
        self,
        pipe: Any,
        sampling: Mapping[str, Any],
        settings: Mapping[str, Any],
        batch_size: int = 1,
        extract: bool = True,
    ) -> None:
        self.pipe = pipe
        self.sampling = sampling
        self.settings = settings
        self.batch_size = batch_size
        self.extract = extract

    def __call__(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, str]]:
        """Yields the number of each request with its answer, in the order in which they get done.

        A video that cannot be read is a warning, and "" the answer.

        Raises:
            ValueError: for a chat with what the model cannot take in: sound, a part of a video.
        """
        scenes: dict[SceneMedia, list[_Waiting[str]]] = {}
        chats: dict[str, list[_Waiting[Chat]]] = {}
        for number, (chat, given) in enumerate(requests):
            _check_chat(chat)
            settings = {**self.settings, **given}
            options, until = generation_options(settings), stop_texts(settings)
            if (found := as_scene(chat)) is not None:
                media, question = found
                scenes.setdefault(media, []).append(_Waiting(number, question, options, until))
                continue
            key = _key_of(options)
            chats.setdefault(key, []).append(_Waiting(number, chat, options, until))
            if len(chats[key]) == self.batch_size:
                yield from self._answer_chats(chats.pop(key))
        for rest in chats.values():
            yield from self._answer_chats(rest)
        for media, questions in scenes.items():
            yield from self._answer_scene(media, questions)

    def _answer_scene(self, media: SceneMedia, questions: list[_Waiting[str]]) -> Iterator[tuple[int, str]]:
        try:
            named = {name: list(paths) for name, paths in media._asdict().items() if paths}
            scene = self.pipe.open_scene(**named, **self.sampling)
        except VideoDecodeError as error:
            yield from _unreadable(questions, error)
            return
        by_options: dict[str, list[_Waiting[str]]] = {}
        for question in questions:
            by_options.setdefault(_key_of(question.options), []).append(question)
        for alike in by_options.values():
            for start in range(0, len(alike), self.batch_size):
                batch = alike[start : start + self.batch_size]
                answers = scene.ask([question.content for question in batch], **batch[0].options)
                yield from self._read(batch, answers)

    def _answer_chats(self, chats: list[_Waiting[Chat]]) -> Iterator[tuple[int, str]]:
        try:
            answers = self.pipe(
                [chat.content for chat in chats], batch_size=len(chats), **self.sampling, **chats[0].options
            )
        except VideoDecodeError as error:
            if len(chats) == 1:
                yield from _unreadable(chats, error)
            else:  # which of them it is, and the answers of the others
                for chat in chats:
                    yield from self._answer_chats([chat])
            return
        yield from self._read(chats, answers)

    def _read(self, waiting: Iterable[_Waiting], answers: Iterable[Mapping[str, str]]) -> Iterator[tuple[int, str]]:
        for one, answer in zip(waiting, answers):
            text = cut(answer["generated_text"], one.until)
            yield one.number, extract_answer(text) if self.extract else text


def as_scene(chat: Chat) -> tuple[SceneMedia, str] | None:
    """A chat as a scene and a question; None if it has another form.

    >>> as_scene([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Why?"}]}])
    (SceneMedia(videos=('a.mp4',), images=()), 'Why?')
    """
    if [message["role"] for message in chat] != ["user"]:
        return None
    content = chat[0]["content"]
    videos, images, texts = (tuple(part[kind] for part in content if part["type"] == kind) for kind in PARTS_OF_A_SCENE)
    places = [PARTS_OF_A_SCENE.index(part["type"]) for part in content]
    if not (videos + images and texts) or places != sorted(places):
        return None
    if not all(isinstance(medium, str) for medium in videos + images):
        return None
    return SceneMedia(videos, images), "".join(texts)


def generation_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` for a task's generation_kwargs.

    As lmms-eval's own models have it, a temperature above 0 means drawing, whatever `do_sample` says: it is what
    `--gen_kwargs temperature=0.7` on a task with `do_sample: false` is meant to do.

    >>> generation_options({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "do_sample": False, "until": ["."]})
    {'max_new_tokens': 16, 'do_sample': False}
    """
    given = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(set(given) - {*OPTIONS, *DRAWING_OPTIONS, *READ_HERE})
    if unknown:
        warnings.warn(f"generation_kwargs {unknown} mean nothing to Spatial-MLLM and are left out.", stacklevel=2)
    draws = given["temperature"] > 0 if "temperature" in given else bool(given.get("do_sample"))
    names = (*OPTIONS, *DRAWING_OPTIONS) if draws else OPTIONS
    return {**{name: given[name] for name in names if name in given}, "do_sample": draws}


def stop_texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What ends an answer, of a task's generation_kwargs.

    >>> stop_texts({"until": ["\\n\\n", "USER:"]})
    ('USER:',)
    """
    until = settings.get("until") or ()
    return tuple(text for text in ([until] if isinstance(until, str) else until) if text not in ("", DEFAULT_UNTIL))


def cut(text: str, until: Iterable[str]) -> str:
    """What stands before the first of some texts.

    >>> cut("A. chair USER: next", ["USER:", "."])
    'A'
    """
    for end in until:
        text = text.split(end, 1)[0]
    return text.strip()


def _check_chat(chat: Chat) -> None:
    for part in (part for message in chat for part in message["content"]):
        if part["type"] not in PARTS_OF_A_SCENE:
            raise ValueError(
                f"The task has a part of type {part['type']!r}: Spatial-MLLM takes text, images and videos. "
                "Leave the task out of --tasks."
            )
        if "video_start" in part or "video_end" in part:
            raise ValueError(
                f"The task asks about a part of {part['video']!r} (from {part.get('video_start')} to "
                f"{part.get('video_end')} seconds): Spatial-MLLM takes whole videos. Cut it beforehand, or leave the "
                "task out of --tasks."
            )


def _unreadable(waiting: Iterable[_Waiting], error: VideoDecodeError) -> Iterator[tuple[int, str]]:
    numbers = [one.number for one in waiting]
    warnings.warn(f"{error} {len(numbers)} of the answers are empty because of that.", stacklevel=2)
    for number in numbers:
        yield number, ""


def _key_of(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)
