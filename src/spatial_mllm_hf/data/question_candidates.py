"""Which spatial questions about a scene have a clear answer.

One function for each task lists the fields of all such questions (`question_templates`), in an order that only the
annotation's contents decide. Filters and their values are those of VLM-3R's generator, which follows VSI-Bench's,
unless a line says otherwise. A category whose objects do not all have boxes is in no question about boxes.

Shapes: U unique categories, K combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from .question_templates import Fields, join_list
from .relative_directions import Difficulty, bearings, is_clear
from .scene_answers import SceneAnswers
from .spatial_questions import QuestionType

NUM_CHOICES = 4  # of relative distance and of the order of appearance
MIN_COUNT = 2  # counting one object would be given away by the other questions
MIN_ABSOLUTE_DISTANCE = 0.2  # metres
MIN_NEAREST_DISTANCE = 0.15  # metres from the anchor to the closest choice
CHOICE_GAP, CHOICE_GAP_IN_LARGE_ROOMS = 0.15, 0.30  # metres, more than which any two choices differ by
LARGE_ROOM = 40.0  # square metres, more than which a room is large
MIN_DIRECTION_DISTANCE, MAX_DIRECTION_DISTANCE = 0.3, 5.0  # metres between any two of the three objects
APPEARANCE_GAP = 1  # seconds, more than which any two categories differ by, after rounding to whole seconds
# Ours: of a scene with more categories as many are drawn, which bounds the combinations (10,626 of four).
MAX_CATEGORIES = 24

Candidates = Callable[[SceneAnswers, np.random.Generator], list[Fields]]


def counting(answers: SceneAnswers, rng: np.random.Generator) -> list[Fields]:
    counts = answers.scene.object_counts
    return [{"category": name} for name in sorted(counts) if counts[name] >= MIN_COUNT]


def object_size(answers: SceneAnswers, rng: np.random.Generator) -> list[Fields]:
    return [{"category": name} for name in answers.unique_categories]


def room_size(answers: SceneAnswers, rng: np.random.Generator) -> list[Fields]:
    return [] if answers.scene.room_size is None else [{}]


def absolute_distance(answers: SceneAnswers, rng: np.random.Generator) -> list[Fields]:
    """Each pair once; which of the two is named first is drawn."""
    found: list[Fields] = []
    for pair in combinations(answers.unique_categories, 2):
        first, second = pair if rng.random() < 0.5 else pair[::-1]
        if answers.distance(first, second) >= MIN_ABSOLUTE_DISTANCE:
            found.append({"first": first, "second": second})
    return found


def relative_distance(answers: SceneAnswers, rng: np.random.Generator) -> list[Fields]:
    """Four categories around one that is there once; of a category with several objects the closest counts."""
    categories = _some(answers.boxed_categories, rng)
    anchors = [name for name in answers.unique_categories if name in categories]
    large = (answers.scene.room_size or 0.0) > LARGE_ROOM
    gap = CHOICE_GAP_IN_LARGE_ROOMS if large else CHOICE_GAP
    found: list[Fields] = []
    for anchor, row in zip(anchors, answers.distances(anchors, categories)):
        others = [number for number, name in enumerate(categories) if name != anchor]
        chosen = _combinations(others)
        distances = np.sort(row[chosen], axis=1)  # [K, 4]
        clear = (distances[:, 0] >= MIN_NEAREST_DISTANCE) & (np.diff(distances, axis=1) > gap).all(1)
        found += [
            {"anchor": anchor, "choices": join_list([categories[place] for place in places])}
            for places in chosen[clear].tolist()
        ]
    return found


def relative_direction(difficulty: Difficulty) -> Candidates:
    """Three objects of categories that are there once, in every order."""

    def candidates(answers: SceneAnswers, rng: np.random.Generator) -> list[Fields]:
        names = _some(answers.unique_categories, rng)
        triples = _spread_triples(answers, names)
        boxes = [answers.unique_box(name) for name in names]
        centroids = np.array([box.centroid for box in boxes]).reshape(-1, 3)
        corners = np.array([box.corners for box in boxes]).reshape(-1, 8, 3)
        eye, ahead, target = (centroids[triples[:, place]] for place in range(3))
        points = np.concatenate([target[:, None], corners[triples[:, 2]]], axis=1)  # [K, 9, 3]
        angles = bearings(eye, ahead, points)
        clear = is_clear(angles[:, 0], angles[:, 1:], difficulty)
        return [
            {"standing": names[standing], "facing": names[facing], "target": names[target]}
            for standing, facing, target in triples[clear].tolist()
        ]

    return candidates


def appearance_order(answers: SceneAnswers, rng: np.random.Generator) -> list[Fields]:
    seen = answers.scene.first_seen
    categories = _some(sorted(seen), rng)
    chosen = _combinations(list(range(len(categories))))
    seconds = np.array([round(seen[name]) for name in categories], dtype=np.float64)
    clear = (np.diff(np.sort(seconds[chosen], axis=1), axis=1) > APPEARANCE_GAP).all(1)
    return [{"categories": join_list([categories[place] for place in places])} for places in chosen[clear].tolist()]


CANDIDATES: Mapping[QuestionType, Candidates] = {
    "object_counting": counting,
    "object_abs_distance": absolute_distance,
    "object_size_estimation": object_size,
    "room_size_estimation": room_size,
    "object_rel_distance": relative_distance,
    "object_rel_direction_easy": relative_direction("easy"),
    "object_rel_direction_medium": relative_direction("medium"),
    "object_rel_direction_hard": relative_direction("hard"),
    "obj_appearance_order": appearance_order,
}


def _some(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """All names, or `MAX_CATEGORIES` of them, in their order."""
    if len(names) <= MAX_CATEGORIES:
        return list(names)
    return [names[place] for place in sorted(rng.choice(len(names), MAX_CATEGORIES, replace=False).tolist())]


def _combinations(items: Sequence[int]) -> np.ndarray:
    """`[K, 4]`: every four of the items."""
    return np.array(list(combinations(items, NUM_CHOICES)), dtype=np.int64).reshape(-1, NUM_CHOICES)


def _spread_triples(answers: SceneAnswers, names: list[str]) -> np.ndarray:
    """`[K, 3]`: ordered triples of different objects that are neither too close to each other nor too far apart.

    Ours: on the floor plan too, the person and what they face must not stand closer than objects may, as the line of
    sight would be undefined for a clock above a table.
    """
    distances = answers.distances(names, names)
    plan = np.array([answers.unique_box(name).centroid[:2] for name in names]).reshape(-1, 2)
    apart = np.linalg.norm(plan[:, None] - plan, axis=-1) >= MIN_DIRECTION_DISTANCE
    allowed = (distances >= MIN_DIRECTION_DISTANCE) & (distances <= MAX_DIRECTION_DISTANCE)
    np.fill_diagonal(allowed, False)
    return np.argwhere((allowed & apart)[:, :, None] & allowed[:, None, :] & allowed[None, :, :])
