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
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL import Image
from transformers import Pipeline
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import ModelOutput

from .pipeline_inputs_spatial_mllm import (
    IMAGE_KEYS,
    VIDEO_KEYS,
    Messages,
    as_messages,
    check_question,
    is_chat,
    typed_part,
)
from .scene_files_spatial_mllm import SceneFileError, check_can_be_saved, load_scene, save_scene, scene_file_name
from .scene_keys_spatial_mllm import describe_scene
from .scene_spatial_mllm import Scene, generate_from, read_prefix

Progress = Callable[[str], None]
SAMPLING_OPTIONS = (
    "frame_sampling",
    "num_frames",
    "num_candidate_frames",
    "candidate_size",
    "geometry_source",
    "second_per_grid",
    "fps",
)
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
            if isinstance(inputs, dict) or is_chat(inputs) or (inputs is not None and "video" in media):
                given = ", ".join([*media, *([] if question is None else ["question"])])
                raise ValueError(f"Give the inputs once: got {reprlib.repr(inputs)} and also {given}.")
            if inputs is not None:
                media["video"] = inputs
            inputs = {**media, "question": question}
        batch_size = batch_size or self._batch_size or 1
        if isinstance(inputs, dict) or is_chat(inputs):
            return self._answer([as_messages(inputs)], kwargs)[0]
        if isinstance(inputs, (str, bytes)) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
            raise ValueError(
                'Pass {"video": ..., "question": ...}, video= and question=, chat messages, or a list of these; got '
                f"{reprlib.repr(inputs)}."
            )
        answers = self._stream(inputs, batch_size, kwargs)
        return list(answers) if isinstance(inputs, (list, tuple)) else answers

    def open_scene(
        self, video: Any = None, *, saved: str | os.PathLike | None = None, cache_dir: Any = None, **kwargs: Any
    ) -> Scene:
        """Sees a video once, for as many questions as wanted: `scene.ask(question)`.

        Frames are decoded, chosen, encoded and read by the language model here; a question costs its own tokens.

        Args:
            video: as in a call; or name `video=`, `videos=`, `frames=`, `image=`, `images=`.
            saved: a file. If it holds this very scene it is read, else (it is not there, stale or damaged, the latter
                two with a warning) the scene is opened and written to it.
            cache_dir: a folder of such files, named by what they depend on: content, model and settings.
            kwargs: options of sampling and `progress`, as in a call.

        Raises:
            ValueError: as a call; if both `saved` and `cache_dir` are given; or if the scene cannot be saved.
        """
        media = {key: kwargs.pop(key) for key in (*VIDEO_KEYS, *IMAGE_KEYS) if key in kwargs}
        if video is not None:
            media = {"video": video, **media}
        messages = as_messages({**media, "question": "?"})
        if not media:
            raise ValueError("open_scene needs a video or images: open_scene(video) or open_scene(images=[...]).")
        if saved is not None and cache_dir is not None:
            raise ValueError("Give saved= (one file) or cache_dir= (a folder of them), not both.")
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        if unused := forward.get("generate_kwargs"):
            raise ValueError(f"open_scene does not know {sorted(unused)}; what generation takes goes to scene.ask.")
        options = {**self._preprocess_params, **preprocess}
        chosen_by = {"frame_sampling": "space_aware", **options}
        key = describe_scene(self, media, {name: chosen_by.get(name) for name in SAMPLING_OPTIONS})
        if cache_dir is not None:
            saved = os.path.join(cache_dir, scene_file_name(key))
        if saved is not None:
            check_can_be_saved(key)
        if saved is not None and os.path.exists(saved):
            try:
                return load_scene(self, saved, key)
            except SceneFileError as error:
                warnings.warn(f"{error} It is opened anew now.", stacklevel=2)
        scene = self._see(messages, options, key)
        if saved is not None:
            save_scene(scene, saved)
        return scene

    def _see(self, messages: Messages, options: dict[str, Any], key: dict[str, str]) -> Scene:
        inputs = self.preprocess(_Conversations([messages]), **options)
        if (progress := options.get("progress")) is not None:
            progress("encode")
        prefix = read_prefix(self.model, self._ensure_tensor_on_device(inputs["model_inputs"], device=self.device))
        return Scene(self, prefix, [describe_frames(*video) for video in inputs["chosen"][0]], key)

    def save_scene(self, scene: Scene, path: str | os.PathLike) -> None:
        """Writes a scene, as `scene.save(path)` does."""
        save_scene(scene, path)

    def ask_scenes(self, pairs: Sequence[tuple[Scene, str]], **generate_kwargs: Any) -> list[Any]:
        """Answers several questions in one batch, each on a scene of its own or on the same.

        Args:
            pairs: scenes that this pipeline opened, each with a question.
            generate_kwargs: whatever `generate` takes.

        Returns:
            For each question what `scene.ask` returns.

        Raises:
            ValueError: for no pairs, an empty question or one with placeholders, a scene of another pipeline, or a way
                of generation that cannot continue a scene.
        """
        if not pairs:
            raise ValueError("ask_scenes needs at least one pair of a scene and a question.")
        for scene, question in pairs:
            check_question(question)
            if scene.pipeline is not self:
                raise ValueError(f"{scene} was opened by another pipeline: ask it there, or open it with this one.")
        own = self._forward_params.get("generate_kwargs", {})
        tokens = generate_from(
            self.model,
            [scene.prefix for scene, _ in pairs],
            [self._question_tokens(scene, question) for scene, question in pairs],
            self.processor.tokenizer.pad_token_id,
            self._generation_options({**own, **generate_kwargs}),
        )
        return self.postprocess(ModelOutput(new_tokens=tokens, chosen=[[]] * len(pairs)))

    def _question_tokens(self, scene: Scene, question: str) -> torch.Tensor:
        """All that follows the scene in the prompt, `[N]`."""
        content = [{"type": kind} for kind in scene.prefix.kinds] + [{"type": "text", "text": question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        tokens = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        placeholders = (self.processor.video_token_id, self.processor.image_token_id)
        places = [place for place, token in enumerate(tokens) if token in placeholders]
        if len(places) != len(scene.prefix.kinds):
            raise ValueError(
                f"The question holds a placeholder of a video or image: it has to be text alone, got {question!r}."
            )
        return torch.tensor(tokens[places[-1] + 2 :])  # the token that closes the last video or image is the scene's

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes the model and the whole processor, as a checkpoint that this pipeline and the Auto classes read."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _stream(self, inputs: Any, batch_size: int, kwargs: dict[str, Any]) -> Iterator[Any]:
        items = iter(inputs if isinstance(inputs, Iterable) else (inputs[index] for index in range(len(inputs))))
        while batch := [as_messages(item) for item in islice(items, batch_size)]:
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
                content = [typed_part(part) for part in content]
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


def describe_frames(frames: torch.Tensor, metadata: Any) -> list[dict[str, Any]]:
    """Frames `[K, 3, H, W]` of 0..255 and their metadata → `{"index", "timestamp", "image"}` for each."""
    timestamps = metadata.frame_timestamps or [None] * len(frames)
    pixels = frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [
        {"index": index, "timestamp": timestamp, "image": Image.fromarray(picture)}
        for index, timestamp, picture in zip(metadata.frames_indices, timestamps, pixels)
    ]


__all__ = ["VideoQuestionAnsweringPipeline", "describe_frames"]
