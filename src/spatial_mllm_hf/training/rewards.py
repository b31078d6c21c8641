"""Rewards of reinforcement learning (section 3.2 and appendix B of the paper), as plain functions that TRL calls.

The paper's reward is the sum of two: the completion has the form that the prompt asks for, and its answer is right, as
the evaluation's own metrics see it. Letters count whole, numbers by mean relative accuracy, words by their Levenshtein
ratio. An optional third, off by default, is Video-R1's for completions of a good length (src/r1-v, `len_control`),
which the paper follows.

Of a completion that is not as asked for:

| completion | format | accuracy |
|---|---|---|
| empty, or without a closed `<answer>` block, as when it was cut off | 0 | 0 |
| a block without a letter or a number | by its form | 0 |
| several `<answer>` or `<think>` blocks | 0 | of the last `<answer>` block, as in evaluation |
| text around the blocks | 0 | of the last `<answer>` block |

The paper does not print its pattern. This one is SpaceR's and Video-R1's, a full match of a thought and an answer, but
for the number of blocks: theirs takes several answers for one long one, which would reward guessing twice.

Signatures are TRL's: columns of the data (`grpo_questions`) come as lists with one entry for each completion.
Completions are texts, or conversations whose last message is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.spatial_questions import NUMERICAL_TYPES, QUESTION_TYPES
from ..evaluation.answers import extract_answer
from ..evaluation.metrics import check_ground_truth, score_multiple_choice, score_number
from ..evaluation.text_metrics import levenshtein_ratio

TEXT_TYPE = "text"  # of questions that are answered in words (ScanQA, SQA3D)
THOUGHT, ANSWER = "<think>", "<answer>"
LENGTH_BONUS = 0.2  # Video-R1
LENGTH_RANGE = (320, 512)  # tokens, both ends included; Video-R1
LENGTH_MIN_ACCURACY = 0.1  # what counts as answered; Video-R1

Completion = str | Sequence[Mapping[str, Any]]
LogMetric = Callable[[str, float], None]

_FORM = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_ANSWERED = re.compile(r"<answer>.*?</answer>", re.DOTALL)


def format_reward(completions: Sequence[Completion], **_: Any) -> list[float]:
    """1 for one thought, then one answer, and nothing else; 0 otherwise.

    >>> format_reward(["<think>Two by the door.</think>\\n<answer>2</answer>", "2"])
    [1.0, 0.0]
    """
    return [float(has_form(completion_text(completion))) for completion in completions]


def accuracy_reward(
    completions: Sequence[Completion],
    question_type: Sequence[str],
    ground_truth: Sequence[str],
    answers: Sequence[Sequence[str] | None] | None = None,
    log_metric: LogMetric | None = None,
    **_: Any,
) -> list[float]:
    """How right each answer is, 0 to 1; see `score_completion`. The mean of each task is logged.

    >>> said = ["<answer>3</answer>", "<answer>b</answer>", "<answer>stairs</answer>"]
    >>> kinds = ["object_counting", "object_rel_distance", "text"]
    >>> [round(reward, 4) for reward in accuracy_reward(said, kinds, ["4", "B", "chair"])]
    [0.5, 1.0, 0.5455]

    Args:
        question_type: one of VSI-Bench's, or "text".
        ground_truth: the letter, the number or the words that are right.
        answers: of questions answered in words, all that are right; the best match counts.
        log_metric: TRL's.
    """
    others = answers or [None] * len(completions)
    rewards = [
        score_completion(completion_text(completion), kind, truth, right)
        for completion, kind, truth, right in zip(completions, question_type, ground_truth, others, strict=True)
    ]
    if log_metric is not None:
        for kind in sorted(set(question_type)):
            of_kind = [reward for reward, its_kind in zip(rewards, question_type) if its_kind == kind]
            log_metric(f"rewards/accuracy_reward/{kind}", sum(of_kind) / len(of_kind))
    return rewards


def length_reward(
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    question_id: Sequence[str],
    question_type: Sequence[str],
    ground_truth: Sequence[str],
    answers: Sequence[Sequence[str] | None] | None = None,
    **_: Any,
) -> list[float]:
    """0.2 for a completion of 320 to 512 tokens whose accuracy is above 0.1, where another to its question is too.

    Rollouts of one question that other processes hold do not count as others.
    """
    accuracies = accuracy_reward(completions, question_type, ground_truth, answers)
    answered = [name for name, accuracy in zip(question_id, accuracies) if accuracy > LENGTH_MIN_ACCURACY]
    shortest, longest = LENGTH_RANGE
    return [
        LENGTH_BONUS * (accuracy > LENGTH_MIN_ACCURACY and answered.count(name) > 1 and shortest <= len(ids) <= longest)
        for name, accuracy, ids in zip(question_id, accuracies, completion_ids, strict=True)
    ]


def score_completion(text: str, question_type: str, ground_truth: str, answers: Sequence[str] | None = None) -> float:
    """Accuracy of the last `<answer>` block, 0 to 1; 0 without one.

    >>> score_completion("<think>B?</think><answer>B</answer>", "route_planning", "B")
    1.0
    >>> score_completion("B", "route_planning", "B")
    0.0
    """
    if not _ANSWERED.search(text):
        return 0.0
    if question_type == TEXT_TYPE:
        said = extract_answer(text)
        return max(levenshtein_ratio(said, right) for right in answers or [ground_truth])
    if question_type in NUMERICAL_TYPES:
        return score_number(text, float(ground_truth))
    return score_multiple_choice(text, ground_truth)


def has_form(text: str) -> bool:
    """Whether a completion is one `<think>` block and one `<answer>` block, with at most white space between them."""
    return _FORM.fullmatch(text) is not None and text.count(THOUGHT) == 1 and text.count(ANSWER) == 1


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the content of the last message of a conversation."""
    if isinstance(completion, str):
        return completion
    return (completion[-1].get("content") or "") if completion else ""


def check_rewardable(question_type: str, ground_truth: str, question_id: str = "") -> None:
    """Refuse a question whose answers no reward could score; worth a call on all of them before training.

    Raises:
        ValueError: for an unknown question type, or a ground truth that is not of its kind.
    """
    if question_type not in (*QUESTION_TYPES, TEXT_TYPE):
        raise ValueError(
            f"question_type of {question_id or 'a question'} must be one of {', '.join((*QUESTION_TYPES, TEXT_TYPE))}, "
            f"got {question_type!r}: no reward is known for it."
        )
    if question_type != TEXT_TYPE:
        check_ground_truth(question_type, ground_truth, question_id=question_id)
    elif not ground_truth.strip():
        raise ValueError(f"ground_truth of {question_id or 'a question'} is empty; mend or leave out the question.")
