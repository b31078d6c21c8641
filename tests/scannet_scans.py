"""A tiny scan in ScanNet's own files: a room of 5 m x 4 m whose objects are boxes of known sizes."""

from __future__ import annotations

import csv
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABEL_TABLE = "scannetv2-labels.combined.tsv"
ROOM = (5.0, 4.0)
MESH, ALIGNMENT = "_vh_clean_2.ply", ".txt"
AGGREGATION, SEGMENTS = ".aggregation.json", "_vh_clean_2.0.010000.segs.json"
# raw_category -> id, nyu40id, nyu40class
LABELS = {
    "wall": (1, 1, "wall"),
    "floor": (3, 2, "floor"),
    "cabinet": (7, 3, "cabinet"),
    "chair": (2, 5, "chair"),
    "office chair": (10, 5, "chair"),
    "couch": (6, 6, "sofa"),
    "desk": (9, 14, "desk"),
    "window": (16, 9, "window"),
    "refrigerator": (58, 24, "refridgerator"),
    "trash can": (56, 39, "otherfurniture"),
    "recycling bin": (97, 39, "otherfurniture"),
    "mouse": (154, 40, "otherprop"),
    "mattress": (1191, 4, "bed"),
}


@dataclass(frozen=True)
class PlacedBox:
    """An object of the scan: metres and radians along the walls' axes, z up."""

    label: str
    size: tuple[float, float, float]
    center: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0

    @property
    def rotation(self) -> np.ndarray:
        c, s, cp, sp = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])

    @property
    def vertices(self) -> np.ndarray:
        """A grid of 4 x 4 x 4 that fills the box, corners included; of a side of 0 only one layer."""
        steps = [np.linspace(-0.5, 0.5, 4) if side else np.zeros(1) for side in self.size]
        grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
        return grid * self.size @ self.rotation.T + self.center


OBJECTS = (
    PlacedBox("chair", (0.5, 0.45, 0.9), (1, 1, 0.45), yaw=0.4),
    PlacedBox("office chair", (0.6, 0.6, 1.1), (2, 1, 0.55), yaw=1.2, pitch=0.1),
    PlacedBox("couch", (2.0, 0.9, 0.8), (2.5, 3.2, 0.4), yaw=-0.05),
    PlacedBox("desk", (1.4, 0.7, 0.75), (4, 1, 0.375), yaw=0.7),
    PlacedBox("window", (1.2, 0.0, 1.0), (3, 4, 1.5)),
    PlacedBox("cabinet", (0.6, 0.5, 1.8), (0.5, 3, 0.9)),
    PlacedBox("trash can", (0.3, 0.25, 0.4), (4.5, 3, 0.2)),
    PlacedBox("recycling bin", (0.4, 0.35, 0.6), (4.5, 3.5, 0.3), yaw=0.2),
    PlacedBox("mouse", (0.0, 0.0, 0.0), (4, 1, 0.76)),  # a single vertex
)


def rotation_about_z(angle: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def axis_alignment() -> np.ndarray:
    """From the mesh to the walls: a turn by 0.6 and a shift."""
    matrix = rotation_about_z(0.6)
    matrix[:3, 3] = 1.5, -2.25, 0.125
    return matrix


def floor() -> np.ndarray:
    """A vertex every 10 cm."""
    x, y = np.meshgrid(np.linspace(0, ROOM[0], 51), np.linspace(0, ROOM[1], 41), indexing="ij")
    return np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)


def write_label_table(path: Path, labels: Mapping[str, tuple[int, int, str]] = LABELS) -> Path:
    columns = ("id", "raw_category", "category", "count", "nyu40id", "eigen13id", "nyuClass", "nyu40class")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(columns)
        for label, (number, nyu40_id, nyu40_class) in labels.items():
            writer.writerow((number, label, label, 1, nyu40_id, 0, label, nyu40_class))
    return path


def write_scan(folder: Path, objects: tuple[PlacedBox, ...] = OBJECTS, alignment: np.ndarray | None = None) -> Path:
    """Writes the folder of a scan: the floor, then the objects, each in two segments."""
    folder.mkdir(parents=True)
    alignment = axis_alignment() if alignment is None else alignment
    pieces = [floor(), *(placed.vertices for placed in objects)]
    aligned = np.concatenate(pieces)
    inverse = np.linalg.inv(alignment)
    write_ply(folder / f"{folder.name}{MESH}", aligned @ inverse[:3, :3].T + inverse[:3, 3])
    numbers = " ".join(f"{value:.9f}" for value in alignment.reshape(-1))
    (folder / f"{folder.name}{ALIGNMENT}").write_text(
        f"axisAlignment = {numbers} \ncolorHeight = 968\ncolorToDepthExtrinsics = 1 0 0 0\nsceneType = Office \n"
    )
    groups, segment_of = [], []
    for number, (label, piece) in enumerate(zip(["floor", *(placed.label for placed in objects)], pieces)):
        segments = [1000 * number + 7, 1000 * number + 3][: len(piece)]
        segment_of += [segments[index % len(segments)] for index in range(len(piece))]
        groups.append({"id": number, "objectId": number, "segments": segments, "label": label})
    scene = {"sceneId": f"scannet.{folder.name}"}
    write_json(folder / f"{folder.name}{AGGREGATION}", {**scene, "segGroups": groups})
    write_json(folder / f"{folder.name}{SEGMENTS}", {**scene, "params": {}, "segIndices": segment_of})
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_ply(path: Path, vertices: np.ndarray) -> None:
    """Binary, with colours and triangles, as ScanNet's."""
    faces = len(vertices) - 2
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment VCGLIB generated\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = b"".join(struct.pack("<3f4B", *vertex, 90, 80, 70, 255) for vertex in vertices)
    body += b"".join(struct.pack("<B3i", 3, index, index + 1, index + 2) for index in range(faces))
    path.write_bytes(header.encode() + body)


def write_masks(folder: Path, masks: Mapping[int, np.ndarray], packed: bool = True) -> None:
    """Instance masks of frames, objectId + 1 a pixel, in the archive or as it unpacks."""
    stem = f"{folder.name}_2d-instance-filt"
    if packed:
        with zipfile.ZipFile(folder / f"{stem}.zip", "w") as archive:
            for frame, mask in masks.items():
                archive.writestr(f"instance-filt/{frame}.png", encode_png(mask))
    else:
        (folder / "instance-filt").mkdir()
        for frame, mask in masks.items():
            (folder / "instance-filt" / f"{frame}.png").write_bytes(encode_png(mask))


def encode_png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()
