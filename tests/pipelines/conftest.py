"""A pipeline on the tiny checkpoint, things to look at, and a count of what ran."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from spatial_mllm_hf import SpatialMLLMVideoProcessor, VideoQuestionAnsweringPipeline

TASK = "video-question-answering"
QUESTION = "How many chairs are in this room?"
LONG_QUESTION = (
    "Stand by the window and face the door: which of the bed, the desk and the wardrobe (if there is one) is nearest, "
    "and how far from it, in metres, does the second nearest stand? Ein Wort genügt: 椅子?"
)
# Small enough for a scene to be opened in a fraction of a second.
FEW: dict[str, Any] = {"num_frames": 4, "num_candidate_frames": 6}
SHORT: dict[str, Any] = {"max_new_tokens": 8}
Counts = Counter[str]


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: Path) -> VideoQuestionAnsweringPipeline:
    return pipeline(TASK, model=str(tiny_checkpoint))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Four pictures of noise, each different."""
    noise = np.random.default_rng(3)
    return [Image.fromarray(noise.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(4)]


@pytest.fixture
def ran(pipe: VideoQuestionAnsweringPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """How often each part of `pipe` ran since the test began; "visual prompts" are reads of video or image tokens."""
    counts: Counts = Counter()
    inner = pipe.model.model

    def count_visual_prompts(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        placeholders = torch.tensor([pipe.processor.video_token_id, pipe.processor.image_token_id])
        if torch.isin(kwargs["input_ids"], placeholders).any():
            counts["visual prompts"] += 1

    def count(name: str) -> Any:
        return lambda *_: counts.update([name])

    handles = [
        inner.visual.register_forward_hook(count("vision tower")),
        inner.spatial_encoder.aggregator.register_forward_hook(count("VGGT")),
        inner.connector.register_forward_hook(count("connector")),
        pipe.model.register_forward_pre_hook(count_visual_prompts, with_kwargs=True),
    ]
    for kind, name in ((SpatialMLLMVideoProcessor, "choose_frames"), (type(pipe.model), "predict_geometry")):
        monkeypatch.setattr(kind, name, _counted(getattr(kind, name), count(name)))
    yield counts
    for handle in handles:
        handle.remove()


def _counted(function: Any, count: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        count()
        return function(*args, **kwargs)

    return call
