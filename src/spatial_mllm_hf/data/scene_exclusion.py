"""Scenes that training must not see, out of a list of names or out of what a benchmark consists of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .scene_annotations import read_scene_names
from .vsibench_questions import read_vsibench_questions


def read_excluded_scenes(path: Path) -> frozenset[str]:
    """Names of scenes from a file.

    - .txt: one name a line; what follows a `#` does not count;
    - .json or .jsonl: annotated scenes (`scene_annotations`), or VSI-Bench's questions and the scenes they are about;
    - .parquet: VSI-Bench's questions.

    Raises:
        ValueError: if the file cannot be read so, or names no scene: training would silently see all.
    """
    names = frozenset(_names(path))
    if not names:
        raise ValueError(f"{path} names no scene to exclude.")
    return names


def _names(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        lines = path.read_text(encoding="utf-8").splitlines()
        return filter(None, (line.partition("#")[0].strip() for line in lines))
    if path.suffix in (".json", ".jsonl"):
        names = read_scene_names(path)
        if names is not None:
            return iter(names)
    if path.suffix in (".json", ".jsonl", ".parquet"):
        return (question.scene_name for question in read_vsibench_questions(path))
    raise ValueError(f"{path} must end in .txt, .json, .jsonl or .parquet, got {path.suffix or 'no suffix'}.")
