"""The prompts of training: the paper's, word for word (appendix B), and questions as training samples with them.

SFT asks for the answer alone; GRPO for a train of thought before it. Both want the answer inside `<answer> </answer>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from .conversations import VIDEO_TAG, Conversation
from .spatial_questions import SpatialQuestion

AnswerKind = Literal["multiple_choice", "number", "text"]
PromptStyle = Literal["sft", "grpo"]

SYSTEM_PROMPT = "You are a helpful assistant."  # also what Qwen2.5-VL's chat template puts there by itself

SFT_INSTRUCTIONS: Mapping[AnswerKind, str] = {
    "multiple_choice": " Please answer with the option's letter from the given choices (e.g., A, B, etc.) within the "
    "<answer> </answer> tags.",
    "number": " Please answer with the only numerical value (e.g., 42, 3.14, etc.) within the <answer> </answer> tags.",
    "text": " Please answer the question simply within the <answer> </answer> tags.",
}
GRPO_THINKING = (
    "Please think about this question as if you were a human pondering deeply. Engage in an internal dialogue using "
    "expressions such as 'let me think', 'wait', 'Hmm', 'oh, I see', 'let's break it down', etc, or other natural "
    "language thought expressions. It's encouraged to include self-reflection or verification in the reasoning "
    "process. "
)
_REASONING = " Please provide your detailed reasoning between the <think> </think> tags, and then answer the question"
GRPO_INSTRUCTIONS: Mapping[AnswerKind, str] = {
    "multiple_choice": _REASONING + " with the option's letter from the given choices (e.g., A, B, etc.) within the "
    "<answer> </answer> tags.",
    "number": _REASONING + " with the only numerical value (e.g., 42, 3.14, etc.) within the <answer> </answer> tags.",
    "text": _REASONING + " simply within the <answer> </answer> tags.",
}


def sft_prompt(question: str, kind: AnswerKind) -> str:
    """A question, options included, and how to answer it."""
    return question + SFT_INSTRUCTIONS[_checked(kind)]


def grpo_prompt(question: str, kind: AnswerKind) -> str:
    """A question, options included, then how to think and how to answer, on a new line."""
    instructions = GRPO_THINKING + GRPO_INSTRUCTIONS[_checked(kind)]
    return question + ("" if question.endswith("\n") else "\n") + instructions


def question_with_options(question: SpatialQuestion) -> str:
    """The text that a prompt begins with: the question, and each option on a line of its own."""
    if question.options is None:
        return question.question
    return "\n".join([question.question, "Options:", *question.options, ""])


def question_prompt(question: SpatialQuestion, style: PromptStyle) -> str:
    """A question with its options and the instructions for its kind of answer.

    Raises:
        ValueError: for a style other than "sft" and "grpo".
    """
    if style not in get_args(PromptStyle):
        raise ValueError(f"style must be one of {', '.join(get_args(PromptStyle))}, got {style!r}.")
    make = sft_prompt if style == "sft" else grpo_prompt
    return make(question_with_options(question), "number" if question.is_numerical else "multiple_choice")


def as_conversation(question: SpatialQuestion, style: PromptStyle) -> Conversation:
    """A question with its answer as one training sample.

    Raises:
        ValueError: for a style other than "sft" and "grpo".
    """
    prompt = question_prompt(question, style)
    return Conversation(
        id=question.id,
        videos=(question.video_path,),
        images=(),
        turns=(("human", f"{VIDEO_TAG}\n{prompt}"), ("gpt", f"<answer>{question.ground_truth}</answer>")),
        metadata={
            "dataset": question.dataset,
            "scene_name": question.scene_name,
            "question_type": question.question_type,
            "ground_truth": question.ground_truth,
        },
    )


def _checked(kind: AnswerKind) -> AnswerKind:
    if kind not in get_args(AnswerKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(AnswerKind))}, got {kind!r}.")
    return kind
