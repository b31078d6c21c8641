"""Questions answered again: agreement, each kind of disagreement, and what boxes do not decide."""

from dataclasses import replace

import pytest
from annotated_scenes import furnished_scene, make_box, make_scene, reference_distance

from spatial_mllm_hf.data.question_generation import GENERATED_TYPES, GenerationSettings, generate_questions
from spatial_mllm_hf.data.spatial_questions import QuestionType, SpatialQuestion
from spatial_mllm_hf.data.vsibench_check import NO_ANNOTATION, NO_TEMPLATE, TARGETS, check_questions

SCENE = make_scene(
    {"bed": make_box((0, 0, 0)), "tv": make_box((1.7, 0, 0)), "sofa": make_box((1, 2, 0))}, room_size=20.25
)
BED_TO_TV = f"{reference_distance(SCENE.boxes['bed'][0], SCENE.boxes['tv'][0]):.1f}"
DISTANCE = (
    "Measuring from the closest point of each object, what is the distance between the bed and the tv (in meters)?"
)
DIRECTION = "If I am standing by the bed and facing the tv, is the sofa to the left or the right of the tv?"


def ask(question_type: QuestionType, text: str, truth: str, *options: str) -> SpatialQuestion:
    return SpatialQuestion(text, "scannet", SCENE.name, question_type, text, options or None, truth)


@pytest.mark.parametrize("wording", ["vsibench", "vlm3r"])
def test_what_is_generated_agrees(wording: str) -> None:
    scenes = [furnished_scene(seed) for seed in range(3)]
    settings = GenerationSettings(wording=wording)  # type: ignore[arg-type]
    questions = [question for scene in scenes for question in generate_questions(scene, 0, settings)]
    report = check_questions(questions, scenes)
    assert {row.question_type: row.share for row in report.totals()} == dict.fromkeys(GENERATED_TYPES, 1.0)
    assert sum(row.agreeing for row in report.rows()) == len(questions)
    assert (report.disagreements(), report.below_target(), report.undecided()) == ([], [], {})


@pytest.mark.parametrize(
    ("shift", "agrees"), [(0, True), (-0.1, True), (0.1, True), (-0.2, False), (0.2, False), (1.4, False)]
)
def test_distances_may_differ_by_a_tenth(shift: float, agrees: bool) -> None:
    report = check_questions([ask("object_abs_distance", DISTANCE, f"{float(BED_TO_TV) + shift:.1f}")], [SCENE])
    assert report.checked[0].ours == BED_TO_TV
    assert report.checked[0].agrees is agrees
    assert len(report.disagreements()) == (not agrees)


@pytest.mark.parametrize(
    ("question_type", "text", "right", "wrong"),
    [
        ("object_counting", "How many bed(s) are in this room?", "1", "2"),
        (
            "object_size_estimation",
            "What is the length of the longest dimension (length, width, or height) of the bed, measured in "
            "centimeters?",
            "20",
            "21",
        ),
        (
            "room_size_estimation",
            "What is the size of this room (in square meters)? If multiple rooms are shown, estimate the size of the "
            "combined space.",
            "20.2",
            "20.3",
        ),
    ],
)
def test_other_numbers_must_be_equal(question_type: QuestionType, text: str, right: str, wrong: str) -> None:
    for truth in (right, f"{float(right):.3f}", wrong):
        checked = check_questions([ask(question_type, text, truth)], [SCENE]).checked[0]
        assert checked.ours == right
        assert checked.agrees is (truth != wrong)


def test_a_choice_is_compared_by_what_it_says() -> None:
    questions = [
        ask("object_rel_direction_easy", DIRECTION, "A", "A. left", "B. right"),
        ask("object_rel_direction_easy", DIRECTION, "B", "A. right", "B. left"),
        ask("object_rel_direction_easy", DIRECTION, "B", "A. left", "B. right"),
        ask("object_rel_direction_easy", DIRECTION, "A", "A. ahead", "B. behind"),
    ]
    report = check_questions(questions, [SCENE])
    assert [item.agrees for item in report.checked] == [True, True, False, False]
    assert [(item.theirs, item.ours) for item in report.disagreements()] == [("right", "left"), ("ahead", "left")]
    assert [row.question_type for row in report.below_target()] == ["object_rel_direction_easy"]


