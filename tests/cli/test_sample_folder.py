"""`spatial-mllm sample FOLDER` with a folder of videos."""

import json
import shutil
from pathlib import Path

import pytest

from .conftest import Command


@pytest.fixture
def folder(tmp_path: Path, room_clip: Path) -> Path:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("b.mp4", "a.mp4"):
        shutil.copy(room_clip, videos / name)
    (videos / "c.mkv").write_bytes(b"this is no video")
    (videos / "notes.txt").write_text("no video, and not taken for one")
    (videos / "frames.mp4").mkdir()  # nor is a folder
    return videos


def test_each_video_gives_a_line_and_a_broken_one_says_why(run: Command, folder: Path, tiny_checkpoint: Path) -> None:
    result = run("sample", folder, "--model", tiny_checkpoint, "--frame-sampling", "uniform", "-n", 4)
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [Path(line["video"]).name for line in lines] == ["a.mp4", "b.mp4", "c.mkv"]
    assert [frame["index"] for frame in lines[0]["frames"]] == [0, 8, 15, 23]
    assert lines[0]["total_frames"] == 24
    assert "cannot be opened as a video" in lines[2]["problem"]
    assert result.code == 0


def test_a_video_of_a_folder_is_sampled_as_it_is_alone(run: Command, folder: Path, tiny_checkpoint: Path) -> None:
    (folder / "c.mkv").unlink()
    options = ("--model", tiny_checkpoint, "-n", 4)
    together = [json.loads(line) for line in run("sample", folder, *options).out.splitlines()]
    alone = json.loads(run("sample", folder / "a.mp4", *options, "--json").out)
    assert alone["coverage"]["covered_voxels"] > 0
    assert {**together[0]} == {"video": str(folder / "a.mp4"), **alone}


def test_frames_go_into_a_folder_for_each_video(
    run: Command, folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "frames"
    run("sample", folder, "--model", tiny_checkpoint, "--frame-sampling", "uniform", "-n", 4, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "b.mp4"]
    assert [path.name for path in sorted((out / "b.mp4").iterdir())][1] == "001_frame_000008.png"


def test_no_readable_video_at_all_is_an_error(run: Command, tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"this is no video")
    result = run("sample", tmp_path, "--model", tiny_checkpoint, "--frame-sampling", "uniform")
    assert result.code == 2
    assert "None of the 1 videos could be read" in result.err


def test_pictures_of_one_video_are_refused_for_a_folder(run: Command, folder: Path, tiny_checkpoint: Path) -> None:
    result = run("sample", folder, "--model", tiny_checkpoint, "--plot", "plot.png")
    assert result.code == 2
    assert "show one video, and this is a folder of videos" in result.err


def test_ray_gives_the_same_lines(run: Command, folder: Path, tiny_checkpoint: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    options = ("--model", tiny_checkpoint, "--frame-sampling", "uniform", "-n", 4)
    try:
        on_ray = run("sample", folder, *options, "--engine", "ray").out.splitlines()
    finally:
        ray.shutdown()
    assert sorted(on_ray) == sorted(run("sample", folder, *options).out.splitlines())
