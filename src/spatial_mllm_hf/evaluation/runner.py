"""Asks a benchmark's questions: scene by scene, each answer on disk before the next, going on after a kill.

Questions are grouped by video, so that a scene is decoded, encoded and read once. Batches are cut from all questions of
a scene, answered or not, so that a question stands beside the same others whenever and wherever it is asked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from ..processing.video_source_spatial_mllm import VideoDecodeError
from .answer_log import Answer
from .evaluation_items import EvaluationItem, find_video

MAX_SEED = 2**32


@dataclass(frozen=True)
class SceneWork:
    """A video with its questions.

    Attributes:
        video: where it lies, or should.
        items: all questions about it that belong to the run, in the order of the data.
        answered: ids of those that have their answer already.
    """

    video: Path
    items: tuple[EvaluationItem, ...]
    answered: frozenset[str] = frozenset()

    @property
    def num_left(self) -> int:
        return sum(item.id not in self.answered for item in self.items)


@dataclass(frozen=True)
class AnswerSettings:
    """How scenes are seen and questions answered.

    Attributes:
        sampling: options of `open_scene`: frame_sampling, num_frames, ...
        generation: arguments of `generate`.
        batch_size: questions on one scene that are answered together.
        seed: of every batch, when answers are drawn.
    """

    sampling: Mapping[str, Any]
    generation: Mapping[str, Any]
    batch_size: int = 1
    seed: int = 0


def plan_work(
    items: Sequence[EvaluationItem], videos: Path, answered: Mapping[str, Answer], shard: tuple[int, int] = (0, 1)
) -> list[SceneWork]:
    """The scenes of one shard that have questions left.

    Args:
        shard: `(i, n)`: the scenes at i, i + n, i + 2n, ... in the order of their first question.

    Raises:
        ValueError: if the shard is not one of n.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"--shard must be i/n with 0 <= i < n, got {index}/{count}.")
    groups: dict[str, list[EvaluationItem]] = {}
    for item in items:
        groups.setdefault(item.video, []).append(item)
    work = []
    for video, group in list(groups.items())[index::count]:
        done = frozenset(item.id for item in group if item.id in answered)
        if len(done) < len(group):
            work.append(SceneWork(find_video(videos, video), tuple(group), done))
    return work


class SceneAnswerer:
    """Answers the questions of a scene at a time.

    Args:
        load: gives the pipeline; called once, where the model is to live.
    """

    def __init__(self, load: Callable[[], Any], settings: AnswerSettings) -> None:
        self.pipe = load()
        self.settings = settings

    def __call__(self, work: SceneWork) -> Iterator[list[Answer]]:
        """Answers what is left, a batch at a time. A video that cannot be read is the answer's problem."""
        left = [item for item in work.items if item.id not in work.answered]
        try:
            scene = self.pipe.open_scene(str(work.video), **self.settings.sampling)
        except VideoDecodeError as error:
            yield [Answer(item.id, None, problem=str(error)) for item in left]
            return
        frames = tuple(tuple(frame["index"] for frame in video) for video in scene.frames)
        size = self.settings.batch_size
        for batch in (work.items[start : start + size] for start in range(0, len(work.items), size)):
            if all(item.id in work.answered for item in batch):
                continue
            torch.manual_seed(self._seed_of(batch))
            texts = scene.ask([item.prompt for item in batch], **self.settings.generation)
            yield [
                Answer(item.id, text["generated_text"], frames=frames)
                for item, text in zip(batch, texts)
                if item.id not in work.answered
            ]

    def _seed_of(self, batch: Sequence[EvaluationItem]) -> int:
        """Of a batch alone, so that a run that was interrupted draws what an undisturbed one draws."""
        return (self.settings.seed + crc32(batch[0].id.encode())) % MAX_SEED


def without_problems(answers: Mapping[str, Answer]) -> dict[str, Answer]:
    """The answers of questions that were asked: those whose video could not be read are left out, to be tried again."""
    return {name: answer for name, answer in answers.items() if answer.prediction is not None}
