"""What is known of a scene: its objects' boxes and counts, its size, and when each category comes into sight.

The file form is VSI-Bench's meta information, `{scene: {"dataset", "room_size", "room_center", "object_counts",
"object_bbox": {category: [box, ...]}}}`, with two keys more that VSI-Bench keeps elsewhere: `"first_seen"`
({category: seconds}) and `"video"` (a path relative to the folder of videos).
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .oriented_boxes import OrientedBox

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class SceneAnnotation:
    """One scene.

    Attributes:
        name, dataset: "scene0353_00" of "scannet".
        boxes: oriented boxes of each category, metres.
        object_counts: instances of each category; may exceed the boxes where an instance has none.
        room_size: square metres; None where unknown.
        room_center: metres; None where unknown.
        first_seen: seconds into the video at which each category first appears; empty where unknown.
        video: path of the video, relative to the folder of videos; None where there is none.
    """

    name: str
    dataset: str
    boxes: Mapping[str, tuple[OrientedBox, ...]]
    object_counts: Mapping[str, int]
    room_size: float | None = None
    room_center: tuple[float, float, float] | None = None
    first_seen: Mapping[str, float] = field(default_factory=dict)
    video: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scene in the file form, without its name."""
        entry: dict[str, Any] = {
            "dataset": self.dataset,
            "room_size": self.room_size,
            "room_center": None if self.room_center is None else list(self.room_center),
            "object_counts": dict(self.object_counts),
            "object_bbox": {name: [box.to_dict() for box in boxes] for name, boxes in self.boxes.items()},
        }
        if self.first_seen:
            entry["first_seen"] = dict(self.first_seen)
        if self.video is not None:
            entry["video"] = self.video
        return entry

    @classmethod
    def from_dict(cls, name: str, entry: Mapping[str, Any]) -> SceneAnnotation:
        """A scene out of the file form.

        Raises:
            ValueError: if the entry is of another form; names the scene and what is wrong.
        """
        try:
            boxes = {
                category: tuple(OrientedBox.from_dict(box) for box in found)
                for category, found in entry["object_bbox"].items()
            }
            counts = {category: int(count) for category, count in entry["object_counts"].items()}
            room_size = None if entry.get("room_size") is None else float(entry["room_size"])
            center = entry.get("room_center")
            room_center = None if center is None else (float(center[0]), float(center[1]), float(center[2]))
            first_seen = {category: float(seconds) for category, seconds in (entry.get("first_seen") or {}).items()}
            dataset, video = str(entry["dataset"]), entry.get("video")
        except KeyError as error:
            raise ValueError(f"Scene {name}: {error} is missing from its annotation.") from error
        except (TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"Scene {name}: its annotation is of another form: {error}") from error
        if any(not math.isfinite(seconds) for seconds in first_seen.values()):
            raise ValueError(f"Scene {name}: first_seen must hold seconds, got {first_seen}.")
        if room_size is not None and not (math.isfinite(room_size) and room_size > 0):
            raise ValueError(f"Scene {name}: room_size must be a number of square metres above 0, got {room_size}.")
        return cls(name, dataset, boxes, counts, room_size, room_center, first_seen, video)


def read_scene_annotations(path: Path) -> Iterator[SceneAnnotation | ValueError]:
    """The scenes of a file, in its order; a scene that cannot be read comes as the error that says why.

    A .json file (`{scene: entry}`) is parsed as a whole, a .jsonl file line by line, so that it may be of any length; a
    line is an entry with one key more, `"name"`.

    Raises:
        ValueError: for another suffix, or if a .json file is not JSON or holds no scenes.
    """
    for name, entry in _entries(path):
        if isinstance(entry, ValueError):
            yield entry
            continue
        try:
            yield SceneAnnotation.from_dict(name, entry)
        except ValueError as error:
            yield error


def read_scene_names(path: Path) -> list[str] | None:
    """The names of all scenes of a file, also of those that cannot be read; None for JSON that is not of scenes.

    Raises:
        ValueError: for another suffix, or what is not JSON.
    """
    names = []
    try:
        for name, entry in _entries(path):
            if isinstance(entry, ValueError):
                raise entry
            names.append(name)
    except NotScenes:
        return None
    return names


def write_scene_annotations(scenes: Iterable[SceneAnnotation], path: Path) -> int:
    """Writes scenes one after the other as a .json or .jsonl file, whole or not at all, and returns their number.

    Raises:
        ValueError: for another suffix.
    """
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write("{" if path.suffix == ".json" else "")
            for count, scene in enumerate(scenes, 1):
                if path.suffix == ".jsonl":
                    file.write(json.dumps({"name": scene.name, **scene.to_dict()}) + "\n")
                else:
                    file.write(f"{',' if count > 1 else ''}\n{json.dumps(scene.name)}: {json.dumps(scene.to_dict())}")
            file.write("\n}\n" if path.suffix == ".json" else "")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


class NotScenes(ValueError):
    """JSON that holds something else."""


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {' or '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}.")


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Names and entries; of a line without them, its place and the error that says so."""
    _check_suffix(path)
    return _read_jsonl(path) if path.suffix == ".jsonl" else _read_json(path)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise NotScenes(f"{path} must hold an object of scenes by name, got a {type(entries).__name__}.")
    yield from entries.items()


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                yield place, ValueError(f"{place}: not JSON ({error}).")
                continue
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                yield entry["name"], entry
            else:
                yield place, NotScenes(f'{place}: a scene must be an object with a "name".')
