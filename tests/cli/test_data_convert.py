"""`spatial-mllm data scannet | scanqa | sqa3d`: what they write and how they end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scannet_scans import MESH, OBJECTS, write_label_table, write_masks, write_scan

from spatial_mllm_hf.data.conversations import read_conversations
from spatial_mllm_hf.data.scene_annotations import SceneAnnotation, read_scene_annotations

from .conftest import Command

SCANQA = [
    {
        "scene_id": f"scene{number:04}_00",
        "question_id": f"train-scene{number:04}-0",
        "question": "What is brown?",
        "answers": ["chair", "the chair"],
        "object_names": ["chair"],
    }
    for number in range(3)
]
QUESTION = {
    "scene_id": "scene0380_00",
    "situation": "I face a window.",
    "alternative_situation": ["I look out."],
    "question": "What is on my right?",
    "question_id": 7,
}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("scene0001_00", "scene0001_01", "scene0002_00"):
        write_scan(tmp_path / "scans" / name)
    return tmp_path / "scans"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_label_table(tmp_path / "labels.tsv")


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_scannet_writes_scenes_and_names_the_bad_one(
    suffix: str, run: Command, scans: Path, labels: Path, tmp_path: Path
) -> None:
    (scans / "scene0001_01" / f"scene0001_01{MESH}").unlink()
    out = tmp_path / "out" / f"scenes{suffix}"
    result = run("data", "scannet", scans, "--labels", labels, "--out", out)
    assert result.code == 0
    (skipped,) = [line for line in result.err.splitlines() if "warning" in line]
    assert skipped.startswith("spatial-mllm: warning: skipped: Scene scene0001_01: ")
    assert result.out == f"Wrote {out}: 2 scenes, 16 objects of 6 categories; 1 skipped.\n"
    scenes = list(read_scene_annotations(out))
    assert all(isinstance(scene, SceneAnnotation) for scene in scenes)
    assert [scene.name for scene in scenes if isinstance(scene, SceneAnnotation)] == ["scene0001_00", "scene0002_00"]


def test_scannet_reads_a_split_without_the_excluded(run: Command, scans: Path, labels: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("scene0001_00\nscene0002_00\n")
    (tmp_path / "benchmark.txt").write_text("scene0002_00\n")
    out = tmp_path / "scenes.json"
    options = ("--scenes", tmp_path / "train.txt", "--exclude", tmp_path / "benchmark.txt")
    assert run("data", "scannet", scans, "--labels", labels, "--out", out, *options).code == 0
    assert list(json.loads(out.read_text())) == ["scene0001_00"]


def test_scannet_looks_for_first_sightings(run: Command, scans: Path, labels: Path, tmp_path: Path) -> None:
    couch = [placed.label for placed in OBJECTS].index("couch") + 2  # after the floor, which is object 0 and shown as 1
    for folder in scans.iterdir():
        write_masks(folder, {0: np.zeros((20, 30), np.uint8), 48: np.full((20, 30), couch, np.uint8)})
    out = tmp_path / "scenes.json"
    arguments = ("data", "scannet", scans, "--labels", labels, "--out", out, "--frames")
    assert run(*arguments, "--min-pixels", 600).code == 0
    assert [entry["first_seen"] for entry in json.loads(out.read_text()).values()] == [{"sofa": 2.0}] * 3
    assert run(*arguments).code == 0  # 600 pixels are fewer than the default asks for
    assert all("first_seen" not in entry for entry in json.loads(out.read_text()).values())


def test_scannet_without_a_good_scan_writes_nothing(run: Command, scans: Path, labels: Path, tmp_path: Path) -> None:
    for folder in scans.iterdir():
        (folder / f"{folder.name}{MESH}").unlink()
    out = tmp_path / "scenes.json"
    result = run("data", "scannet", scans, "--labels", labels, "--out", out)
    assert result.code == 2
    assert result.error == f"None of the 3 scans in {scans} could be read; each is named above."
    assert result.err.count("skipped: Scene ") == 3
    assert not list(tmp_path.glob("scenes*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "scenes.csv"), "scenes.csv must end in .json or .jsonl, got .csv."),
        (("--out", "scenes.json", "--min-pixels", 3), "--min-pixels says what counts as seen in the masks"),
    ],
)
def test_scannet_refuses_options_that_do_not_fit(
    options: tuple[Any, ...],
    message: str,
    run: Command,
    scans: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("data", "scannet", scans, "--labels", labels, *options)
    assert result.code == 2
    assert result.error.startswith(message)


def test_an_empty_list_of_scenes_is_an_error(run: Command, scans: Path, labels: Path, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n")
    options = ("--out", tmp_path / "scenes.json", "--scenes", tmp_path / "none.txt")
    result = run("data", "scannet", scans, "--labels", labels, *options)
    assert result.code == 2
    assert result.error == f"--scenes {tmp_path / 'none.txt'} holds no names of scenes; expected one a line."


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_scanqa_writes_conversations(suffix: str, run: Command, tmp_path: Path) -> None:
    (tmp_path / "benchmark.txt").write_text("scene0001_00\n")
    out = tmp_path / f"scanqa{suffix}"
    source = write(tmp_path / "ScanQA_v1.0_train.json", SCANQA)
    result = run("data", "scanqa", source, "--out", out, "--exclude", tmp_path / "benchmark.txt")
    assert (result.code, result.out) == (0, f"Wrote {out}: 4 conversations on 2 scenes.\n")
    rows = list(read_conversations(out))
    assert [row.turns[1][1] for row in rows] == ["<answer>chair</answer>", "<answer>the chair</answer>"] * 2
    assert {path for row in rows for path in row.videos} == {"scannet/scene0000_00.mp4", "scannet/scene0002_00.mp4"}


def test_scanqa_takes_its_split_and_style(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "scanqa.jsonl"
    source = write(tmp_path / "ScanQA_v1.0_val.json", SCANQA)
    assert run("data", "scanqa", source, "--out", out, "--split", "val", "--style", "plain").code == 0
    rows = list(read_conversations(out))
    assert [row.turns for row in rows] == [
        (("human", "<video>\nWhat is brown? Answer the question simply."), ("gpt", "chair"))
    ] * 3


def test_a_damaged_entry_is_one_line_and_no_file(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "scanqa.jsonl"
    source = write(tmp_path / "scanqa.json", [*SCANQA, {**SCANQA[0], "question_id": "new", "question": None}])
    result = run("data", "scanqa", source, "--out", out)
    assert result.code == 2
    assert result.error == "scanqa.json[3].question must be text, got None."
    assert list(tmp_path.iterdir()) == [source]


def test_sqa3d_writes_conversations(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "sqa3d.jsonl"
    questions = write(tmp_path / "questions.json", {"questions": [QUESTION]})
    annotations = write(
        tmp_path / "annotations.json", {"annotations": [{"question_id": 7, "answers": [{"answer": "desk"}]}]}
    )
    result = run("data", "sqa3d", questions, annotations, "--out", out, "--style", "grpo")
    assert (result.code, result.out) == (0, f"Wrote {out}: 2 conversations on 1 scenes.\n")
    assert [row.turns[0][1].split("\n")[1] for row in read_conversations(out)] == [
        "I face a window. What is on my right?",
        "I look out. What is on my right?",
    ]


def test_nothing_left_is_an_error_and_no_file(run: Command, tmp_path: Path) -> None:
    (tmp_path / "benchmark.txt").write_text("scene0000_00\n")
    source, out = write(tmp_path / "scanqa.json", SCANQA[:1]), tmp_path / "scanqa.parquet"
    result = run("data", "scanqa", source, "--out", out, "--exclude", tmp_path / "benchmark.txt")
    assert (result.code, result.error) == (2, "No question is left; are all scenes excluded?")
    assert not list(tmp_path.glob("*.parquet*"))
