"""`spatial-mllm data rooms`, run as a user does."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from spatial_mllm_hf.data.scene_annotations import read_scene_annotations
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings, make_scene
from spatial_mllm_hf.data.vsibench_questions import read_vsibench_questions

from .conftest import Command

SMALL = ("--frames", 6, "--size", "56x42", "--workers", 1)


def test_rooms_with_questions_that_eval_reads(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    result = run(
        "data", "rooms", "--scenes", 2, "--out", out, *SMALL, "--questions", "--max-questions", 3, "--geometry"
    )
    assert result.code == 0, result.err
    annotations = list(read_scene_annotations(out / "annotations.json"))
    assert [scene.name for scene in annotations] == ["room_000000", "room_000001"]
    questions = list(read_vsibench_questions(out / "questions.jsonl"))
    assert {question.scene_name for question in questions} == {"room_000000", "room_000001"}
    by_task = [(question.scene_name, question.question_type) for question in questions]
    assert max(map(by_task.count, by_task)) == 3
    assert "distance between" in " ".join(question.question for question in questions)
    assert "direct distance" not in " ".join(question.question for question in questions)
    for scene in annotations:
        assert (out / "videos" / f"{scene.name}.mp4").is_file()
        assert (out / "geometry" / f"{scene.name}.safetensors").is_file()
    assert f"Wrote {out / 'questions.jsonl'}: {len(questions)} questions." in result.out
    assert "2 rooms, 6 frames each" in result.out


def test_a_folder_goes_on(run: Command, tmp_path: Path) -> None:
    assert run("data", "rooms", "--scenes", 1, "--out", tmp_path, *SMALL, "--seed", 3).code == 0
    made = (tmp_path / "videos" / "room_000003.mp4").stat().st_mtime_ns
    result = run("data", "rooms", "--scenes", 2, "--out", tmp_path, *SMALL, "--seed", 3)
    assert result.code == 0
    assert (tmp_path / "videos" / "room_000003.mp4").stat().st_mtime_ns == made
    assert len(list((tmp_path / "videos").iterdir())) == 2


def test_compass_share_and_sparseness_reach_the_rooms(run: Command, tmp_path: Path) -> None:
    options = ("--compass", "--seen-share", 0.02, "--most-objects", 6, "--geometry")
    assert run("data", "rooms", "--scenes", 1, "--out", tmp_path, *SMALL, *options).code == 0
    expected = make_scene(0, SceneSettings(6, (56, 42), compass=True, seen_share=0.02, most_objects=6))
    assert len(expected.room.objects) <= 6
    (annotation,) = read_scene_annotations(tmp_path / "annotations.json")
    assert annotation.to_dict() == expected.annotation.to_dict()
    assert annotation.to_dict() != make_scene(0, SceneSettings(6, (56, 42), compass=True)).annotation.to_dict()
    arrays = load_file(tmp_path / "geometry" / "room_000000.safetensors")
    np.testing.assert_array_equal(arrays["extrinsics"], expected.extrinsics)
    result = run("data", "rooms", "--scenes", 1, "--out", tmp_path, *SMALL, "--geometry")
    assert result.code == 2
    different = "compass True (asked for: False), seen_share 0.02 (asked for: 0.001), most_objects 6 (asked for: None)"
    assert f"{different}; ask for the same" in result.error


def test_without_options_rooms_are_those_of_the_settings_defaults(run: Command, tmp_path: Path) -> None:
    assert run("data", "rooms", "--scenes", 1, "--out", tmp_path, *SMALL).code == 0
    settings, default = json.loads((tmp_path / "rooms.json").read_text()), SceneSettings(6, (56, 42))
    assert (settings["compass"], settings["seen_share"]) == (default.compass, default.seen_share)
    assert settings["most_objects"] is default.most_objects is None
    (annotation,) = read_scene_annotations(tmp_path / "annotations.json")
    assert annotation.to_dict() == make_scene(0, default).annotation.to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "56"), "--size must be WIDTHxHEIGHT in pixels, such as 224x168, got '56'"),
        (("--size", "55x42"), "size must be even, as H.264 clips are, got 55x42"),
        (("--fps", "0"), "fps must be above 0"),
        (("--seen-share", "0"), "seen_share must be above 0 and at most 1, got 0.0"),
    ],
)
def test_mistakes_end_with_one_line(options: tuple[str, ...], message: str, run: Command, tmp_path: Path) -> None:
    result = run("data", "rooms", "--scenes", 1, "--out", tmp_path / "rooms", *options)
    assert result.code == 2
    assert message in result.error
    assert not (tmp_path / "rooms").exists()
