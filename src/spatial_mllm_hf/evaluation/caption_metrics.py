"""BLEU-1 to 4, ROUGE-L, CIDEr and METEOR of short answers against several references.

The published numbers (ScanQA, LEO, Video-3D-LLM, Spatial-MLLM) come from copies of the COCO caption scorers, fed with
the answers as they are: tokens are what white space separates, and case counts. What is well kept gives other numbers:
nltk and sacrebleu treat orders without a match differently, rouge-score has another F-measure (beta 1, the best
reference instead of the best precision and recall) and its own tokens, and nobody keeps a CIDEr. So the first three are
computed here, to the COCO scorers' definitions. METEOR is a Java program with tables of paraphrases: `pycocoevalcap`
(extra `eval`) brings METEOR 1.5, the version that was used.

What differs: ROUGE-L and METEOR see any white space as one space; `|||` is taken out of references, too.

In all of them `candidates[i]` is the answer to question i and `references[i]` are its right answers. The order of the
questions does not matter. Imports nothing of the package and no torch.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import reduce
from importlib.util import find_spec
from operator import or_
from pathlib import Path
from typing import IO

MAX_ORDER = 4  # longest n-grams of BLEU and CIDEr
ROUGE_BETA = 1.2  # recall counts beta**2 times as much as precision
CIDER_SIGMA, CIDER_SCALE = 6.0, 10.0
# COCO's BLEU keeps its precisions above 0 and its divisors off 0 with these.
BLEU_TINY, BLEU_SMALL = 1e-15, 1e-9
METEOR_JAR, METEOR_MEMORY = "meteor-1.5.jar", "-Xmx2G"
METEOR_ARGUMENTS = ("-", "-", "-stdio", "-l", "en", "-norm")  # as the COCO tool: line by line, English, normalised

Tokens = list[str]
NGram = tuple[str, ...]


class MeteorUnavailableError(ValueError):
    """METEOR cannot be computed on this machine; the message says what is missing."""


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 over all questions, with the length of the closest reference (the shorter of two) for brevity.

    2 of 3 words and 1 of 2 pairs are right, no triple is; sqrt(2/3 * 1/2) = 0.5774:

    >>> [round(score, 4) for score in bleu(["a brown chair"], [["the brown chair", "brown"]])]
    [0.6667, 0.5774, 0.0, 0.0]
    """
    correct, guessed, length, closest = [0] * MAX_ORDER, [0] * MAX_ORDER, 0, 0
    for candidate, targets in _tokenize(candidates, references):
        for order in range(1, MAX_ORDER + 1):
            allowed = reduce(or_, (Counter(_ngrams(target, order)) for target in targets))
            correct[order - 1] += (Counter(_ngrams(candidate, order)) & allowed).total()
            guessed[order - 1] += max(0, len(candidate) - order + 1)
        length += len(candidate)
        closest += min((abs(len(target) - len(candidate)), len(target)) for target in targets)[1]
    ratio = (length + BLEU_TINY) / (closest + BLEU_SMALL)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    scores, product = [], 1.0
    for order in range(1, MAX_ORDER + 1):
        product *= (correct[order - 1] + BLEU_TINY) / (guessed[order - 1] + BLEU_SMALL)
        scores.append(brevity * product ** (1 / order))
    return tuple(scores)


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean over the questions of the F-measure of the longest common subsequence.

    Precision and recall are each the best over the references, here 2/3 of "the brown chair" and 1 of "brown":
    2.44 * (2/3 * 1) / (1 + 1.44 * 2/3) = 0.8299.

    >>> round(rouge_l(["a brown chair"], [["the brown chair", "brown"]]), 4)
    0.8299
    """
    scores = []
    for candidate, targets in _tokenize(candidates, references):
        common = [lcs_length(candidate, target) for target in targets]
        precision = max(common) / max(1, len(candidate))
        recall = max(length / max(1, len(target)) for length, target in zip(common, targets))
        weight = ROUGE_BETA**2
        scores.append((1 + weight) * precision * recall / (recall + weight * precision) if max(common) else 0.0)
    return math.fsum(scores) / len(scores)


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr of the COCO scorer: mean cosine of clipped tf-idf vectors of 1- to 4-grams, times 10; up to 10, not 1.

    A question is the document of the document frequencies, so the score of one depends on all others, and a single
    question always scores 0. Here the first answer is right in one of the four orders: 10 / 4 for it, 0 for the other:

    >>> cider(["chair", "brown"], [["chair"], ["table"]])
    1.25
    """
    questions = _tokenize(candidates, references)
    frequency = Counter(
        gram for _, targets in questions for gram in {gram for target in targets for gram in _all_ngrams(target)}
    )
    documents = math.log(len(questions))

    def weigh(tokens: Tokens) -> list[dict[NGram, float]]:
        counts = (Counter(_ngrams(tokens, order)) for order in range(1, MAX_ORDER + 1))
        return [
            {gram: count * (documents - math.log(max(1, frequency[gram]))) for gram, count in of_order.items()}
            for of_order in counts
        ]

    scores = []
    for candidate, targets in questions:
        vectors = weigh(candidate)
        similarity = [_cider_similarity(vectors, weigh(target), len(candidate) - len(target)) for target in targets]
        scores.append(CIDER_SCALE * math.fsum(similarity) / len(similarity))
    return math.fsum(scores) / len(scores)


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 over all questions: 1 for answers that equal a reference, 0 without a common word.

    Raises:
        MeteorUnavailableError: `meteor_unavailable` says why.
    """
    questions = _tokenize(candidates, references)
    reason = meteor_unavailable()
    if reason is not None:
        raise MeteorUnavailableError(reason)
    jar = _meteor_jar()
    assert jar is not None
    command = ["java", METEOR_MEMORY, "-Dfile.encoding=UTF-8", "-jar", METEOR_JAR, *METEOR_ARGUMENTS]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            with subprocess.Popen(
                command,
                cwd=jar.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                return _ask_meteor(questions, process.stdin, process.stdout)
        except (OSError, EOFError) as error:
            errors.seek(0)
            said = errors.read().strip() or str(error)
            raise MeteorUnavailableError(f"METEOR's Java program ({jar}) ended early: {said}") from error


def meteor_unavailable() -> str | None:
    """Why METEOR cannot be computed here and what to do about it; None where it can."""
    if _meteor_jar() is None:
        return 'METEOR needs pycocoevalcap, which brings its Java program: pip install "spatial-mllm-hf[eval]"'
    if shutil.which("java") is None:
        return "METEOR is a Java program and no `java` is on the PATH: install a Java runtime, version 8 or later"
    return None


def lcs_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, by Hyyrö's bit-parallel recurrence: one bit for each item of `first`.

    >>> lcs_length("the brown chair".split(), "a brown old chair".split())
    2
    """
    places: dict[Hashable, int] = {}
    for index, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << index
    everything = (1 << len(first)) - 1
    unmatched = everything
    for item in second:
        matched = unmatched & places.get(item, 0)
        unmatched = (unmatched + matched | unmatched - matched) & everything
    return len(first) - unmatched.bit_count()


