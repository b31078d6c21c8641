"""Scores of answers in free text: ScanQA, SQA3D, and the similarity that the paper rewards.

ScanQA follows Video-3D-LLM's llava/eval/eval_scanqa.py, whose input Spatial-MLLM v1.1 writes; SQA3D follows LEO
(embodied-generalist, evaluator/sqa3d_eval.py and data/data_utils.py). What differs from them: an output may keep its
answer in an `<answer>` block, and an empty answer to SQA3D is wrong, where LEO's refined match finds the empty text in
every right answer.

Scores are fractions, 0 to 1; CIDEr goes up to 10. Imports nothing of the package but `answers` and `caption_metrics`,
and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from .answers import clean_answer, extract_answer
from .caption_metrics import MeteorUnavailableError, bleu, cider, lcs_length, meteor, rouge_l

SQA3D_TYPES = ("what", "is", "how", "can", "which", "others")


class ScanQAScores(NamedTuple):
    """`scores` has EM, BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr. METEOR is None where it cannot be computed; then
    `notes` says why, in a sentence for the report."""

    scores: dict[str, float | None]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SQA3DScores:
    """EM@1 (`exact`), EM-R1 (`refined`) and number of questions, of "all" and of each question type present."""

    exact: dict[str, float]
    refined: dict[str, float]
    counts: dict[str, int]


def levenshtein_ratio(first: str, second: str) -> float:
    """Similarity of two texts as `Levenshtein.ratio` has it: 1 - (insertions + deletions) / (both lengths), a replaced
    character being one of each. It is the paper's reward for answers in words.

    "chair" and "stairs" share "air": 1 - (2 + 3) / 11 = 0.5455.

    >>> round(levenshtein_ratio("chair", "stairs"), 4)
    0.5455
    """
    total = len(first) + len(second)
    return 2 * lcs_length(first, second) / total if total else 1.0


def score_scanqa(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> ScanQAScores:
    """Scores of ScanQA's questions, keyed by their ids.

    Of an output only the last `<answer>` block counts, or all of it, ends stripped. EM (EM@1): it equals one of the
    right answers, case and full stop included. The others: without full stops at its end, in its own case, split at
    white space (not by the rules of the Penn Treebank, as the COCO tool would).

    >>> scores, notes = score_scanqa({"q1": "brown", "q2": "2."}, {"q1": ["brown", "dark brown"], "q2": ["2", "two"]})
    >>> scores["EM"], round(scores["BLEU-1"], 4), scores["ROUGE-L"]
    (0.5, 1.0, 1.0)

    Raises:
        ValueError: no questions, others in `predictions` than in `answers`, or a question without a right answer.
    """
    ids = _same_questions(predictions, answers)
    outputs, references = [extract_answer(predictions[name]) for name in ids], [answers[name] for name in ids]
    candidates = [output.rstrip(".") for output in outputs]
    scores: dict[str, float | None] = {"EM": fmean([float(text in right) for text, right in zip(outputs, references)])}
    scores |= {f"BLEU-{order}": score for order, score in enumerate(bleu(candidates, references), 1)}
    scores |= {"METEOR": None, "ROUGE-L": rouge_l(candidates, references), "CIDEr": cider(candidates, references)}
    try:
        scores["METEOR"] = meteor(candidates, references)
    except MeteorUnavailableError as reason:
        return ScanQAScores(scores, (str(reason),))
    return ScanQAScores(scores, ())


def score_sqa3d(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]], questions: Mapping[str, str]
) -> SQA3DScores:
    """EM@1 and EM-R1 of SQA3D, keyed by the question's id, by the question's first word and over "all".

    Both sides are cleaned (`clean_answer`; of an output only the last `<answer>` block). EM@1: they are equal. EM-R1:
    they are, or one contains the other, white space left aside. An answer of which cleaning leaves nothing scores 0.

    >>> right = {"q1": ["two"], "q2": ["left"]}
    >>> asked = {"q1": "How many chairs are there?", "q2": "Which side is the door on?"}
    >>> scores = score_sqa3d({"q1": "2", "q2": "On the left side."}, right, asked)
    >>> scores.exact["all"], scores.refined["all"], scores.exact["how"], scores.exact["which"]
    (0.5, 1.0, 1.0, 0.0)

    Raises:
        ValueError: no questions, others in `predictions` than in `answers`, or a question without its text or without
            a right answer.
    """
    ids = _same_questions(predictions, answers)
    exact: dict[str, list[float]] = {name: [] for name in ("all", *SQA3D_TYPES)}
    refined: dict[str, list[float]] = {name: [] for name in exact}
    for name in ids:
        if name not in questions:
            raise ValueError(f"questions must hold the text of every question that was answered, {name!r} is missing")
        output = clean_answer(extract_answer(predictions[name]))
        targets = [clean_answer(answer) for answer in answers[name]]
        for group in ("all", sqa3d_type(questions[name])):
            exact[group].append(float(bool(output.strip()) and output in targets))
            refined[group].append(float(any(_contain(output, target) for target in targets)))
    present = [name for name, values in exact.items() if values]
    return SQA3DScores(
        exact={name: fmean(exact[name]) for name in present},
        refined={name: fmean(refined[name]) for name in present},
        counts={name: len(exact[name]) for name in present},
    )


def sqa3d_type(question: str) -> str:
    """One of `SQA3D_TYPES`, by how the question begins.

    >>> sqa3d_type("Is the door behind me?"), sqa3d_type("Am I facing it?")
    ('is', 'others')
    """
    start = question.lstrip().lower()
    return next((name for name in SQA3D_TYPES[:-1] if start.startswith(name)), SQA3D_TYPES[-1])


def _contain(first: str, second: str) -> bool:
    first, second = "".join(first.split()), "".join(second.split())
    return bool(first and second) and (first in second or second in first)


def _same_questions(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> list[str]:
    """Ids in an order that does not depend on the mappings'."""
    if not answers and not predictions:
        raise ValueError("predictions and answers must hold at least one question, got none")
    for what, missing in (
        ("predictions", answers.keys() - predictions.keys()),
        ("answers", predictions.keys() - answers.keys()),
    ):
        if missing:
            raise ValueError(
                f"predictions and answers must be of the same questions; {what} lacks {len(missing)}, "
                f"such as {min(missing)!r}"
            )
    for name, right in answers.items():
        if isinstance(right, str) or not any(answer.strip() for answer in right):
            raise ValueError(f"answers[{name!r}] must be a list of at least one right answer, got {right!r}")
    return sorted(answers)
