"""VSI-Bench scores, held to worked examples, to the published arithmetic in torch and numpy, and to properties."""

import doctest
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from spatial_mllm_hf.data import spatial_questions
from spatial_mllm_hf.evaluation import metrics
from spatial_mllm_hf.evaluation.answers import SCORINGS, Scoring
from spatial_mllm_hf.evaluation.metrics import (
    CHOICE_TYPES,
    DIRECTION_TYPES,
    NUMERICAL_TYPES,
    VSIBENCH_TASKS,
    VSIBENCH_TYPES,
    check_ground_truth,
    mean_relative_accuracy,
    score_answer,
    score_multiple_choice,
    score_number,
    summarize_vsibench,
)

COUNT, DISTANCE = "object_counting", "object_rel_distance"
EASY, MEDIUM, HARD = DIRECTION_TYPES
# Every pair of whole numbers and of tenths, 1 to 60 of each: errors that lie exactly on a threshold included.
WHOLE = [(float(a), float(b)) for a, b in itertools.product(range(1, 61), repeat=2)]
DECIMAL = [(a / 10, b / 10) for a, b in itertools.product(range(1, 61), repeat=2)]


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(metrics)
    assert results.attempted > 6
    assert results.failed == 0


def test_question_types_are_those_of_the_data() -> None:
    assert sorted(VSIBENCH_TYPES) == sorted(spatial_questions.QUESTION_TYPES)
    assert NUMERICAL_TYPES == spatial_questions.NUMERICAL_TYPES
    assert DIRECTION_TYPES == spatial_questions.DIRECTION_TYPES
    assert set(VSIBENCH_TYPES) - set(NUMERICAL_TYPES) == set(CHOICE_TYPES)
    assert len(VSIBENCH_TASKS) == 8


# ---------- mean relative accuracy
@pytest.mark.parametrize(
    ("prediction", "truth", "exclusive", "inclusive"),
    [
        (4, 4, 1.0, 1.0),
        (4.1, 4, 1.0, 1.0),  # 2.5 %
        (4.3, 4, 0.9, 0.9),  # 7.5 %
        (3, 4, 0.5, 0.6),  # exactly 1/4
        (5, 4, 0.5, 0.6),
        (2, 4, 0.0, 0.1),  # exactly 1/2
        (6, 4, 0.0, 0.1),
        (1, 4, 0.0, 0.0),
        (8, 4, 0.0, 0.0),
        (-4, 4, 0.0, 0.0),
        (0, 4, 0.0, 0.0),
        (0, 0, 1.0, 1.0),
        (0.1, 0, 0.0, 0.0),
        (math.nan, 4, 0.0, 0.0),
        (math.inf, 4, 0.0, 0.0),
        (-math.inf, 4, 0.0, 0.0),
        (1e300, 4, 0.0, 0.0),  # beyond float32
        (-1e308, 1e308, 0.0, 0.0),
    ],
)
def test_mean_relative_accuracy(prediction: float, truth: float, exclusive: float, inclusive: float) -> None:
    assert mean_relative_accuracy(prediction, truth) == exclusive
    assert mean_relative_accuracy(prediction, truth, inclusive=True) == inclusive


@pytest.mark.parametrize("pairs", [WHOLE, DECIMAL], ids=["whole", "decimal"])
def test_exclusive_is_what_float32_gives_in_torch(pairs: Sequence[tuple[float, float]]) -> None:
    prediction, truth = torch.tensor(pairs, dtype=torch.float32).unsqueeze(1).unbind(-1)  # [N, 1] each
    thresholds = torch.arange(0.5, 0.975, 0.05, dtype=torch.float32)
    expected = ((prediction - truth).abs() / (truth.abs() + 1e-8) < 1 - thresholds).double().mean(1)
    assert [mean_relative_accuracy(*pair) for pair in pairs] == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("pairs", [WHOLE, DECIMAL], ids=["whole", "decimal"])
def test_inclusive_is_what_float64_gives_in_numpy(pairs: Sequence[tuple[float, float]]) -> None:
    start, end, step = 0.5, 0.95, 0.05
    thresholds = np.linspace(start, end, int((end - start) / step + 2))
    assert len(thresholds) == 10  # not 11
    prediction, truth = np.array(pairs)[:, :, None].transpose(1, 0, 2)  # [N, 1] each
    expected = (np.abs(prediction - truth) / truth <= 1 - thresholds).mean(1)
    assert [mean_relative_accuracy(*pair, inclusive=True) for pair in pairs] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0, 37.0, 251.5])
