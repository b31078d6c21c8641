"""Rewards: worked examples, and what becomes of completions that are not as asked for."""

import doctest

import pytest

from spatial_mllm_hf.training import rewards
from spatial_mllm_hf.training.rewards import (
    accuracy_reward,
    check_rewardable,
    completion_text,
    format_reward,
    length_reward,
    score_completion,
)

GOOD = "<think>Two by the door, one at the desk.</think>\n<answer>3</answer>"


def test_the_examples_in_the_docs_hold() -> None:
    results = doctest.testmod(rewards)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "<think>a</think><answer>b</answer>",
        "<think>first line\nsecond line</think>\n\n<answer>\nB\n</answer>",
        "<think></think><answer></answer>",
    ],
)
def test_a_thought_and_an_answer_have_the_form(text: str) -> None:
    assert format_reward([text]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "<answer>3</answer>",
        "<think>no answer</think>",
        "<answer>3</answer><think>too late</think>",
        GOOD + " chairs",
        "Well: " + GOOD,
        "<think>a</think> so <answer>3</answer>",
        GOOD + "<answer>4</answer>",
        "<think>a</think><think>b</think><answer>3</answer>",
        "<think>maybe <answer>4</answer></think><answer>3</answer>",
        GOOD.removesuffix("</answer>"),
        "<THINK>a</THINK><ANSWER>3</ANSWER>",
    ],
)
def test_anything_else_has_not(text: str) -> None:
    assert format_reward([text]) == [0.0]


@pytest.mark.parametrize(
    ("answer", "kind", "truth", "reward"),
    [
        ("B", "object_rel_distance", "B", 1.0),
        (" b. ", "obj_appearance_order", "B", 1.0),
        ("B. chair", "object_rel_direction_hard", "B", 0.0),
        ("A", "route_planning", "B", 0.0),
        ("I cannot tell.", "route_planning", "B", 0.0),
        # An error of 1/4 is below 1 - t for t = 0.50, 0.55, 0.60, 0.65, 0.70.
        ("3", "object_counting", "4", 0.5),
        ("4.0", "object_counting", "4", 1.0),
        # An error of 0.12 is below 1 - t up to t = 0.85: eight of ten.
        ("1.76", "object_abs_distance", "2", 0.8),
        ("-2", "object_abs_distance", "2", 0.0),
        ("two", "object_counting", "2", 0.0),
        ("2 m", "room_size_estimation", "2", 0.0),
        ("nan", "object_size_estimation", "2", 0.0),
        ("", "object_size_estimation", "2", 0.0),
        # "brown" and "brow" share 4 letters: 2 * 4 / 9.
        ("brow", "text", "brown", 8 / 9),
        ("brown", "text", "brown", 1.0),
        ("", "text", "brown", 0.0),
    ],
)
def test_an_answer_counts_as_in_evaluation(answer: str, kind: str, truth: str, reward: float) -> None:
    text = f"<think>Hmm.</think><answer>{answer}</answer>"
    assert accuracy_reward([text], [kind], [truth]) == pytest.approx([reward])


def test_of_several_right_answers_the_nearest_counts() -> None:
    said = ["<answer>dark brown</answer>"] * 2
    some = accuracy_reward(said, ["text"] * 2, ["black"] * 2, [["black", "dark brown"], None])
    assert some == pytest.approx([1.0, 2 * 2 / 15])  # "dark brown" and "black" share "ak"


@pytest.mark.parametrize(("kind", "truth"), [("object_counting", "3"), ("route_planning", "B"), ("text", "chair")])
@pytest.mark.parametrize("text", ["", "{}", "<think>{}</think>", "<think>a</think><answer>{}", "{}</answer>"])
def test_without_a_whole_answer_block_nothing_is_right(text: str, kind: str, truth: str) -> None:
    assert score_completion(text.format(truth), kind, truth) == 0.0


def test_the_last_of_several_answers_counts() -> None:
    assert score_completion(GOOD + "<answer>4</answer>", "object_counting", "4") == 1.0
    assert score_completion(GOOD + "<answer>4</answer>", "object_counting", "3") < 1.0


def test_a_cut_completion_keeps_an_answer_that_it_gave() -> None:
    assert score_completion(GOOD + " and then I wen", "object_counting", "3") == 1.0
    assert format_reward([GOOD + " and then I wen"]) == [0.0]


def test_conversations_and_texts_are_the_same() -> None:
    chat = [{"role": "assistant", "content": GOOD}]
    assert format_reward([chat]) == format_reward([GOOD]) == [1.0]
    assert accuracy_reward([chat], ["object_counting"], ["3"]) == [1.0]
    assert completion_text([{"role": "assistant", "content": None}]) == completion_text([]) == ""


def test_the_mean_of_each_task_is_logged() -> None:
    logged: dict[str, float] = {}
    said = ["<answer>3</answer>", "<answer>4</answer>", "<answer>A</answer>"]
    kinds = ["object_counting", "object_counting", "route_planning"]
    accuracy_reward(said, kinds, ["4", "4", "B"], log_metric=logged.__setitem__)
    assert logged == {
        "rewards/accuracy_reward/object_counting": 0.75,
        "rewards/accuracy_reward/route_planning": 0.0,
    }


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        accuracy_reward([GOOD, GOOD], ["object_counting"], ["3"])


def length_rewards(said: list[str], lengths: list[int], names: list[str]) -> list[float]:
    columns = {
        "question_id": names,
        "question_type": ["object_counting"] * len(said),
        "ground_truth": ["3"] * len(said),
    }
    return length_reward(said, completion_ids=[[0] * length for length in lengths], **columns)


def test_the_length_bonus_goes_to_right_answers_of_320_to_512_tokens() -> None:
    right, wrong = "<answer>3</answer>", "<answer>30</answer>"
    assert length_rewards([right] * 5, [319, 320, 400, 512, 513], ["q"] * 5) == [0, 0.2, 0.2, 0.2, 0]
    assert length_rewards([right, right, wrong], [400] * 3, ["q"] * 3) == [0.2, 0.2, 0]


def test_the_length_bonus_needs_two_right_answers_to_the_question() -> None:
    right, wrong = "<answer>3</answer>", "<answer>30</answer>"
    assert length_rewards([right, wrong], [400, 400], ["q", "q"]) == [0, 0]
    assert length_rewards([right, right], [400, 400], ["q", "another"]) == [0, 0]
    assert length_rewards([right, right], [400, 10], ["q", "q"]) == [0.2, 0]


@pytest.mark.parametrize(
    ("kind", "truth", "message"),
    [
        ("colour", "red", "question_type of q7 must be one of object_counting, .*got 'colour'"),
        ("object_counting", "three", "ground_truth of question 'q7'.*finite number"),
        ("route_planning", "left", "letter of an option"),
        ("text", " ", "ground_truth of q7 is empty"),
    ],
)
def test_questions_that_no_reward_could_score_are_refused(kind: str, truth: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rewardable(kind, truth, "q7")


@pytest.mark.parametrize(
    ("kind", "truth"), [("object_counting", "3"), ("route_planning", "b"), ("text", "on the desk")]
)
def test_others_are_not(kind: str, truth: str) -> None:
    check_rewardable(kind, truth)
