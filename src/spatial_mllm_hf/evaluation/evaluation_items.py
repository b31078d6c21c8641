"""What a benchmark hands to the runner, and what it gets back.

A benchmark (`vsibench.py`, `scanqa.py`, `sqa3d.py`) reads its published files into items, and turns answers into a
table of scores; the runner between the two knows neither questions nor metrics.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

FreeFormPrompt = Literal["official-code", "sft"]  # of ScanQA and SQA3D
PLACEHOLDERS = ("<|video_pad|>", "<|image_pad|>")  # of Qwen2.5-VL's tokenizer
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")


@dataclass(frozen=True)
class EvaluationItem:
    """One question as the model is asked it.

    Attributes:
        id: unique within the benchmark.
        video: path relative to the folder of videos.
        prompt: the whole text that is asked.
        truth: what scoring needs to know, as JSON: type, right answers, the bare question.
    """

    id: str
    video: str
    prompt: str
    truth: Mapping[str, Any]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a run, in percent.

    Attributes:
        columns: names of the scores, in the order of the published tables.
        rows: for each way of scoring, its scores by column; None where a score cannot be computed.
        headline: the row that the user chose.
        notes: what a reader has to know, a sentence each.
        details: more than the table shows, by way of scoring, as JSON.
    """

    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float | None]]
    headline: str
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class Benchmark(Protocol):
    """A benchmark as the runner and the reports see it.

    Attributes:
        name: as the command knows it.
        title: as people write it.
        max_new_tokens: longest answer, unless the user names another.
        settings: what besides the data decides the prompts, for the run's record.
    """

    name: str
    title: str
    max_new_tokens: int

    @property
    def settings(self) -> dict[str, Any]: ...

    def read_items(self, data: str) -> list[EvaluationItem]:
        """The questions of a file, a folder or a Hub data set."""
        ...

    def score(self, items: Sequence[EvaluationItem], predictions: Mapping[str, str]) -> ScoreTable:
        """Scores of all items; one without a prediction counts as answered wrongly."""
        ...


def checked_items(items: Iterable[EvaluationItem], data: str) -> list[EvaluationItem]:
    """The items in a list.

    Raises:
        ValueError: if there are none, two have one id, or one holds a placeholder of the model's.
    """
    found = list(items)
    if not found:
        raise ValueError(f"{data} holds no questions.")
    seen: set[str] = set()
    for item in found:
        if item.id in seen:
            raise ValueError(f"{data}: two questions have the id {item.id!r}; give --data one file with unique ids.")
        if placeholder := next((token for token in PLACEHOLDERS if token in item.prompt), None):
            raise ValueError(f"{data}: question {item.id!r} holds {placeholder}, which stands for pixels; take it out.")
        seen.add(item.id)
    return found


def digest_items(items: Sequence[EvaluationItem]) -> str:
    """Tells whether a run that goes on asks what it asked before."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.id, item.video, item.prompt, dict(item.truth)], sort_keys=True).encode())
    return digest.hexdigest()


def find_data_files(data: str, patterns: Sequence[str]) -> list[Path]:
    """The first of some files that are there, in a folder or a Hub data set; or the file itself.

    Args:
        data: a file, a folder, or the name of a Hub data set.
        patterns: names with wildcards in the order in which they are looked for. All files of the first pattern that
            has any are returned, sorted.

    Raises:
        ValueError: if there is no such file or data set, or it holds none of these files.
    """
    path = Path(data)
    if path.is_file():
        return [path]
    if not path.is_dir():
        path = _download(data, patterns)
    for pattern in patterns:
        if found := sorted(path.rglob(pattern)):
            return found
    raise ValueError(f"--data {data} holds none of {', '.join(patterns)}.")


def _download(data: str, patterns: Sequence[str]) -> Path:
    """The folder of a Hub data set's files of these names; what is in the Hub's cache needs no network."""
    unknown = f"--data {data}: there is no such file or folder, and it is not the name of a Hub data set."
    if data.count("/") != 1 or data.startswith((".", "/", "~")):
        raise ValueError(unknown)
    wanted = [name for pattern in patterns for name in (pattern, f"*/{pattern}")]
    try:
        return Path(snapshot_download(data, repo_type="dataset", allow_patterns=wanted))
    except RepositoryNotFoundError as error:
        raise ValueError(unknown) from error


def find_video(videos: Path, relative: str) -> Path:
    """Where a video lies: as its relative path says, or flat in the folder, with any suffix of a video.

    Returns:
        The path found; the first one that was looked for if there is none.
    """
    wanted = Path(relative)
    places = [videos / wanted, videos / wanted.name]
    places += [place.with_suffix(suffix) for place in places for suffix in VIDEO_SUFFIXES]
    return next((place for place in places if place.is_file()), places[0])
