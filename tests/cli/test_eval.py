"""`spatial-mllm eval` as a user runs it: on a tiny checkpoint and rendered rooms, killed and continued."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spatial_mllm_hf.cli.evaluate import resolve_shard
from spatial_mllm_hf.hub.model_card import read_results

from .conftest import Command

COMMAND = (sys.executable, "-m", "spatial_mllm_hf.cli.main")
QUESTIONS = (
    ("object_counting", "How many chair(s) are in this room?", None, "3"),
    ("room_size_estimation", "What is the size of this room (in square meters)?", None, "31.5"),
    (
        "object_rel_distance",
        "Which of these objects (bed, sofa) is the closest to the lamp?",
        ("A. bed", "B. sofa"),
        "B",
    ),
    ("object_rel_direction_easy", "Is the bed to the left or the right?", ("A. left", "B. right"), "A"),
    ("object_size_estimation", "What is the length of the longest dimension of the bed?", None, "201"),
)
SCENES = tuple(f"room_{letter}" for letter in "abcdefgh")
TOTAL = len(SCENES) * len(QUESTIONS)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory, room_clip: Path) -> Path:
    """A folder with `questions.jsonl` in VSI-Bench's form and `videos/`: eight rooms with five questions each."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "videos" / "rooms").mkdir(parents=True)
    rows = []
    for scene in SCENES:
        shutil.copy(room_clip, folder / "videos" / "rooms" / f"{scene}.mp4")
        for question_type, question, options, truth in QUESTIONS:
            row = {"id": len(rows), "dataset": "rooms", "scene_name": scene, "question_type": question_type}
            rows.append({**row, "question": question, "options": options, "ground_truth": truth})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(benchmark: Path, model: Path, out: Path, *more: str) -> list[str]:
    options = ["--data", str(benchmark / "questions.jsonl"), "--videos", str(benchmark / "videos"), "--out", str(out)]
    options += ["--model", str(model), "--num-frames", "4", "--num-candidate-frames", "8", "--candidate-size", "56"]
    return [*COMMAND, "eval", "vsibench", *options, "--max-new-tokens", "4", "--batch-size", "2", *more]


