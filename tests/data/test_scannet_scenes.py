"""ScanNet's own files into scene annotations: known boxes come back, damaged scans are named."""

import json
import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scannet_scans import (
    AGGREGATION,
    ALIGNMENT,
    LABELS,
    MESH,
    OBJECTS,
    SEGMENTS,
    PlacedBox,
    axis_alignment,
    encode_png,
    rotation_about_z,
    write_json,
    write_label_table,
    write_masks,
    write_ply,
    write_scan,
)

from spatial_mllm_hf.data.scannet_files import (
    read_axis_alignment,
    read_instance_masks,
    read_label_map,
    read_objects,
    read_vertices,
)
from spatial_mllm_hf.data.scannet_scenes import (
    FRAME_STEP,
    find_scans,
    first_seen_from_masks,
    read_scannet_scene,
    read_scannet_scenes,
)
from spatial_mllm_hf.data.scene_annotations import SceneAnnotation

MILLIMETRE = 1e-3
# What the labels of the synthetic scan are called in questions.
CATEGORIES = {
    "chair": "chair",
    "office chair": "chair",
    "couch": "sofa",
    "desk": "table",
    "window": "window",
    "trash can": "trash bin",
    "recycling bin": "trash bin",
    "mouse": "computer mouse",
}
SHEET = (30, 50)  # rows and columns of a mask


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scans" / "scene0001_00")


@pytest.fixture
def label_map(tmp_path: Path) -> dict[str, str | None]:
    return read_label_map(write_label_table(tmp_path / "labels.tsv"))


def part(scan: Path, suffix: str) -> Path:
    return scan / f"{scan.name}{suffix}"


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


# --- what is read ---


def test_each_object_has_its_box_along_the_walls(scan: Path, label_map: dict[str, str | None]) -> None:
    scene = read_scannet_scene(scan, label_map)
    remaining = {category: list(boxes) for category, boxes in scene.boxes.items()}
    for placed in OBJECTS:
        category = CATEGORIES.get(placed.label)
        if category is None or placed.label == "mouse":
            continue
        box = remaining[category].pop(0)  # in the order of the objects
        assert np.sort(box.lengths) == pytest.approx(np.sort(placed.size), abs=MILLIMETRE)
        assert box.centroid == pytest.approx(placed.center, abs=MILLIMETRE)
        longest = box.axes[np.argmax(box.lengths)] @ placed.rotation[:, np.argmax(placed.size)]
        assert abs(longest) == pytest.approx(1, abs=1e-4) or placed.label == "office chair"  # which is square
    assert not any(remaining.values())


def test_categories_are_merged_and_structures_left_out(scan: Path, label_map: dict[str, str | None]) -> None:
    scene = read_scannet_scene(scan, label_map)
    assert (scene.name, scene.dataset) == ("scene0001_00", "scannet")
    assert dict(scene.object_counts) == {
        "chair": 2,
        "sofa": 1,
        "table": 1,
        "window": 1,
        "trash bin": 2,
        "computer mouse": 1,
    }
    assert set(scene.boxes) == set(scene.object_counts) - {"computer mouse"}  # a single vertex: counted, but no box


def test_the_room_is_as_large_as_its_floor(scan: Path, label_map: dict[str, str | None]) -> None:
    scene = read_scannet_scene(scan, label_map)
    assert scene.room_size is not None
    assert round(scene.room_size, 1) == 20.0
    assert scene.room_center is not None
    assert scene.room_center[:2] == pytest.approx((2.5, 2), abs=0.2)
    assert scene.first_seen == {}


def test_a_scene_survives_its_file_form(scan: Path, label_map: dict[str, str | None]) -> None:
    scene = read_scannet_scene(scan, label_map)
    again = SceneAnnotation.from_dict(scene.name, json.loads(json.dumps(scene.to_dict())))
    assert again.to_dict() == scene.to_dict()


