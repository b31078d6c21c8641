"""Annotated scenes and oriented boxes: round trips, both file forms, and errors by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_scenes import furnished_scene, make_box, make_scene, random_box

from spatial_mllm_hf.data.oriented_boxes import OrientedBox
from spatial_mllm_hf.data.scene_annotations import (
    SceneAnnotation,
    read_scene_annotations,
    read_scene_names,
    write_scene_annotations,
)

ENTRY = make_scene({"bed": make_box((0, 1, 2))}, room_size=20.0).to_dict()


def read(path: Path) -> tuple[list[SceneAnnotation], list[str]]:
    """Scenes and errors."""
    found = list(read_scene_annotations(path))
    scenes = [scene for scene in found if isinstance(scene, SceneAnnotation)]
    return scenes, [str(error) for error in found if isinstance(error, ValueError)]


def changed(**keys: Any) -> dict[str, Any]:
    return {**ENTRY, **keys}


def with_box(**keys: Any) -> dict[str, Any]:
    return changed(object_bbox={"bed": [{**make_box((0, 1, 2)).to_dict(), **keys}]})


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_scenes_come_back_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scenes{suffix}"
    scenes = [
        furnished_scene(0),
        make_scene({}, name="bare"),
        make_scene(
            {"bed": random_box(np.random.default_rng(0))}, "videoed", room_center=(1.0, 2.0, 3.0), video="a/b.mp4"
        ),
    ]
    assert write_scene_annotations(scenes, path) == 3
    found, errors = read(path)
    assert errors == []
    assert [(scene.name, scene.to_dict()) for scene in found] == [(scene.name, scene.to_dict()) for scene in scenes]
    assert found[2].video == "a/b.mp4"
    assert read_scene_names(path) == ["room0000", "bare", "videoed"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_json_is_the_form_of_vsibench(tmp_path: Path) -> None:
    path = tmp_path / "scenes.json"
    write_scene_annotations([make_scene({"bed": make_box((0, 1, 2))}, room_size=20.0)], path)
    assert json.loads(path.read_text()) == {"scene0000_00": ENTRY}
    assert set(ENTRY["object_bbox"]["bed"][0]) == {"centroid", "axesLengths", "normalizedAxes", "min", "max"}


def test_nothing_is_left_of_a_writing_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "scenes.json"
    path.write_text("before")

    def scenes() -> Any:
        yield furnished_scene(0)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_scene_annotations(scenes(), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({key: value for key, value in ENTRY.items() if key != "dataset"}, "'dataset' is missing"),
        ({key: value for key, value in ENTRY.items() if key != "object_bbox"}, "'object_bbox' is missing"),
        ([], "another form"),
        (None, "another form"),
        (changed(object_counts={"bed": "many"}), "another form"),
        (changed(object_bbox=[]), "another form"),
        (changed(room_size=0), "room_size must be a number of square metres above 0, got 0.0"),
        (changed(room_size=float("nan")), "room_size must be a number"),
        (changed(first_seen={"bed": float("inf")}), "first_seen must hold seconds"),
        (with_box(axesLengths=[1, 2]), "3 coordinates, 3 lengths and 9 numbers"),
        (with_box(centroid=[0, float("nan"), 0]), "must be finite"),
        (with_box(axesLengths=[1, -2, 1]), "lengths not negative"),
        (with_box(normalizedAxes=[1, 0, 0, 0, 2, 0, 0, 0, 1]), "unit vectors at right angles"),
        (with_box(normalizedAxes=[1, 0, 0, 0.6, 0.8, 0, 0, 0, 1]), "unit vectors at right angles"),
    ],
)
def test_a_scene_that_cannot_be_read_is_named_and_the_others_come(entry: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scenes.json"
    path.write_text(json.dumps({"good": ENTRY, "bad": entry, "also good": ENTRY}))
    scenes, errors = read(path)
    assert [scene.name for scene in scenes] == ["good", "also good"]
    assert len(errors) == 1
    assert errors[0].startswith("Scene bad: ")
    assert message in errors[0]


def test_lines_that_cannot_be_read_are_named_and_the_others_come(tmp_path: Path) -> None:
    path = tmp_path / "scenes.jsonl"
    lines = [
        json.dumps({"name": "one", **ENTRY}),
        "{",
        "",
        "[1]",
        json.dumps(ENTRY),
        json.dumps({"name": "two", **ENTRY}),
    ]
    path.write_text("\n".join(lines)[:-9])  # the last is cut off
    scenes, errors = read(path)
    assert [scene.name for scene in scenes] == ["one"]
    assert [error.partition(": ")[0] for error in errors] == [f"{path}, line {number}" for number in (2, 4, 5, 6)]
    assert "not JSON" in errors[0]
    assert 'must be an object with a "name"' in errors[1]


def test_lines_are_read_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "scenes.jsonl"
    path.write_text(json.dumps({"name": "one", **ENTRY}) + "\n")
    scenes = read_scene_annotations(path)
    with path.open("a") as file:
        file.write(json.dumps({"name": "two", **ENTRY}) + "\n")
    assert [scene.name for scene in scenes if isinstance(scene, SceneAnnotation)] == ["one", "two"]


def test_files_of_something_else(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.json", "[]", "must hold an object of scenes by name, got a list"),
        ("b.json", "{", "is not JSON"),
        ("c.txt", "", "must end in .json or .jsonl, got .txt"),
    ):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            list(read_scene_annotations(path))
    assert read_scene_names(tmp_path / "a.json") is None
    with pytest.raises(ValueError, match=r"must end in \.json or \.jsonl, got no suffix"):
        write_scene_annotations([], tmp_path / "scenes")


@pytest.mark.parametrize("seed", range(3))
def test_corners_and_bounds_of_a_turned_box(seed: int) -> None:
    box = random_box(np.random.default_rng(seed))
    local = (box.corners - box.centroid) @ box.axes.T
    np.testing.assert_allclose(np.abs(local), np.tile(box.lengths / 2, (8, 1)))
    assert len(np.unique(np.sign(local), axis=0)) == 8
    np.testing.assert_allclose(box.bounds, (box.corners.min(0), box.corners.max(0)))
    again = OrientedBox.from_dict(box.to_dict())
    np.testing.assert_array_equal(again.corners, box.corners)