def test_a_larger_error_never_scores_more(truth: float, inclusive: bool) -> None:
    for sign in (1, -1):
        scores = [
            mean_relative_accuracy(truth * (1 + sign * error), truth, inclusive)
            for error in sorted(np.random.default_rng(0).uniform(0, 1.2, 300))
        ]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == 1.0
        assert scores[-1] == 0.0
        assert {round(10 * score) for score in scores} == set(range(11))


@pytest.mark.parametrize("truth", [math.nan, math.inf, -math.inf])
def test_truth_that_is_not_finite_is_an_error(truth: float) -> None:
    with pytest.raises(ValueError, match=f"truth must be a finite number, got {truth}"):
        mean_relative_accuracy(1.0, truth)


# ---------- one answer
@pytest.mark.parametrize(
    ("output", "scores"),
    [
        ("4", (1.0, 1.0, 1.0)),
        ("3", (0.5, 0.6, 0.5)),
        ("four", (0.0, 0.0, 1.0)),
        ("4 chairs", (0.0, 1.0, 1.0)),
        ("<answer>4.0</answer>", (1.0, 0.0, 1.0)),
        ("", (0.0, 0.0, 0.0)),
        ("nan", (0.0, 0.0, 0.0)),
        ("-4", (0.0, 0.0, 0.0)),
    ],
)
def test_answers_to_a_count(output: str, scores: tuple[float, float, float]) -> None:
    assert tuple(score_answer(COUNT, output, "4", scoring) for scoring in SCORINGS) == scores
    assert tuple(score_number(output, 4, scoring) for scoring in SCORINGS) == scores


@pytest.mark.parametrize("question_type", CHOICE_TYPES)
def test_answers_to_a_multiple_choice(question_type: str) -> None:
    outputs = {"C": (1.0, 1.0, 1.0), "C. stool": (0.0, 1.0, 1.0), "(C)": (0.0, 0.0, 1.0), "D": (0.0, 0.0, 0.0)}
    for output, scores in outputs.items():
        assert tuple(score_answer(question_type, output, "C", scoring) for scoring in SCORINGS) == scores
        assert tuple(score_multiple_choice(output, "C", scoring) for scoring in SCORINGS) == scores


def test_official_code_is_the_default() -> None:
    assert score_answer(COUNT, "4 chairs", "4") == 0.0
    assert score_answer(DISTANCE, "A. chair", "A") == 0.0
    assert score_answer(COUNT, "3", "4") == 0.5


@pytest.mark.parametrize("scoring", SCORINGS)
def test_units_are_not_converted(scoring: Scoring) -> None:
    assert score_answer("object_abs_distance", "120 cm", "1.2", scoring) == 0.0


@pytest.mark.parametrize("question_type", NUMERICAL_TYPES)
@pytest.mark.parametrize("truth", ["nan", "inf", "", "two", "2.5 m", "1,234", "B"])
def test_numerical_truth_that_is_no_number_is_an_error(question_type: str, truth: str) -> None:
    message = rf"ground_truth of question 'q7' \({question_type}\) must be a finite number .*, got {truth!r}"
    with pytest.raises(ValueError, match=message):
        check_ground_truth(question_type, truth, question_id="q7")
    with pytest.raises(ValueError, match=rf"ground_truth \({question_type}\) must be a finite number"):
        score_answer(question_type, "2", truth)


@pytest.mark.parametrize("truth", ["D", "", "AB", "chair", "1", "A."])
def test_letter_that_no_option_has_is_an_error(truth: str) -> None:
    options = ["A. chair", "B. stool", "C. sofa"]
    message = rf"ground_truth of question 'q7' \({DISTANCE}\) must be the letter of an option \(A to C\), got {truth!r}"
    with pytest.raises(ValueError, match=message):
        check_ground_truth(DISTANCE, truth, options, "q7")


def test_letters_and_numbers_that_can_be_scored_pass() -> None:
    check_ground_truth(DISTANCE, "C", ["A. chair", "B. stool", "C. sofa"])
    check_ground_truth(DISTANCE, "Z")
    check_ground_truth(COUNT, "3")
    check_ground_truth("room_size_estimation", " 21.5\n")
    with pytest.raises(ValueError, match=r"\(A to Z\), got 'É'"):
        check_ground_truth(DISTANCE, "É")
    with pytest.raises(ValueError, match=r"\(none, as options is empty\), got 'A'"):
        check_ground_truth(DISTANCE, "A", [])


