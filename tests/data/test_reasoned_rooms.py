"""Samples with trains of thought out of a folder of rooms: what is asked, how evenly, and of which room."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from spatial_mllm_hf.data.conversations import IMAGE_TAG, VIDEO_TAG, Conversation
from spatial_mllm_hf.data.question_generation import GENERATED_TYPES, GenerationSettings, generate_questions
from spatial_mllm_hf.data.reasoned_answers import ReasonedAnswers
from spatial_mllm_hf.data.reasoned_rooms import option_letters, reasoned_frames, reasoned_rooms
from spatial_mllm_hf.data.scene_annotations import SceneAnnotation, read_scene_annotations
from spatial_mllm_hf.data.scene_answers import SceneAnswers
from spatial_mllm_hf.data.spatial_questions import SpatialQuestion
from spatial_mllm_hf.data.synthetic_data_set import write_rooms
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings, make_scene, scene_name, scene_seed
from spatial_mllm_hf.data.training_prompts import grpo_prompt, question_with_options

SETTINGS = SceneSettings(12, (40, 30), compass=True, seen_share=2e-3)
CAP = 30  # of each task and room


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rooms with geometry. Read only."""
    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, 6, SETTINGS, geometry=True)
    return folder


class Room(NamedTuple):
    """A room's annotation and all questions that may be drawn."""

    scene: SceneAnnotation
    questions: list[SpatialQuestion]

    def asked_in(self, sample: Conversation) -> list[SpatialQuestion]:
        """The generator's questions behind the turns of a sample; fails where a turn asks anything else."""
        by_text: dict[str, SpatialQuestion] = {}
        for question in self.questions:
            text = question_with_options(question)
            by_text[text] = question
            by_text[grpo_prompt(text, "number" if question.is_numerical else "multiple_choice")] = question
        texts = [text.removeprefix(f"{VIDEO_TAG}\n") for speaker, text in sample.turns if speaker == "human"]
        return [by_text[text] for text in texts]


@pytest.fixture(scope="module")
def contents(rooms: Path) -> dict[str, Room]:
    caps = dict.fromkeys(("max_absolute_distance", "max_relative_distance", "max_relative_direction", "max_other"), CAP)
    settings = GenerationSettings(wording="vsibench", **caps)
    found = {}
    for scene in read_scene_annotations(rooms / "annotations.json"):
        assert isinstance(scene, SceneAnnotation)
        found[scene.name] = Room(scene, generate_questions(scene, 0, settings))
    return found


def room_of(sample: Conversation, contents: dict[str, Room]) -> Room:
    return contents[sample.metadata["scene_name"]]


def test_samples_come_room_by_room_and_belong_to_it(rooms: Path, contents: dict[str, Room]) -> None:
    samples = list(reasoned_rooms(rooms, 4, 2))
    assert [sample.id for sample in samples] == [f"{name}-{number}" for name in contents for number in (0, 1)]
    for sample in samples:
        scene = room_of(sample, contents).scene
        assert sample.videos == (f"{scene.name}.mp4",)
        cameras = load_file(rooms / "geometry" / f"{scene.name}.safetensors")["extrinsics"]
        reasoned = ReasonedAnswers(SceneAnswers(scene), cameras[0])
        questions = room_of(sample, contents).asked_in(sample)
        answers = [text for speaker, text in sample.turns if speaker == "gpt"]
        assert answers == [reasoned.answer(question, number == 0) for number, question in enumerate(questions)]
        assert answers[0].startswith(f"<think>{reasoned.map()}")


@pytest.mark.parametrize("count", [1, 5, 9, 20, 60])
def test_tasks_share_a_sample_as_evenly_as_can_be(count: int, rooms: Path, contents: dict[str, Room]) -> None:
    for sample in reasoned_rooms(rooms, count):
        room = room_of(sample, contents)
        there = Counter(question.question_type for question in room.questions)
        questions = room.asked_in(sample)
        assert len(questions) == min(count, there.total())
        assert len(set(questions)) == len(questions)
        shares = Counter(question.question_type for question in questions)
        for task in there:
            assert shares[task] == there[task] or shares[task] >= max(shares.values()) - 1


def test_where_more_is_asked_than_there_is_all_of_it_comes(rooms: Path, contents: dict[str, Room]) -> None:
    for sample in reasoned_rooms(rooms, 10_000):
        room = room_of(sample, contents)
        assert sorted(q.id for q in room.asked_in(sample)) == sorted(q.id for q in room.questions)


def test_every_task_comes_first_in_some_sample(rooms: Path, contents: dict[str, Room]) -> None:
    first = Counter(
        room_of(sample, contents).asked_in(sample)[0].question_type for sample in reasoned_rooms(rooms, 4, 20)
    )
    assert set(first) == set(GENERATED_TYPES)
    assert max(first.values()) < 0.25 * first.total()


