"""Templates write questions and read them back."""

import pytest

from spatial_mllm_hf.data.question_templates import TEMPLATES, QuestionTemplate, parse_question
from spatial_mllm_hf.data.spatial_questions import QuestionType

FIELDS: dict[QuestionType, dict[str, str]] = {
    "object_counting": {"category": "trash bin"},
    "object_size_estimation": {"category": "computer mouse"},
    "room_size_estimation": {},
    "object_abs_distance": {"first": "tv", "second": "washing machine"},
    "object_rel_distance": {"anchor": "tv", "choices": "chair, trash bin, stove, sofa"},
    "object_rel_direction_easy": {"standing": "bed", "facing": "trash bin", "target": "tv"},
    "object_rel_direction_medium": {"standing": "bed", "facing": "trash bin", "target": "tv"},
    "object_rel_direction_hard": {"standing": "bed", "facing": "trash bin", "target": "tv"},
    "obj_appearance_order": {"categories": "window, door, trash bin, backpack"},
}
# As VSI-Bench asks them.
PUBLISHED: dict[QuestionType, str] = {
    "object_counting": "How many trash bin(s) are in this room?",
    "object_size_estimation": "What is the length of the longest dimension (length, width, or height) of the computer "
    "mouse, measured in centimeters?",
    "room_size_estimation": "What is the size of this room (in square meters)? \nIf multiple rooms are shown, estimate "
    "the size of the combined space.",
    "object_abs_distance": "Measuring from the closest point of each object, what is the distance between the tv and "
    "the washing machine (in meters)?",
    "object_rel_distance": "Measuring from the closest point of each object, which of these objects (chair, trash bin, "
    "stove, sofa) is the closest to the tv?",
    "object_rel_direction_easy": "If I am standing by the bed and facing the trash bin, is the tv to the left or the "
    "right of the trash bin?",
    "object_rel_direction_medium": "If I am standing by the bed and facing the trash bin, is the tv to my left, right, "
    "or back?\nAn object is to my back if I would have to turn at least 135 degrees in order to face it.",
    "object_rel_direction_hard": "If I am standing by the bed and facing the trash bin, is the tv to my front-left, "
    "front-right, back-left, or back-right?\nThe directions refer to the quadrants of a Cartesian plane (if I am "
    "standing at the origin and facing along the positive y-axis).",
    "obj_appearance_order": "What will be the first-time appearance order of the following categories in the video: "
    "window, door, trash bin, backpack?",
}


@pytest.mark.parametrize("wording", TEMPLATES)
def test_each_wording_reads_back_what_it_writes(wording: str) -> None:
    assert set(TEMPLATES[wording]) == set(FIELDS)
    for question_type, template in TEMPLATES[wording].items():
        question = template.format(FIELDS[question_type])
        assert parse_question(question_type, question) == FIELDS[question_type]


def test_the_wording_of_vsibench_is_its_own() -> None:
    for question_type, question in PUBLISHED.items():
        assert TEMPLATES["vsibench"][question_type].format(FIELDS[question_type]) == question


def test_the_wording_of_the_paper_says_direct_and_what_instances_mean() -> None:
    texts = {name: template.format(FIELDS[name]) for name, template in TEMPLATES["vlm3r"].items()}
    assert "the direct distance between" in texts.pop("object_abs_distance")
    told = (
        PUBLISHED["object_rel_distance"]
        + "\nIf there are multiple instances of an object category, measure to the closest."
    )
    assert texts.pop("object_rel_distance") == told
    assert all(text == PUBLISHED[name] for name, text in texts.items())


def test_white_space_does_not_matter() -> None:
    for question_type, question in PUBLISHED.items():
        assert parse_question(question_type, " ".join(question.split())) == FIELDS[question_type]
        assert parse_question(question_type, question.replace(" ", "\n") + " ") == FIELDS[question_type]


@pytest.mark.parametrize(
    ("question_type", "question"),
    [
        ("object_counting", "How many chairs are there?"),
        ("object_counting", "Say: How many chair(s) are in this room?"),
        ("object_counting", PUBLISHED["object_size_estimation"]),
        ("route_planning", "You are a robot beginning at the bed facing the tv."),
        (
            "object_rel_direction_easy",
            "If I am standing by the bed and facing the stove, is the tv to the left or the right of the sofa?",
        ),
    ],
)
def test_other_texts_are_not_read(question_type: QuestionType, question: str) -> None:
    assert parse_question(question_type, question) is None


def test_characters_of_patterns_are_meant_as_they_are() -> None:
    template = QuestionTemplate("Is {a} (or [{b}]) a + b?")
    assert template.parse("Is x.* (or [y?]) a + b?") == {"a": "x.*", "b": "y?"}
    assert template.parse("Is x or y a b?") is None
