"""Scenes to leave out, from every kind of file."""

import json
from pathlib import Path

import pytest
from annotated_scenes import make_scene

from spatial_mllm_hf.data.scene_annotations import write_scene_annotations
from spatial_mllm_hf.data.scene_exclusion import read_excluded_scenes

QUESTION = {
    "id": 1,
    "dataset": "scannet",
    "scene_name": "scene0011_00",
    "question_type": "object_counting",
    "question": "How many chair(s) are in this room?",
    "options": None,
    "ground_truth": "4",
}
NAMES = {"scene0011_00", "scene0015_00"}


def test_a_list_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# VSI-Bench's\nscene0011_00\n\n  scene0015_00  # twice\nscene0015_00\n")
    assert read_excluded_scenes(path) == NAMES


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_annotated_scenes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scenes{suffix}"
    write_scene_annotations([make_scene({}, name) for name in sorted(NAMES)], path)
    assert read_excluded_scenes(path) == NAMES


def test_scenes_that_cannot_be_read_are_left_out_too(tmp_path: Path) -> None:
    path = tmp_path / "scenes.json"
    path.write_text(json.dumps(dict.fromkeys(NAMES)))
    assert read_excluded_scenes(path) == NAMES


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_questions_of_vsibench(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"questions{suffix}"
    rows = [QUESTION, {**QUESTION, "id": 2}, {**QUESTION, "id": 3, "scene_name": "scene0015_00"}]
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert read_excluded_scenes(path) == NAMES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "# none\n\n", "names no scene to exclude"),
        ("a.json", "{}", "names no scene to exclude"),
        ("a.json", "[]", "names no scene to exclude"),
        ("a.json", "{", "is not JSON"),
        ("a.jsonl", '{"name": "a"}\n{"na', "line 2: not JSON"),
        ("a.jsonl", '{"scene": "a"}\n', "line 1: .* missing"),
        ("a.csv", "scene0011_00\n", "must end in .txt, .json, .jsonl or .parquet, got .csv"),
    ],
)
def test_files_that_name_nothing(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_excluded_scenes(path)
