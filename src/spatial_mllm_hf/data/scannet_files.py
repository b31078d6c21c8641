"""ScanNet's own files (README and BenchmarkScripts of github.com/ScanNet/ScanNet), read into arrays.

A scan is a folder `sceneNNNN_NN` of files that begin with its name:

- `_vh_clean_2.ply`: the mesh, metres, z up;
- `.txt`: lines `key = value`, of them `axisAlignment`, a 4x4 matrix row by row that turns the walls along x and y;
- `_vh_clean_2.0.010000.segs.json`: `segIndices`, the segment of each vertex;
- `.aggregation.json`: `segGroups`, the objects, each with its `objectId`, its `label` and its `segments`;
- `_2d-instance-filt.zip`: `instance-filt/<frame>.png`, 8 bits, objectId + 1 where an object is seen and 0 elsewhere.

`scannetv2-labels.combined.tsv` says for each label of the annotators (`raw_category`) what it is in other vocabularies.
Not read: `_vh_clean.aggregation.json`, which counts the segments of another mesh (`_vh_clean.ply`).

trimesh reads the mesh: it is well kept, and an extra of this package already.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .object_classes import scannet_category
from .optional_libraries import needs
from .oriented_boxes import Array

LABEL_COLUMNS = ("raw_category", "nyu40class")
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class ScanNetObject:
    """One annotated object.

    Attributes:
        object_id: its number in the scan; a pixel of the instance masks that shows it has this number plus 1.
        label: what the annotators called it, a `raw_category`.
        vertices: numbers of its vertices.
    """

    object_id: int
    label: str
    vertices: NDArray[np.intp]


def read_label_map(path: Path) -> dict[str, str | None]:
    """What each label of the annotators is called in questions (`object_classes`); None where it is not asked about.

    Raises:
        ValueError: if the table lacks a column.
    """
    reader = csv.DictReader(_read_text(path).splitlines(), delimiter="\t")
    missing = [name for name in LABEL_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; expected ScanNet's scannetv2-labels.combined.tsv."
        )
    return {row["raw_category"]: scannet_category(row["nyu40class"], row["raw_category"]) for row in reader}


def read_vertices(path: Path) -> Array:
    """`[N, 3]` vertices of a mesh, in its order.

    Raises:
        ValueError: if the file is damaged, or a coordinate is not finite.
    """
    with needs("trimesh"):
        import trimesh
    try:
        mesh = trimesh.load_mesh(path, process=False)  # processing would merge vertices
    except (ValueError, KeyError, IndexError, TypeError) as error:  # how trimesh reports damage
        raise ValueError(f"{path.name} is not a whole PLY file: {error!r}") from error
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    if vertices.ndim != 2 or len(vertices) == 0:
        raise ValueError(f"{path.name} holds no vertices.")
    bad = int((~np.isfinite(vertices)).any(1).sum())
    if bad:
        raise ValueError(f"{path.name}: {bad} of {len(vertices)} vertices are not finite.")
    return vertices


def read_axis_alignment(path: Path) -> Array:
    """The `[4, 4]` matrix that takes the mesh's axes to those along the walls.

    Raises:
        ValueError: if there is none, or it is no rigid motion.
    """
    for line in _read_text(path).splitlines():
        key, _, value = line.partition("=")
        if key.strip() != "axisAlignment":
            continue
        try:
            matrix = np.array(value.split(), dtype=np.float64).reshape(4, 4)
        except ValueError as error:
            raise ValueError(f"{path.name}: axisAlignment must be 16 numbers, got {value.strip()!r}.") from error
        rotation = matrix[:3, :3]
        is_rotation = np.abs(rotation @ rotation.T - np.eye(3)).max() < _ROTATION_TOLERANCE
        if not is_rotation or not np.isfinite(matrix).all() or matrix[3].tolist() != [0, 0, 0, 1]:
            raise ValueError(f"{path.name}: axisAlignment must turn and shift, got {matrix.tolist()}.")
        return matrix
    raise ValueError(f"{path.name} has no axisAlignment; ScanNet gives one to the scans for training and validation.")


def read_objects(aggregation: Path, segments: Path, num_vertices: int) -> list[ScanNetObject]:
    """The annotated objects of a mesh.

    Raises:
        ValueError: if a file is damaged, or they do not belong together or to this mesh.
    """
    indices = _read_list(segments, "segIndices")
    if not all(type(index) is int for index in indices):
        raise ValueError(f"{segments.name}: segIndices must be whole numbers.")
    if len(indices) != num_vertices:
        raise ValueError(f"{segments.name} is of a mesh of {len(indices)} vertices, and this one has {num_vertices}.")
    segment_of, known = np.array(indices), set(indices)
    objects = []
    for number, group in enumerate(_read_list(aggregation, "segGroups")):
        try:
            object_id, label = int(group["objectId"]), str(group["label"])
            members = {int(segment) for segment in group["segments"]}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{aggregation.name}: segGroups[{number}] is of another form: {error!r}") from error
        if not members <= known:
            raise ValueError(
                f"{aggregation.name}: object {object_id} ({label}) has segments that {segments.name} lacks, such as "
                f"{min(members - known)}; are the two of one mesh?"
            )
        objects.append(ScanNetObject(object_id, label, np.flatnonzero(np.isin(segment_of, list(members)))))
    return objects


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not text: {error}") from error


def _read_list(path: Path, key: str) -> list[Any]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{path.name} must hold an object with a list {key!r}.")
    return found


def read_instance_masks(folder: Path, frame_step: int) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """Frame numbers and `[H, W]` masks of a scan, every `frame_step`-th frame in order of time.

    They are in `<scan>_2d-instance-filt.zip`, or in that folder once it is unpacked.

    Raises:
        ValueError: if there are none, or one is damaged.
    """
    archive = folder / f"{folder.name}_2d-instance-filt.zip"
    try:
        if archive.is_file():
            with zipfile.ZipFile(archive) as unpacked:
                for frame, name in _numbered(unpacked.namelist(), frame_step, archive):
                    yield frame, _decode(unpacked.read(name), name)
            return
        found = [str(path) for name in (archive.stem, "instance-filt") for path in (folder / name).rglob("*.png")]
        for frame, name in _numbered(found, frame_step, archive):
            yield frame, _decode(Path(name).read_bytes(), name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive.name} is damaged: {error}") from error


def _numbered(names: list[str], frame_step: int, archive: Path) -> list[tuple[int, str]]:
    """Those of every `frame_step`-th frame; `instance-filt/240.png` is frame 240."""
    frames = sorted((int(Path(name).stem), name) for name in names if Path(name).stem.isdigit())
    if not frames:
        raise ValueError(f"no instance masks: neither {archive.name} nor its folder of <frame>.png is there.")
    return [(frame, name) for frame, name in frames if frame % frame_step == 0]


def _decode(content: bytes, name: str) -> NDArray[np.integer]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            mask = np.asarray(image)
    except (OSError, SyntaxError) as error:  # how Pillow reports a damaged PNG
        raise ValueError(f"the instance mask {name} cannot be read: {error}") from error
    if mask.ndim != 2:
        raise ValueError(f"the instance mask {name} must have one channel, got the shape {list(mask.shape)}.")
    return mask
