"""Answers to spatial questions with a train of thought that is true: where things are, then what follows from it.

A teacher's reasoning (`data cold-start`) is as good as the teacher; of an annotated scene, everything is known. The
thoughts begin with a map, as VSI-Bench's authors let models draw one (arXiv 2412.14171, section 5.3), here in metres:

    <think>bed -1.5 3.0; chair 0.5 1.0 and 1.5 -0.5; stool -1.5 1.0; tv 2.0 2.0. tv 15°, bed 90°, turn 75°, left</think>
    <answer>A</answer>

- The map names each category, in alphabetical order, and the places of its objects: metres to the right of and ahead of
  the first frame's camera, in steps of 0.5. Objects are listed clockwise from behind the camera.
- Directions: where the faced object and the target are from where one stands (0° is to the right, counter-clockwise),
  the turn between them, the word.
- With `offsets`, what a small model cannot do in one step is taken apart: `tv 1.0 0.5 30°` says how far to the right
  and ahead the tv is from where one stands, and then where that is. Offsets are differences of the map's places,
  bearings those of the offsets, the turn the difference of the bearings: each step follows from what is written.
- Absolute distance: the offset between the two places. Relative distance: each choice's distance, and the least one's
  name. Order of appearance: the second in which each is seen first, and the order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .conversations import IMAGE_TAG, VIDEO_TAG, Conversation
from .oriented_boxes import Array
from .question_templates import Fields, parse_question, split_list
from .relative_directions import bearings
from .scene_answers import SceneAnswers, answer
from .spatial_questions import QuestionType, SpatialQuestion
from .training_prompts import question_prompt, question_with_options

PLACE_STEP = 0.5  # metres
ANGLE_STEP = 15  # degrees
_PLACE = re.compile(r" (-?\d+\.\d) (-?\d+\.\d)")
_CATEGORY = re.compile(r"[a-z]+(?: (?!and )[a-z]+)*")


class ReasonedAnswers:
    """The thoughts about one scene.

    Args:
        answers: of the scene.
        extrinsics: `[3, 4]`, camera from world, of the first frame.
        offsets: write offsets before bearings and distances.
    """

    def __init__(self, answers: SceneAnswers, extrinsics: Array, offsets: bool = False) -> None:
        self.answers = answers
        self.offsets = offsets
        rotation, shift = extrinsics[:, :3].astype(np.float64), extrinsics[:, 3].astype(np.float64)
        ahead = rotation[2, :2] / np.linalg.norm(rotation[2, :2])
        self._axes = np.stack([[ahead[1], -ahead[0]], ahead])  # to the right and ahead, in the floor plan
        self._eye = (-rotation.T @ shift)[:2]

    def place(self, point: Array) -> Array:
        """Metres `[2]` to the right of and ahead of the camera, of a point `[2 or 3]` of the world."""
        place: Array = self._axes @ (point[:2] - self._eye)
        return place

    def map(self) -> str:
        """All categories whose boxes are known, with their places."""
        entries = []
        for category in self.answers.boxed_categories:
            places = [self.place(box.centroid) for box in self.answers.boxes(category)]
            places.sort(key=lambda place: float(np.arctan2(place[0], place[1])))
            entries.append(category + " and".join(_numbers(*place) for place in places))
        return "; ".join(entries)

    def thoughts(self, question: SpatialQuestion) -> str:
        """What leads from the map to the answer; "" where the map says it all, or nothing.

        Raises:
            ValueError: if the question follows no template, or the annotation does not hold what it asks for.
        """
        fields = parse_question(question.question_type, question.question)
        if fields is None:
            raise ValueError(f"Question {question.id!r} follows no known template: {question.question!r}")
        think = _THOUGHTS.get(question.question_type)
        return "" if think is None else think(self, question.question_type, fields)

    def answer(self, question: SpatialQuestion, with_map: bool) -> str:
        """Thoughts and answer in the form that GRPO's prompts ask for."""
        parts = [self.map(), self.thoughts(question)] if with_map else [self.thoughts(question)]
        return reasoned_form(". ".join(part for part in parts if part), question.ground_truth)

    def _offset(self, first: str, second: str) -> Array:
        """Metres `[2]` to the right and ahead from a thing to the nearest of others; by the map with `offsets`."""
        begin = self.place(self.answers.unique_box(first).centroid)
        ends = [self.place(box.centroid) for box in self.answers.boxes(second)]
        if self.offsets:
            begin, ends = _stepped(begin), [_stepped(end) for end in ends]
        return min((end - begin for end in ends), key=lambda offset: float(np.linalg.norm(offset)))

    def _directions(self, question_type: QuestionType, fields: Fields) -> str:
        word = answer(self.answers, question_type, fields)
        if self.offsets:
            names = [fields["facing"], fields["target"]]
            apart = [self._offset(fields["standing"], name) for name in names]
            steps = [_angle_steps(np.degrees(np.arctan2(*offset[::-1]))) for offset in apart]
            told = [
                f"{name}{_numbers(*offset)}{_angle(ANGLE_STEP * step)}"
                for name, offset, step in zip(names, apart, steps, strict=True)
            ]
            return f"{', '.join(told)}, turn{_angle(ANGLE_STEP * (steps[1] - steps[0]))}, {word}"
        standing, facing, target = (
            self.place(self.answers.unique_box(fields[name]).centroid) for name in ("standing", "facing", "target")
        )
        angles = [np.degrees(np.arctan2(*(there - standing)[::-1])) for there in (facing, target)]
        turn = float(bearings(standing, facing, target[None])[0])
        headings = f"{fields['facing']}{_angle(angles[0])}, {fields['target']}{_angle(angles[1])}"
        return f"{headings}, turn{_angle(turn)}, {word}"

    def _absolute_distance(self, question_type: QuestionType, fields: Fields) -> str:
        return f"{fields['first']} to {fields['second']}{_numbers(*self._offset(fields['first'], fields['second']))}"

    def _relative_distance(self, question_type: QuestionType, fields: Fields) -> str:
        choices = split_list(fields["choices"])
        distances = [
            f"{name}{_numbers(*self._offset(fields['anchor'], name)) if self.offsets else ''} "
            f"{self.answers.distance(fields['anchor'], name):.1f}"
            for name in choices
        ]
        return f"{', '.join(distances)}: {self.answers.nearest(fields['anchor'], choices)}"

    def _appearance_order(self, question_type: QuestionType, fields: Fields) -> str:
        order = answer(self.answers, question_type, fields)
        seen = self.answers.scene.first_seen
        times = [f"{name}{_numbers(seen[name])}" for name in split_list(fields["categories"])]
        return f"{', '.join(times)}: {order}"


