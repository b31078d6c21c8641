"""The paper's mixture, and the largest draw that has it."""

from collections import Counter
from itertools import chain, repeat

import pytest

from spatial_mllm_hf.data.question_mixture import PAPER_MIXTURE, draw, mixture_targets
from spatial_mllm_hf.data.spatial_questions import QUESTION_TYPES, QuestionType, SpatialQuestion

COUNTS: dict[QuestionType, int] = {
    "object_counting": 1000,
    "object_abs_distance": 2000,
    "object_size_estimation": 700,
    "room_size_estimation": 300,
    "object_rel_distance": 6000,
    "object_rel_direction_easy": 1000,
    "object_rel_direction_medium": 2000,
    "object_rel_direction_hard": 3000,
    "obj_appearance_order": 9000,
}


def stream(counts: dict[QuestionType, int]) -> list[SpatialQuestion]:
    types = chain.from_iterable(repeat(name, number) for name, number in counts.items())
    return [
        SpatialQuestion(str(number), "scannet", "scene0000_00", name, "?", None, "1")
        for number, name in enumerate(types)
    ]


def test_the_groups_are_all_tasks_but_route_planning_and_their_shares_all_questions() -> None:
    tasks = [task for group in PAPER_MIXTURE for task in group.tasks]
    assert sorted(tasks) == sorted(set(QUESTION_TYPES) - {"route_planning"})
    assert sum(group.share for group in PAPER_MIXTURE) == pytest.approx(1)


def test_targets_have_the_proportions_of_the_paper_and_use_one_group_up() -> None:
    targets = mixture_targets(COUNTS)
    total = sum(targets.values())
    assert all(0 < targets[task] <= COUNTS[task] for task in COUNTS)
    for group in PAPER_MIXTURE:
        assert sum(targets[task] for task in group.tasks) == pytest.approx(total * group.share, abs=1)
    # Sizes are scarcest: 1000 for 16.09 %, all of them kept.
    assert total == pytest.approx(1000 / 0.1609, abs=3)
    assert (targets["room_size_estimation"], targets["object_size_estimation"]) == (300, 700)


def test_within_a_group_tasks_keep_their_proportions() -> None:
    targets = mixture_targets(COUNTS)
    assert targets["object_rel_distance"] == pytest.approx(3 * targets["object_abs_distance"], abs=3)
    easy, medium, hard = (targets[task] for task in PAPER_MIXTURE[0].tasks)
    assert medium == pytest.approx(2 * easy, abs=2)
    assert hard == pytest.approx(3 * easy, abs=3)


def test_a_group_without_questions_is_left_out() -> None:
    targets = mixture_targets({"object_counting": 550, "room_size_estimation": 10_000})
    assert targets == {"object_counting": 550, "room_size_estimation": 1609}
    assert mixture_targets({}) == {}
    assert mixture_targets({"object_counting": 0}) == {}


def test_the_draw_is_exact_in_order_and_decided_by_the_seed() -> None:
    questions = stream(COUNTS)
    targets = mixture_targets(COUNTS)
    drawn = list(draw(questions, COUNTS, targets, seed=0))
    assert Counter(question.question_type for question in drawn) == targets
    assert drawn == sorted(drawn, key=lambda question: int(question.id))
    assert drawn == list(draw(questions, COUNTS, targets, seed=0))
    assert drawn != list(draw(questions, COUNTS, targets, seed=1))


def test_every_question_is_as_likely_as_another() -> None:
    counts: dict[QuestionType, int] = {"object_counting": 5}
    kept = Counter(
        question.id for seed in range(2000) for question in draw(stream(counts), counts, {"object_counting": 2}, seed)
    )
    assert kept.total() == 4000
    assert all(abs(kept[str(number)] - 800) < 4 * (2000 * 0.4 * 0.6) ** 0.5 for number in range(5))


def test_everything_is_kept_where_everything_is_wanted() -> None:
    questions = stream(COUNTS)
    assert list(draw(questions, COUNTS, COUNTS, seed=0)) == questions
    assert list(draw(questions, COUNTS, {}, seed=0)) == []
