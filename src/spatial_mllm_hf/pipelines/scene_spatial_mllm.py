"""A scene that has been seen: asked as often as wanted, at the cost of the question.

Everything up to the end of the videos and images of a prompt is the same for every question. Their frames are chosen,
encoded and read by the language model once; its keys and values of these tokens are kept, and each question continues
from them. A question works on copies, so none leaves a trace.

Shapes: L tokens up to the end of the scene, N tokens of a question, B questions asked together.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.generation import GenerationMode

# Inputs of the model that describe videos and images besides their pixels; positions are computed from them.
DESCRIPTIONS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "num_images_per_sample")
POSITION_INPUTS = DESCRIPTIONS[:3]
PIXELS = ("pixel_values", "pixel_values_videos")


@dataclass(eq=False)
class ScenePrefix:
    """What the language model has read of a scene.

    Attributes:
        input_ids: `[L]`, the prompt up to the end of the last video or image.
        token_types: `[L]`, 0, 1 or 2 for tokens of text, images and videos.
        descriptions: grids and times of the videos and images, those of `DESCRIPTIONS` that the prompt has.
        layers: keys and values of each layer, `[1, heads, L, head_dim]`.
    """

    input_ids: torch.Tensor
    token_types: torch.Tensor
    descriptions: dict[str, torch.Tensor]
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def kinds(self) -> list[str]:
        """ "image" or "video" for each that the prompt holds, in their order."""
        starts = self.token_types[1:][self.token_types.diff() > 0]
        return [("", "image", "video")[kind] for kind in starts.tolist()]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


@torch.no_grad()
def read_prefix(model: Any, model_inputs: dict[str, torch.Tensor]) -> ScenePrefix:
    """Lets the model read a prompt up to the end of its last video or image.

    Args:
        model: a Spatial-MLLM for generation.
        model_inputs: of one prompt, as the processor makes them, on the model's device.
    """
    types = model_inputs["mm_token_type_ids"][0]
    end = int(types.nonzero().max()) + 2  # the token that closes the last video or image belongs to it
    input_ids = model_inputs["input_ids"][:, :end]
    visual = {name: model_inputs[name] for name in (*PIXELS, *DESCRIPTIONS) if name in model_inputs}
    cache = DynamicCache()
    model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        mm_token_type_ids=types[None, :end],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **visual,
    )
    return ScenePrefix(
        input_ids=input_ids[0],
        token_types=types[:end],
        descriptions={name: visual[name] for name in DESCRIPTIONS if name in visual},
        layers=[(layer.keys, layer.values) for layer in cache.layers],
    )


class Scene:
    """Videos or images that have been seen; made by `VideoQuestionAnsweringPipeline.open_scene`.

    Attributes:
        prefix: what the language model keeps of it.
        frames: for each video, the frames that were chosen: a list of `{"index", "timestamp", "image"}`.
        key: what it depends on (content, model, settings), as strings by name.
    """

    def __init__(
        self, pipeline: Any, prefix: ScenePrefix, frames: list[list[dict[str, Any]]], key: dict[str, str]
    ) -> None:
        self.pipeline = pipeline
        self.prefix = prefix
        self.frames = frames
        self.key = key

    def __repr__(self) -> str:
        chosen = ", ".join(str(len(frames)) for frames in self.frames) or "no"
        return f"Scene({chosen} frames, {len(self.prefix)} tokens, {self.prefix.nbytes / 2**20:.1f} MiB kept)"

    def ask(self, question: str | Sequence[str], **generate_kwargs: Any) -> Any:
        """Answers a question, or several together, each as if it were the only one.

        Args:
            question: a text, or a list of texts that are answered in one batch.
            generate_kwargs: whatever `generate` takes: `max_new_tokens`, `streamer`, `do_sample`, `num_beams`,
                `cache_implementation="static"`, ...

        Returns:
            `{"generated_text": str}`, as the pipeline's own call; a list of them for a list of questions, and for
            `num_return_sequences` above 1.

        Raises:
            ValueError: for an empty question, or a way of generation that cannot continue a scene.
        """
        if not isinstance(question, (list, tuple)):
            return self.pipeline.ask_scenes([(self, question)], **generate_kwargs)[0]
        return self.pipeline.ask_scenes([(self, text) for text in question], **generate_kwargs)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the scene into a file that the pipeline's `open_scene(..., saved=path)` reads.

        Raises:
            ValueError: if its content cannot be told apart from another's (a URL whose server names no version).
        """
        self.pipeline.save_scene(self, path)


@dataclass
class _Batch:
    """Prompts of scenes and questions side by side: `[B, left padding, L, padding, N]`."""

    inputs: dict[str, torch.Tensor]
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    length: int


