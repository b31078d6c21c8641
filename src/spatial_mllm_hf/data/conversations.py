"""Training samples in the LLaVA conversation form, as JSON lines, parquet or a data set of the Hub.

A row is `{"id", "video" and/or "image", "conversations": [{"from": "human" | "gpt", "value"}, ...], "metadata"}`: what
LLaVA, Video-3D-LLM, VLM-3R, VSI-590K and the loader of the public Spatial-MLLM code (spatial-mllm-mix) read. The text
holds one `<video>` for each video and one `<image>` for each image; paths are relative to a folder of media. Other keys
of a row are kept as metadata. Two published data sets depart from that, and have a form of their own here:

- "vlm-3r": VLM-3R's JSON says `<image>` where it means the video;
- "vsi-590k": so does VSI-590K, whose paths lack the folder `vsi-590k/` that the public code keeps it in.

Rows are read and written one after the other or in small batches, so that a file may be larger than memory; only a JSON
array (.json, VLM-3R's) is read whole. In parquet the metadata is one column of JSON text, because its keys differ from
row to row; pyarrow writes it, batch by batch with the schema fixed beforehand (the `datasets` library would infer one).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from .optional_libraries import needs

VIDEO_TAG, IMAGE_TAG = "<video>", "<image>"
SPEAKERS = ("human", "gpt")  # in this order, again and again
VSI_590K_FOLDER = "vsi-590k/"  # where the public code's data sets keep it
ROWS_AT_A_TIME = 1000

ConversationForm = Literal["llava", "vlm-3r", "vsi-590k"]


@dataclass(frozen=True)
class Conversation:
    """One sample.

    Attributes:
        id: unique within its file.
        videos: paths relative to a folder of media, in the order of their tags.
        images: the same of images.
        turns: speaker ("human" or "gpt") and text, question and answer by turns.
        metadata: whatever else is known, as JSON can say it.
    """

    id: str
    videos: tuple[str, ...]
    images: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError if the turns are not questions with answers, or their tags do not match the media."""
        speakers = [speaker for speaker, _ in self.turns]
        if not speakers or len(speakers) % 2 or speakers != [*SPEAKERS] * (len(speakers) // 2):
            raise ValueError(
                f"Conversation {self.id!r}: turns must go human, gpt, human, gpt, ..., got {speakers or 'no turns'}."
            )
        asked = "".join(text for speaker, text in self.turns if speaker == "human")
        for tag, expected in ((VIDEO_TAG, len(self.videos)), (IMAGE_TAG, len(self.images))):
            if asked.count(tag) != expected:
                raise ValueError(
                    f"Conversation {self.id!r}: {expected} {tag} expected in what the human says, one for each "
                    f"{tag[1:-1]} of the row, got {asked.count(tag)}."
                )

    def to_dict(self) -> dict[str, Any]:
        """The row; keys without a value are left out, which the public loader takes for their absence."""
        row: dict[str, Any] = {"id": self.id}
        if self.videos:
            row["video"] = self.videos[0] if len(self.videos) == 1 else list(self.videos)
        if self.images:
            row["image"] = list(self.images)
        row["conversations"] = [{"from": speaker, "value": text} for speaker, text in self.turns]
        if self.metadata:
            row["metadata"] = dict(self.metadata)
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], fallback_id: str = "") -> Conversation:
        """A row in the LLaVA form; `fallback_id` is for rows without an id.

        Raises:
            ValueError: if a key is missing or of another type, or the conversation is not whole.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"A row must be an object, got a {type(row).__name__}.")
        turns = row.get("conversations")
        if not isinstance(turns, list):
            raise ValueError(f"conversations must be a list of turns, got {_describe(turns)}.")
        metadata = row.get("metadata") or {}
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        if not isinstance(metadata, Mapping):
            raise ValueError(f"metadata must be an object, got {_describe(metadata)}.")
        videos, images = _paths(row, "video"), _paths(row, "image")
        others = {key: value for key, value in row.items() if key not in _KEYS and value is not None}
        return cls(
            id=fallback_id if row.get("id") is None else str(row["id"]),
            videos=tuple(videos),
            images=tuple(images),
            turns=tuple(_turn(turn) for turn in turns),
            metadata=others | dict(metadata),
        )


_KEYS = ("id", "video", "image", "conversations", "metadata")


def write_conversations(rows: Iterable[Conversation], path: Path) -> int:
    """Writes a .jsonl or .parquet file, whole or not at all, and returns the number of rows.

    Raises:
        ValueError: for another suffix, or without pyarrow for parquet.
    """
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ValueError(f"{path} must end in {' or '.join(writers)}, got {path.suffix or 'no suffix'}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        count = writers[path.suffix](rows, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_conversations(path: Path, form: ConversationForm = "llava") -> Iterator[Conversation]:
    """The rows of a .jsonl, .json or .parquet file, one after the other.

    Raises:
        ValueError: for another suffix or form, or at a row that cannot be read; names the file, the line and what is
            wrong. Training on what is left of a damaged file would go unnoticed, so nothing is skipped.
    """
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path} must end in {', '.join(readers)}, got {path.suffix or 'no suffix'}.")
    return _convert(readers[path.suffix](path), str(path), path.stem, form)


def stream_dataset(name: str, split: str = "train", form: ConversationForm = "llava") -> Iterator[Conversation]:
    """The rows of a data set of the Hub (or a folder laid out like one), downloaded as they are read.

    Raises:
        ValueError: as `read_conversations`, or without the `datasets` library.
    """
    with needs("datasets"):
        from datasets import load_dataset

    return _convert(enumerate(load_dataset(name, split=split, streaming=True), 1), name, name.split("/")[-1], form)


def _convert(rows: Iterable[tuple[int, Any]], source: str, stem: str, form: ConversationForm) -> Iterator[Conversation]:
    if form not in _ADAPTERS:
        raise ValueError(f"form must be one of {', '.join(_ADAPTERS)}, got {form!r}.")
    adapt = _ADAPTERS[form]

    def convert() -> Iterator[Conversation]:
        for number, row in rows:
            try:
                yield Conversation.from_dict(adapt(row), fallback_id=f"{stem}-{number}")
            except ValueError as error:
                raise ValueError(f"{source}:{number}: {error}") from error

    return convert()


def _from_llava(row: Any) -> Any:
    return row


def _from_vlm_3r(row: Any) -> Any:
    """`<image>` of a row with a video and no image means the video."""
    if not isinstance(row, Mapping) or not row.get("video") or row.get("image"):
        return row
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return row
    return {**row, "conversations": [_say_video(turn) for turn in turns]}


def _from_vsi_590k(row: Any) -> Any:
    """As VLM-3R's, and with the folder in front of each path."""
    row = _from_vlm_3r(row)
    if not isinstance(row, Mapping):
        return row
    moved = {key: [VSI_590K_FOLDER + path for path in _paths(row, key)] for key in ("video", "image") if row.get(key)}
    return {**row, **moved}


