"""Answers to spatial questions about one scene, computed from its annotation, as VSI-Bench defines them.

The generator asks only what these functions can answer, and the check against VSI-Bench computes with the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import cast

import numpy as np

from .box_distances import BoxGrid, closest_distance
from .oriented_boxes import Array, OrientedBox
from .question_templates import Fields, join_list, split_list
from .relative_directions import Difficulty, bearings, direction
from .scene_annotations import SceneAnnotation
from .spatial_questions import QuestionType

DISTANCE_DECIMALS, ROOM_SIZE_DECIMALS = 1, 1  # metres and square metres, as VSI-Bench gives them


class Undecidable(ValueError):
    """The annotation does not hold what an answer needs; the text says what."""


class SceneAnswers:
    """What can be said about one scene. Distances are kept once they are computed.

    Raises (each method):
        Undecidable: if the annotation does not hold what the answer needs.
    """

    def __init__(self, scene: SceneAnnotation) -> None:
        self.scene = scene
        self._grids: dict[str, list[BoxGrid]] = {}
        self._distances: dict[frozenset[str], float] = {}

    def count(self, category: str) -> int:
        """How many there are."""
        if category not in self.scene.object_counts:
            raise Undecidable("a category has no count")
        return self.scene.object_counts[category]

    def unique_box(self, category: str) -> OrientedBox:
        """The box of a category that is there once."""
        if self.count(category) != 1:
            raise Undecidable("a category is there more than once")
        return self.boxes(category)[0]

    def boxes(self, category: str) -> list[OrientedBox]:
        """All that are known. VSI-Bench lists some printers twice, with the same numbers; they count once here."""
        distinct = {_numbers(box): box for box in self.scene.boxes.get(category, ())}
        if not distinct:
            raise Undecidable("a category has no box")
        return list(distinct.values())

    def longest_side(self, category: str) -> int:
        """Of the one object of a category, in whole centimetres."""
        return round(100 * float(self.unique_box(category).lengths.max()))

    def room_size(self) -> float:
        """Square metres, to one decimal."""
        if self.scene.room_size is None:
            raise Undecidable("the size of the room is unknown")
        return round(self.scene.room_size, ROOM_SIZE_DECIMALS)

    def distance(self, first: str, second: str) -> float:
        """Metres between the closest points of any two objects of two categories, unrounded."""
        pair = frozenset((first, second))
        if pair not in self._distances:
            self._distances[pair] = closest_distance(self._grids_of(first), self._grids_of(second))
        return self._distances[pair]

    def nearest(self, anchor: str, choices: Sequence[str]) -> str:
        """Which of several categories is closest to another."""
        return min(choices, key=lambda choice: self.distance(anchor, choice))

    def direction(self, standing: str, facing: str, target: str, difficulty: Difficulty) -> str:
        """Where the one object of a category is, for somebody who stands by another and faces a third."""
        eye, ahead, there = (self.unique_box(category).centroid for category in (standing, facing, target))
        return direction(float(bearings(eye, ahead, there[None])[0]), difficulty)

    def appearance_order(self, categories: Sequence[str]) -> tuple[str, ...]:
        """Categories in the order in which the video first shows them."""
        if any(category not in self.scene.first_seen for category in categories):
            raise Undecidable("when a category comes into sight is unknown")
        return tuple(sorted(categories, key=lambda category: self.scene.first_seen[category]))

    @cached_property
    def unique_categories(self) -> list[str]:
        """Categories with one object and its box, sorted."""
        return [name for name in self.boxed_categories if self.scene.object_counts[name] == 1]

    @cached_property
    def boxed_categories(self) -> list[str]:
        """Categories each of whose objects has its box, sorted."""
        counts = self.scene.object_counts
        return sorted(
            name for name, boxes in self.scene.boxes.items() if boxes and len(self.boxes(name)) == counts.get(name)
        )

    def distances(self, categories: Sequence[str], others: Sequence[str]) -> Array:
        """Metres `[len(categories), len(others)]`; 0 between a category and itself."""
        rows = [[0.0 if one == other else self.distance(one, other) for other in others] for one in categories]
        return np.array(rows, dtype=np.float64).reshape(len(categories), len(others))

    def _grids_of(self, category: str) -> list[BoxGrid]:
        if category not in self._grids:
            self._grids[category] = [BoxGrid(box) for box in self.boxes(category)]
        return self._grids[category]


def answer(answers: SceneAnswers, question_type: QuestionType, fields: Fields) -> str:
    """The answer in VSI-Bench's words: a number, or what the right option says.

    Raises:
        Undecidable: if the annotation does not hold what the answer needs.
    """
    if question_type not in _ANSWERS:
        raise Undecidable(f"{question_type} is not decided by boxes")
    return _ANSWERS[question_type](answers, fields)


def _direction(difficulty: str) -> Callable[[SceneAnswers, Fields], str]:
    def decide(answers: SceneAnswers, fields: Fields) -> str:
        return answers.direction(fields["standing"], fields["facing"], fields["target"], cast(Difficulty, difficulty))

    return decide


def _absolute_distance(answers: SceneAnswers, fields: Fields) -> str:
    for name in (fields["first"], fields["second"]):
        answers.unique_box(name)
    return f"{answers.distance(fields['first'], fields['second']):.{DISTANCE_DECIMALS}f}"


_ANSWERS: Mapping[QuestionType, Callable[[SceneAnswers, Fields], str]] = {
    "object_counting": lambda answers, fields: str(answers.count(fields["category"])),
    "object_size_estimation": lambda answers, fields: str(answers.longest_side(fields["category"])),
    "room_size_estimation": lambda answers, fields: f"{answers.room_size():.{ROOM_SIZE_DECIMALS}f}",
    "object_abs_distance": _absolute_distance,
    "object_rel_distance": lambda answers, fields: answers.nearest(fields["anchor"], split_list(fields["choices"])),
    "object_rel_direction_easy": _direction("easy"),
    "object_rel_direction_medium": _direction("medium"),
    "object_rel_direction_hard": _direction("hard"),
    "obj_appearance_order": lambda answers, fields: join_list(
        answers.appearance_order(split_list(fields["categories"]))
    ),
}


def _numbers(box: OrientedBox) -> bytes:
    return np.concatenate([box.centroid, box.lengths, box.axes.ravel()]).tobytes()
