"""`pipeline("video-question-answering")`: a video and a question in, an answer out.

Frames are chosen by the model's own geometry (`frame_sampling="space_aware"`) unless told otherwise.

    pipe = pipeline("video-question-answering", model=...)
    pipe(video="kitchen.mp4", question="How many chairs are in this room?")
    pipe([{"video": ..., "question": ...}, ...], batch_size=4)
    pipe([{"role": "user", "content": [{"type": "video", "video": ...}, {"type": "text", "text": ...}]}])
"""

import copy
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any

import torch
from PIL import Image
from transformers import Pipeline
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import ModelOutput

Messages = list[dict[str, Any]]
Progress = Callable[[str], None]
VIDEO_KEYS, IMAGE_KEYS, QUESTION_KEYS = ("video", "videos", "frames"), ("image", "images"), ("question", "text")
SAMPLING_OPTIONS = (
    "frame_sampling",
    "num_frames",
    "num_candidate_frames",
    "candidate_size",
    "geometry_source",
    "second_per_grid",
    "fps",
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
DEFAULT_NEW_TOKENS = 256
UNSET_MAX_LENGTH = 20  # of a GenerationConfig that nobody touched


@dataclass
class _Conversations:
    """Chats that are answered together. Not a list, which transformers would take for a batch of inputs."""

    messages: list[Messages]


class VideoQuestionAnsweringPipeline(Pipeline):
    """Answers questions about videos, images and lists of frames with Spatial-MLLM.

    Made by `transformers.pipeline("video-question-answering", model=...)` after `import spatial_mllm_hf`.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True
    processor: Any
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not callable(getattr(self.model, "predict_geometry", None)):
            raise ValueError(
                f"video-question-answering needs a Spatial-MLLM, got {type(self.model).__name__}. A public v1.0 "
                "checkpoint calls itself plain Qwen2.5-VL: load it with "
                "SpatialMLLMForConditionalGeneration.from_pretrained(...) and pass it as model=."
            )
        if not hasattr(self.processor, "bind_geometry"):  # the public checkpoints name Qwen2.5-VL's processor
            parts = self.processor
            self.processor = PROCESSOR_MAPPING[type(self.model.config)](
                parts.image_processor, parts.tokenizer, parts.video_processor, chat_template=parts.chat_template
            )
        self.processor.bind_geometry(self.model)
        self.processor.tokenizer.padding_side = "left"

    def __call__(
        self, inputs: Any = None, question: Any = None, *, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Answers one question or many.

        Args:
            inputs: a dictionary with "video" (or "videos", "image", "images", "frames") and "question"; a chat; a list,
                generator or dataset of these; or a video, with the question as second argument.
            question: the question, when `inputs` or `video=`, `images=` hold what it is about.
            batch_size: how many questions are answered together.
            kwargs: `video=`, `videos=`, `frames=`, `image=`, `images=` as in the dictionary; options of sampling
                (`frame_sampling`, `num_frames`, `num_candidate_frames`, `candidate_size`, `geometry_source`,
                `second_per_grid`, `fps`); `return_frames`; `progress`, called with "decode", "geometry" and "encode" as
                each begins; `streamer`, `max_new_tokens` and whatever else `generate` takes.

        Returns:
            For each question `{"generated_text": str}`; with `return_frames=True` also "frames", for each video a list
            of `{"index", "timestamp", "image"}`: number, seconds (None when unknown) and PIL image of each frame that
            the model saw. A list for several questions, an iterator for a generator or dataset, and a list of
            dictionaries for each question when `num_return_sequences` is above 1.

        Raises:
            ValueError: for an empty question or inputs of another form, and whatever the processor raises.
        """
        media = {key: kwargs.pop(key) for key in (*VIDEO_KEYS, *IMAGE_KEYS) if key in kwargs}
        if question is not None or media:
            if isinstance(inputs, dict) or _is_chat(inputs) or (inputs is not None and "video" in media):
                given = ", ".join([*media, *([] if question is None else ["question"])])
                raise ValueError(f"Give the inputs once: got {reprlib.repr(inputs)} and also {given}.")
            if inputs is not None:
                media["video"] = inputs
            inputs = {**media, "question": question}
        batch_size = batch_size or self._batch_size or 1
        if isinstance(inputs, dict) or _is_chat(inputs):
            return self._answer([_as_messages(inputs)], kwargs)[0]
        if isinstance(inputs, (str, bytes)) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
            raise ValueError(
                'Pass {"video": ..., "question": ...}, video= and question=, chat messages, or a list of these; got '
                f"{reprlib.repr(inputs)}."
            )
        answers = self._stream(inputs, batch_size, kwargs)
        return list(answers) if isinstance(inputs, (list, tuple)) else answers

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes the model and the whole processor, as a checkpoint that this pipeline and the Auto classes read."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _stream(self, inputs: Any, batch_size: int, kwargs: dict[str, Any]) -> Iterator[Any]:
        items = iter(inputs if isinstance(inputs, Iterable) else (inputs[index] for index in range(len(inputs))))
        while batch := [_as_messages(item) for item in islice(items, batch_size)]:
            yield from self._answer(batch, kwargs)

    def _answer(self, messages: list[Messages], kwargs: dict[str, Any]) -> list[Any]:
        return super().__call__(_Conversations(messages), **kwargs)

    def _sanitize_parameters(
        self,
        return_frames: bool | None = None,
        progress: Progress | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess = {name: kwargs.pop(name) for name in SAMPLING_OPTIONS if name in kwargs}
        forward: dict[str, Any] = {}
        postprocess: dict[str, Any] = {}
        if progress is not None:
            preprocess["progress"] = forward["progress"] = progress
        if kwargs or generate_kwargs:
            forward["generate_kwargs"] = {**(generate_kwargs or {}), **kwargs}
        if return_frames is not None:
            postprocess["return_frames"] = return_frames
        return preprocess, forward, postprocess

    def preprocess(
        self,
        inputs: _Conversations,
        frame_sampling: str = "space_aware",
        progress: Progress | None = None,
        second_per_grid: float | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Chooses the frames of every video, then renders and tokenizes the chats."""
        chosen: list[list[tuple[torch.Tensor, Any]]] = []
        chats = []
        for messages in inputs.messages:
            chat, videos = self._sample_videos(messages, progress, frame_sampling=frame_sampling, **options)
            chats.append(chat)
            chosen.append(videos)
        metadata = [about for videos in chosen for _, about in videos]
        processor_kwargs: dict[str, Any] = {"padding": True}
        if metadata:
            processor_kwargs |= {"do_sample_frames": False, "video_metadata": metadata}
        if second_per_grid is not None:
            processor_kwargs["second_per_grid"] = second_per_grid
        model_inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=processor_kwargs,
        )
        return {"model_inputs": dict(model_inputs), "chosen": chosen}

    def _sample_videos(
        self, messages: Messages, progress: Progress | None, **options: Any
    ) -> tuple[Messages, list[tuple[torch.Tensor, Any]]]:
        """The chat with each video replaced by its chosen frames, and those frames with their metadata."""
        chat, videos = [], []
        for message in messages:
            content = message["content"]
            if not isinstance(content, str):
                content = [_typed_part(part) for part in content]
                for part in content:
                    if part["type"] == "video":
                        key = next((key for key in ("video", "url", "path") if key in part), "video")
                        frames, about = self.processor.video_processor.choose_frames(
                            part.pop(key, None), progress=progress, **options
                        )
                        part["video"] = frames
                        videos.append((frames, about))
            chat.append({**message, "content": content})
        return chat, videos

    def _forward(
        self,
        inputs: dict[str, Any],
        generate_kwargs: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> ModelOutput:
        if progress is not None:
            progress("encode")
        model_inputs = inputs["model_inputs"]
        sequences = self.model.generate(**model_inputs, **self._generation_options(generate_kwargs or {}))
        prompt_length = model_inputs["input_ids"].shape[1]
        return ModelOutput(new_tokens=sequences[:, prompt_length:], chosen=inputs["chosen"])

    def _generation_options(self, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `generate`: what was set for the pipeline and for this call, in one configuration."""
        # transformers keeps what was set for the pipeline in `generation_config` (5.18) or `_generate_kwargs` (later).
        options = {**getattr(self, "_generate_kwargs", {}), **generate_kwargs}
        config = options.pop("generation_config", None) or getattr(self, "generation_config", None)
        config = copy.deepcopy(config or self.model.generation_config)
        others = config.update(**options)
        has_limit = "max_length" in options or config.max_length not in (None, UNSET_MAX_LENGTH)
        if config.max_new_tokens is None and not has_limit:
            config.max_new_tokens = DEFAULT_NEW_TOKENS
        if config.max_new_tokens is not None:
            config.max_length = None
        return {"generation_config": config, **others}

    def postprocess(self, model_outputs: ModelOutput, return_frames: bool = False) -> list[Any]:
        """Texts, one entry for each chat."""
        texts = self.processor.batch_decode(model_outputs["new_tokens"], skip_special_tokens=True)
        chosen = model_outputs["chosen"]
        per_chat = len(texts) // len(chosen)
        answers = []
        for number, videos in enumerate(chosen):
            entries: list[dict[str, Any]] = [
                {"generated_text": text.strip()} for text in texts[number * per_chat : (number + 1) * per_chat]
            ]
            if return_frames:
                frames = [describe_frames(*video) for video in videos]
                entries = [{**entry, "frames": frames} for entry in entries]
            answers.append(entries if per_chat > 1 else entries[0])
        return answers


def _is_chat(inputs: Any) -> bool:
    return (
        isinstance(inputs, (list, tuple))
        and len(inputs) > 0
        and all(isinstance(message, dict) and "role" in message for message in inputs)
    )


def _typed_part(part: dict[str, Any]) -> dict[str, Any]:
    """A copy of a message's part with its type, which may be told by its key alone."""
    kind = part.get("type") or next((kind for kind in ("video", "image", "text") if kind in part), None)
    if kind is None:
        raise ValueError(f'A part of a message needs a "type" of "video", "image" or "text", got {sorted(part)}.')
    return {**part, "type": kind}


def _as_messages(item: Any) -> Messages:
    """A chat as it is, or a dictionary of video, images and question as a chat."""
    if _is_chat(item):
        _check_question(" ".join(_texts(item)))
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
    _check_question(question)
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


def _check_question(question: Any) -> None:
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"The question is empty: pass a text to answer, got {question!r}.")


def describe_frames(frames: torch.Tensor, metadata: Any) -> list[dict[str, Any]]:
    """Frames `[K, 3, H, W]` of 0..255 and their metadata → `{"index", "timestamp", "image"}` for each."""
    timestamps = metadata.frame_timestamps or [None] * len(frames)
    pixels = frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [
        {"index": index, "timestamp": timestamp, "image": Image.fromarray(picture)}
        for index, timestamp, picture in zip(metadata.frames_indices, timestamps, pixels)
    ]


__all__ = ["VideoQuestionAnsweringPipeline", "describe_frames"]
