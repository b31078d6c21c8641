"""True trains of thought: maps and directions by hand, agreement with the generator's answers, invariance."""

import re
from dataclasses import replace

import numpy as np
import pytest
from annotated_scenes import furnished_scene, make_box, make_scene

from spatial_mllm_hf.data import reasoned_answers
from spatial_mllm_hf.data.conversations import VIDEO_TAG
from spatial_mllm_hf.data.question_generation import GenerationSettings, generate_questions
from spatial_mllm_hf.data.question_templates import TEMPLATES, Wording, join_list, parse_question
from spatial_mllm_hf.data.reasoned_answers import ReasonedAnswers, reasoned_conversation
from spatial_mllm_hf.data.relative_directions import DIFFICULTIES, direction
from spatial_mllm_hf.data.scene_annotations import SceneAnnotation
from spatial_mllm_hf.data.scene_answers import SceneAnswers
from spatial_mllm_hf.data.spatial_questions import DIRECTION_TYPES, LETTERS, QuestionType, SpatialQuestion
from spatial_mllm_hf.data.synthetic_rooms import cameras_along
from spatial_mllm_hf.data.training_prompts import grpo_prompt, question_with_options
from spatial_mllm_hf.training.rewards import has_form

SEEDS = range(4)

# The camera stands at (1, 2) and looks along x: a point (x, y) is 2 - y metres to its right and x - 1 ahead. Sides and
# places are binary fractions, with which VSI-Bench's grids keep their faces (see `box_distances.py`).
SCENE = make_scene(
    {
        "tv": make_box((3, 0, 0.25), (0.25, 0.25, 0.25)),
        "chair": [make_box((0.5, 0.5, 0.25), (0.5, 0.5, 0.25)), make_box((2, 1.5, 0.25), (0.5, 0.5, 0.25))],
        "stool": make_box((2, 3.5, 0.25), (0.25, 0.25, 0.25)),
        "bed": make_box((4, 3.5, 0.25), (1.0, 1.0, 0.25)),
    },
    room_size=20.0,
    first_seen={"bed": 0.6, "stool": 2.2, "tv": 7.3, "chair": 0.0},
)
MAP = "bed -1.5 3.0; chair 0.5 1.0 and 1.5 -0.5; stool -1.5 1.0; tv 2.0 2.0"


def camera(x: float, y: float, heading: float, pitch: float = -0.25, height: float = 1.5) -> np.ndarray:
    """Extrinsics `[3, 4]`; the heading in radians from the world's x, counter-clockwise."""
    return cameras_along(np.array([[x, y, height]]), np.array([heading]), np.array([pitch]), (84, 56))[0][0]


def ask(task: QuestionType, wording: Wording = "vsibench", truth: str = "A", **fields: str) -> SpatialQuestion:
    text = TEMPLATES[wording][task].format(fields)
    return SpatialQuestion(f"id-{task}", "scannet", "scene0000_00", task, text, None, truth)


def questions_of(scene: SceneAnnotation) -> list[SpatialQuestion]:
    caps = dict.fromkeys(("max_absolute_distance", "max_relative_distance", "max_relative_direction", "max_other"), 30)
    return generate_questions(scene, 0, GenerationSettings(wording="vsibench", **caps))


def right_option(question: SpatialQuestion) -> str:
    assert question.options is not None
    return question.options[LETTERS.index(question.ground_truth)][3:]


@pytest.fixture(scope="module")
def here() -> ReasonedAnswers:
    return ReasonedAnswers(SceneAnswers(SCENE), camera(1, 2, 0.0))


# ---------- the map
@pytest.mark.parametrize(
    ("heading", "point", "expected"),
    [
        (0.0, (3, 0), (2, 2)),
        (0.0, (0.5, 0.5), (1.5, -0.5)),
        (np.pi / 2, (3, 0), (2, -2)),
        (np.pi / 2, (1, 6), (0, 4)),
        (np.pi, (3, 0), (-2, -2)),
        (np.pi / 4, (2, 3), (0, 2**0.5)),
        (-np.pi / 4, (2, 3), (-(2**0.5), 0)),
    ],
)
def test_places_are_metres_to_the_right_and_ahead(
    heading: float, point: tuple[float, float], expected: tuple[float, float]
) -> None:
    reasoned = ReasonedAnswers(SceneAnswers(SCENE), camera(1, 2, heading))
    np.testing.assert_allclose(reasoned.place(np.array(point, dtype=np.float64)), expected, atol=1e-9)
    np.testing.assert_allclose(reasoned.place(np.array([*point, 7.0])), expected, atol=1e-9)


