"""A folder of synthetic rooms: whole files only, the same whoever makes them, and it goes on where it was left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import load_file

from spatial_mllm_hf.data import synthetic_data_set
from spatial_mllm_hf.data.question_generation import GenerationSettings, generate_questions
from spatial_mllm_hf.data.scene_annotations import read_scene_annotations
from spatial_mllm_hf.data.synthetic_data_set import write_questions, write_rooms
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings, SyntheticScene, make_scene
from spatial_mllm_hf.data.vsibench_questions import read_vsibench_questions

SETTINGS = SceneSettings(num_frames=6, size=(56, 42))


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents of all visible files."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes with geometry from seed 5 on, made in one go. Read only."""
    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, 4, SETTINGS, seed=5, geometry=True)
    return folder


def test_a_folder_holds_clips_annotations_and_geometry(whole: Path) -> None:
    names = [f"room_{seed:06d}" for seed in (5, 6, 7, 8)]
    assert sorted(files_of(whole)) == sorted(
        [
            "annotations.json",
            "rooms.json",
            *(f"{kind}.{suffix}" for name in names for kind, suffix in ((f"videos/{name}", "mp4"),)),
            *(f"scenes/{name}.json" for name in names),
            *(f"geometry/{name}.safetensors" for name in names),
        ]
    )
    annotations = list(read_scene_annotations(whole / "annotations.json"))
    scenes = [make_scene(seed, SETTINGS) for seed in (5, 6, 7, 8)]
    assert [scene.to_dict() for scene in annotations] == [scene.annotation.to_dict() for scene in scenes]
    for name, scene in zip(names, scenes, strict=True):
        arrays = load_file(whole / "geometry" / f"{name}.safetensors")
        assert sorted(arrays) == ["depth", "extrinsics", "intrinsics", "object_index", "seen_pixels"]
        np.testing.assert_array_equal(arrays["depth"], scene.frames.depth)
        np.testing.assert_array_equal(arrays["object_index"], scene.frames.object_index)
        np.testing.assert_array_equal(arrays["seen_pixels"], scene.seen_pixels)
        np.testing.assert_array_equal(arrays["extrinsics"], scene.extrinsics)
        np.testing.assert_array_equal(arrays["intrinsics"], scene.intrinsics)
        with av.open(str(whole / "videos" / f"{name}.mp4")) as container:
            assert container.streams.video[0].average_rate == pytest.approx(6 / 20)
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert decoded.shape == scene.frames.rgb.shape
        assert np.abs(decoded.astype(int) - scene.frames.rgb).mean() < 10


def test_two_processes_make_the_same_files(whole: Path, tmp_path: Path) -> None:
    seen = []
    report = write_rooms(
        tmp_path, 4, SETTINGS, 5, geometry=True, workers=2, show=lambda done, total: seen.append((done, total))
    )
    assert files_of(tmp_path) == files_of(whole)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [scene.name for scene in report.annotations] == [f"room_{seed:06d}" for seed in (5, 6, 7, 8)]
    assert report.replaced == {}


def test_a_killed_run_goes_on(whole: Path, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; import sys; from spatial_mllm_hf.data.synthetic_data_set import write_rooms;"
        "from spatial_mllm_hf.data.synthetic_scenes import SceneSettings;"
        "write_rooms(Path(sys.argv[1]), 4, SceneSettings(6, (56, 42)), 5, geometry=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    first = tmp_path / "scenes" / "room_000005.json"
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "annotations.json").exists()
    made = first.stat().st_mtime_ns
    (tmp_path / "videos" / "room_000008.0123.partial.mp4").write_bytes(b"half of a clip")  # as if killed while writing
    write_rooms(tmp_path, 4, SETTINGS, 5, geometry=True)
    assert first.stat().st_mtime_ns == made
    assert files_of(tmp_path) == files_of(whole)


