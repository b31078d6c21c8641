"""Prompts of training: the paper's words, and questions as conversations."""

import pytest

from spatial_mllm_hf.data.spatial_questions import SpatialQuestion
from spatial_mllm_hf.data.training_prompts import AnswerKind, as_conversation, grpo_prompt, sft_prompt

THINKING = (
    "Please think about this question as if you were a human pondering deeply. Engage in an internal dialogue using "
    "expressions such as 'let me think', 'wait', 'Hmm', 'oh, I see', 'let's break it down', etc, or other "
    "natural language thought expressions. It's encouraged to include self-reflection or verification in the reasoning "
    "process. "
)
NUMBER = SpatialQuestion("n", "scannet", "scene0000_00", "object_counting", "How many?", None, "4")
CHOICE = SpatialQuestion(
    "c",
    "scannet",
    "scene0000_00",
    "object_rel_direction_easy",
    "Which side?",
    ("A. left", "B. right"),
    "B",
    video="a/b.mp4",
)


@pytest.mark.parametrize(
    ("kind", "sft", "grpo"),
    [
        (
            "multiple_choice",
            " Please answer with the option's letter from the given choices (e.g., A, B, etc.) within the <answer> "
            "</answer> tags.",
            "answer the question with the option's letter from the given choices (e.g., A, B, etc.) within the "
            "<answer> </answer> tags.",
        ),
        (
            "number",
            " Please answer with the only numerical value (e.g., 42, 3.14, etc.) within the <answer> </answer> tags.",
            "answer the question with the only numerical value (e.g., 42, 3.14, etc.) within the <answer> </answer> "
            "tags.",
        ),
        (
            "text",
            " Please answer the question simply within the <answer> </answer> tags.",
            "answer the question simply within the <answer> </answer> tags.",
        ),
    ],
)
def test_the_words_of_the_paper(kind: AnswerKind, sft: str, grpo: str) -> None:
    assert sft_prompt("Where?", kind) == "Where?" + sft
    reasoning = " Please provide your detailed reasoning between the <think> </think> tags, and then "
    assert grpo_prompt("Where?", kind) == "Where?\n" + THINKING + reasoning + grpo


def test_a_number_as_a_conversation() -> None:
    row = as_conversation(NUMBER, "sft").to_dict()
    assert row == {
        "id": "n",
        "video": "scannet/scene0000_00.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\n" + sft_prompt("How many?", "number")},
            {"from": "gpt", "value": "<answer>4</answer>"},
        ],
        "metadata": {
            "dataset": "scannet",
            "scene_name": "scene0000_00",
            "question_type": "object_counting",
            "ground_truth": "4",
        },
    }


def test_a_choice_as_a_conversation_has_its_options_on_lines() -> None:
    (_, asked), (_, answered) = as_conversation(CHOICE, "sft").turns
    assert asked == "<video>\nWhich side?\nOptions:\nA. left\nB. right\n" + sft_prompt("", "multiple_choice")
    assert answered == "<answer>B</answer>"
    assert as_conversation(CHOICE, "sft").videos == ("a/b.mp4",)


def test_grpo_asks_for_thoughts_on_a_new_line_and_keeps_the_answer() -> None:
    for question, body in ((NUMBER, "How many?\n"), (CHOICE, "Which side?\nOptions:\nA. left\nB. right\n")):
        sft, grpo = as_conversation(question, "sft"), as_conversation(question, "grpo")
        assert grpo.turns[0][1].startswith(f"<video>\n{body}Please think about this question")
        assert grpo.turns[1] == sft.turns[1]
        assert (grpo.id, grpo.metadata) == (sft.id, sft.metadata)


def test_unknown_styles_and_kinds() -> None:
    with pytest.raises(ValueError, match="style must be one of sft, grpo, got 'rl'"):
        as_conversation(NUMBER, "rl")  # type: ignore[arg-type]
    for prompt in (sft_prompt, grpo_prompt):
        with pytest.raises(ValueError, match="kind must be one of multiple_choice, number, text, got 'integer'"):
            prompt("Where?", "integer")  # type: ignore[arg-type]