def test_map_by_hand(here: ReasonedAnswers) -> None:
    assert here.map() == MAP


def test_cameras_may_be_high_or_tilted_or_of_single_precision() -> None:
    for pitch, height in ((0.0, 1.0), (-0.9, 1.6), (0.4, 2.0)):
        extrinsics = camera(1, 2, 0.0, pitch, height)
        for matrix in (extrinsics, extrinsics.astype(np.float32)):
            assert ReasonedAnswers(SceneAnswers(SCENE), matrix).map() == MAP


def test_objects_of_a_category_come_clockwise_from_behind() -> None:
    places = {"behind left": (-1, -3), "left": (-2, 0), "ahead": (0, 2), "right": (3, 0), "behind right": (0.5, -2)}
    boxes = [make_box((x, y, 0.5)) for x, y in places.values()]
    for order in ([2, 4, 0, 3, 1], [4, 3, 2, 1, 0]):
        scene = make_scene({"lamp": [boxes[number] for number in order]})
        found = ReasonedAnswers(SceneAnswers(scene), camera(0, 0, np.pi / 2)).map()
        assert found == "lamp -1.0 -3.0 and -2.0 0.0 and 0.0 2.0 and 3.0 0.0 and 0.5 -2.0"


def test_places_are_to_the_nearest_half_metre_and_zero_has_no_sign() -> None:
    scene = make_scene(
        {"tv": make_box((-0.2, 0.26, 1)), "bed": make_box((0.74, -0.76, 0)), "sofa": make_box((9, 0, 0))}
    )
    assert (
        ReasonedAnswers(SceneAnswers(scene), camera(0, 0, np.pi / 2)).map() == "bed 0.5 -1.0; sofa 9.0 0.0; tv 0.0 0.5"
    )


def test_categories_without_all_their_boxes_are_on_no_map() -> None:
    scene = make_scene({"tv": make_box((0, 1, 0)), "lamp": make_box((1, 1, 0))}, object_counts={"tv": 1, "lamp": 2})
    assert ReasonedAnswers(SceneAnswers(scene), camera(0, 0, np.pi / 2)).map() == "tv 0.0 1.0"