def test_rooms_do_not_share_the_order_of_their_tasks(rooms: Path, contents: dict[str, Room]) -> None:
    orders = [
        tuple(question.question_type for question in room_of(sample, contents).asked_in(sample))
        for sample in reasoned_rooms(rooms, 6)
    ]
    assert len(set(orders)) == len(contents)


def test_seed_and_place_decide_a_sample(rooms: Path) -> None:
    samples = list(reasoned_rooms(rooms, 5, 3))
    assert list(reasoned_rooms(rooms, 5, 3)) == samples
    assert list(reasoned_rooms(rooms, 5, 1)) == samples[::3]  # more samples leave the first ones as they are
    turns = [sample.turns for sample in samples]
    assert all(turn not in turns[:number] for number, turn in enumerate(turns))
    assert all(
        one.turns != other.turns for one, other in zip(samples, reasoned_rooms(rooms, 5, 3, seed=1), strict=True)
    )


def test_each_fourth_sample_of_a_room_asks_without_instructions(rooms: Path) -> None:
    instructed = [
        all("Please think" in text for speaker, text in sample.turns if speaker == "human")
        for sample in reasoned_rooms(rooms, 2, 8)
    ]
    assert instructed == [True, True, True, False] * 12


# ---------- errors
def copy_of(rooms: Path, folder: Path, annotations: dict) -> Path:
    """A folder of the same geometry with other annotations."""
    (folder / "geometry").symlink_to(rooms / "geometry")
    (folder / "annotations.json").write_text(json.dumps(annotations))
    return folder


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 1), "num_questions must be at least 1, got 0"), ((1, 0), "num_samples must be at least 1, got 0")],
)
def test_numbers_out_of_range(numbers: tuple[int, int], message: str, rooms: Path) -> None:
    with pytest.raises(ValueError, match=message):
        next(reasoned_rooms(rooms, *numbers))