def test_what_is_not_decided_is_counted_with_the_reason() -> None:
    elsewhere = replace(ask("object_counting", "How many bed(s) are in this room?", "1"), scene_name="scene0001_00")
    other_dataset = replace(elsewhere, scene_name=SCENE.name, dataset="scannetpp")
    questions = [
        elsewhere,
        other_dataset,
        ask("object_counting", "How many beds?", "1"),
        ask("route_planning", "You are a robot.", "A", "A. Turn Left"),
        ask("object_counting", "How many lamp(s) are in this room?", "2"),
        ask("object_counting", "How many bed(s) are in this room?", "1"),
    ]
    report = check_questions(questions, [SCENE])
    assert [item.undecided for item in report.checked] == [
        NO_ANNOTATION,
        NO_ANNOTATION,
        NO_TEMPLATE,
        NO_TEMPLATE,
        "a category has no count",
        None,
    ]
    assert [(row.question_type, row.dataset, row.questions, row.decided, row.agreeing) for row in report.rows()] == [
        ("object_counting", "scannet", 4, 1, 1),
        ("object_counting", "scannetpp", 1, 0, 0),
        ("route_planning", "scannet", 1, 0, 0),
    ]
    assert [(row.decided, row.share) for row in report.totals()] == [(1, 1.0), (0, None)]
    assert report.disagreements() == report.below_target() == []
    assert report.undecided()["object_counting", NO_ANNOTATION] == 2


def test_order_of_appearance_is_decided_where_the_seconds_are_known() -> None:
    text = "What will be the first-time appearance order of the following categories in the video: bed, tv, sofa, door?"
    options = ("A. tv, bed, door, sofa", "B. bed, tv, sofa, door")
    question = ask("obj_appearance_order", text, "A", *options)
    seen = replace(SCENE, first_seen={"bed": 3.0, "tv": 1.0, "door": 5.0, "sofa": 8.0})
    assert check_questions([question], [seen]).checked[0].agrees
    assert check_questions([question], [SCENE]).checked[0].undecided == "when a category comes into sight is unknown"


def test_a_task_is_below_its_target_by_its_share_over_all_data_sets() -> None:
    for wrong, below in ((5, False), (6, True)):
        truths = [BED_TO_TV] * (100 - wrong) + ["9.9"] * wrong
        questions = [replace(ask("object_abs_distance", DISTANCE, truth)) for truth in truths]
        questions[0] = replace(questions[0], dataset="arkitscenes")  # not annotated: does not count
        questions.append(questions[1])
        report = check_questions(questions, [SCENE])
        (total,) = report.totals()
        assert (total.questions, total.decided, total.agreeing) == (101, 100, 100 - wrong)
        assert bool(report.below_target()) is below


def test_the_report_as_json() -> None:
    question = ask("object_abs_distance", DISTANCE, "7.0")
    written = check_questions([question], [SCENE]).to_dict()
    assert written["below_target"] == ["object_abs_distance"]
    assert written["targets"] == TARGETS
    row = {"question_type": "object_abs_distance", "questions": 1, "decided": 1, "agreeing": 0, "share": 0.0}
    assert written["rows"] == [row | {"dataset": "scannet"}, row | {"dataset": "all"}]
    assert written["disagreements"] == [
        {
            "id": DISTANCE,
            "dataset": "scannet",
            "scene_name": SCENE.name,
            "question_type": "object_abs_distance",
            "question": DISTANCE,
            "theirs": "7.0",
            "ours": BED_TO_TV,
        }
    ]
