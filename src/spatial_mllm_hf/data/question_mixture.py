"""The paper's mixture of tasks (section 4.1), and the largest part of a set of questions that has it.

The paper gives shares of groups of tasks, of all 120,000 samples; here they are of the self-made part alone. Within a
group its tasks keep the proportions that they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .spatial_questions import DIRECTION_TYPES, QuestionType, SpatialQuestion


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that the paper counts together; `share` of the self-made questions, all shares adding up to 1."""

    name: str
    tasks: tuple[QuestionType, ...]
    share: float


PAPER_MIXTURE = (
    TaskGroup("relative direction", DIRECTION_TYPES, 0.3164),
    TaskGroup("relative and absolute distance", ("object_rel_distance", "object_abs_distance"), 0.3095),
    TaskGroup("room and object size", ("room_size_estimation", "object_size_estimation"), 0.1609),
    TaskGroup("appearance order", ("obj_appearance_order",), 0.1582),
    TaskGroup("counting", ("object_counting",), 0.0550),
)


def mixture_targets(counts: Mapping[QuestionType, int]) -> dict[QuestionType, int]:
    """How many questions of each task to keep: as many as possible in the paper's proportions.

    A group without any question is left out, and the others keep their proportions.

    Args:
        counts: the questions that there are.
    """
    available = {group: sum(counts.get(task, 0) for task in group.tasks) for group in PAPER_MIXTURE}
    present = [group for group, number in available.items() if number]
    if not present:
        return {}
    unit = min(available[group] / group.share for group in present)
    targets: dict[QuestionType, int] = {}
    for group in present:
        wanted = min(round(unit * group.share), available[group])
        targets |= _split(wanted, {task: counts[task] for task in group.tasks if counts.get(task)})
    return targets


def draw(
    questions: Iterable[SpatialQuestion],
    counts: Mapping[QuestionType, int],
    targets: Mapping[QuestionType, int],
    seed: int,
) -> Iterator[SpatialQuestion]:
    """Draws exactly `targets` out of a stream that holds exactly `counts`, every question of a task being as likely.

    Selection sampling: each question is kept with the share of those still wanted among those still to come.
    """
    rng = np.random.default_rng(seed)
    to_come, wanted = dict(counts), dict(targets)
    for question in questions:
        task = question.question_type
        keep = rng.random() * to_come[task] < wanted.get(task, 0)
        to_come[task] -= 1
        if keep:
            wanted[task] -= 1
            yield question


def _split(total: int, counts: dict[QuestionType, int]) -> dict[QuestionType, int]:
    """A total in proportion to counts, in whole numbers; what is left over goes to the largest remainders."""
    exact = {task: total * count / sum(counts.values()) for task, count in counts.items()}
    parts = {task: int(value) for task, value in exact.items()}
    for task in sorted(exact, key=lambda task: parts[task] - exact[task])[: total - sum(parts.values())]:
        parts[task] += 1
    return parts