# ---------- thoughts by hand
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            ask("object_rel_direction_easy", standing="stool", facing="tv", target="bed"),
            "tv 15°, bed 90°, turn 75°, left",
        ),
        (
            ask("object_rel_direction_medium", standing="bed", facing="stool", target="tv"),
            "stool 270°, tv 345°, turn 75°, left",
        ),
        (
            ask("object_rel_direction_hard", standing="tv", facing="stool", target="bed"),
            "stool 195°, bed 165°, turn 330°, front-right",
        ),
        (ask("object_abs_distance", first="stool", second="tv"), "stool to tv 3.5 1.0"),
        (ask("object_abs_distance", "vlm3r", first="tv", second="stool"), "tv to stool -3.5 -1.0"),
        (
            ask("object_rel_distance", anchor="stool", choices="tv, chair, bed"),
            "tv 3.3, chair 1.6, bed 1.4: bed",  # 0.75 across and 3.25 along; 1.625; 1.375
        ),
        (
            ask("object_rel_distance", "vlm3r", anchor="bed", choices="chair, stool"),
            "chair 1.8, stool 1.4: stool",  # 1.25 across and along; 1.375
        ),
        (
            ask("obj_appearance_order", categories="tv, bed, chair, stool"),
            "tv 7.5, bed 0.5, chair 0.0, stool 2.0: chair, bed, stool, tv",
        ),
        (ask("object_counting", category="chair"), ""),
        (ask("object_size_estimation", category="bed"), ""),
        (ask("room_size_estimation"), ""),
    ],
)
def test_thoughts_by_hand(question: SpatialQuestion, expected: str, here: ReasonedAnswers) -> None:
    assert here.thoughts(question) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            ask("object_rel_direction_easy", standing="stool", facing="tv", target="bed"),
            "tv 3.5 1.0 15°, bed 0.0 2.0 90°, turn 75°, left",
        ),
        (
            ask("object_rel_direction_hard", standing="tv", facing="stool", target="bed"),
            "stool -3.5 -1.0 195°, bed -3.5 1.0 165°, turn 330°, front-right",
        ),
        (
            ask("object_rel_distance", anchor="stool", choices="tv, chair, bed"),
            "tv 3.5 1.0 3.3, chair 2.0 0.0 1.6, bed 0.0 2.0 1.4: bed",  # to the nearer of two chairs
        ),
        (ask("object_abs_distance", first="stool", second="tv"), "stool to tv 3.5 1.0"),
        (
            ask("obj_appearance_order", categories="tv, bed, chair, stool"),
            "tv 7.5, bed 0.5, chair 0.0, stool 2.0: chair, bed, stool, tv",
        ),
        (ask("object_counting", category="chair"), ""),
    ],
)
def test_thoughts_with_offsets_by_hand(question: SpatialQuestion, expected: str) -> None:
    assert ReasonedAnswers(SceneAnswers(SCENE), camera(1, 2, 0.0), offsets=True).thoughts(question) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_with_offsets_each_step_follows_from_what_is_written(seed: int) -> None:
    reasoned = ReasonedAnswers(SceneAnswers(furnished_scene(seed)), camera(2.0, 1.5, 0.3 + seed), offsets=True)
    places = {}
    for entry in reasoned.map().split("; "):
        name, *numbers = re.split(r" (?=-?\d)", entry)
        if len(numbers) == 2:
            places[name] = np.array([float(number) for number in numbers])
    turns = 0
    for question in generate_questions(reasoned.answers.scene, seed, GenerationSettings()):
        thoughts = reasoned.thoughts(question)
        if not question.question_type.startswith("object_rel_direction"):
            continue
        fields = parse_question(question.question_type, question.question)
        assert fields is not None
        first, second, turn = re.findall(r"(\d+)°", thoughts)
        for name, angle in ((fields["facing"], first), (fields["target"], second)):
            offset = places[name] - places[fields["standing"]]
            assert f"{name} {offset[0]:.1f} {offset[1]:.1f} {angle}°" in thoughts
            bearing = np.degrees(np.arctan2(offset[1], offset[0]))
            assert abs((bearing - float(angle) + 180) % 360 - 180) <= 7.5 + 1e-6
        assert (int(second) - int(first)) % 360 == int(turn)
        turns += 1
    assert turns > 5


def test_the_example_of_the_documentation(here: ReasonedAnswers) -> None:
    question = ask("object_rel_direction_easy", standing="stool", facing="tv", target="bed")
    lines = here.answer(question, with_map=True).splitlines()
    assert lines == [f"<think>{MAP}. tv 15°, bed 90°, turn 75°, left</think>", "<answer>A</answer>"]
    assert reasoned_answers.__doc__ is not None
    assert "\n".join(f"    {line}" for line in lines) in reasoned_answers.__doc__


@pytest.mark.parametrize(
    ("with_map", "question", "expected"),
    [
        (True, ask("object_counting", truth="2", category="chair"), f"<think>{MAP}</think>\n<answer>2</answer>"),
        (False, ask("object_counting", truth="2", category="chair"), "<think></think>\n<answer>2</answer>"),
        (
            False,
            ask("object_abs_distance", truth="3.4", first="stool", second="tv"),
            "<think>stool to tv 3.5 1.0</think>\n<answer>3.4</answer>",
        ),
    ],
)
def test_answers_have_the_form_that_is_rewarded(
    with_map: bool, question: SpatialQuestion, expected: str, here: ReasonedAnswers
) -> None:
    assert here.answer(question, with_map) == expected
    assert has_form(expected)


