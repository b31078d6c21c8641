"""A question about a scene with its answer, in the fields of VSI-Bench's published parquet.

Types have VSI-Bench's names. The three directions are types of their own, averaged into one task in macro scores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

QuestionType = Literal[
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
    "object_rel_distance",
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "route_planning",
    "obj_appearance_order",
]
QUESTION_TYPES: tuple[QuestionType, ...] = get_args(QuestionType)
NUMERICAL_TYPES: tuple[QuestionType, ...] = QUESTION_TYPES[:4]  # answered by a number; the others by an option's letter
DIRECTION_TYPES: tuple[QuestionType, ...] = QUESTION_TYPES[5:8]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class SpatialQuestion:
    """One question.

    Attributes:
        id: unique within its data set.
        dataset, scene_name: where it comes from, "scannet" and "scene0353_00".
        question_type: one of `QUESTION_TYPES`.
        question: the text, without options and without instructions on how to answer.
        options: "A. chair", "B. stool", ... of a multiple choice; None for a number.
        ground_truth: the letter of the right option, or the number as text.
        video: path relative to the folder of videos; None stands for `dataset/scene_name.mp4`.
        pruned: whether the debiased edition of VSI-Bench leaves it out; None where unknown.
    """

    id: str
    dataset: str
    scene_name: str
    question_type: QuestionType
    question: str
    options: tuple[str, ...] | None
    ground_truth: str
    video: str | None = None
    pruned: bool | None = None

    @property
    def video_path(self) -> str:
        """Of its video, relative to the folder of videos."""
        return self.video or f"{self.dataset}/{self.scene_name}.mp4"

    @property
    def is_numerical(self) -> bool:
        return self.question_type in NUMERICAL_TYPES

    @property
    def words_of_options(self) -> dict[str, str]:
        """What each letter stands for; empty where there are no options."""
        return dict(option.split(". ", 1) for option in self.options or ())

    def to_dict(self) -> dict[str, Any]:
        """A row of VSI-Bench's parquet, and `video` and `pruned` where they are known."""
        row = asdict(self)
        row["options"] = None if self.options is None else list(self.options)
        return {name: value for name, value in row.items() if name not in ("video", "pruned") or value is not None}