def test_an_error_while_writing_leaves_no_part_and_no_scene(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip, written = synthetic_data_set.write_clip, []

    def full_disk(frames: np.ndarray, path: Path, fps: float) -> None:
        write_clip(frames, path, fps)
        written.append(path)
        if len(written) == 3:
            raise OSError("No space left on device")

    monkeypatch.setattr(synthetic_data_set, "write_clip", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_rooms(tmp_path, 4, SETTINGS, 5, geometry=True)
    assert written[-1].name.startswith("room_000007.")
    assert [name for name in files_of(tmp_path) if "room_000007" in name or "partial" in name] == []
    write_rooms(tmp_path, 4, SETTINGS, 5, geometry=True)
    assert len(written) == 5  # the two that were there are not made again
    assert files_of(tmp_path) == files_of(whole)


def test_a_folder_grows_and_may_be_asked_for_less(whole: Path, tmp_path: Path) -> None:
    write_rooms(tmp_path, 2, SETTINGS, 5, geometry=True)
    report = write_rooms(tmp_path, 4, SETTINGS, 5, geometry=True)
    assert len(report.annotations) == 4
    assert files_of(tmp_path) == files_of(whole)
    assert [scene.name for scene in write_rooms(tmp_path, 1, SETTINGS, 5, geometry=True).annotations] == ["room_000005"]


def test_a_seed_without_a_scene_is_replaced_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(seed: int, settings: SceneSettings) -> SyntheticScene:
        if seed in (6, 8, 9):
            raise ValueError(f"room {seed} has no free way")
        return make_scene(seed, settings)

    monkeypatch.setattr(synthetic_data_set, "make_scene", make)
    report = write_rooms(tmp_path, 4, SETTINGS, 5)
    assert [scene.name for scene in report.annotations] == [f"room_{seed:06d}" for seed in (5, 7, 10, 11)]
    assert report.replaced == {seed: f"room {seed} has no free way" for seed in (6, 8, 9)}
    assert sorted(path.stem for path in (tmp_path / "videos").iterdir()) == [scene.name for scene in report.annotations]


def test_seeds_that_all_fail_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(seed: int, settings: SceneSettings) -> SyntheticScene:
        raise ValueError("room has no free way")

    monkeypatch.setattr(synthetic_data_set, "make_scene", make)
    with pytest.raises(ValueError, match="24 of 24 seeds give no scene: room has no free way"):
        write_rooms(tmp_path, 3, SETTINGS)


def test_questions_are_rows_of_vsibench(whole: Path, tmp_path: Path) -> None:
    annotations = list(read_scene_annotations(whole / "annotations.json"))
    settings = GenerationSettings(wording="vsibench", max_relative_distance=3)
    count = write_questions(annotations, tmp_path / "questions.jsonl", 0, settings)
    questions = list(read_vsibench_questions(tmp_path / "questions.jsonl"))
    assert questions == [question for scene in annotations for question in generate_questions(scene, 0, settings)]
    assert len(questions) == count
    assert {question.dataset for question in questions} == {"synthetic_rooms"}
    for question in questions:
        assert question.video_path == f"{question.scene_name}.mp4"
        assert (whole / "videos" / question.video_path).is_file()


def test_scenes_of_another_kind_are_not_mixed_in(tmp_path: Path) -> None:
    write_rooms(tmp_path, 1, SETTINGS, 5)
    with pytest.raises(ValueError, match=r"holds scenes with num_frames 6 \(asked for: 7\); ask for the same, or name"):
        write_rooms(tmp_path, 1, SceneSettings(7, (56, 42)), 5)
    with pytest.raises(ValueError, match=r"seed 5 \(asked for: 6\), geometry False \(asked for: True\)"):
        write_rooms(tmp_path, 1, SETTINGS, 6, geometry=True)
    settings = json.loads((tmp_path / "rooms.json").read_text())
    (tmp_path / "rooms.json").write_text(json.dumps({**settings, "edition": 0}))
    with pytest.raises(ValueError, match=r"edition 0 \(asked for: 1\)"):
        write_rooms(tmp_path, 1, SETTINGS, 5)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="Another process is writing"):
        write_rooms(tmp_path, 1, SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_scenes": 0}, "num_scenes must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_rooms(tmp_path / "rooms", **{"num_scenes": 1, "settings": SETTINGS, **arguments})
    assert not (tmp_path / "rooms").exists()