@pytest.mark.parametrize("letter", ["", " ", "AB", "1", "A. chair"])
def test_letter_that_is_none_is_an_error_and_not_matched_by_an_empty_output(letter: str) -> None:
    with pytest.raises(ValueError, match=f"letter must be that of an option, A to Z, got {letter!r}"):
        score_multiple_choice("", letter)


def test_unknown_question_type_is_an_error_that_lists_the_known_ones() -> None:
    for call in (
        lambda: score_answer("object_count", "1", "1"),
        lambda: check_ground_truth("object_count", "1"),
        lambda: summarize_vsibench([("object_count", 1.0)]),
    ):
        with pytest.raises(ValueError, match=r"question_type must be one of .*, got 'object_count'") as error:
            call()
        assert all(name in str(error.value) for name in VSIBENCH_TYPES)


# ---------- all of them
# The paper's table 1 and the number of questions of each task in the authors' evaluation set.
PUBLISHED = {
    "object_counting": (65.3, 565),
    "object_abs_distance": (34.8, 834),
    "object_size_estimation": (63.1, 953),
    "room_size_estimation": (45.1, 288),
    "object_rel_distance": (41.3, 710),
    "object_rel_direction": (46.2, 968),
    "route_planning": (33.5, 194),
    "obj_appearance_order": (46.3, 618),
}
PUBLISHED_MICRO, PUBLISHED_MACRO = 48.4, 47.0


def test_published_averages_follow_from_the_published_table() -> None:
    scores = []
    for task, (percent, count) in PUBLISHED.items():
        names = DIRECTION_TYPES if task == "object_rel_direction" else (task,)
        scores += [(names[index % len(names)], percent / 100) for index in range(count)]
    summary = summarize_vsibench(scores)
    assert 100 * summary.micro == pytest.approx(PUBLISHED_MICRO, abs=0.05)
    assert 100 * summary.macro == pytest.approx(PUBLISHED_MACRO, abs=0.0501)
    assert {task: round(100 * score, 1) for task, score in summary.by_task.items()} == {
        task: percent for task, (percent, _) in PUBLISHED.items()
    }
    assert sum(summary.counts.values()) == 5130


def test_directions_are_averaged_before_the_tasks_are() -> None:
    summary = summarize_vsibench([(EASY, 1.0)] * 6 + [(MEDIUM, 0.0)] * 2 + [(HARD, 0.5), (COUNT, 0.3)])
    assert summary.by_type == {EASY: 1.0, MEDIUM: 0.0, HARD: 0.5, COUNT: 0.3}
    assert summary.by_task == {"object_rel_direction": 0.5, COUNT: 0.3}
    assert summary.counts == {EASY: 6, MEDIUM: 2, HARD: 1, COUNT: 1}
    assert summary.micro == pytest.approx((6 + 0.5 + 0.3) / 10)
    assert summary.macro == pytest.approx(0.4)
    assert summary.numerical == 0.3
    assert summary.multiple_choice == pytest.approx(6.5 / 9)


def test_kinds_that_are_absent_have_no_mean() -> None:
    assert summarize_vsibench([(COUNT, 0.5)]).multiple_choice is None
    assert summarize_vsibench([(EASY, 0.5)]).numerical is None


def test_order_of_the_questions_does_not_matter() -> None:
    rng = random.Random(0)
    scores = [(rng.choice(VSIBENCH_TYPES), rng.random()) for _ in range(500)]
    summary = summarize_vsibench(scores)
    for _ in range(5):
        rng.shuffle(scores)
        assert summarize_vsibench(iter(scores)) == summary


def test_the_set_twice_scores_the_same() -> None:
    rng = random.Random(1)
    scores = [(rng.choice(VSIBENCH_TYPES), rng.choice((0.0, 0.25, 1.0))) for _ in range(64)]
    once, twice = summarize_vsibench(scores), summarize_vsibench(scores * 2)
    assert (twice.by_task, twice.macro) == (once.by_task, once.macro)
    assert twice.micro == once.micro
    assert twice.counts == {name: 2 * count for name, count in once.counts.items()}


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="scores must hold at least one question, got none"):
        summarize_vsibench([])


@pytest.mark.parametrize("score", [-0.1, 1.1, 50.0, math.nan])
def test_score_that_is_no_fraction_is_an_error(score: float) -> None:
    with pytest.raises(ValueError, match=f"scores must be between 0 and 1, got {score} of a question of type {COUNT}"):
        summarize_vsibench([(COUNT, 1.0), (COUNT, score)])