def generate_from(
    model: Any, prefixes: Sequence[ScenePrefix], suffixes: Sequence[torch.Tensor], pad_token_id: int, options: Any
) -> torch.Tensor:
    """Continues B scenes, each with its own question.

    Args:
        model: a Spatial-MLLM for generation.
        prefixes: B scenes; the same may stand several times.
        suffixes: B questions with all that follows the scene in the prompt, `[N]` token ids each.
        options: arguments of `generate`, with its "generation_config".

    Returns:
        New tokens `[B * sequences, ...]`.

    Raises:
        ValueError: for options with which `generate` does not continue from what has been read.
    """
    batch = _side_by_side(prefixes, suffixes, pad_token_id)
    options = dict(options)
    config = options["generation_config"] = copy.deepcopy(options["generation_config"])
    _check_continues(config, options)
    cache: Cache = DynamicCache()
    wants_static = config.cache_implementation == "static"
    config.cache_implementation = None  # generate takes a cache or the name of one
    config.use_cache = True  # some checkpoints say no, from their training
    if wants_static:
        limit = config.max_new_tokens or model.generation_config.max_new_tokens  # what generate takes, in this order
        new_tokens = limit or max(1, (config.max_length or 0) - batch.length)
        cache = StaticCache(config=model.config, max_cache_len=batch.length + new_tokens)
    copies = max(config.num_beams or 1, config.num_return_sequences or 1)
    for number, (keys, values) in enumerate(batch.layers):
        cache.update(keys.repeat_interleave(copies, dim=0), values.repeat_interleave(copies, dim=0), number)
    sequences = model.generate(**batch.inputs, **{model.cache_name: cache}, **options)
    return sequences[:, batch.length :]


def _check_continues(config: Any, options: dict[str, Any]) -> None:
    if config.cache_implementation not in (None, "dynamic", "static"):
        raise ValueError(
            f"cache_implementation={config.cache_implementation!r} cannot take over a scene: leave it out or take "
            "'static', or ask with the pipeline's own call."
        )
    if config.get_generation_mode(options.get("assistant_model")) == GenerationMode.ASSISTED_GENERATION:
        raise ValueError(
            "Assisted generation (prompt_lookup_num_tokens, assistant_model) reads a prompt from its beginning, so it "
            "cannot continue a scene: leave it out, or ask with the pipeline's own call."
        )


def _side_by_side(prefixes: Sequence[ScenePrefix], suffixes: Sequence[torch.Tensor], pad_token_id: int) -> _Batch:
    scene_length, question_length = max(map(len, prefixes)), max(map(len, suffixes))
    device = prefixes[0].input_ids.device
    ids, mask, types = [], [], []
    for prefix, suffix in zip(prefixes, suffixes):
        suffix = suffix.to(device)
        ids.append(
            torch.cat(
                [_left(prefix.input_ids, scene_length, pad_token_id), _left(suffix, question_length, pad_token_id)]
            )
        )
        kept = torch.cat(
            [
                _left(torch.ones_like(part), length, 0)
                for part, length in ((prefix.input_ids, scene_length), (suffix, question_length))
            ]
        )
        mask.append(kept)
        types.append(
            torch.cat([_left(prefix.token_types, scene_length, 0), prefix.token_types.new_zeros(question_length)])
        )
    names = [name for name in POSITION_INPUTS if any(name in prefix.descriptions for prefix in prefixes)]
    descriptions = {
        name: torch.cat([prefix.descriptions[name] for prefix in prefixes if name in prefix.descriptions])
        for name in names
    }
    layers = [
        (_padded_together(keys, scene_length), _padded_together(values, scene_length))
        for keys, values in (zip(*of_layer) for of_layer in zip(*(prefix.layers for prefix in prefixes)))
    ]
    inputs = {
        "input_ids": torch.stack(ids),
        "attention_mask": torch.stack(mask),
        "mm_token_type_ids": torch.stack(types),
        **descriptions,
    }
    return _Batch(inputs, layers, scene_length + question_length)


def _padded_together(tensors: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Keys or values `[1, heads, L, head_dim]` of several scenes, `[B, heads, length, head_dim]`."""
    return torch.cat([_left(tensor, length, 0, dim=2) for tensor in tensors])


def _left(tensor: torch.Tensor, length: int, value: int, dim: int = 0) -> torch.Tensor:
    """Padded on the left to `length` along `dim`."""
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    padding = tensor.new_full((*tensor.shape[:dim], missing, *tensor.shape[dim + 1 :]), value)
    return torch.cat([padding, tensor], dim=dim)


__all__ = ["Scene", "ScenePrefix"]
