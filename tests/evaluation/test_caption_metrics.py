"""BLEU, ROUGE-L, CIDEr and METEOR, held to examples worked by hand and to the COCO scorers of pycocoevalcap."""

import doctest
import itertools
import math
import random
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spatial_mllm_hf.evaluation import caption_metrics
from spatial_mllm_hf.evaluation.caption_metrics import (
    METEOR_JAR,
    MeteorUnavailableError,
    bleu,
    cider,
    lcs_length,
    meteor,
    meteor_unavailable,
    rouge_l,
)

needs_meteor = pytest.mark.skipif(meteor_unavailable() is not None, reason=str(meteor_unavailable()))
Corpus = tuple[list[str], list[list[str]]]
WORDS = ["a", "the", "brown", "dark", "chair", "table", "two", "on", "left", "of", "window", "next", "Door"]


def random_corpus(seed: int, num_questions: int = 60) -> Corpus:
    """Answers of up to eight words, some right, some empty, to one to four references of up to eight words."""
    rng = random.Random(seed)

    def text(least: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, 8)))

    references = [[text(1) for _ in range(rng.randint(1, 4))] for _ in range(num_questions)]
    candidates = [rng.choice([rng.choice(targets), text(0), text(1)]) for targets in references]
    return candidates, references


def coco(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """A corpus as the COCO scorers take it: references, candidates."""
    candidates, references = corpus
    return dict(enumerate(references)), {index: [text] for index, text in enumerate(candidates)}


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(caption_metrics)
    assert results.attempted >= 4
    assert results.failed == 0


# ---------- BLEU
def test_bleu_by_hand() -> None:
    """Right are 4 + 1 words of 4 + 2, 3 + 0 pairs of 3 + 1, 1 triple of 2, no quadruple; closest lengths: 4 and 2."""
    candidates = ["on the left side", "brown table"]
    references = [["on the left", "left side of it"], ["dark brown"]]
    words, pairs, triples = 5 / 6, 3 / 4, 1 / 2
    expected = [words, math.sqrt(words * pairs), (words * pairs * triples) ** (1 / 3), 0.0]
    assert bleu(candidates, references) == pytest.approx(expected, abs=5e-4)


def test_bleu_clips_repeated_words_to_their_largest_number_in_one_reference() -> None:
    assert bleu(["the the the the"], [["the chair", "on the left the"]])[0] == pytest.approx(2 / 4)
    assert bleu(["the the"], [["the", "the chair on the right"]])[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("reference", "penalty"), [("a b", 1.0), ("a b c", math.exp(1 - 3 / 2)), ("a", 1.0)])
def test_bleu_of_short_answers_is_penalised(reference: str, penalty: float) -> None:
    precision = 2 / 2 if reference != "a" else 1 / 2
    assert bleu(["a b"], [[reference]])[0] == pytest.approx(penalty * precision)


def test_bleu_takes_the_shorter_of_two_references_that_are_as_close() -> None:
    assert bleu(["a b"], [["a b c", "a"]])[0] == pytest.approx(1.0)  # length 1, not 3


def test_one_word_answers_have_no_bleu_of_higher_orders() -> None:
    scores = bleu(["brown", "two"], [["brown"], ["two"]])
    assert scores[0] == pytest.approx(1.0)
    assert max(scores[1:]) < 0.01


# ---------- ROUGE-L
@pytest.mark.parametrize(
    ("candidate", "references", "expected"),
    [
        ("brown chair", ["brown chair"], 1.0),
        ("brown chair", ["chair brown"], 0.5),  # precision and recall 1/2
        ("brown", ["table"], 0.0),
        ("", ["table"], 0.0),
        ("a brown chair", ["brown"], 2.44 * (1 / 3) / (1 + 1.44 / 3)),
        ("brown", ["a brown chair"], 2.44 * (1 / 3) / (1 / 3 + 1.44)),  # recall is what counts
        ("brown", ["a brown chair", "brown table"], 2.44 * (1 / 2) / (1 / 2 + 1.44)),
        ("Brown", ["brown"], 0.0),
        ("brown  chair\n", ["brown chair"], 1.0),
    ],
)
def test_rouge_by_hand(candidate: str, references: list[str], expected: float) -> None:
    assert rouge_l([candidate], [references]) == pytest.approx(expected)
    assert rouge_l([candidate, "x"], [references, ["y"]]) == pytest.approx(expected / 2)


def test_common_subsequences_are_those_of_the_plain_recurrence() -> None:
    def plain(first: str, second: str) -> int:
        row = [0] * (len(second) + 1)
        for item in first:
            before = row[:]
            for column, other in enumerate(second):
                row[column + 1] = before[column] + 1 if item == other else max(before[column + 1], row[column])
        return row[-1]

    rng = random.Random(0)
    for _ in range(200):
        first, second = ("".join(rng.choices("abcd", k=rng.randint(0, 80))) for _ in range(2))
        assert lcs_length(first, second) == lcs_length(second, first) == plain(first, second)


# ---------- CIDEr
def test_cider_by_hand() -> None:
    """Three questions; "brown" is in two of them, "chair" and "two" in one."""
    common, rare = math.log(3 / 2), math.log(3)
    # Order 1 of "brown chair" against "brown table", order 2 differs, lengths do not.
    cosine = common**2 / (common**2 + rare**2)
    first = 10 * cosine / 4
    # "brown" against "dark brown" and "brown": a word less than the first is exp(-1 / 72).
    second = 10 / 4 * (common / math.hypot(rare, common) * math.exp(-1 / 72) + 1) / 2
    candidates = ["brown chair", "brown", "two"]
    references = [["brown table"], ["dark brown", "brown"], ["two"]]
    assert cider(candidates, references) == pytest.approx((first + second + 10 / 4) / 3)


def test_cider_clips_what_an_answer_repeats() -> None:
    """`min(weight, target)`: six times the word gives no more overlap than once, but a longer vector and a penalty."""
    candidates, references = ["brown " * 6, "x"], [["brown"], ["y"]]
    assert cider(candidates, references) == pytest.approx(10 / 4 * 1 / 6 * math.exp(-25 / 72) / 2)


def test_cider_of_long_answers_that_are_right_is_ten() -> None:
    texts = ["a b c d", "e f g h i"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx(10.0)


def test_cider_of_one_question_is_zero() -> None:
    assert cider(["brown chair"], [["brown chair"]]) == 0.0


# ---------- METEOR
@pytest.mark.slow
@needs_meteor
def test_meteor_of_right_answers_is_one() -> None:
    """Also of such as would break its lines; it normalises case by itself."""
    candidates = ["The  brown chair", "two\nlines", "Tür 门", " a ||| b "]
    references = [["a table", "the brown chair"], ["two lines"], ["Tür\t门"], ["x", "a ||| b"]]
    assert meteor(candidates, references) == 1.0


@pytest.mark.slow
@needs_meteor
def test_meteor_of_wrong_answers_is_zero() -> None:
    assert meteor(["brown", "", " \n"], [["table"], ["left", "right"], ["two"]]) == 0.0


def fake_meteor(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str | None) -> None:
    """A machine on which pycocoevalcap is there, and `java` is a shell script or not there."""
    jar = folder / "pycocoevalcap" / "meteor" / METEOR_JAR
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"")
    package = SimpleNamespace(submodule_search_locations=[str(folder / "pycocoevalcap")])
    monkeypatch.setattr(caption_metrics, "find_spec", lambda name: package)
    if script is not None:
        java = folder / "java"
        java.write_text(f"#!/bin/sh\n{script}\n")
        java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_without_its_package_meteor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "find_spec", lambda name: None)
    with pytest.raises(MeteorUnavailableError, match=r'pip install "spatial-mllm-hf\[eval\]"'):
        meteor(["brown"], [["brown"]])