def test_how_the_scan_stands_changes_no_size(tmp_path: Path, label_map: dict[str, str | None]) -> None:
    a = read_scannet_scene(write_scan(tmp_path / "a" / "scene0001_00"), label_map)
    b = read_scannet_scene(write_scan(tmp_path / "b" / "scene0001_00", alignment=rotation_about_z(-2)), label_map)
    for category, boxes in a.boxes.items():
        for one, other in zip(boxes, b.boxes[category], strict=True):
            assert np.sort(one.lengths) == pytest.approx(np.sort(other.lengths), abs=MILLIMETRE)
            assert one.centroid == pytest.approx(other.centroid, abs=MILLIMETRE)


def test_labels_go_by_scannet200_names_and_then_by_nyu40(label_map: dict[str, str | None]) -> None:
    expected = dict.fromkeys(LABELS) | CATEGORIES | {"refrigerator": "refrigerator", "mattress": "mattress"}
    assert label_map == expected


def test_segments_are_looked_up_and_not_counted(scan: Path) -> None:
    num_vertices = len(read_vertices(part(scan, MESH)))
    objects = read_objects(part(scan, AGGREGATION), part(scan, SEGMENTS), num_vertices)
    assert [found.label for found in objects] == ["floor", *(placed.label for placed in OBJECTS)]
    assert [found.object_id for found in objects] == list(range(len(OBJECTS) + 1))
    assert np.concatenate([found.vertices for found in objects]).tolist() == list(range(num_vertices))


def test_the_alignment_is_read_row_by_row(scan: Path) -> None:
    assert read_axis_alignment(part(scan, ALIGNMENT)) == pytest.approx(axis_alignment(), abs=1e-8)


# --- damaged scans ---


def lose_vertices(scan: Path) -> None:
    change_json(part(scan, SEGMENTS), lambda content: content["segIndices"].pop())


def name_another_segment(scan: Path) -> None:
    change_json(part(scan, AGGREGATION), lambda content: content["segGroups"][2]["segments"].append(99))


def spoil_an_index(scan: Path) -> None:
    change_json(part(scan, SEGMENTS), lambda content: content["segIndices"].append([7]))


def lose_a_label(scan: Path) -> None:
    change_json(part(scan, AGGREGATION), lambda content: content["segGroups"][2].pop("label"))


def invent_a_label(scan: Path) -> None:
    change_json(part(scan, AGGREGATION), lambda content: content["segGroups"][2].update(label="flux capacitor"))


def cut_off(suffix: str) -> Callable[[Path], None]:
    def cut(scan: Path) -> None:
        path = part(scan, suffix)
        path.write_bytes(path.read_bytes()[:-40])

    return cut


def spoil_a_vertex(scan: Path) -> None:
    vertices = read_vertices(part(scan, MESH))
    vertices[5, 1], vertices[9] = np.nan, np.inf
    write_ply(part(scan, MESH), vertices)


def change_header(old: bytes, new: bytes) -> Callable[[Path], Any]:
    return lambda scan: part(scan, MESH).write_bytes(part(scan, MESH).read_bytes().replace(old, new, 1))


