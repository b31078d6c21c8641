"""Spatial questions of one scene, for training: the paper's self-made part of its data (section 4.1).

A scene's questions depend on the seed, its data set and its name, its annotation and the settings, and on nothing else:
not on other scenes, nor on which other tasks are asked for. Where more questions are clear than a cap allows, they are
drawn evenly. Over the questions of one task and scene, each letter is right equally often (as nearly as their number
allows).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import get_args

import numpy as np

from .question_candidates import CANDIDATES, NUM_CHOICES
from .question_templates import TEMPLATES, Fields, Wording, join_list, split_list
from .relative_directions import DIFFICULTIES, DIRECTIONS, Difficulty
from .scene_annotations import SceneAnnotation
from .scene_answers import SceneAnswers, answer
from .spatial_questions import DIRECTION_TYPES, LETTERS, NUMERICAL_TYPES, QuestionType, SpatialQuestion

GENERATED_TYPES: tuple[QuestionType, ...] = tuple(CANDIDATES)  # route planning was made in a simulator

_DIFFICULTY: dict[QuestionType, Difficulty] = dict(zip(DIRECTION_TYPES, DIFFICULTIES, strict=True))


@dataclass(frozen=True)
class GenerationSettings:
    """What to ask. The caps are VLM-3R's, for each scene.

    Attributes:
        tasks: types of questions, out of `GENERATED_TYPES`.
        wording: "vlm3r" says, as the paper does, that the distance is direct, and which of several objects counts;
            "vsibench" repeats the benchmark word for word, which leaves both open.
        max_absolute_distance, max_relative_distance: most questions of these tasks.
        max_relative_direction: of each of the three difficulties.
        max_other: of each other task.
    """

    tasks: tuple[QuestionType, ...] = GENERATED_TYPES
    wording: Wording = "vlm3r"
    max_absolute_distance: int = 50
    max_relative_distance: int = 100
    max_relative_direction: int = 20
    max_other: int = 10_000

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown task or wording, or a cap below 0."""
        unknown = [task for task in self.tasks if task not in GENERATED_TYPES]
        if unknown or not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(
                f"tasks must be some of {', '.join(GENERATED_TYPES)}, each once, got {', '.join(self.tasks) or 'none'}."
            )
        if self.wording not in get_args(Wording):
            raise ValueError(f"wording must be one of {', '.join(get_args(Wording))}, got {self.wording!r}.")
        for name in ("max_absolute_distance", "max_relative_distance", "max_relative_direction", "max_other"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")

    @classmethod
    def at_most(cls, count: int, wording: Wording = "vlm3r") -> GenerationSettings:
        """The same cap for every task, each difficulty of relative direction by itself."""
        return cls(
            wording=wording,
            max_absolute_distance=count,
            max_relative_distance=count,
            max_relative_direction=count,
            max_other=count,
        )

    def cap(self, task: QuestionType) -> int:
        """Most questions of a task in one scene."""
        if task in DIRECTION_TYPES:
            return self.max_relative_direction
        caps = {"object_abs_distance": self.max_absolute_distance, "object_rel_distance": self.max_relative_distance}
        return caps.get(task, self.max_other)


def generate_questions(
    scene: SceneAnnotation, seed: int, settings: GenerationSettings | None = None
) -> list[SpatialQuestion]:
    """The questions of a scene, task by task.

    Args:
        seed: at least 0.

    Raises:
        ValueError: for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    settings = settings or GenerationSettings()
    answers = SceneAnswers(scene)
    questions: list[SpatialQuestion] = []
    for task in GENERATED_TYPES:
        if task in settings.tasks:
            questions += _questions_of_task(answers, task, _generator(scene, task, seed), settings)
    return questions


def _generator(scene: SceneAnnotation, task: QuestionType, seed: int) -> np.random.Generator:
    key = hashlib.sha256("\0".join((str(seed), scene.dataset, scene.name, task)).encode()).digest()
    return np.random.default_rng(int.from_bytes(key))


def _questions_of_task(
    answers: SceneAnswers, task: QuestionType, rng: np.random.Generator, settings: GenerationSettings
) -> list[SpatialQuestion]:
    candidates = CANDIDATES[task](answers, rng)
    count = min(len(candidates), settings.cap(task))
    drawn = [candidates[place] for place in np.sort(rng.choice(len(candidates), count, replace=False))] if count else []
    places: Sequence[int | None] = [None] * count
    if task not in NUMERICAL_TYPES:
        places = _balanced_places(
            count, len(DIRECTIONS[_DIFFICULTY[task]]) if task in _DIFFICULTY else NUM_CHOICES, rng
        )
    return [
        _question(answers, task, number, fields, place, rng, settings.wording)
        for number, (fields, place) in enumerate(zip(drawn, places, strict=True))
    ]


def _question(
    answers: SceneAnswers,
    task: QuestionType,
    number: int,
    fields: Fields,
    place: int | None,
    rng: np.random.Generator,
    wording: Wording,
) -> SpatialQuestion:
    """One question; of a multiple choice, `place` is that of the right option."""
    truth = answer(answers, task, fields)
    options: tuple[str, ...] | None = None
    if place is not None:
        texts = _arrange(truth, _wrong_options(task, fields, truth, rng), place, rng)
        options = tuple(f"{letter}. {text}" for letter, text in zip(LETTERS, texts))
        truth = LETTERS[place]
        if task == "object_rel_distance":  # named in the order of the options, as in VSI-Bench
            fields = {**fields, "choices": join_list(texts)}
        if task == "obj_appearance_order":  # in any order, which must not give the answer away
            fields = {**fields, "categories": join_list(rng.permutation(split_list(fields["categories"])).tolist())}
    scene = answers.scene
    return SpatialQuestion(
        id=f"{scene.dataset}-{scene.name}-{task}-{number}",
        dataset=scene.dataset,
        scene_name=scene.name,
        question_type=task,
        question=TEMPLATES[wording][task].format(fields),
        options=options,
        ground_truth=truth,
        video=scene.video,
    )


def _wrong_options(task: QuestionType, fields: Fields, truth: str, rng: np.random.Generator) -> list[str]:
    if task in _DIFFICULTY:
        return [name for name in DIRECTIONS[_DIFFICULTY[task]] if name != truth]
    if task == "object_rel_distance":
        return [name for name in split_list(fields["choices"]) if name != truth]
    orders = [join_list(order) for order in permutations(split_list(fields["categories"]))]
    orders.remove(truth)
    return [orders[place] for place in rng.choice(len(orders), NUM_CHOICES - 1, replace=False)]


def _arrange(truth: str, wrong: list[str], place: int, rng: np.random.Generator) -> list[str]:
    texts = rng.permutation(wrong).tolist()
    texts.insert(place, truth)
    return texts


def _balanced_places(count: int, num_options: int, rng: np.random.Generator) -> list[int]:
    """Where the right options go: every place equally often in any run of `num_options` questions, in random order."""
    rounds = -(-count // num_options)
    return np.concatenate([rng.permutation(num_options) for _ in range(rounds)]).tolist()[:count] if count else []
