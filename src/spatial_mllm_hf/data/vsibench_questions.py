"""Reads the questions of VSI-Bench, as published and as the public Spatial-MLLM evaluation keeps them.

- Published: rows of .parquet or .jsonl with `id`, `dataset`, `scene_name`, `question_type`, `question`, `options`,
  `ground_truth` and, in newer editions, `pruned`.
- Evaluation (v1.0 of the public code): a .json list with `problem_id`, `problem`, `options`, `original_question_type`,
  `solution` (the answer inside `<answer></answer>`) and `path` ("./scannet/scene0353_00.mp4").

Lines and parquet batches are read one after the other. A file that is damaged is an error: a score over part of a
benchmark would look like a score.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from .optional_libraries import needs
from .spatial_questions import LETTERS, NUMERICAL_TYPES, QUESTION_TYPES, SpatialQuestion

PUBLISHED_COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "options", "ground_truth")
OPTIONAL_COLUMNS = ("pruned", "video")  # the latter of this package: where the clip lies
EVALUATION_KEYS = ("problem_id", "problem", "options", "original_question_type", "solution", "path")
ROWS_AT_A_TIME = 1000

_SOLUTION = re.compile(r"\s*<answer>(.*?)</answer>\s*", re.DOTALL)


def read_vsibench_questions(path: Path) -> Iterator[SpatialQuestion]:
    """The questions of a .json, .jsonl or .parquet file, in its order.

    Raises:
        ValueError: for another suffix; at a row that is damaged, incomplete, of an unknown type or with an id that came
            before. Names the file, the line or row, and what is wrong.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path} must end in {', '.join(readers)}, got {path.suffix or 'no suffix'}.")
    return _check_ids(readers[path.suffix](path))


def _check_ids(rows: Iterable[tuple[str, Any]]) -> Iterator[SpatialQuestion]:
    """Rows as questions; each comes with the place that errors name."""
    seen: dict[str, str] = {}
    for place, row in rows:
        try:
            question = _question(row)
            if question.id in seen:
                raise ValueError(f"the id {question.id!r} was used before, at {seen[question.id]}")
        except ValueError as error:
            raise ValueError(f"{place}: {error}.") from error
        seen[question.id] = place
        yield question


def _question(row: Any) -> SpatialQuestion:
    if not isinstance(row, Mapping):
        raise ValueError(f"a question must be an object, got a {type(row).__name__}")
    published = _as_published(row) if "problem_id" in row or "original_question_type" in row else row
    _require(published, PUBLISHED_COLUMNS)
    number, options, pruned = published["id"], published["options"], published.get("pruned")
    if not isinstance(number, (int, str)):
        raise ValueError(f"id must be a number or text, got {number!r}")
    if options is not None and not (
        isinstance(options, (list, tuple)) and all(isinstance(option, str) and option for option in options)
    ):
        raise ValueError(f"options must be a list of texts or nothing, got {options!r}")
    question = SpatialQuestion(
        id=str(number),
        dataset=_text(published, "dataset"),
        scene_name=_text(published, "scene_name"),
        question_type=published["question_type"],
        question=_text(published, "question"),
        options=tuple(options) if options else None,
        ground_truth=str(published["ground_truth"]).strip(),
        video=published.get("video"),
        pruned=None if pruned is None else bool(pruned),
    )
    _check_answer(question)
    return question


def _as_published(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the evaluation file under the published names."""
    _require(row, EVALUATION_KEYS)
    solution = _SOLUTION.fullmatch(_text(row, "solution"))
    if solution is None:
        raise ValueError(f"solution must be <answer>...</answer>, got {row['solution']!r}")
    video = PurePosixPath(_text(row, "path"))
    if len(video.parts) < 2:
        raise ValueError(f"path must be data set/scene.mp4, got {row['path']!r}")
    dataset, scene = video.parts[-2], video.stem
    return {
        "id": row["problem_id"],
        "dataset": dataset,
        "scene_name": scene,
        "question_type": row["original_question_type"],
        "question": row["problem"],
        "options": row["options"],
        "ground_truth": solution.group(1),
        "video": None if str(video) == f"{dataset}/{scene}.mp4" else str(video),
    }


def _check_answer(question: SpatialQuestion) -> None:
    if question.question_type not in QUESTION_TYPES:
        raise ValueError(f"question_type must be one of {', '.join(QUESTION_TYPES)}, got {question.question_type!r}")
    truth = question.ground_truth
    if question.question_type in NUMERICAL_TYPES:
        try:
            finite = math.isfinite(float(truth))
        except ValueError:
            finite = False
        if not finite or question.options is not None:
            raise ValueError(
                f"a question of type {question.question_type} is answered by a number and has no options, "
                f"got {truth!r} and {len(question.options or ())} options"
            )
    elif truth not in LETTERS[: len(question.options or ())] or len(truth) != 1:
        raise ValueError(
            f"the answer to a question of type {question.question_type} must be the letter of one of its options, "
            f"got {truth!r} and {len(question.options or ())} options"
        )


def _require(row: Mapping[str, Any], keys: Iterable[str]) -> None:
    missing = [key for key in keys if key not in row]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing, found {', '.join(map(str, row)) or 'nothing'}")


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be text, got {value!r}")
    return value


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is not JSON ({error}); get the file again.") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of questions, got a {type(rows).__name__}.")
    yield from ((f"{path}, question {number}", row) for number, row in enumerate(rows, 1))


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield f"{path}, line {number}", json.loads(line)
            except ValueError as error:
                cut = "" if line.endswith(b"\n") else " The file seems to be cut off: get it again."
                raise ValueError(f"{path}, line {number}: not JSON ({error}).{cut}") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    with needs("pyarrow"):
        import pyarrow
        import pyarrow.parquet
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            found = file.schema_arrow.names
            missing = [column for column in PUBLISHED_COLUMNS if column not in found]
            if missing:
                raise ValueError(f"{path}: column {', '.join(missing)} missing, found {', '.join(found)}.")
            columns = [*PUBLISHED_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in found)]
            batches = file.iter_batches(ROWS_AT_A_TIME, columns=columns)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a whole parquet file: {error}") from error
