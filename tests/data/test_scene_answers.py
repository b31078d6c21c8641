"""Answers about hand-made scenes, and what an annotation does not decide."""

import pytest
from annotated_scenes import make_box, make_scene

from spatial_mllm_hf.data.question_templates import Fields
from spatial_mllm_hf.data.scene_answers import SceneAnswers, Undecidable, answer
from spatial_mllm_hf.data.spatial_questions import QuestionType

# Seen from above: the bed at the origin, the stove 4 m to its north; the tv to the west, two chairs to the east.
SCENE = make_scene(
    {
        "bed": make_box((0, 0, 0.3), (1.4, 2.0, 0.6), yaw=0.5),
        "stove": make_box((0, 4, 0.5), (0.6, 0.6, 1.0)),
        "tv": make_box((-3, 1, 1.0), (0.1, 1.216, 0.7)),
        "chair": [make_box((9, 0, 0.5)), make_box((2, 1, 0.5))],
        "printer": [make_box((-2, -3, 1)), make_box((-2, -3, 1))],  # the same box twice
    },
    object_counts={"bed": 1, "stove": 1, "tv": 1, "chair": 2, "printer": 1, "lamp": 3, "door": 1},
    room_size=26.3710397,
    first_seen={"tv": 4.0, "bed": 0.5, "stove": 12.25},
)


@pytest.mark.parametrize(
    ("question_type", "fields", "expected"),
    [
        ("object_counting", {"category": "chair"}, "2"),
        ("object_counting", {"category": "lamp"}, "3"),  # counted although it has no boxes
        ("object_size_estimation", {"category": "tv"}, "122"),
        ("object_size_estimation", {"category": "printer"}, "20"),
        ("room_size_estimation", {}, "26.4"),
        ("object_abs_distance", {"first": "stove", "second": "tv"}, "3.4"),  # 2.65 across, 2.092 along
        ("object_rel_distance", {"anchor": "bed", "choices": "stove, tv, chair, printer"}, "chair"),
        ("object_rel_direction_easy", {"standing": "bed", "facing": "stove", "target": "tv"}, "left"),
        ("object_rel_direction_medium", {"standing": "bed", "facing": "stove", "target": "printer"}, "back"),
        ("object_rel_direction_hard", {"standing": "bed", "facing": "stove", "target": "tv"}, "front-left"),
        ("object_rel_direction_hard", {"standing": "stove", "facing": "bed", "target": "tv"}, "front-right"),
        ("object_rel_direction_hard", {"standing": "bed", "facing": "tv", "target": "printer"}, "front-left"),
        ("obj_appearance_order", {"categories": "stove, tv, bed"}, "bed, tv, stove"),
    ],
)
def test_worked_examples(question_type: QuestionType, fields: Fields, expected: str) -> None:
    assert answer(SceneAnswers(SCENE), question_type, fields) == expected


@pytest.mark.parametrize(
    ("question_type", "fields", "reason"),
    [
        ("object_counting", {"category": "piano"}, "a category has no count"),
        ("object_size_estimation", {"category": "chair"}, "a category is there more than once"),
        ("object_size_estimation", {"category": "door"}, "a category has no box"),
        ("object_abs_distance", {"first": "chair", "second": "tv"}, "a category is there more than once"),
        ("object_rel_distance", {"anchor": "bed", "choices": "stove, door"}, "a category has no box"),
        ("object_rel_direction_easy", {"standing": "bed", "facing": "chair", "target": "tv"}, "more than once"),
        ("obj_appearance_order", {"categories": "tv, chair"}, "when a category comes into sight is unknown"),
        ("route_planning", {}, "route_planning is not decided by boxes"),
    ],
)
def test_what_the_annotation_does_not_decide(question_type: QuestionType, fields: Fields, reason: str) -> None:
    with pytest.raises(Undecidable, match=reason):
        answer(SceneAnswers(SCENE), question_type, fields)


def test_a_room_of_unknown_size() -> None:
    with pytest.raises(Undecidable, match="size of the room"):
        answer(SceneAnswers(make_scene({})), "room_size_estimation", {})


def test_categories_whose_boxes_do_not_match_their_count() -> None:
    boxed = make_box((0, 0, 0))
    scene = make_scene(
        {"window": [boxed], "chair": [boxed, make_box((1, 0, 0))], "printer": [boxed, boxed], "tv": boxed, "sofa": []},
        object_counts={"window": 3, "chair": 2, "printer": 1, "tv": 1, "sofa": 0, "clock": 1},
    )
    answers = SceneAnswers(scene)
    assert answers.boxed_categories == ["chair", "printer", "tv"]
    assert answers.unique_categories == ["printer", "tv"]