def test_a_scene_without_boxes_has_no_map_to_draw() -> None:
    reasoned = ReasonedAnswers(SceneAnswers(make_scene({}, room_size=20.0)), camera(0, 0, 0.0))
    assert reasoned.answer(ask("room_size_estimation", truth="20.0"), True) == "<think></think>\n<answer>20.0</answer>"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            replace(ask("object_counting", category="tv"), question="Why?"),
            "'id-object_counting' follows no known template",
        ),
        (replace(ask("object_counting", category="tv"), question_type="route_planning"), "follows no known template"),
        (ask("object_rel_direction_easy", standing="chair", facing="tv", target="bed"), "there more than once"),
        (ask("object_abs_distance", first="piano", second="tv"), "a category has no count"),
        (ask("object_rel_distance", anchor="tv", choices="bed, piano"), "a category has no box"),
        (ask("obj_appearance_order", categories="tv, piano"), "when a category comes into sight is unknown"),
    ],
)
def test_questions_that_the_annotation_does_not_decide(
    question: SpatialQuestion, message: str, here: ReasonedAnswers
) -> None:
    with pytest.raises(ValueError, match=message):
        here.thoughts(question)


# ---------- agreement with the generator
@pytest.mark.parametrize("seed", SEEDS)
def test_directions_lead_to_the_generators_answers(seed: int) -> None:
    scene = furnished_scene(seed)
    reasoned = ReasonedAnswers(SceneAnswers(scene), camera(2.0, 1.5, 0.3 + seed))
    asked = [question for question in questions_of(scene) if question.question_type in DIRECTION_TYPES]
    assert {question.question_type for question in asked} == set(DIRECTION_TYPES)
    for question in asked:
        fields = parse_question(question.question_type, question.question)
        assert fields is not None
        pattern = f"{fields['facing']} (\\d+)°, {fields['target']} (\\d+)°, turn (\\d+)°, (.+)"
        found = re.fullmatch(pattern, reasoned.thoughts(question))
        assert found is not None
        facing, target, turn = (int(found[place]) for place in (1, 2, 3))
        assert found[4] == right_option(question)
        difficulty = DIFFICULTIES[DIRECTION_TYPES.index(question.question_type)]
        assert direction(turn, difficulty) == found[4]  # what is rounded says the same
        assert all(angle % 15 == 0 and 0 <= angle < 360 for angle in (facing, target, turn))
        gap = (target - facing - turn + 180) % 360 - 180
        assert abs(gap) <= 15  # each of the three is rounded
        eye, other = (scene.boxes[fields[name]][0].centroid[:2] for name in ("standing", "target"))
        seen_from_above = np.degrees(np.arctan2(*(other - eye)[::-1])) - np.degrees(0.3 + seed) + 90
        assert abs((seen_from_above - target + 180) % 360 - 180) <= 7.5 + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_distances_and_orders_lead_to_the_generators_answers(seed: int) -> None:
    scene = furnished_scene(seed)
    reasoned, seen = ReasonedAnswers(SceneAnswers(scene), camera(2.0, 1.5, 0.3 + seed)), 0
    for question in questions_of(scene):
        thoughts = reasoned.thoughts(question)
        fields = parse_question(question.question_type, question.question) or {}
        if question.question_type in ("object_rel_distance", "obj_appearance_order"):
            entries, conclusion = thoughts.split(": ")
            numbers = {entry.rsplit(" ", 1)[0]: float(entry.rsplit(" ", 1)[1]) for entry in entries.split(", ")}
            assert join_list(list(numbers)) == fields.get("choices", fields.get("categories"))
            ranked = sorted(numbers, key=lambda name: numbers[name])
            assert conclusion == right_option(question)
            assert conclusion == (ranked[0] if "choices" in fields else join_list(ranked))
            assert len(set(numbers.values())) == 4  # none is a draw after rounding
        elif question.question_type == "object_abs_distance":
            first, second = (scene.boxes[fields[name]][0].centroid[:2] for name in ("first", "second"))
            right, ahead = map(float, thoughts.removeprefix(f"{fields['first']} to {fields['second']} ").split())
            assert abs(np.hypot(right, ahead) - np.linalg.norm(second - first)) < 0.36
        else:
            continue
        seen += 1
    assert seen > 60


