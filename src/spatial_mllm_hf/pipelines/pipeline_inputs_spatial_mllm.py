"""What users hand to the pipeline, brought into the form of a chat."""

import os
import reprlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

Messages = list[dict[str, Any]]
VIDEO_KEYS, IMAGE_KEYS, QUESTION_KEYS = ("video", "videos", "frames"), ("image", "images"), ("question", "text")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


def is_chat(inputs: Any) -> bool:
    return (
        isinstance(inputs, (list, tuple))
        and len(inputs) > 0
        and all(isinstance(message, dict) and "role" in message for message in inputs)
    )


def typed_part(part: dict[str, Any]) -> dict[str, Any]:
    """A copy of a message's part with its type, which may be told by its key alone."""
    kind = part.get("type") or next((kind for kind in ("video", "image", "text") if kind in part), None)
    if kind is None:
        raise ValueError(f'A part of a message needs a "type" of "video", "image" or "text", got {sorted(part)}.')
    return {**part, "type": kind}


def as_messages(item: Any) -> Messages:
    """A chat as it is, or a dictionary of video, images and question as a chat."""
    if is_chat(item):
        check_question(" ".join(_texts(item)))
        return list(item)
    if not isinstance(item, dict):
        raise ValueError(f'Each input must be {{"video": ..., "question": ...}} or a chat, got {reprlib.repr(item)}.')
    unknown = set(item) - {*VIDEO_KEYS, *IMAGE_KEYS, *QUESTION_KEYS}
    if unknown:
        raise ValueError(f"Unknown keys {sorted(unknown)}; expected 'video' or 'images', and 'question'.")
    for key in (*VIDEO_KEYS, *IMAGE_KEYS):
        if key in item and (item[key] is None or (isinstance(item[key], (list, tuple)) and not item[key])):
            raise ValueError(f"{key!r} is empty: pass what the question is about, or leave it out to ask without.")
    question = next((item[key] for key in QUESTION_KEYS if item.get(key) is not None), None)
    check_question(question)
    content: list[dict[str, Any]] = []
    for key in VIDEO_KEYS:
        content += [{"type": "video", "video": video} for video in _separate(item.get(key), several=key == "videos")]
    for key in IMAGE_KEYS:
        images = item.get(key)
        images = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
        content += [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def _separate(videos: Any, several: bool) -> list[Any]:
    """Several videos out of a list of them. A list under "video" is one video if it holds frames."""
    if videos is None:
        return []
    if isinstance(videos, (list, tuple)) and (several or all(_is_source(video) for video in videos)):
        return list(videos)
    return [videos]


def _is_source(video: Any) -> bool:
    """Whether this is the path or URL of a video, not of a picture."""
    return isinstance(video, (str, os.PathLike)) and PurePath(video).suffix.lower() not in IMAGE_SUFFIXES


def _texts(messages: Messages) -> Iterator[str]:
    for message in messages:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        yield from (part["text"] for part in parts if "text" in part)


def check_question(question: Any) -> None:
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"The question is empty: pass a text to answer, got {question!r}.")