def test_without_java_meteor_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_meteor(monkeypatch, tmp_path, script=None)
    with pytest.raises(MeteorUnavailableError, match="no `java` is on the PATH: install a Java runtime"):
        meteor(["brown"], [["brown"]])


@pytest.mark.parametrize(
    "script",
    [
        "echo Could not reserve enough space for object heap >&2; exit 1",
        'read line; echo "1.0 2.0"; read line; echo Could not reserve enough space for object heap >&2; exit 1',
    ],
    ids=["at once", "half way"],
)
def test_java_that_ends_early_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    fake_meteor(monkeypatch, tmp_path, script)
    with pytest.raises(MeteorUnavailableError, match="ended early: Could not reserve enough space for object heap"):
        meteor(["brown", "two"], [["brown"], ["two"]])


def test_meteor_is_asked_question_by_question_and_scored_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "asked"
    answers = iter(["echo 1 1", "echo 2 2", "echo 0.25; echo 0.75; echo 0.5"])
    script = "\n".join(f'read -r line; echo "$line" >> "{log}"; {answer}' for answer in answers)
    fake_meteor(monkeypatch, tmp_path, script)
    assert meteor(["dark  brown", "a\n||| b"], [["brown", "black"], ["c"]]) == 0.5
    assert log.read_text().splitlines() == [
        "SCORE ||| brown ||| black ||| dark brown",
        "SCORE ||| c ||| a  b",
        "EVAL ||| 1 1 ||| 2 2",
    ]