def say(suffix: str, text: str) -> Callable[[Path], None]:
    return lambda scan: part(scan, suffix).write_text(text) and None


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no mesh": (lambda scan: part(scan, MESH).unlink(), MESH),
    "no segments": (lambda scan: part(scan, SEGMENTS).unlink(), SEGMENTS),
    "mesh cut off": (cut_off(MESH), r"_vh_clean_2\.ply is not a whole PLY file"),
    "mesh of another type": (change_header(b"property float x", b"property flo x"), "is not a whole PLY file"),
    "mesh without type": (change_header(b"uchar red", b"red"), "is not a whole PLY file"),
    "mesh is text": (say(MESH, "hello"), r"_vh_clean_2\.ply is not a whole PLY file"),
    "vertices not finite": (spoil_a_vertex, r"2 of \d+ vertices are not finite"),
    "segments cut off": (cut_off(SEGMENTS), r"segs\.json is not JSON"),
    "other mesh": (lose_vertices, r"segs\.json is of a mesh of \d+ vertices, and this one has \d+"),
    "segments of no numbers": (spoil_an_index, r"segs\.json: segIndices must be whole numbers"),
    "other segments": (name_another_segment, r"object 2 \(office chair\) has segments that .* lacks, such as 99"),
    "object without label": (lose_a_label, r"segGroups\[2\] is of another form: KeyError\('label'\)"),
    "unknown label": (invent_a_label, "the table of labels lacks 'flux capacitor'"),
    "no groups": (say(AGGREGATION, "[]"), "must hold an object with a list 'segGroups'"),
    "alignment is no text": (lambda scan: part(scan, ALIGNMENT).write_bytes(b"\xff"), r"scene0001_00\.txt is not text"),
    "no alignment": (say(ALIGNMENT, "colorHeight = 968\n"), "has no axisAlignment"),
    "short alignment": (say(ALIGNMENT, "axisAlignment = 1 0 0\n"), "axisAlignment must be 16 numbers, got '1 0 0'"),
    "stretching alignment": (
        say(ALIGNMENT, "axisAlignment = 2 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n"),
        "axisAlignment must turn and shift",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_scan_is_named_and_the_next_is_read(fault: str, scan: Path, label_map: dict[str, str | None]) -> None:
    write_scan(scan.parent / "scene0001_01")
    damage, message = FAULTS[fault]
    damage(scan)
    bad, good = read_scannet_scenes(scan.parent, ["scene0001_00", "scene0001_01"], label_map)
    assert isinstance(bad, ValueError)
    assert str(bad).startswith("Scene scene0001_00: ")
    assert isinstance(good, SceneAnnotation)
    assert good.name == "scene0001_01"
    with pytest.raises(ValueError, match=message):
        raise bad


def test_a_table_of_another_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("raw_category\tnyu40id\nchair\t5\n")
    with pytest.raises(ValueError, match=r"labels\.tsv has no column nyu40class; expected ScanNet's scannetv2"):
        read_label_map(path)


def test_scans_are_found_by_name_and_chosen(scan: Path) -> None:
    for other in ("scene0000_01", "scene0002_00", "scene12", "backup"):
        (scan.parent / other).mkdir()
    assert find_scans(scan.parent) == ["scene0000_01", "scene0001_00", "scene0002_00"]
    assert find_scans(scan.parent, exclude=["scene0000_01"]) == ["scene0001_00", "scene0002_00"]
    assert find_scans(scan.parent, ["scene0009_00", "scene0001_00"]) == ["scene0001_00", "scene0009_00"]
    with pytest.raises(ValueError, match="no scan to read; expected folders sceneNNNN_NN"):
        find_scans(scan.parent, ["scene0001_00"], exclude=["scene0001_00"])


def test_a_listed_scan_that_is_not_there_is_named(scan: Path, label_map: dict[str, str | None]) -> None:
    (result,) = read_scannet_scenes(scan.parent, ["scene0404_00"], label_map)
    assert isinstance(result, ValueError)
    assert str(result).startswith("Scene scene0404_00: ")


# --- first seen ---


def sheet(values: dict[int, int]) -> np.ndarray:
    """A mask that shows so many pixels of each value."""
    mask = np.zeros(SHEET, np.uint8)
    pixels = np.repeat(list(values), list(values.values())) if values else []
    mask.reshape(-1)[: len(pixels)] = pixels
    return mask


def test_a_category_is_seen_with_enough_pixels_of_all_its_objects() -> None:
    masks = [(0.0, sheet({1: 9})), (1.0, sheet({1: 6, 2: 4, 3: 200})), (2.0, sheet({1: 50})), (3.5, sheet({4: 10}))]
    seen = first_seen_from_masks(masks, {1: "chair", 2: "chair", 4: "bed", 5: "sofa"}, min_pixels=10)
    assert seen == {"chair": 1.0, "bed": 3.5}


def test_no_mask_is_looked_at_after_all_were_seen() -> None:
    def masks() -> Any:
        yield 0.0, sheet({1: 1, 2: 1})
        raise AssertionError("all categories were seen before")

    assert first_seen_from_masks(masks(), {1: "chair", 2: "bed"}, min_pixels=1) == {"chair": 0.0, "bed": 0.0}


@pytest.mark.parametrize("packed", [True, False])
def test_masks_of_a_scan_say_when(packed: bool, scan: Path, label_map: dict[str, str | None]) -> None:
    values = {placed.label: number + 2 for number, placed in enumerate(OBJECTS)}  # the floor is object 0
    frames = {
        0: {values["cabinet"]: 50},
        2 * FRAME_STEP: {values["couch"]: 40, values["desk"]: 3},
        2 * FRAME_STEP + 1: {values["desk"]: 40},  # between the frames that are looked at
        10 * FRAME_STEP: {values["desk"]: 40, values["couch"]: 40, values["recycling bin"]: 40},
    }
    write_masks(scan, {frame: sheet(seen) for frame, seen in frames.items()}, packed)
    scene = read_scannet_scene(scan, label_map, masks=True, min_pixels=20)
    assert scene.first_seen == {"sofa": 2.0, "table": 10.0, "trash bin": 10.0}


def test_masks_come_in_order_of_time(scan: Path) -> None:
    write_masks(scan, {frame: sheet({1: frame + 1}) for frame in (10, 2, 0, 4)})
    found = list(read_instance_masks(scan, frame_step=2))
    assert [frame for frame, _ in found] == [0, 2, 4, 10]
    assert [int((mask == 1).sum()) for _, mask in found] == [1, 3, 5, 11]


def damage_archive(scan: Path) -> None:
    write_masks(scan, {0: sheet({1: 5})})
    part(scan, "_2d-instance-filt.zip").write_bytes(b"PK no archive")


def damage_mask(scan: Path) -> None:
    with zipfile.ZipFile(part(scan, "_2d-instance-filt.zip"), "w") as archive:
        archive.writestr("instance-filt/0.png", encode_png(sheet({1: 5}))[:50])


def colour_mask(scan: Path) -> None:
    write_masks(scan, {0: np.zeros((4, 4, 3), np.uint8)}, packed=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda scan: None, r"no instance masks: neither scene0001_00_2d-instance-filt\.zip nor its folder"),
        (damage_archive, r"scene0001_00_2d-instance-filt\.zip is damaged"),
        (damage_mask, r"the instance mask instance-filt/0\.png cannot be read"),
        (colour_mask, r"must have one channel, got the shape \[4, 4, 3\]"),
    ],
)
def test_missing_and_damaged_masks_are_errors_of_the_scan(
    damage: Callable[[Path], None], message: str, scan: Path, label_map: dict[str, str | None]
) -> None:
    damage(scan)
    (result,) = read_scannet_scenes(scan.parent, [scan.name], label_map, masks=True)
    assert isinstance(result, ValueError)
    with pytest.raises(ValueError, match=f"Scene scene0001_00: .*{message}"):
        raise result


def test_a_flat_window_has_a_box_without_thickness(tmp_path: Path, label_map: dict[str, str | None]) -> None:
    window = PlacedBox("window", (1.5, 0.0, 0.8), (2, 2, 1), yaw=0.3, pitch=0.5)
    scene = read_scannet_scene(write_scan(tmp_path / "scene0003_00", (window,)), label_map)
    (box,) = scene.boxes["window"]
    assert np.sort(box.lengths) == pytest.approx([0, 0.8, 1.5], abs=MILLIMETRE)
    normal = box.axes[np.argmin(box.lengths)]
    assert abs(normal @ (-math.sin(0.3), math.cos(0.3), 0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("library", ["scipy", "trimesh"])
def test_a_missing_library_is_no_fault_of_a_scan(
    library: str, scan: Path, label_map: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf'^This needs {library}, .* pip install "spatial-mllm-hf\[data\]"'):
        next(read_scannet_scenes(scan.parent, [scan.name], label_map))
