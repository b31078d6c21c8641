"""Scores of VSI-Bench, as the published scorers compute them.

Multiple choice is scored by the option's letter, numbers by mean relative accuracy. The paper (section 4.1, appendix B)
uses the same two as rewards, so training takes them from here. `answers` reads the outputs and describes the scorings:
"official-code", the default, is Spatial-MLLM v1.1 (src/evaluation/vsibench), "benchmark" is thinking-in-space
(lmms_eval/tasks/vsibench), and "lenient", which nobody published, scores numbers as "official-code" does.

Scores are fractions, 0 to 1. Imports nothing of the package but `answers`, and no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from string import ascii_uppercase

import numpy as np

from .answers import SCORINGS as SCORINGS  # for whoever imports the rest from here
from .answers import Scoring, read_choice, read_number, to_finite_float

NUMERICAL_TYPES = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
DIRECTION_TYPES = ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard")
CHOICE_TYPES = ("object_rel_distance", *DIRECTION_TYPES, "route_planning", "obj_appearance_order")
VSIBENCH_TYPES = (*NUMERICAL_TYPES, *CHOICE_TYPES)
DIRECTION_TASK = "object_rel_direction"
# The eight columns of the paper's table; the three directions are one.
VSIBENCH_TASKS = (*NUMERICAL_TYPES, "object_rel_distance", DIRECTION_TASK, "route_planning", "obj_appearance_order")

# Largest relative errors that pass: 1 - 0.50, 0.55, ..., 0.95. Both scorers have ten thresholds: thinking-in-space asks
# for int((0.95 - 0.5) / 0.05 + 2) of them, which is int(10.999999999999998). Rounding decides whether an error of
# exactly 0.1 or 0.2 passes, so each precision is that of its scorer: float32 in v1.1, float64 in thinking-in-space.
_OFFICIAL_LIMITS = 1 - (0.5 + 0.05 * np.arange(10)).astype(np.float32)
_BENCHMARK_LIMITS = 1 - np.linspace(0.5, 0.95, 10)
_OFFICIAL_EPSILON = np.float32(1e-8)


@dataclass(frozen=True)
class VSIBenchScores:
    """Of a set of questions.

    Attributes:
        by_type, counts: mean score and number of questions of each question type present.
        by_task: of each task present; the three directions are one, the mean of those of their types that are present.
        micro, macro: mean over the questions; mean over the tasks present.
        numerical, multiple_choice: mean over the questions of each kind; None without any.
    """

    by_type: dict[str, float]
    by_task: dict[str, float]
    counts: dict[str, int]
    micro: float
    macro: float
    numerical: float | None
    multiple_choice: float | None


def score_answer(question_type: str, prediction: str, ground_truth: str, scoring: Scoring = "official-code") -> float:
    """Score of one output on a VSI-Bench question, 0 to 1. An output without a letter or a number scores 0.

    >>> score_answer("object_counting", "<answer>3</answer>", "4")
    0.5
    >>> [score_answer("object_rel_distance", "B. chair", "B", scoring) for scoring in SCORINGS]
    [0.0, 1.0, 1.0]

    Raises:
        ValueError: an unknown question type or scoring, or a ground truth that `check_ground_truth` refuses.
    """
    check_ground_truth(question_type, ground_truth)
    if question_type in NUMERICAL_TYPES:
        return score_number(prediction, float(ground_truth), scoring)
    return score_multiple_choice(prediction, ground_truth, scoring)


def score_multiple_choice(prediction: str, letter: str, scoring: Scoring = "official-code") -> float:
    """1 if the output names the letter and, with "official-code", nothing else; 0 otherwise.

    >>> score_multiple_choice("<answer>b.</answer>", "B")
    1.0

    Raises:
        ValueError: a letter that is not one of A to Z.
    """
    if letter.strip().upper() not in set(ascii_uppercase):
        raise ValueError(f"letter must be that of an option, A to Z, got {letter!r}")
    return float(read_choice(prediction, scoring) == letter.strip().lower())


def score_number(prediction: str, truth: float, scoring: Scoring = "official-code") -> float:
    """Mean relative accuracy of the number that the output gives; 0 without one.

    >>> [score_number("3 chairs", 4, scoring) for scoring in SCORINGS]
    [0.0, 0.6, 0.5]
    """
    number = read_number(prediction, scoring)
    return 0.0 if number is None else mean_relative_accuracy(number, truth, inclusive=scoring == "benchmark")


def mean_relative_accuracy(prediction: float, truth: float, inclusive: bool = False) -> float:
    """Share of the ten thresholds t = 0.50, 0.55, ..., 0.95 with a relative error below 1 - t.

    An error of 1/4 passes 0.50 to 0.70, and 0.75 if inclusive:

    >>> mean_relative_accuracy(3, 4), mean_relative_accuracy(3, 4, inclusive=True)
    (0.5, 0.6)

    Args:
        prediction: one that is not finite scores 0.
        truth: 0 is matched by 0.
        inclusive: False is `<` in float32 as in Spatial-MLLM's code and the paper's reward (its equation prints `< t`);
            True is `<=` in float64 as in the benchmark's own scorer.

    Raises:
        ValueError: a truth that is not finite.
    """
    if not math.isfinite(truth):
        raise ValueError(f"truth must be a finite number, got {truth}")
    if not math.isfinite(prediction):
        return 0.0
    if inclusive:
        difference = abs(prediction - truth)
        error = difference / abs(truth) if truth else (math.inf if difference else 0.0)
        passed = error <= _BENCHMARK_LIMITS
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            target = np.float32(truth)
            passed = np.abs(np.float32(prediction) - target) / (np.abs(target) + _OFFICIAL_EPSILON) < _OFFICIAL_LIMITS
    return int(np.count_nonzero(passed)) / len(passed)


def check_ground_truth(
    question_type: str, ground_truth: str, options: Sequence[str] | None = None, question_id: str = ""
) -> None:
    """Refuse what no output could be scored against; worth a call on every question before the first is asked.

    Args:
        options: of a multiple choice, "A. chair", "B. stool", ...; without them any letter from A to Z passes.
        question_id: named in the error.

    Raises:
        ValueError: an unknown question type, a number that is not finite, or a letter that no option has.
    """
    of_question = f" of question {question_id!r}" if question_id else ""
    if question_type not in VSIBENCH_TYPES:
        raise ValueError(
            f"question_type{of_question} must be one of {', '.join(VSIBENCH_TYPES)}, got {question_type!r}"
        )
    if question_type in NUMERICAL_TYPES:
        if to_finite_float(ground_truth) is None:
            raise ValueError(
                f"ground_truth{of_question} ({question_type}) must be a finite number such as '2.5', without a unit, "
                f"got {ground_truth!r}; mend or leave out the question"
            )
        return
    letters = ascii_uppercase if options is None else ascii_uppercase[: len(options)]
    if ground_truth.strip().upper() not in set(letters):
        known = f"{letters[0]} to {letters[-1]}" if letters else "none, as options is empty"
        raise ValueError(
            f"ground_truth{of_question} ({question_type}) must be the letter of an option ({known}), "
            f"got {ground_truth!r}; mend or leave out the question"
        )


def summarize_vsibench(scores: Iterable[tuple[str, float]]) -> VSIBenchScores:
    """Means of (question type, score) pairs, over questions (micro) and over tasks (macro).

    The directions score (1 + 0) / 2, so macro is (0.5 + 0.5) / 2; micro is (0.5 + 1 + 1 + 0) / 4:

    >>> easy, hard = "object_rel_direction_easy", "object_rel_direction_hard"
    >>> summary = summarize_vsibench([("object_counting", 0.5), (easy, 1.0), (easy, 1.0), (hard, 0.0)])
    >>> summary.by_task, summary.micro, summary.macro
    ({'object_counting': 0.5, 'object_rel_direction': 0.5}, 0.625, 0.5)

    Means are over what is present, as in v1.1; thinking-in-space counts an absent direction as 0. On the whole
    benchmark there is no difference.

    Raises:
        ValueError: no scores, an unknown question type, or a score outside [0, 1].
    """
    of_type: dict[str, list[float]] = {name: [] for name in VSIBENCH_TYPES}
    for question_type, score in scores:
        if question_type not in of_type:
            raise ValueError(f"question_type must be one of {', '.join(VSIBENCH_TYPES)}, got {question_type!r}")
        if not 0 <= score <= 1:
            raise ValueError(f"scores must be between 0 and 1, got {score} of a question of type {question_type}")
        of_type[question_type].append(score)
    everything = [score for values in of_type.values() for score in values]
    if not everything:
        raise ValueError("scores must hold at least one question, got none: no mean is defined")
    by_type = {name: fmean(values) for name, values in of_type.items() if values}
    by_task = {}
    for task in VSIBENCH_TASKS:
        members = DIRECTION_TYPES if task == DIRECTION_TASK else (task,)
        present = [by_type[name] for name in members if name in by_type]
        if present:
            by_task[task] = fmean(present)
    numbers = [score for name in NUMERICAL_TYPES for score in of_type[name]]
    choices = [score for name in CHOICE_TYPES for score in of_type[name]]
    return VSIBenchScores(
        by_type=by_type,
        by_task=by_task,
        counts={name: len(of_type[name]) for name in by_type},
        micro=fmean(everything),
        macro=fmean(list(by_task.values())),
        numerical=fmean(numbers) if numbers else None,
        multiple_choice=fmean(choices) if choices else None,
    )