# ---------- all of them
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_coco_scorers(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    coco_bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    coco_rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    coco_cider = pytest.importorskip("pycocoevalcap.cider.cider")
    corpus = random_corpus(seed)
    assert bleu(*corpus) == pytest.approx(coco_bleu.Bleu(4).compute_score(*coco(corpus))[0], abs=1e-9)
    assert rouge_l(*corpus) == pytest.approx(coco_rouge.Rouge().compute_score(*coco(corpus))[0], abs=1e-9)
    assert cider(*corpus) == pytest.approx(coco_cider.Cider().compute_score(*coco(corpus))[0], abs=1e-9)
    capsys.readouterr()  # what the COCO scorers print


@pytest.mark.slow
@needs_meteor
def test_meteor_is_that_of_the_coco_scorer() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    corpus = random_corpus(7)
    assert meteor(*corpus) == pytest.approx(Meteor().compute_score(*coco(corpus))[0], abs=1e-9)


@pytest.mark.parametrize("score", [bleu, rouge_l, cider])
def test_order_of_questions_and_references_does_not_matter(score: Callable[..., Any]) -> None:
    candidates, references = random_corpus(11)
    expected = score(candidates, references)
    order = list(range(len(candidates)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        shuffled = [candidates[i] for i in order], [references[i][::-1] for i in order]
        assert score(*shuffled) == expected


@pytest.mark.parametrize("score", [lambda *corpus: bleu(*corpus)[0], rouge_l, cider])
def test_scores_grow_with_the_right_answers(score: Callable[..., float]) -> None:
    texts = [" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 3), 0, 2000, 100)]
    references = [[text] for text in texts]
    scores = [score(texts[:right] + ["nothing at all"] * (len(texts) - right), references) for right in (0, 5, 10, 20)]
    assert scores[0] == pytest.approx(0.0, abs=1e-9)
    assert scores == sorted(set(scores))


@pytest.mark.parametrize("score", [bleu, rouge_l, cider, meteor])
@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "at least one, got 0 candidates and 0 lists of references"),
        (["a"], [["a"], ["b"]], "of the same questions, at least one, got 1 candidates and 2 lists of references"),
        (["a", "b"], [["a"], []], r"references\[1\] must be a list of at least one right answer, got \[\]"),
        (["a"], ["a"], r"references\[0\] must be a list of at least one right answer, got 'a'"),
    ],
)
def test_errors(score: Callable[..., Any], candidates: list[str], references: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(candidates, references)
