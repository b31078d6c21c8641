"""Generated questions: right answers by second implementations, no doubtful ones, balance, caps, determinism."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from annotated_scenes import furnished_scene, make_box, make_scene, reference_distance

from spatial_mllm_hf.data.oriented_boxes import OrientedBox
from spatial_mllm_hf.data.question_candidates import MAX_CATEGORIES
from spatial_mllm_hf.data.question_generation import GENERATED_TYPES, GenerationSettings, generate_questions
from spatial_mllm_hf.data.question_templates import parse_question
from spatial_mllm_hf.data.scene_annotations import SceneAnnotation
from spatial_mllm_hf.data.spatial_questions import LETTERS, QuestionType, SpatialQuestion

SEEDS = range(6)


def generate(scene: SceneAnnotation, *tasks: QuestionType, seed: int = 0, **settings: int) -> list[SpatialQuestion]:
    return generate_questions(scene, seed, GenerationSettings(tasks=tasks or GENERATED_TYPES, **settings))


def fields_of(question: SpatialQuestion) -> dict[str, str]:
    fields = parse_question(question.question_type, question.question)
    assert fields is not None
    return fields


def option_texts(question: SpatialQuestion) -> list[str]:
    assert question.options is not None
    for letter, option in zip(LETTERS, question.options):
        assert option.startswith(f"{letter}. ")
    return [option[3:] for option in question.options]


def right_option(question: SpatialQuestion) -> str:
    return option_texts(question)[LETTERS.index(question.ground_truth)]


def reference_direction(eye: OrientedBox, ahead: OrientedBox, target: OrientedBox) -> tuple[float, float]:
    """How far to the right of the line of sight, and how far ahead along it."""
    (ex, ey), (ax, ay), (tx, ty) = (box.centroid[:2] for box in (eye, ahead, target))
    length = float(np.hypot(ax - ex, ay - ey))
    forward = ((ax - ex) / length, (ay - ey) / length)
    right = (forward[1], -forward[0])
    return (tx - ex) * right[0] + (ty - ey) * right[1], (tx - ex) * forward[0] + (ty - ey) * forward[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_are_those_of_the_room(seed: int) -> None:
    scene = furnished_scene(seed)
    questions = generate(scene)
    counts = {fields_of(q)["category"]: q.ground_truth for q in questions if q.question_type == "object_counting"}
    assert counts == {name: str(len(boxes)) for name, boxes in scene.boxes.items() if len(boxes) > 1}
    sizes = {fields_of(q)["category"]: q.ground_truth for q in questions if q.question_type == "object_size_estimation"}
    alone = {name: boxes[0] for name, boxes in scene.boxes.items() if len(boxes) == 1}
    assert sizes == {name: f"{box.lengths.max() * 100:.0f}" for name, box in alone.items()}
    rooms = [q.ground_truth for q in questions if q.question_type == "room_size_estimation"]
    assert rooms == [f"{scene.room_size:.1f}"]


def test_distances_are_those_of_all_pairs_of_grid_points() -> None:
    rng = np.random.default_rng(0)
    boxes = {f"thing {number}": make_box(tuple(rng.uniform(-0.8, 0.8, 3)), (0.3, 0.2, 0.4)) for number in range(8)}
    distances = {frozenset((a, b)): reference_distance(boxes[a], boxes[b]) for a, b in combinations(boxes, 2)}
    asked = {}
    for question in generate(
        make_scene({**boxes, "chair": [boxes["thing 0"], boxes["thing 1"]]}), "object_abs_distance"
    ):
        asked[frozenset(fields_of(question).values())] = question.ground_truth
    assert asked == {pair: f"{distance:.1f}" for pair, distance in distances.items() if distance >= 0.2}
    assert 0 < len(asked) < len(distances)


@pytest.mark.parametrize(("room_size", "gap"), [(None, 0.15), (40.0, 0.15), (41.0, 0.30)])
def test_the_nearest_of_four_is_clearly_nearest(room_size: float | None, gap: float) -> None:
    rng = np.random.default_rng(1)
    boxes = {f"thing {number}": small_boxes(rng, 1 + number // 4) for number in range(8)}
    scene = make_scene(boxes, room_size=room_size)
    asked = set()
    for question in generate(scene, "object_rel_distance", max_relative_distance=10**6):
        fields = fields_of(question)
        choices = fields["choices"].split(", ")
        assert choices == option_texts(question)
        asked.add((fields["anchor"], frozenset(choices)))
        distances = distances_to(scene, fields["anchor"])
        assert right_option(question) == min(choices, key=lambda name: distances[name])
    clear = set()
    for anchor in [name for name, found in boxes.items() if len(found) == 1]:
        distances = distances_to(scene, anchor)
        for four in combinations(set(boxes) - {anchor}, 4):
            near, *_ = ordered = sorted(distances[name] for name in four)
            if near >= 0.15 and min(np.diff(ordered)) > gap:
                clear.add((anchor, frozenset(four)))
    assert asked == clear
    assert clear


def small_boxes(rng: np.random.Generator, number: int) -> list[OrientedBox]:
    return [make_box(tuple(place), (0.1, 0.1, 0.1)) for place in rng.uniform(-1, 1, (number, 3)).tolist()]


def distances_to(scene: SceneAnnotation, anchor: str) -> dict[str, float]:
    (own,) = scene.boxes[anchor]
    others = {name: boxes for name, boxes in scene.boxes.items() if name != anchor}
    return {name: min(reference_distance(own, box) for box in boxes) for name, boxes in others.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_directions_are_those_of_the_floor_plan(seed: int) -> None:
    scene = furnished_scene(seed)
    asked: Counter[str] = Counter()
    for difficulty in ("easy", "medium", "hard"):
        for question in generate(scene, f"object_rel_direction_{difficulty}"):
            asked[difficulty] += 1
            fields = fields_of(question)
            boxes = [scene.boxes[fields[name]][0] for name in ("standing", "facing", "target")]
            assert all(len(scene.boxes[name]) == 1 for name in fields.values())
            right, ahead = reference_direction(*boxes)
            side = "right" if right > 0 else "left"
            turn = float(np.degrees(np.arctan2(abs(right), ahead)))  # to face it, either way
            expected = {
                "easy": side,
                "medium": "back" if turn > 135 else side,
                "hard": ("front-" if ahead > 0 else "back-") + side,
            }[difficulty]
            assert right_option(question) == expected
            boundaries = (0, 90, 180) if difficulty == "hard" else (0, 135)
            assert min(abs(turn - boundary) for boundary in boundaries) >= 10
            assert difficulty != "easy" or turn < 135
    assert min(asked[difficulty] for difficulty in ("easy", "medium", "hard")) > 0


def test_objects_too_close_or_too_far_are_not_asked_for_directions() -> None:
    corners = {"bed": (0.0, 0.0, 0.0), "tv": (2.0, 0.0, 0.0), "sofa": (1.0, 1.5, 0.0)}
    tasks = [f"object_rel_direction_{difficulty}" for difficulty in ("easy", "medium", "hard")]

    def names(**moved: tuple[float, float, float]) -> set[str]:
        scene = make_scene({name: make_box(place) for name, place in {**corners, **moved}.items()})
        return {name for question in generate(scene, *tasks) for name in fields_of(question).values()}

    assert names() == {"bed", "tv", "sofa"}
    assert names(sofa=(1.0, 6.0, 0.0)) == set()
    assert names(sofa=(1.9, 0.4, 0.0)) == set()
    # High above the bed: far enough off, but nobody at the bed can face it, nor the other way round.
    above = make_scene({name: make_box(place) for name, place in {**corners, "clock": (0.1, 0.1, 2.0)}.items()})
    pairs = {(fields_of(q)["standing"], fields_of(q)["facing"]) for q in generate(above, *tasks)}
    assert {("bed", "tv"), ("clock", "tv")} <= pairs
    assert pairs.isdisjoint({("bed", "clock"), ("clock", "bed")})


def test_a_wide_object_that_straddles_a_boundary_is_not_asked_about() -> None:
    places = {"bed": make_box((0, 0, 0)), "tv": make_box((0, 4, 0))}

    def targets(sofa: OrientedBox) -> set[str]:
        questions = generate(make_scene({**places, "sofa": sofa}), "object_rel_direction_hard")
        return {fields_of(q)["target"] for q in questions if fields_of(q)["standing"] == "bed"}

    assert "sofa" in targets(make_box((2, 2, 0), (0.5, 0.5, 0.5)))
    assert "sofa" not in targets(make_box((2, 2, 0), (3.0, 4.6, 0.5)))


def test_order_of_appearance_is_that_of_the_seconds() -> None:
    seen = {"bed": 20.4, "tv": 0.0, "sofa": 7.6, "door": 3.2, "lamp": 4.4, "clock": 30.0}
    scene = make_scene({}, first_seen=seen)
    questions = generate(scene, "obj_appearance_order")
    asked = []
    for question in questions:
        names = fields_of(question)["categories"].split(", ")
        asked.append(frozenset(names))
        options = [tuple(text.split(", ")) for text in option_texts(question)]
        assert len(set(options)) == 4
        assert all(set(option) == set(names) for option in options)
        assert right_option(question) == ", ".join(sorted(names, key=lambda name: seen[name]))
    # door and lamp come at 3 and 4 s, one second apart: never both.
    clear = {frozenset(four) for four in combinations(seen, 4) if not {"door", "lamp"} <= set(four)}
    assert set(asked) == clear
    assert len(asked) == len(clear)


def test_categories_in_the_question_do_not_give_the_order_away() -> None:
    scene = make_scene({}, first_seen={f"thing {number}": 3.0 * number for number in range(12)})
    questions = generate(scene, "obj_appearance_order")
    given = sum(fields_of(question)["categories"] == right_option(question) for question in questions)
    assert len(questions) == 495
    assert given / len(questions) < 0.12  # 1 in 24 by chance


def test_right_letters_are_balanced_and_every_option_comes_once() -> None:
    letters: dict[QuestionType, Counter[str]] = {}
    for number in range(40):
        for question in generate(
            replace(furnished_scene(number % 8), name=f"room{number}"), max_relative_distance=10, max_other=10
        ):
            if question.options is not None:
                assert len(set(option_texts(question))) == len(question.options)
                letters.setdefault(question.question_type, Counter())[question.ground_truth] += 1
    assert set(letters) == set(GENERATED_TYPES[4:])
    for question_type, counted in letters.items():
        num_options = {"object_rel_direction_easy": 2, "object_rel_direction_medium": 3}.get(question_type, 4)
        assert sorted(counted) == list(LETTERS[:num_options])
        share = 1 / num_options
        error = 4 * np.sqrt(share * (1 - share) / counted.total())  # of independent draws
        assert all(abs(number / counted.total() - share) < error for number in counted.values()), question_type


def test_within_a_scene_letters_differ_by_one_at_most() -> None:
    scene = make_scene({}, first_seen={f"thing {number}": 3.0 * number for number in range(9)})
    counted = Counter(question.ground_truth for question in generate(scene, "obj_appearance_order", max_other=50))
    assert sorted(counted.values()) == [12, 12, 13, 13]


def test_caps_hold_for_each_scene_and_task() -> None:
    scene = furnished_scene(2)
    everything = Counter(question.question_type for question in generate(scene, max_relative_distance=10**6))
    capped = generate(scene, max_absolute_distance=3, max_relative_distance=5, max_relative_direction=2, max_other=1)
    expected = {
        "object_abs_distance": 3,
        "object_rel_distance": 5,
        **{f"object_rel_direction_{difficulty}": 2 for difficulty in ("easy", "medium", "hard")},
    }
    found = Counter(question.question_type for question in capped)
    assert found == {task: min(everything[task], expected.get(task, 1)) for task in everything}
    assert (
        generate(scene, max_absolute_distance=0, max_relative_distance=0, max_relative_direction=0, max_other=0) == []
    )


def test_the_same_seed_gives_the_same_questions_and_another_one_others() -> None:
    scene = furnished_scene(4)
    assert generate(scene, seed=3) == generate(scene, seed=3)
    assert generate(scene, seed=3) != generate(scene, seed=4)


def test_a_task_does_not_depend_on_the_others_nor_on_the_order_of_the_annotation() -> None:
    scene = furnished_scene(4)
    together = generate(scene)
    for task in GENERATED_TYPES:
        assert generate(scene, task) == [question for question in together if question.question_type == task]
    turned = replace(
        scene,
        boxes=dict(reversed(scene.boxes.items())),
        object_counts=dict(reversed(scene.object_counts.items())),
        first_seen=dict(reversed(scene.first_seen.items())),
    )
    assert generate(turned) == together


def test_scenes_of_other_names_are_drawn_differently() -> None:
    scene = furnished_scene(4)
    other = replace(scene, name="another")
    asked, asked_there = ({question.question for question in generate(one)} for one in (scene, other))
    assert asked != asked_there
    assert {question.scene_name for question in generate(other)} == {"another"}


def test_ids_are_unique_and_videos_are_named() -> None:
    questions = generate(replace(furnished_scene(4), video="rooms/4.mp4")) + generate(furnished_scene(5))
    assert len({question.id for question in questions}) == len(questions)
    assert {question.video_path for question in questions} == {"rooms/4.mp4", "scannet/room0005.mp4"}


def test_a_bare_scene_has_no_questions() -> None:
    assert generate(make_scene({})) == []
    assert generate(make_scene({"bed": make_box((0, 0, 0))}, object_counts={"bed": 2})) == generate(
        make_scene({}, object_counts={"bed": 2})
    )


def test_many_categories_are_sampled() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(-2, 2, (MAX_CATEGORIES + 8, 3))
    scene = make_scene(
        {f"thing {number}": make_box(tuple(place), (0.1, 0.1, 0.1)) for number, place in enumerate(places.tolist())},
        first_seen={f"thing {number}": 2.0 * number for number in range(len(places))},
    )
    questions = generate(scene, "object_rel_distance", "obj_appearance_order", "object_rel_direction_easy")
    for task in ("object_rel_distance", "obj_appearance_order", "object_rel_direction_easy"):
        names = {
            name
            for question in questions
            if question.question_type == task
            for field in fields_of(question).values()
            for name in field.split(", ")
        }
        assert MAX_CATEGORIES / 2 < len(names) <= MAX_CATEGORIES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tasks": ("object_counting", "route_planning")},
            "tasks must be some of object_counting, .*got object_counting, ",
        ),
        ({"tasks": ()}, "got none"),
        ({"tasks": ("object_counting",) * 2}, "each once"),
        ({"wording": "plain"}, "wording must be one of vsibench, vlm3r, got 'plain'"),
        ({"max_other": -1}, "max_other must be at least 0, got -1"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**settings)  # type: ignore[arg-type]


def test_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        generate_questions(make_scene({}), -1)


def test_orders_offered_are_drawn_from_all() -> None:
    scene = make_scene({}, first_seen={name: 2.0 * place for place, name in enumerate("abcdefgh")})
    wrong: Counter[tuple[int, ...]] = Counter()
    for question in generate(scene, "obj_appearance_order"):
        right = right_option(question).split(", ")
        for text in option_texts(question):
            wrong[tuple(right.index(name) for name in text.split(", "))] += 1
    assert set(wrong) == set(permutations(range(4)))