def test_folders_that_are_not_of_rooms_with_geometry(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no annotations.json: it is not a folder of `spatial-mllm data rooms`"):
        next(reasoned_rooms(tmp_path, 1))
    write_rooms(tmp_path, 1, SETTINGS)
    with pytest.raises(ValueError, match=r"room_000000.safetensors is not there: make the rooms with --geometry"):
        next(reasoned_rooms(tmp_path, 1))


def test_a_damaged_annotation_is_an_error(rooms: Path, tmp_path: Path) -> None:
    entries = json.loads((rooms / "annotations.json").read_text())
    del entries["room_000001"]["object_counts"]
    samples = reasoned_rooms(copy_of(rooms, tmp_path, entries), 1)
    assert next(samples).id == "room_000000-0"
    with pytest.raises(ValueError, match="Scene room_000001: 'object_counts' is missing"):
        next(samples)


def test_a_room_without_questions_is_passed_over(rooms: Path, tmp_path: Path) -> None:
    entries = json.loads((rooms / "annotations.json").read_text())
    entries["room_000001"] |= {"object_counts": {}, "object_bbox": {}, "first_seen": {}, "room_size": None}
    samples = reasoned_rooms(copy_of(rooms, tmp_path, entries), 1)
    assert [sample.id for sample in samples] == [f"room_{number:06d}-0" for number in (0, 2, 3, 4, 5)]


# ---------- single frames
def test_a_frame_is_asked_about_what_it_shows_from_where_it_was_taken(rooms: Path, tmp_path: Path) -> None:
    samples = list(reasoned_frames(rooms, tmp_path, 2, 3))
    assert len(samples) > 6
    maps = 0
    for sample in samples:
        name, number = sample.images[0].removesuffix(".png").rsplit("-", 1)
        scene = make_scene(scene_seed(name), SETTINGS)
        assert sample.videos == ()
        assert sample.turns[0][1].startswith(f"{IMAGE_TAG}\n")
        assert len(sample.turns) in (2, 4)
        thoughts = sample.turns[1][1].removeprefix("<think>").partition("</think>")[0]
        pose, shares = scene.extrinsics[int(number)], scene.seen_pixels[int(number)] / (40 * 30)
        heading = np.arctan2(pose[2, 1], pose[2, 0])
        eye = -pose[:, :3].T @ pose[:, 3]
        for obj, share in zip(scene.room.objects, shares, strict=True):
            assert (f"{obj.name} " in f"; {thoughts}") or share < SETTINGS.seen_share or not thoughts
            if thoughts and share >= SETTINGS.seen_share:
                away = np.array(obj.center[:2]) - eye[:2]
                turned = np.arctan2(away[1], away[0]) - heading
                right, ahead = np.linalg.norm(away) * np.array([-np.sin(turned), np.cos(turned)])
                assert any(
                    f" {x:.1f} {y:.1f}" in thoughts
                    for x in (np.floor(right * 2) / 2 + 0.0, np.ceil(right * 2) / 2 + 0.0)
                    for y in (np.floor(ahead * 2) / 2 + 0.0, np.ceil(ahead * 2) / 2 + 0.0)
                )
                maps += 1
    assert maps > 20


def test_the_pictures_are_the_frames(rooms: Path, tmp_path: Path) -> None:
    (sample, *_) = reasoned_frames(rooms, tmp_path, 1, 1)
    name, number = sample.images[0].removesuffix(".png").rsplit("-", 1)
    picture = np.asarray(Image.open(tmp_path / sample.images[0])).astype(int)
    frames = make_scene(scene_seed(name), SETTINGS).frames.rgb.astype(int)
    errors = np.abs(frames - picture).mean((1, 2, 3))  # of H.264
    assert picture.shape == (30, 40, 3)
    assert errors.argmin() == int(number)
    assert errors.min() < 6


def test_frames_follow_from_the_seed(rooms: Path, tmp_path: Path) -> None:
    first, again, other = (list(reasoned_frames(rooms, tmp_path, 2, 2, seed)) for seed in (0, 0, 1))
    assert first == again
    assert {sample.id for sample in first} != {sample.id for sample in other}
    assert len({sample.id for sample in first}) == len(first)


def test_frames_that_cannot_be_are_refused(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_frames=13, but the walk of room_000000 has 12 frames"):
        list(reasoned_frames(rooms, tmp_path, 1, 13))
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        list(reasoned_frames(rooms, tmp_path, 1, 0))
    with pytest.raises(ValueError, match=r"has no rooms\.json"):
        list(reasoned_frames(tmp_path, tmp_path, 1, 1))
    assert scene_seed(scene_name(1234567)) == 1234567


# ---------- processes
def test_processes_make_what_one_makes(rooms: Path, tmp_path: Path) -> None:
    assert list(reasoned_rooms(rooms, 3, 2, 4, offsets=True, workers=2)) == list(reasoned_rooms(rooms, 3, 2, 4, True))
    assert list(option_letters(rooms, 3, seed=1, workers=2)) == list(option_letters(rooms, 3, seed=1))
    one, two = tmp_path / "one", tmp_path / "two"
    assert list(reasoned_frames(rooms, two, 2, 2, workers=2)) == list(reasoned_frames(rooms, one, 2, 2))
    assert {path.name: path.read_bytes() for path in two.iterdir()} == {
        path.name: path.read_bytes() for path in one.iterdir()
    }
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        list(reasoned_rooms(rooms, 1, workers=0))
    with pytest.raises(ValueError, match="num_frames=13, but the walk of room_000000 has 12 frames"):
        list(reasoned_frames(rooms, two, 1, 13, workers=2))


# ---------- letters
@pytest.mark.parametrize("told", [False, True])
def test_letters_are_those_of_the_options_that_the_thoughts_name(
    told: bool, rooms: Path, contents: dict[str, Room]
) -> None:
    samples = list(option_letters(rooms, 1, 10, told=told))
    assert len(samples) == 60
    letters, true = Counter[str](), 0
    for sample in samples:
        assert sample.videos == sample.images == ()
        (_, asked), (_, said) = sample.turns
        asked, words = asked.rsplit("\n", 1) if told else (asked, "")
        (question,) = room_of(sample, contents).asked_in(replace(sample, turns=(("human", asked), ("gpt", said))))
        assert question.options is not None
        thoughts, letter = said.removeprefix("<think>").removesuffix("</answer>").split("</think>\n<answer>")
        assert not told or thoughts == words
        assert f"{letter}. {thoughts}" in question.options
        letters[letter] += 1
        true += letter == question.ground_truth
    assert set(letters) == set("ABCD")
    assert 10 < true < 40  # an option by lot, which is the right one now and then


def test_letters_of_a_room_in_one_sample_are_those_of_many(rooms: Path) -> None:
    many, few = list(option_letters(rooms, 1, 12)), list(option_letters(rooms, 5, 2))
    assert [len(sample.turns) for sample in few] == [10, 10] * 6
    single, paired = list(option_letters(rooms, 1, 10)), [turn for sample in few for turn in sample.turns]
    assert [turn for sample in single for turn in sample.turns] == paired
    assert len(many) == 72


def test_letters_follow_their_seed(rooms: Path) -> None:
    first, again, other = (list(option_letters(rooms, 1, 4, seed)) for seed in (1, 1, 2))
    assert first == again != other
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        next(option_letters(rooms, 1, 0))
