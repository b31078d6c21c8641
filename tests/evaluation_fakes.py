"""A benchmark and a pipeline of the tests' own: questions with plain truths, and answers made of words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spatial_mllm_hf.evaluation.evaluation_items import EvaluationItem, ScoreTable
from spatial_mllm_hf.processing.video_source_spatial_mllm import VideoNotFoundError


class EchoBenchmark:
    """Questions out of a list; an answer is right if it ends in the question's truth."""

    name, title, max_new_tokens = "vsibench", "Echo", 8

    def __init__(self, items: Sequence[EvaluationItem], prompt: str = "plain") -> None:
        self.items = list(items)
        self.settings: dict[str, Any] = {"prompt": prompt}

    def read_items(self, data: str) -> list[EvaluationItem]:
        return self.items

    def score(self, items: Sequence[EvaluationItem], predictions: Mapping[str, str]) -> ScoreTable:
        right = [predictions.get(item.id, "").endswith(item.truth["answer"]) for item in items]
        return ScoreTable(("Micro",), {"echo": {"Micro": 100 * sum(right) / len(right)}}, "echo")


class EchoScene:
    """A scene of two frames."""

    def __init__(self, pipe: "EchoPipeline", video: str) -> None:
        self.frames = [[{"index": 0}, {"index": 5}]]
        self.pipe, self.video = pipe, video

    def ask(self, prompts: list[str], **generation: Any) -> list[dict[str, str]]:
        self.pipe.asked += [(self.video, prompts)]
        return [{"generated_text": f"{Path(self.video).stem} says {prompt}"} for prompt in prompts]


class EchoPipeline:
    """Stands in for the pipeline: opens files that exist, and repeats what it is asked.

    Attributes:
        opened: videos, in order.
        asked: videos and the prompts of each batch.
    """

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.asked: list[tuple[str, list[str]]] = []

    def open_scene(self, video: str, **sampling: Any) -> EchoScene:
        if not Path(video).exists():
            raise VideoNotFoundError(f"There is no video file at '{video}'.")
        self.opened.append(video)
        return EchoScene(self, video)