# ---------- invariance
def moved(scene: SceneAnnotation, extrinsics: np.ndarray, turn: float, shift: np.ndarray) -> ReasonedAnswers:
    """The thoughts about a scene and a camera in a world that is turned about the vertical, then moved."""
    cos, sin = np.cos(turn), np.sin(turn)
    turned = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    boxes = {
        name: tuple(replace(box, centroid=turned @ box.centroid + shift, axes=box.axes @ turned.T) for box in found)
        for name, found in scene.boxes.items()
    }
    rotation = extrinsics[:, :3] @ turned.T
    camera_there = np.column_stack([rotation, extrinsics[:, 3] - rotation @ shift])
    return ReasonedAnswers(SceneAnswers(replace(scene, boxes=boxes)), camera_there)


@pytest.mark.parametrize("turn", [0.0, 1.1, -2.7])
@pytest.mark.parametrize("seed", SEEDS)
def test_another_world_changes_nothing(seed: int, turn: float) -> None:
    scene, extrinsics = furnished_scene(seed), camera(2.0, 1.5, 0.7)
    here, there = (
        ReasonedAnswers(SceneAnswers(scene), extrinsics),
        moved(scene, extrinsics, turn, np.array([5.0, -3, 1])),
    )
    assert there.map() == here.map()
    questions = questions_of(scene)
    assert len(questions) > 100
    for question in questions:
        said, said_there = (reasoned.thoughts(question) for reasoned in (here, there))
        if question.question_type == "object_rel_distance":  # whose grids a scene's place changes (`box_distances.py`)
            numbers, numbers_there = (list(map(float, re.findall(r"\d+\.\d", text))) for text in (said, said_there))
            np.testing.assert_allclose(numbers_there, numbers, atol=0.2001)
            said, said_there = (re.sub(r"\d+\.\d", "", text) for text in (said, said_there))
        assert said_there == said


def test_another_camera_changes_the_map_but_neither_turns_nor_words() -> None:
    scene = furnished_scene(1)
    one, other = (ReasonedAnswers(SceneAnswers(scene), camera(2.0, 1.5, heading)) for heading in (0.0, np.pi / 2))
    assert one.map() != other.map()
    for question in questions_of(scene):
        if question.question_type in DIRECTION_TYPES:
            said = [reasoned.thoughts(question).split(", turn ") for reasoned in (one, other)]
            assert said[0][1] == said[1][1]
            assert said[0][0] != said[1][0]  # each angle is 90° less


# ---------- conversations
def test_the_map_is_drawn_in_the_first_turn_alone(here: ReasonedAnswers) -> None:
    questions = [
        replace(ask("object_counting", truth="2", category="chair"), video="rooms/here.mp4"),
        replace(
            ask("object_rel_direction_easy", standing="stool", facing="tv", target="bed"),
            options=("A. left", "B. right"),
        ),
        ask("object_abs_distance", truth="3.4", first="stool", second="tv"),
    ]
    conversation = reasoned_conversation("here-0", here, questions)
    assert (conversation.id, conversation.videos, conversation.images) == ("here-0", ("rooms/here.mp4",), ())
    assert conversation.metadata == {"scene_name": "scene0000_00", "question_type": "reasoned"}
    said = [text for speaker, text in conversation.turns if speaker == "gpt"]
    assert said == [here.answer(question, with_map=not number) for number, question in enumerate(questions)]
    assert [MAP in text for text in said] == [True, False, False]
    asked = [text for speaker, text in conversation.turns if speaker == "human"]
    kinds = ("number", "multiple_choice", "number")
    prompts = [grpo_prompt(question_with_options(q), kind) for q, kind in zip(questions, kinds, strict=True)]
    assert asked == [f"{VIDEO_TAG}\n{prompts[0]}", *prompts[1:]]


def test_questions_may_come_without_instructions(here: ReasonedAnswers) -> None:
    questions = [ask("object_counting", truth="2", category="chair"), ask("room_size_estimation", truth="20.0")]
    plain, asked = (reasoned_conversation("here", here, questions, is_plain) for is_plain in (True, False))
    assert [text for speaker, text in plain.turns if speaker == "human"] == [
        f"{VIDEO_TAG}\n{questions[0].question}",
        questions[1].question,
    ]
    assert plain.turns[1::2] == asked.turns[1::2]
