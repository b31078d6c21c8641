"""What of a model's output counts as its answer. Imports nothing of the package and no torch.

VSI-Bench outputs are read in three ways. Two are published and kept apart, because the same output may score in one and
not in the other:

- "official-code": Spatial-MLLM v1.1 (src/evaluation/vsibench/dataset_utils.py). The last `<answer>` block, or all of
  the output without one; white space collapsed, ends stripped, full stops at the end dropped, lower case. A letter is
  that whole text. A number is that whole text as a float, commas dropped.
- "benchmark": thinking-in-space (lmms_eval/tasks/vsibench/utils.py). What stands before the first space, full stops at
  its end dropped, then its ends stripped; `<answer>` means nothing. A letter or a float is that first word.
- "lenient": published by nobody. It reads the same block as "official-code", but takes a letter with brackets or text
  behind it, and the first number in digits or English words. Its distance to the others is what is lost to format.

Free text (SQA3D) is cleaned as in LEO (embodied-generalist, data/data_utils.py); Video-3D-LLM has the same rules.
"""

from __future__ import annotations

import math
import re
from typing import Literal, get_args

Scoring = Literal["official-code", "benchmark", "lenient"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)

_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

# "lenient"
_UNDER_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNITS = _UNDER_TWENTY.split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_LETTER = re.compile(r"[(\[]?([a-z])(?:[)\].:,].*)?", re.DOTALL)
_NUMBER = re.compile(
    r"(?P<digits>(?:(?<![\w.])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    rf"|\b(?P<tens>{'|'.join(_TENS)})(?:[-\s]+(?P<ones>{'|'.join(_UNITS[1:10])}))?\b|\b(?P<units>{'|'.join(_UNITS)})\b"
)

# SQA3D: misspelt words of its answers, and numbers as its answers write them.
_WORDS = {
    "letf": "left",
    "let": "left",
    "rigth": "right",
    "rght": "right",
    "tehre": "there",
    "behine": "behind",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "oclock": "o'clock",
    "tv": "TV",
    "none": "zero",
    **{str(number): word for number, word in enumerate([*_UNITS, "twenty"])},
    "23": "twenty-three",
}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b")
_RULES_BEFORE_WORDS = (
    (re.compile(r"^ +| +$"), ""),
    (re.compile(r" {2,}"), " "),
    (re.compile(r"[^a-zA-Z0-9,'\s:-]+"), ""),
)
_RULES_AFTER_WORDS = (
    (re.compile(r"\bo' +clock\b"), "o'clock"),
    (re.compile(r"\b([a-zA-Z]+)[0-9]\b"), r"\1"),  # "mat2"
    (re.compile(r"\ba\b ([a-zA-Z]+)"), r"\1"),
    (re.compile(r"\ban\b ([a-zA-Z]+)"), r"\1"),
    (re.compile(r"\bthe\b ([a-zA-Z]+)"), r"\1"),
    (re.compile(r"\bbackwards\b"), "backward"),
)


def extract_answer(text: str) -> str:
    """The last `<answer>` block of an output, or all of it where there is none; ends stripped.

    >>> extract_answer("<think>3 or 4?</think> <answer>3</answer> No: <answer> 4 </answer>")
    '4'
    >>> extract_answer("4 chairs")
    '4 chairs'
    """
    blocks = _BLOCK.findall(text)
    return (blocks[-1] if blocks else text).strip()


def read_choice(text: str, scoring: Scoring = "official-code") -> str:
    """What is compared with the letter of an option, in lower case; "" where "lenient" finds no letter.

    >>> [read_choice("B. chair", scoring) for scoring in SCORINGS]
    ['b. chair', 'b', 'b']
    """
    check_scoring(scoring)
    if scoring == "official-code":
        return _collapse(text)
    if scoring == "benchmark":
        return _first_word(text)
    found = _LETTER.fullmatch(extract_answer(text).strip("*").lower())
    return found[1] if found else ""


def read_number(text: str, scoring: Scoring = "official-code") -> float | None:
    """The number that an output gives; None where there is none, or no finite one. Units are never converted.

    >>> [read_number("2.5 m", scoring) for scoring in SCORINGS]
    [None, 2.5, 2.5]
    >>> [read_number("1,234", scoring) for scoring in SCORINGS]
    [1234.0, None, 1234.0]
    """
    check_scoring(scoring)
    if scoring == "official-code":
        return to_finite_float(_collapse(text).replace(",", ""))
    if scoring == "benchmark":
        return to_finite_float(_first_word(text))
    found = _NUMBER.search(extract_answer(text).lower())
    if found is None:
        return None
    if found["digits"]:
        return to_finite_float(found["digits"].replace(",", ""))
    if found["units"]:
        return float(_UNITS.index(found["units"]))
    return 20.0 + 10 * _TENS.index(found["tens"]) + (_UNITS.index(found["ones"]) if found["ones"] else 0)


def clean_answer(text: str) -> str:
    """Free text as SQA3D's answers are compared: lower case, without punctuation and articles, numbers as words.

    >>> clean_answer("There are 2 chairs, to the rigth.")
    'there are two chairs, to right'
    """
    text = text.lower()
    for pattern, replacement in _RULES_BEFORE_WORDS:
        text = pattern.sub(replacement, text)
    text = _WORD.sub(lambda found: _WORDS[found[1]], text)
    for pattern, replacement in _RULES_AFTER_WORDS:
        text = pattern.sub(replacement, text)
    return text


def to_finite_float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def check_scoring(scoring: str) -> None:
    if scoring not in SCORINGS:
        raise ValueError(f"scoring must be one of {', '.join(map(repr, SCORINGS))}, got {scoring!r}")


def _collapse(text: str) -> str:
    return " ".join(extract_answer(text).split()).rstrip(".").strip().lower()


def _first_word(text: str) -> str:
    return text.split(" ")[0].rstrip(".").strip().lower()
