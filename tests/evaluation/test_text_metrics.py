"""ScanQA and SQA3D scores of small sets worked by hand, and the similarity of texts against the Levenshtein package."""

import doctest
import random

import pytest

from spatial_mllm_hf.evaluation import caption_metrics, text_metrics
from spatial_mllm_hf.evaluation.caption_metrics import bleu, cider, rouge_l
from spatial_mllm_hf.evaluation.text_metrics import (
    SQA3D_TYPES,
    levenshtein_ratio,
    score_scanqa,
    score_sqa3d,
    sqa3d_type,
)


@pytest.fixture(autouse=True)
def without_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Java program takes seconds to start; tests/evaluation/test_caption_metrics.py runs it."""
    monkeypatch.setattr(caption_metrics, "meteor_unavailable", lambda: "It is not installed")


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(text_metrics)
    assert results.attempted > 6
    assert results.failed == 0


# ---------- ScanQA
def test_scanqa_by_hand() -> None:
    predictions = {"q1": "brown", "q2": "brown chair.", "q3": "<think>?</think><answer> left </answer>", "q4": ""}
    answers = {"q1": ["brown", "dark brown"], "q2": ["brown chair"], "q3": ["left", "on the left"], "q4": ["two"]}
    scores, notes = score_scanqa(predictions, answers)
    assert list(scores) == ["EM", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert scores["EM"] == 2 / 4  # the full stop of q2 is no part of a right answer
    # All 4 words given are right, and the answers are a word too short: exp(1 - 5 / 4).
    assert scores["BLEU-1"] == pytest.approx(0.7788, abs=5e-5)
    assert scores["ROUGE-L"] == 3 / 4
    assert scores["METEOR"] is None
    assert notes == ("It is not installed",)
    stripped = ["brown", "brown chair", "left", ""], list(answers.values())
    assert (scores["ROUGE-L"], scores["CIDEr"]) == (rouge_l(*stripped), cider(*stripped))
    assert [scores[f"BLEU-{order}"] for order in range(1, 5)] == list(bleu(*stripped))


def test_scanqa_reports_meteor_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def half(*corpus: object) -> float:
        given.extend(corpus)
        return 0.5

    monkeypatch.setattr(text_metrics, "meteor", half)
    scores, notes = score_scanqa({"b": "Two.", "a": "x"}, {"b": ["two"], "a": ["y", "z"]})
    assert (scores["METEOR"], notes) == (0.5, ())
    assert given == [["x", "Two"], [["y", "z"], ["two"]]]  # by id, so that the order of the questions does not matter


@pytest.mark.parametrize(
    ("prediction", "exact"),
    [("brown", 1.0), (" brown\n", 1.0), ("Brown", 0.0), ("brown.", 0.0), ("dark brown", 1.0), ("", 0.0), ("b", 0.0)],
)
def test_exact_match_of_scanqa_is_literal(prediction: str, exact: float) -> None:
    assert score_scanqa({"q": prediction}, {"q": ["brown", "dark brown"]}).scores["EM"] == exact


# ---------- SQA3D
def score_one(prediction: str, *answers: str) -> tuple[float, float]:
    scores = score_sqa3d({"q": prediction}, {"q": answers}, {"q": "What is it?"})
    assert scores.counts == {"all": 1, "what": 1}
    return scores.exact["all"], scores.refined["all"]


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "refined"),
    [
        ("left", "left", 1, 1),
        ("Left.", "left", 1, 1),
        ("2", "two", 1, 1),
        ("the chair", "a chair", 1, 1),
        ("<think>right?</think> <answer>left</answer>", "left", 1, 1),
        ("on the left side", "left", 0, 1),  # the answer within the output
        ("chair", "brown chair", 0, 1),  # the output within the answer
        ("book shelf", "bookshelf", 0, 1),  # white space left aside
        ("right", "left", 0, 0),
        ("hair", "chair", 0, 1),  # as LEO has it: letters, not words
        ("", "left", 0, 0),  # LEO finds the empty text in every answer
        ("?!", "left", 0, 0),
        ("<answer></answer>", "left", 0, 0),
        ("?!", "...", 0, 0),  # nothing is left of either
    ],
)
def test_exact_and_refined_match(prediction: str, answer: str, exact: float, refined: float) -> None:
    assert score_one(prediction, answer) == (exact, refined)


def test_any_of_several_answers_counts_wherever_it_stands() -> None:
    assert score_one("chair", "brown chair", "chair") == (1, 1)
    assert score_one("chair", "chair", "brown chair") == (1, 1)
    assert score_one("chair", "table", "brown chair") == (0, 1)


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("What color is it?", "what"),
        ("  what is behind me?", "what"),
        ("Whats that?", "what"),
        ("Is it on?", "is"),
        ("Isn't it on?", "is"),
        ("How many chairs?", "how"),
        ("CAN I see it?", "can"),
        ("Which side?", "which"),
        ("Are there chairs?", "others"),
        ("If I turn, what do I see?", "others"),
        ("", "others"),
    ],
)
def test_question_types_of_sqa3d(question: str, name: str) -> None:
    assert sqa3d_type(question) == name
    assert name in SQA3D_TYPES


def test_sqa3d_by_type() -> None:
    questions = {"1": "What is it?", "2": "What is that?", "3": "How many?", "4": "Am I?", "5": "unasked"}
    answers = {"1": ["chair"], "2": ["table"], "3": ["two"], "4": ["yes"]}
    scores = score_sqa3d({"1": "chair", "2": "a round table", "3": "three", "4": "no"}, answers, questions)
    assert scores.exact == {"all": 1 / 4, "what": 1 / 2, "how": 0.0, "others": 0.0}
    assert scores.refined == {"all": 2 / 4, "what": 1.0, "how": 0.0, "others": 0.0}
    assert scores.counts == {"all": 4, "what": 2, "how": 1, "others": 1}


# ---------- both
def test_order_of_the_questions_does_not_matter() -> None:
    rng = random.Random(0)
    words = ["two", "brown", "chairs", "left", "of", "it"]
    answers = {f"q{number}": [" ".join(rng.choices(words, k=rng.randint(1, 5)))] for number in range(80)}
    predictions = {name: rng.choice([*right, "a chair", "two"]) for name, right in answers.items()}
    questions = {name: rng.choice(["What?", "How?", "Am I?"]) for name in answers}
    scanqa, sqa3d = score_scanqa(predictions, answers), score_sqa3d(predictions, answers, questions)
    names = list(answers)
    for _ in range(3):
        rng.shuffle(names)
        shuffled = {name: predictions[name] for name in names}
        assert score_scanqa(shuffled, dict(reversed(answers.items()))) == scanqa
        assert score_sqa3d(shuffled, {name: answers[name] for name in names}, questions) == sqa3d


@pytest.mark.parametrize(
    ("predictions", "answers", "message"),
    [
        ({}, {}, "predictions and answers must hold at least one question, got none"),
        ({"a": "x"}, {"a": ["x"], "c": ["z"], "b": ["y"]}, "of the same questions; predictions lacks 2, such as 'b'"),
        ({"a": "x", "b": "y"}, {"a": ["x"]}, "of the same questions; answers lacks 1, such as 'b'"),
        ({"a": "x"}, {"a": []}, r"answers\['a'\] must be a list of at least one right answer, got \[\]"),
        ({"a": "x"}, {"a": ["", " "]}, r"answers\['a'\] must be a list of at least one right answer, got \['', ' '\]"),
        ({"a": "x"}, {"a": "x"}, r"answers\['a'\] must be a list of at least one right answer, got 'x'"),
    ],
)
def test_errors(predictions: dict[str, str], answers: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_scanqa(predictions, answers)
    with pytest.raises(ValueError, match=message):
        score_sqa3d(predictions, answers, dict.fromkeys(answers, "What?"))


def test_question_without_its_text_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"questions must hold the text of every question .*, 'b' is missing"):
        score_sqa3d({"a": "x", "b": "y"}, {"a": ["x"], "b": ["y"]}, {"a": "What?"})


# ---------- similarity
@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ("", "", 1.0),
        ("", "chair", 0.0),
        ("chair", "chair", 1.0),
        ("chair", "Chair", 0.8),  # one of five letters replaced: 1 - 2 / 10
        ("abc", "xyz", 0.0),
        ("chair", "chairs", 1 - 1 / 11),
        ("ab", "ba", 0.5),
        ("kitten", "sitting", 1 - 5 / 13),
    ],
)
def test_levenshtein_ratio_by_hand(first: str, second: str, ratio: float) -> None:
    assert levenshtein_ratio(first, second) == levenshtein_ratio(second, first) == pytest.approx(ratio)


def test_levenshtein_ratio_is_that_of_the_levenshtein_package() -> None:
    package = pytest.importorskip("Levenshtein")
    rng = random.Random(0)
    for _ in range(500):
        first, second = ("".join(rng.choices("abcdä ", k=rng.randint(0, 150))) for _ in range(2))
        assert levenshtein_ratio(first, second) == pytest.approx(package.ratio(first, second), abs=1e-12)
