"""What a benchmark hands to the runner, and what it gets back.

A benchmark (`vsibench.py`, `scanqa.py`, `sqa3d.py`) reads its published files into items, and turns answers into a
table of scores; the runner between the two knows neither questions nor metrics.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from huggingface_hub import HfApi, hf_hub_download

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
    """

    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float | None]]
    headline: str
    notes: tuple[str, ...] = ()


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
        ValueError: if there are none, or two have one id.
    """
    found = list(items)
    if not found:
        raise ValueError(f"{data} holds no questions.")
    seen: set[str] = set()
    for item in found:
        if item.id in seen:
            raise ValueError(f"{data}: two questions have the id {item.id!r}; ids must be unique.")
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
    if path.is_dir():
        for pattern in patterns:
            if found := sorted(path.rglob(pattern)):
                return found
        raise ValueError(f"The folder {data} holds none of {', '.join(patterns)}.")
    if data.count("/") != 1 or data.startswith((".", "/", "~")):
        raise ValueError(f"--data {data}: there is no such file or folder, and it is not the name of a Hub data set.")
    names = [PurePosixPath(name) for name in HfApi().list_repo_files(data, repo_type="dataset")]
    for pattern in patterns:
        if matching := sorted(name for name in names if name.match(pattern)):
            return [Path(hf_hub_download(data, str(name), repo_type="dataset")) for name in matching]
    raise ValueError(f"The data set {data} holds none of {', '.join(patterns)}.")


def find_video(videos: Path, relative: str) -> Path:
    """Where a video lies: as its relative path says, or flat in the folder, with any suffix of a video.

    Returns:
        The path found; the first one that was looked for if there is none.
    """
    wanted = Path(relative)
    places = [videos / wanted, videos / wanted.name]
    places += [place.with_suffix(suffix) for place in places for suffix in VIDEO_SUFFIXES]
    return next((place for place in places if place.is_file()), places[0])