def start(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300, check=False
    )


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(benchmark: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed")
    done = start(command(benchmark, tiny_checkpoint, out, "--write-model-index", str(out / "card" / "index.json")))
    assert done.returncode == 0, done.stderr
    assert f"{TOTAL} of {TOTAL} questions answered." in done.stdout
    assert "| **this run** | official-code |" in done.stdout
    return out


def test_a_run_leaves_answers_results_report_and_chart(undisturbed: Path, tiny_checkpoint: Path) -> None:
    found = results(undisturbed)
    assert found["model"] == str(tiny_checkpoint)
    assert found["model_revision"].startswith("sha256:")
    assert found["settings"]["sampling"]["frame_sampling"] == "space_aware"
    assert found["settings"]["generation"] == {"max_new_tokens": 4, "do_sample": False}
    assert set(found["scores"]) == {"official-code", "benchmark", "lenient"}
    assert found["scores"]["official-code"].keys() >= {"Count", "Rel. dir.", "Micro", "Macro"}
    assert found["scores"]["official-code"]["Route"] is None
    qwen = {"model": "Qwen2.5-VL-3B", "source": "v1.1 README", "scores": {"Micro": 27.86, "Macro": 27.25}}
    assert qwen in found["published"]
    lines = [json.loads(line) for line in (undisturbed / "answers.jsonl").read_text().splitlines()]
    assert [len(line["frames"][0]) for line in lines] == [4] * TOTAL
    assert (undisturbed / "report.png").stat().st_size > 0
    assert "| Qwen2.5-VL-3B | paper | 24.3 |" in (undisturbed / "report.md").read_text()


def test_the_model_index_is_what_push_reads(undisturbed: Path) -> None:
    found = {result.metric_type: result for result in read_results(undisturbed / "card" / "index.json")}
    assert found["Micro"].dataset_name == "VSI-Bench"
    assert found["Micro"].metric_value == pytest.approx(
        results(undisturbed)["scores"]["official-code"]["Micro"], abs=0.01
    )
    assert "Route" not in found


def test_killed_five_times_and_continued_it_ends_as_an_undisturbed_run(
    benchmark: Path, tiny_checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, draw = tmp_path / "run", random.Random(0)
    answered = []
    for kill in range(5):
        process = subprocess.Popen(
            command(benchmark, tiny_checkpoint, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before, deadline = count_lines(out), time.monotonic() + 120
        while count_lines(out) == before and kill != 2 and time.monotonic() < deadline:
            time.sleep(0.005)  # once, the third time, it is killed before it has done anything
        time.sleep(draw.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        answered.append(count_lines(out))
    assert 0 < answered[0] < TOTAL, "the kill came too late to matter"
    done = start(command(benchmark, tiny_checkpoint, out))
    assert done.returncode == 0, done.stderr
    ours, theirs = ((folder / "answers.jsonl").read_text().splitlines() for folder in (out, undisturbed))
    assert sorted(ours) == sorted(theirs)
    assert results(out) == results(undisturbed)


def count_lines(out: Path) -> int:
    log = out / "answers.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_two_ranks_as_torchrun_starts_them_share_the_work(
    benchmark: Path, tiny_checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = command(benchmark, tiny_checkpoint, tmp_path)
    ranks = [
        subprocess.Popen(
            arguments,
            env={**os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    ends = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ends
    assert results(tmp_path) == results(undisturbed)
    assert sorted(path.name for path in tmp_path.glob("answers*.jsonl")) == [
        "answers-0-of-2.jsonl",
        "answers-1-of-2.jsonl",
    ]


def test_two_ray_actors_of_which_one_is_killed_end_as_an_undisturbed_run(
    benchmark: Path, tiny_checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(benchmark, tiny_checkpoint, out, "--engine", "ray", "--workers", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        text=True,
    )
    deadline = time.monotonic() + 240
    while len(actors := ray_actors(process.pid)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    ours, theirs = ((folder / "answers.jsonl").read_text().splitlines() for folder in (out, undisturbed))
    assert sorted(ours) == sorted(theirs)
    assert results(out) == results(undisturbed)


def ray_actors(parent: int) -> list[int]:
    """Processes of the actors below a process; Ray names them after what they do."""
    import psutil

    found = psutil.Process(parent).children(recursive=True)
    return [process.pid for process in found if process.is_running() and "MapWorker" in "".join(process.cmdline()[:1])]


def test_a_broken_and_a_missing_video_are_named_in_the_report(
    benchmark: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    videos = tmp_path / "videos" / "rooms"
    videos.mkdir(parents=True)
    (videos / "room_a.mp4").write_bytes(b"this is no video")
    shutil.copy(benchmark / "videos" / "rooms" / "room_b.mp4", videos)
    shutil.copy(benchmark / "questions.jsonl", tmp_path)
    done = start(command(tmp_path, tiny_checkpoint, tmp_path / "out", "--frame-sampling", "uniform"))
    assert done.returncode == 0, done.stderr
    assert f"5 of {TOTAL} questions answered." in done.stdout
    unanswered = results(tmp_path / "out")["unanswered_videos"]
    assert unanswered.keys() == {f"rooms/{scene}.mp4" for scene in SCENES} - {"rooms/room_b.mp4"}
    assert "cannot be opened as a video" in unanswered["rooms/room_a.mp4"]
    assert "There is no video file" in unanswered["rooms/room_c.mp4"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--shard", "2/2"), "--shard must be i/n with 0 <= i < n, such as 0/4, got '2/2'"),
        (("--shard", "0/2", "--engine", "ray"), "--shard and --engine ray exclude each other"),
        (("--edition", "debiased"), "does not say which questions are pruned"),
        (("--data", "nowhere"), "--data nowhere: there is no such file or folder"),
        (("--videos", "nowhere"), "--videos nowhere: there is no such folder"),
        (("--num-frames", "3"), "num_frames must be"),
        (("--workers", "2"), "--workers 2 needs --engine ray"),
        (("--temperature", "inf"), "--temperature must be a finite number, got inf"),
        (("--limit", "2", "--write-model-index", "index.json"), "scores of the whole benchmark: leave --limit out"),
    ],
)
def test_mistakes_are_one_line(
    run: Command, benchmark: Path, tiny_checkpoint: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    result = run(*command(benchmark, tiny_checkpoint, tmp_path / "out", *more)[len(COMMAND) :])
    assert result.code == 2
    assert message in result.error


def test_a_shard_is_what_is_named_or_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_shard("3/8", "local") == (3, 8)
    assert resolve_shard(None, "local") is None
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert resolve_shard(None, "local") == (1, 4)
    assert resolve_shard("0/2", "local") == (0, 2)
    assert resolve_shard(None, "ray") is None
    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match="WORLD_SIZE is 4 and RANK is not set"):
        resolve_shard(None, "local")