_THOUGHTS: Mapping[str, Callable[[ReasonedAnswers, QuestionType, Fields], str]] = {
    "object_abs_distance": ReasonedAnswers._absolute_distance,
    "object_rel_distance": ReasonedAnswers._relative_distance,
    "object_rel_direction_easy": ReasonedAnswers._directions,
    "object_rel_direction_medium": ReasonedAnswers._directions,
    "object_rel_direction_hard": ReasonedAnswers._directions,
    "obj_appearance_order": ReasonedAnswers._appearance_order,
}


def reasoned_conversation(
    name: str,
    reasoned: ReasonedAnswers,
    questions: Sequence[SpatialQuestion],
    is_plain: bool = False,
    image: str | None = None,
) -> Conversation:
    """Questions on one scene as turns of one sample. The first answer draws the map; the others go on from it.

    Args:
        is_plain: put the questions without GRPO's instructions, as somebody at a terminal does.
        image: path of the picture that they are about; by default they are about the questions' video.
    """
    tag = VIDEO_TAG if image is None else IMAGE_TAG
    turns = []
    for number, question in enumerate(questions):
        text = question_with_options(question) if is_plain else question_prompt(question, "grpo")
        turns.append(("human", text if number else f"{tag}\n{text}"))
        turns.append(("gpt", reasoned.answer(question, with_map=number == 0)))
    return Conversation(
        id=name,
        videos=(questions[0].video_path,) if image is None else (),
        images=() if image is None else (image,),
        turns=tuple(turns),
        metadata={"scene_name": questions[0].scene_name, "question_type": "reasoned"},
    )


def reasoned_form(thoughts: str, answer: str) -> str:
    """The form that GRPO's instructions ask for."""
    return f"<think>{thoughts}</think>\n<answer>{answer}</answer>"


def read_map(answer: str) -> dict[str, list[Array]]:
    """The map that an answer begins with: categories, and the places `[2]` of each. What is no entry is passed over."""
    thoughts = answer.partition("<think>")[2].partition("</think>")[0].split(". ")
    found: dict[str, list[Array]] = {}
    for entry in thoughts[0].split("; "):
        name = _CATEGORY.match(entry)
        places = [np.array([float(x), float(y)]) for x, y in _PLACE.findall(entry)]
        if name and places:
            found[name[0]] = places
    return found


def _numbers(*values: float) -> str:
    """Metres or seconds to the nearest step, a space before each."""
    return "".join(f" {round(value / PLACE_STEP) * PLACE_STEP + 0.0:.1f}" for value in values)


def _stepped(place: Array) -> Array:
    """A place as the map has it."""
    stepped: Array = np.array([round(value / PLACE_STEP) * PLACE_STEP for value in place.tolist()])
    return stepped


def _angle_steps(degrees: float) -> int:
    return round(float(degrees) / ANGLE_STEP)


def _angle(degrees: float) -> str:
    return f" {_angle_steps(degrees) * ANGLE_STEP % 360}°"
