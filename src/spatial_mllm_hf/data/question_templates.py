"""The texts of spatial questions, in two wordings; each template both writes a question and reads one back.

- "vsibench": word for word as in VSI-Bench.
- "vlm3r": VLM-3R's generator, which says "direct distance", as the Spatial-MLLM paper does, and which of several
  instances counts for relative distance.

Lists of categories are joined by commas. White space does not matter when a question is read: editions of VSI-Bench
differ in where a line ends.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from .spatial_questions import QuestionType

Wording = Literal["vsibench", "vlm3r"]
Fields = Mapping[str, str]
LIST_SEPARATOR = ", "


@dataclass(frozen=True)
class QuestionTemplate:
    """A text with `{fields}`; a field that comes twice must be filled with the same words."""

    text: str

    def format(self, fields: Fields) -> str:
        return self.text.format_map(fields)

    def parse(self, question: str) -> dict[str, str] | None:
        """The fields of a question of this template; None for any other text."""
        found = self._pattern.fullmatch(_one_line(question))
        return None if found is None else found.groupdict()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pattern, seen = "", set()
        for literal, field, _, _ in string.Formatter().parse(_one_line(self.text)):
            pattern += re.escape(literal)
            if field is not None:
                pattern += f"(?P={field})" if field in seen else f"(?P<{field}>.+?)"
                seen.add(field)
        return re.compile(pattern)


def _one_line(text: str) -> str:
    return " ".join(text.split())


_COUNTING = QuestionTemplate("How many {category}(s) are in this room?")
_OBJECT_SIZE = QuestionTemplate(
    "What is the length of the longest dimension (length, width, or height) of the {category}, measured in centimeters?"
)
_ROOM_SIZE = QuestionTemplate(
    "What is the size of this room (in square meters)? \n"
    "If multiple rooms are shown, estimate the size of the combined space."
)
_ABSOLUTE_DISTANCE = QuestionTemplate(
    "Measuring from the closest point of each object, what is the distance between the {first} and the {second} "
    "(in meters)?"
)
_DIRECT_DISTANCE = QuestionTemplate(
    "Measuring from the closest point of each object, what is the direct distance between the {first} and the {second} "
    "(in meters)?"
)
_RELATIVE_DISTANCE = QuestionTemplate(
    "Measuring from the closest point of each object, which of these objects ({choices}) is the closest to the "
    "{anchor}?"
)
_RELATIVE_DISTANCE_OF_INSTANCES = QuestionTemplate(
    _RELATIVE_DISTANCE.text + "\nIf there are multiple instances of an object category, measure to the closest."
)
_DIRECTION_EASY = QuestionTemplate(
    "If I am standing by the {standing} and facing the {facing}, is the {target} to the left or the right of the "
    "{facing}?"
)
_DIRECTION_MEDIUM = QuestionTemplate(
    "If I am standing by the {standing} and facing the {facing}, is the {target} to my left, right, or back?\n"
    "An object is to my back if I would have to turn at least 135 degrees in order to face it."
)
_DIRECTION_HARD = QuestionTemplate(
    "If I am standing by the {standing} and facing the {facing}, is the {target} to my front-left, front-right, "
    "back-left, or back-right?\n"
    "The directions refer to the quadrants of a Cartesian plane (if I am standing at the origin and facing along the "
    "positive y-axis)."
)
_APPEARANCE_ORDER = QuestionTemplate(
    "What will be the first-time appearance order of the following categories in the video: {categories}?"
)

_VSIBENCH: dict[QuestionType, QuestionTemplate] = {
    "object_counting": _COUNTING,
    "object_abs_distance": _ABSOLUTE_DISTANCE,
    "object_size_estimation": _OBJECT_SIZE,
    "room_size_estimation": _ROOM_SIZE,
    "object_rel_distance": _RELATIVE_DISTANCE,
    "object_rel_direction_easy": _DIRECTION_EASY,
    "object_rel_direction_medium": _DIRECTION_MEDIUM,
    "object_rel_direction_hard": _DIRECTION_HARD,
    "obj_appearance_order": _APPEARANCE_ORDER,
}
TEMPLATES: Mapping[Wording, Mapping[QuestionType, QuestionTemplate]] = {
    "vsibench": _VSIBENCH,
    "vlm3r": _VSIBENCH
    | {"object_abs_distance": _DIRECT_DISTANCE, "object_rel_distance": _RELATIVE_DISTANCE_OF_INSTANCES},
}


def parse_question(question_type: QuestionType, question: str) -> dict[str, str] | None:
    """The fields of a question in either wording; None where it follows no template, as route planning never does."""
    for templates in TEMPLATES.values():
        template = templates.get(question_type)
        fields = template.parse(question) if template else None
        if fields is not None:
            return fields
    return None


def join_list(names: tuple[str, ...] | list[str]) -> str:
    return LIST_SEPARATOR.join(names)


def split_list(names: str) -> tuple[str, ...]:
    return tuple(names.split(LIST_SEPARATOR))
