"""How outputs are read, well formed and not, by each of the scorings; SQA3D's cleaning, rule by rule."""

import doctest
from collections.abc import Callable

import pytest

from spatial_mllm_hf.evaluation import answers
from spatial_mllm_hf.evaluation.answers import (
    SCORINGS,
    clean_answer,
    extract_answer,
    read_choice,
    read_number,
)


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(answers)
    assert results.attempted > 5
    assert results.failed == 0


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("", ""),
        ("  B\n", "B"),
        ("<answer>B</answer>", "B"),
        ("<think>A?</think>\n<answer>\n B. \n</answer>\nDone.", "B."),
        ("<answer>A</answer> wait <answer>C</answer>", "C"),
        ("<answer></answer>", ""),
        ("<answer>two\nlines</answer>", "two\nlines"),
        ("<answer>B", "<answer>B"),  # not closed: no block
        ("<ANSWER>B</ANSWER>", "<ANSWER>B</ANSWER>"),
        ("<answer>A <answer>B</answer>", "A <answer>B"),
    ],
)
def test_the_last_closed_block_is_the_answer(output: str, answer: str) -> None:
    assert extract_answer(output) == answer


# Output, and whether it counts as option B for "official-code", "benchmark", "lenient".
LETTERS = [
    ("B", (True, True, True)),
    ("b", (True, True, True)),
    ("B.", (True, True, True)),
    ("B\n", (True, True, True)),
    ("\nB", (True, True, True)),
    (" B", (True, False, True)),  # nothing stands before the first space
    ("B.\n", (True, False, True)),  # the benchmark looks for full stops before it strips
    ("B. chair", (False, True, True)),
    ("B chair", (False, True, False)),  # "A chair" may be an article
    ("B.chair", (False, False, True)),
    ("B: chair", (False, False, True)),
    ("B, the chair", (False, False, True)),
    ("B)", (False, False, True)),
    ("(B)", (False, False, True)),
    ("(B) chair", (False, False, True)),
    ("[B]", (False, False, True)),
    ("**B**", (False, False, True)),
    ("<answer>B</answer>", (True, False, True)),
    ("<think>A or B?</think> <answer> B. </answer>", (True, False, True)),
    ("<answer>A</answer><answer>B</answer>", (True, False, True)),
    ("B <answer>A</answer>", (False, True, False)),
    ("", (False, False, False)),
    ("   ", (False, False, False)),
    ("C", (False, False, False)),
    ("AB", (False, False, False)),
    ("chair", (False, False, False)),
    ("Option B", (False, False, False)),
    ("The answer is B", (False, False, False)),
    ("A. not B", (False, False, False)),
]


@pytest.mark.parametrize(("output", "right"), LETTERS, ids=[repr(output) for output, _ in LETTERS])
def test_letters(output: str, right: tuple[bool, bool, bool]) -> None:
    assert tuple(read_choice(output, scoring) == "b" for scoring in SCORINGS) == right


# Output, and the number that "official-code", "benchmark", "lenient" read.
NUMBERS: list[tuple[str, tuple[float | None, float | None, float | None]]] = [
    ("2", (2, 2, 2)),
    ("2.", (2, 2, 2)),
    ("2.50", (2.5, 2.5, 2.5)),
    (".5", (0.5, 0.5, 0.5)),
    ("-2", (-2, -2, -2)),
    ("+2", (2, 2, 2)),
    ("1e2", (100, 100, 1)),
    ("\n2\n", (2, 2, 2)),
    (" 2", (2, None, 2)),
    ("2 chairs", (None, 2, 2)),
    ("2.5 m", (None, 2.5, 2.5)),
    ("2.5m", (None, None, 2.5)),
    ("120 cm", (None, 120, 120)),  # in metres or not: the unit is not looked at
    ("12 square meters", (None, 12, 12)),
    ("2.5 m.", (None, 2.5, 2.5)),
    ("1,234", (1234, None, 1234)),
    ("1,234.5", (1234.5, None, 1234.5)),
    ("1,23", (123, None, 1)),  # no group of thousands
    ("about 3", (None, None, 3)),
    ("There are 3 chairs.", (None, None, 3)),
    ("2-3", (None, None, 2)),
    ("two", (None, None, 2)),
    ("Two chairs", (None, None, 2)),
    ("zero", (None, None, 0)),
    ("seventeen", (None, None, 17)),
    ("twenty", (None, None, 20)),
    ("twenty-three", (None, None, 23)),
    ("ninety nine", (None, None, 99)),
    ("sixty", (None, None, 60)),
    ("none", (None, None, None)),  # holds "one", but is another word
    ("<answer>2</answer>", (2, None, 2)),
    ("<think>3 or 4?</think><answer>4</answer>", (4, None, 4)),
    ("<answer>1</answer> no: <answer>2 m</answer>", (None, None, 2)),
    ("<answer>2", (None, None, 2)),
    ("7 <answer>4</answer>", (4, 7, 4)),
    ("", (None, None, None)),
    (" \n", (None, None, None)),
    (".", (None, None, None)),
    ("many", (None, None, None)),
    ("nan", (None, None, None)),
    ("inf", (None, None, None)),
    ("1e999", (None, None, 1)),
]


@pytest.mark.parametrize(("output", "numbers"), NUMBERS, ids=[repr(output) for output, _ in NUMBERS])
def test_numbers(output: str, numbers: tuple[float | None, float | None, float | None]) -> None:
    assert tuple(read_number(output, scoring) for scoring in SCORINGS) == numbers


@pytest.mark.parametrize("read", [read_choice, read_number])
def test_unknown_scoring_is_an_error(read: Callable[[str, str], object]) -> None:
    message = "scoring must be one of 'official-code', 'benchmark', 'lenient', got 'official'"
    with pytest.raises(ValueError, match=message):
        read("B", "official")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("  Brown ", "brown"),
        ("dark   brown", "dark brown"),
        ("brown.", "brown"),
        ("yes!", "yes"),
        ("no/yes", "noyes"),
        ("on, the left: it's half-open", "on, left: it's half-open"),
        ("brown .", "brown "),  # spaces go before punctuation does
        ("façade", "faade"),
        ("to the letf", "to left"),
        ("let", "left"),
        ("outlet", "outlet"),  # whole words only
        ("rigth rght tehre behine chai wasing waslked", "right right there behind chair washing walked"),
        ("tv", "TV"),
        ("TV stand", "TV stand"),
        ("3 oclock", "three o'clock"),
        ("3 o' clock", "three o'clock"),
        ("3 o'clock", "three o'clock"),
        ("0", "zero"),
        ("none", "zero"),
        ("10 to 20", "ten to twenty"),
        ("19, 23", "nineteen, twenty-three"),
        ("21", "21"),
        ("2.5", "25"),  # the point is punctuation
        ("mat2", "mat"),
        ("mat23", "mat23"),
        ("a chair", "chair"),
        ("an apple", "apple"),
        ("The a chair", "chair"),
        ("a", "a"),
        ("the 2 chairs", "two chairs"),
        ("backwards", "backward"),
        ("two\nlines", "two\nlines"),
        (" two \n", "two\n"),
    ],
)
def test_cleaning_of_free_text(text: str, cleaned: str) -> None:
    assert clean_answer(text) == cleaned
