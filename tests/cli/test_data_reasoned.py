"""`spatial-mllm data reasoned`: what it writes and how it ends."""

import json
from pathlib import Path

import pytest

from spatial_mllm_hf.data.conversations import read_conversations
from spatial_mllm_hf.data.reasoned_rooms import option_letters, reasoned_frames, reasoned_rooms
from spatial_mllm_hf.data.synthetic_data_set import write_rooms
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings

from .conftest import Command


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rooms with geometry. Read only."""
    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, 2, SceneSettings(8, (40, 30), compass=True), geometry=True)
    return folder


@pytest.mark.parametrize(("suffix", "options"), [(".jsonl", ()), (".parquet", ("--workers", 2))])
def test_samples_are_those_of_the_library(
    suffix: str, options: tuple[object, ...], run: Command, rooms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / f"reasoned{suffix}"
    result = run("data", "reasoned", rooms, "--out", out, "--questions", 3, "--samples", 2, "--seed", 4, *options)
    assert result.code == 0, result.err
    assert result.out == f"Wrote {out}: 12 questions in 4 samples on 2 rooms.\n"
    assert list(read_conversations(out)) == list(reasoned_rooms(rooms, 3, 2, 4))


def test_frames_and_their_pictures(run: Command, rooms: Path, tmp_path: Path) -> None:
    out = tmp_path / "frames.jsonl"
    result = run("data", "reasoned", rooms, "--out", out, "--frames", 3, "--questions", 2)
    assert result.code == 0, result.err
    rows = list(read_conversations(out))
    questions = sum(len(row.turns) // 2 for row in rows)
    assert result.out == f"Wrote {out}: {questions} questions in {len(rows)} samples on {len(rows)} frames.\n"
    assert rows == list(reasoned_frames(rooms, tmp_path / "again", 2, 3))
    assert {path.name for path in (tmp_path / "frames").iterdir()} == {row.images[0] for row in rows}
    for options in (("--samples", 2), ("--offsets",)):
        refused = run("data", "reasoned", rooms, "--out", out, "--frames", 3, *options)
        assert refused.code == 2
        assert f"{options[0]} is of walks" in refused.error


def test_letters_are_of_text_alone(run: Command, rooms: Path, tmp_path: Path) -> None:
    out = tmp_path / "letters.jsonl"
    result = run("data", "reasoned", rooms, "--out", out, "--letters", "--questions", 4, "--samples", 5, "--seed", 3)
    assert result.code == 0, result.err
    rows = list(read_conversations(out))
    assert rows == list(option_letters(rooms, 4, 5, 3))
    assert len(rows) == 10
    assert run("data", "reasoned", rooms, "--out", out, "--letters", "--told", "--questions", 4).code == 0
    assert list(read_conversations(out)) == list(option_letters(rooms, 4, told=True))
    assert "--told goes with --letters" in run("data", "reasoned", rooms, "--out", out, "--told").error
    assert not (tmp_path / "letters").exists()
    for options in (("--frames", 2), ("--offsets",)):
        refused = run("data", "reasoned", rooms, "--out", out, "--letters", *options)
        assert refused.code == 2
        assert "--letters is of text alone" in refused.error


def test_offsets_reach_the_samples(run: Command, rooms: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    assert run("data", "reasoned", rooms, "--out", out, "--questions", 9, "--offsets").code == 0
    assert (
        list(read_conversations(out)) == list(reasoned_rooms(rooms, 9, offsets=True)) != list(reasoned_rooms(rooms, 9))
    )


def test_ten_questions_on_each_room_unless_told_otherwise(run: Command, rooms: Path, tmp_path: Path) -> None:
    assert run("data", "reasoned", rooms, "--out", tmp_path / "a.jsonl").code == 0
    assert list(read_conversations(tmp_path / "a.jsonl")) == list(reasoned_rooms(rooms, 10, 1, 0))


def test_mistakes_end_with_one_line_and_leave_no_file(run: Command, rooms: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "geometry").symlink_to(rooms / "geometry")
    nothing = {"object_counts": {}, "object_bbox": {}, "first_seen": {}, "room_size": None}
    entries = json.loads((rooms / "annotations.json").read_text())
    (bare / "annotations.json").write_text(json.dumps({name: entry | nothing for name, entry in entries.items()}))
    out = tmp_path / "out"
    for folder, file, message in (
        (tmp_path, out / "a.jsonl", f"{tmp_path} has no annotations.json: it is not a folder of"),
        (rooms, out / "a.txt", "a.txt must end in .jsonl or .parquet, got .txt"),
        (bare, out / "a.jsonl", "None of the rooms has a question to ask; are they too bare"),
        (bare, out / "a.parquet", "None of the rooms has a question to ask; are they too bare"),
    ):
        result = run("data", "reasoned", folder, "--out", file)
        assert result.code == 2
        assert message in result.error
        assert result.out == ""
        assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("option", ["--questions", "--samples"])
def test_numbers_below_1_are_refused(option: str, run: Command, rooms: Path, tmp_path: Path) -> None:
    result = run("data", "reasoned", rooms, "--out", tmp_path / "a.jsonl", option, 0)
    assert result.code == 2
    assert option in result.err
    assert list(tmp_path.iterdir()) == []