def _tokenize(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[Tokens, list[Tokens]]]:
    if len(candidates) != len(references) or not candidates:
        raise ValueError(
            f"candidates and references must be of the same questions, at least one, "
            f"got {len(candidates)} candidates and {len(references)} lists of references"
        )
    for index, targets in enumerate(references):
        if isinstance(targets, str) or not targets:
            raise ValueError(f"references[{index}] must be a list of at least one right answer, got {targets!r}")
    return [(text.split(), [target.split() for target in targets]) for text, targets in zip(candidates, references)]


def _ngrams(tokens: Tokens, order: int) -> list[NGram]:
    return [tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1)]


def _all_ngrams(tokens: Tokens) -> list[NGram]:
    return [gram for order in range(1, MAX_ORDER + 1) for gram in _ngrams(tokens, order)]


def _cider_similarity(vectors: list[dict[NGram, float]], targets: list[dict[NGram, float]], excess: int) -> float:
    """Mean over the orders; `excess` is by how many words the answer is longer than the reference."""
    cosines = []
    for vector, target in zip(vectors, targets):
        norm = math.sqrt(math.fsum(weight**2 for weight in vector.values()))
        norm *= math.sqrt(math.fsum(weight**2 for weight in target.values()))
        overlap = math.fsum(
            min(weight, target[gram]) * target[gram] for gram, weight in vector.items() if gram in target
        )
        cosines.append(overlap / norm if norm else 0.0)
    return math.fsum(cosines) / len(cosines) * math.exp(-(excess**2) / (2 * CIDER_SIGMA**2))


def _meteor_jar() -> Path | None:
    package = find_spec("pycocoevalcap")
    for folder in package.submodule_search_locations or () if package else ():
        jar = Path(folder, "meteor", METEOR_JAR)
        if jar.is_file():
            return jar
    return None


def _ask_meteor(questions: list[tuple[Tokens, list[Tokens]]], to_meteor: IO[str], from_meteor: IO[str]) -> float:
    """Statistics of each question first, then the score of all of them together."""

    def read() -> str:
        line = from_meteor.readline()
        if not line:
            raise EOFError("no answer")
        return line.strip()

    statistics = []
    for candidate, targets in questions:
        fields = [" ".join(tokens).replace("|||", "") for tokens in (*targets, candidate)]
        to_meteor.write(" ||| ".join(["SCORE", *fields]) + "\n")
        to_meteor.flush()
        statistics.append(read())
    to_meteor.write(" ||| ".join(["EVAL", *statistics]) + "\n")
    to_meteor.flush()
    for _ in questions:  # their own scores
        read()
    return float(read())
