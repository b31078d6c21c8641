"""A folder of synthetic scenes, as many as wanted, that grows from where it was left.

    OUT/rooms.json            how the scenes are made; a folder holds scenes of one kind
    OUT/videos/NAME.mp4       the walks
    OUT/geometry/NAME.safetensors   where asked for: `depth`, `object_index`, `seen_pixels` (as in `SyntheticScene`),
                              `extrinsics`, `intrinsics`
    OUT/scenes/NAME.json      a scene's annotation, written last: a scene that has one is complete
    OUT/annotations.json      all annotations, in the form that `read_scene_annotations` reads
    OUT/questions.jsonl       where asked for: questions in the fields of VSI-Bench

The scenes are those of the first seeds, from a given one on, whose rooms can be walked in, whichever process makes
which.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from safetensors.numpy import save

from .question_generation import GenerationSettings, generate_questions
from .scene_annotations import SceneAnnotation, read_scene_annotations, write_scene_annotations
from .shared_work import share
from .synthetic_rooms import write_clip
from .synthetic_scenes import SceneSettings, SyntheticScene, make_scene, scene_name

EDITION = 1  # of the rooms: goes up when the same seed gives other pictures or annotations
ANNOTATIONS, QUESTIONS, VIDEOS = "annotations.json", "questions.jsonl", "videos"
GEOMETRY = "geometry"
_SETTINGS, _SCENES, _PARTIAL = "rooms.json", "scenes", ".partial"
_MOST_FAILURES = 20  # more than there are scenes wanted, before it is given up

Progress = Callable[[int, int], None]
Written = TypeVar("Written")


@dataclass(frozen=True)
class RoomsReport:
    """`annotations` of the scenes in order of their seeds; `replaced`: seeds that gave no scene, and why."""

    annotations: list[SceneAnnotation]
    replaced: dict[int, str] = field(default_factory=dict)


def write_rooms(
    folder: Path,
    num_scenes: int,
    settings: SceneSettings,
    seed: int = 0,
    geometry: bool = False,
    workers: int = 1,
    show: Progress = lambda done, total: None,
) -> RoomsReport:
    """Make the scenes that a folder lacks. The same folder may be asked again, for as many or more.

    Args:
        seed: the first scene's, at least 0.
        geometry: also write depth and cameras of each frame.
        workers: processes.
        show: is told how many scenes of how many are there.

    Raises:
        ValueError: a number out of range, a folder of scenes of another kind, or one that another process writes.
    """
    for name, value, least in (("num_scenes", num_scenes, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    with _locked(folder):
        _check_settings(folder, {"edition": EDITION, "seed": seed, "geometry": geometry, **asdict(settings)})
        make = partial(_write_scene, folder, settings, geometry)
        made, replaced = _make_all(make, seed, num_scenes, workers, show)
        annotations = [_read_scene(folder, number) for number in made]
        write_scene_annotations(annotations, folder / ANNOTATIONS)
    return RoomsReport(annotations, replaced)


def read_rooms_settings(folder: Path) -> SceneSettings:
    """How the scenes of a folder are filmed.

    Raises:
        ValueError: for a folder that says nothing of it.
    """
    path = folder / _SETTINGS
    if not path.is_file():
        raise ValueError(f"{folder} has no {_SETTINGS}: it is not a folder of `spatial-mllm data rooms`.")
    known = {field.name for field in fields(SceneSettings)}
    values = {name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name in known}
    return SceneSettings(**values | {"size": tuple(values["size"])})


def write_questions(annotations: Iterable[SceneAnnotation], path: Path, seed: int, settings: GenerationSettings) -> int:
    """Write the questions of scenes as rows of VSI-Bench (.jsonl), whole or not at all; returns their number."""

    def write(part: Path) -> int:
        count = 0
        with part.open("w", encoding="utf-8") as file:
            for scene in annotations:
                for question in generate_questions(scene, seed, settings):
                    file.write(json.dumps(question.to_dict()) + "\n")
                    count += 1
        return count

    return _write_whole(path, write)


def _make_all(
    make: Callable[[int], str | None], seed: int, num_scenes: int, workers: int, show: Progress
) -> tuple[list[int], dict[int, str]]:
    """The first seeds from `seed` on that give scenes, and what was wrong with those left out between them."""
    made: list[int] = []
    replaced: dict[int, str] = {}
    while len(made) < num_scenes:
        first = seed + len(made) + len(replaced)
        numbers = range(first, first + num_scenes - len(made))
        for number, error in zip(numbers, share(make, numbers, min(workers, len(numbers)))):
            if error is None:
                made.append(number)
                show(len(made), num_scenes)
            else:
                replaced[number] = error
        if len(replaced) > num_scenes + _MOST_FAILURES:
            reason = list(replaced.values())[-1]
            raise ValueError(f"{len(replaced)} of {len(replaced) + len(made)} seeds give no scene: {reason}")
    return sorted(made), dict(sorted(replaced.items()))


def _write_scene(folder: Path, settings: SceneSettings, geometry: bool, seed: int) -> str | None:
    """Write the scene of a seed unless it is there; returns what is wrong with the seed, if anything."""
    name = scene_name(seed)
    target = folder / _SCENES / f"{name}.json"
    if target.exists():
        return None
    try:
        scene = make_scene(seed, settings)
    except ValueError as error:
        return str(error)
    _write_whole(folder / VIDEOS / f"{name}.mp4", lambda part: write_clip(scene.frames.rgb, part, settings.frame_rate))
    if geometry:
        arrays = _geometry(scene)
        _write_whole(folder / GEOMETRY / f"{name}.safetensors", lambda part: part.write_bytes(save(arrays)))
    _write_whole(target, lambda part: write_scene_annotations([scene.annotation], part))
    return None


def _geometry(scene: SyntheticScene) -> dict[str, Any]:
    arrays = {
        "depth": scene.frames.depth,
        "object_index": scene.frames.object_index,
        "seen_pixels": scene.seen_pixels,
        "extrinsics": scene.extrinsics,
        "intrinsics": scene.intrinsics,
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _read_scene(folder: Path, seed: int) -> SceneAnnotation:
    (scene,) = read_scene_annotations(folder / _SCENES / f"{scene_name(seed)}.json")
    if isinstance(scene, ValueError):
        raise scene
    return scene


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Hold a folder to scenes of one kind, from its first scene on."""
    path = folder / _SETTINGS
    wanted = json.loads(json.dumps(settings))  # as they come back: lists for tuples
    if not path.exists():
        _write_whole(path, lambda part: part.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8"))
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    different = [
        f"{name} {there.get(name)} (asked for: {value})" for name, value in wanted.items() if there.get(name) != value
    ]
    if different:
        raise ValueError(
            f"{folder} holds scenes with {', '.join(different)}; ask for the same, or name another folder."
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; what a killed one left unfinished is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another process is writing {folder}; wait for it, or name another folder.") from error
    try:
        for leftover in folder.glob(f"*/*{_PARTIAL}.*"):
            leftover.unlink()
        yield
    finally:
        lock.release()


def _write_whole(path: Path, write: Callable[[Path], Written]) -> Written:
    """Write a file under another name, with the same suffix, and rename it when it is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{_PARTIAL}{path.suffix}")
    try:
        written = write(part)
        os.replace(part, path)
        return written
    finally:
        part.unlink(missing_ok=True)