_ADAPTERS: dict[str, Callable[[Any], Any]] = {
    "llava": _from_llava,
    "vlm-3r": _from_vlm_3r,
    "vsi-590k": _from_vsi_590k,
}


def _say_video(turn: Any) -> Any:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        return turn
    return {**turn, "value": turn["value"].replace(IMAGE_TAG, VIDEO_TAG)}


def _paths(row: Mapping[str, Any], key: str) -> list[str]:
    """The media of a row: a path, a list of paths, or nothing."""
    value = row.get(key)
    paths = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{key} must be a path or a list of paths, got {_describe(value)}.")
    return paths


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
        raise ValueError(f'A turn must be {{"from": ..., "value": ...}}, got {_describe(turn)}.')
    speaker, text = turn["from"], turn["value"]
    if speaker not in SPEAKERS:
        raise ValueError(f"A turn must be from one of {', '.join(SPEAKERS)}, got {speaker!r}.")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"The value of a turn must be text, got {_describe(text)}.")
    return speaker, text


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:80]!r}"


def _write_jsonl(rows: Iterable[Conversation], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(rows: Iterable[Conversation], path: Path) -> int:
    with needs("pyarrow"):
        import pyarrow
        import pyarrow.parquet

    text = pyarrow.string()
    texts, turns = pyarrow.list_(text), pyarrow.list_(pyarrow.struct({"from": text, "value": text}))
    schema = pyarrow.schema({"id": text, "video": texts, "image": texts, "conversations": turns, "metadata": text})
    count = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        remaining = iter(rows)
        while batch := list(islice(remaining, ROWS_AT_A_TIME)):
            written = [_parquet_row(row) for row in batch]
            writer.write_table(pyarrow.Table.from_pylist(written, schema))
            count += len(batch)
    return count


def _parquet_row(row: Conversation) -> dict[str, Any]:
    """The row with columns of one type each."""
    return row.to_dict() | {"video": list(row.videos) or None, "metadata": json.dumps(dict(row.metadata))}


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:  # no JSON, or no UTF-8
                cut = "" if line.endswith(b"\n") else " The file seems to be cut off: get or write it again."
                raise ValueError(f"{path}:{number}: the line is not JSON ({error}).{cut}") from error


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold an array of rows, got a {type(rows).__name__}.")
    yield from enumerate(rows, 1)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    with needs("pyarrow"):
        import pyarrow.parquet

    with path.open("rb") as file:
        try:
            batches = pyarrow.parquet.ParquetFile(file).iter_batches(ROWS_AT_A_TIME)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
        except (ValueError, OSError) as error:  # how pyarrow reports damage
            raise ValueError(f"{path} is not a whole parquet file: {error}") from error
