"""Training samples with true trains of thought (`reasoned_answers.py`) out of a folder of synthetic rooms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
from safetensors import safe_open

from .conversations import Conversation
from .question_generation import GENERATED_TYPES, GenerationSettings, generate_questions
from .reasoned_answers import ReasonedAnswers, reasoned_conversation
from .scene_annotations import read_scene_annotations
from .scene_answers import SceneAnswers
from .spatial_questions import SpatialQuestion
from .synthetic_data_set import ANNOTATIONS, GEOMETRY

_CANDIDATES = 30  # of each task and room, to draw from
_PLAIN_EVERY = 4  # samples of a room, of which the last has questions without instructions


def reasoned_rooms(folder: Path, num_questions: int, num_samples: int = 1, seed: int = 0) -> Iterator[Conversation]:
    """Samples of each room, one room after the other.

    Args:
        folder: of rooms with geometry, out of which the first camera comes.
        num_questions: of a sample; the tasks that a room supports get as many each as can be, the others by lot.
        num_samples: of a room, each with questions drawn anew.
        seed: of the questions.

    Raises:
        ValueError: for a number below 1, a folder without annotations or geometry, or damaged annotations.
    """
    for name, value in (("num_questions", num_questions), ("num_samples", num_samples)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not (folder / ANNOTATIONS).is_file():
        raise ValueError(f"{folder} has no {ANNOTATIONS}: it is not a folder of `spatial-mllm data rooms`.")
    settings = GenerationSettings(
        wording="vsibench",
        max_absolute_distance=_CANDIDATES,
        max_relative_distance=_CANDIDATES,
        max_relative_direction=_CANDIDATES,
        max_other=_CANDIDATES,
    )
    for scene in read_scene_annotations(folder / ANNOTATIONS):
        if isinstance(scene, ValueError):
            raise scene
        path = folder / GEOMETRY / f"{scene.name}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path} is not there: make the rooms with --geometry.")
        with safe_open(path, framework="numpy") as file:
            extrinsics = file.get_slice("extrinsics")[0]
        reasoned = ReasonedAnswers(SceneAnswers(scene), extrinsics)
        questions = generate_questions(scene, seed, settings)
        for number in range(num_samples):
            rng = np.random.default_rng([seed, number, crc32(scene.name.encode())])  # another order in each room
            chosen = _even_share(questions, num_questions, rng)
            if chosen:
                is_plain = number % _PLAIN_EVERY == _PLAIN_EVERY - 1
                yield reasoned_conversation(f"{scene.name}-{number}", reasoned, chosen, is_plain)


def _even_share(questions: list[SpatialQuestion], count: int, rng: np.random.Generator) -> list[SpatialQuestion]:
    """Questions of as many tasks as there are, as evenly as can be, in random order."""
    tasks = [[question for question in questions if question.question_type == task] for task in GENERATED_TYPES]
    queues = [[task[place] for place in rng.permutation(len(task))] for task in tasks if task]
    rounds: list[SpatialQuestion] = []
    while queues and len(rounds) < count:
        rounds += [queues[place].pop() for place in rng.permutation(len(queues))]
        queues = [queue for queue in queues if queue]
    chosen = rounds[:count]
    return [chosen[place] for place in rng.permutation(len(chosen))]
