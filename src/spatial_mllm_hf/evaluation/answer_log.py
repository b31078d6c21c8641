"""The answers of a run on disk: lines of JSON that a kill at any point leaves usable.

A batch of answers is one append that is synced to the disk. What a kill can leave is a last line without its end; it
is cut off when the file is opened again, and its question asked anew. One process writes a file, and several files of
one folder are one run: shards of any number, at any time.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PATTERN = "answers*.jsonl"


@dataclass(frozen=True)
class Answer:
    """What became of a question.

    Attributes:
        id: of the question.
        prediction: what the model said; None if it was not asked.
        problem: why it was not asked.
        frames: for each video, the numbers of the frames that the model saw.
    """

    id: str
    prediction: str | None
    problem: str | None = None
    frames: tuple[tuple[int, ...], ...] = ()


class AnswerLog:
    """One file of answers, open for appending. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock")
        self._descriptor = -1

    def __enter__(self) -> "AnswerLog":
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"Another process writes {self.path} right now. Wait for it, or give each its own --shard i/n."
            ) from error
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._cut_unfinished_line()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._lock.release()

    def append(self, answers: Sequence[Answer]) -> None:
        """Writes answers and waits until the disk has them."""
        lines = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        data = memoryview(lines.encode("utf-8", errors="backslashreplace"))
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def _cut_unfinished_line(self) -> None:
        content = self.path.read_bytes()
        os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)


def read_answers(folder: Path) -> dict[str, Answer]:
    """All answers in a run's folder by id; of two with one id the first that holds a prediction.

    Raises:
        ValueError: for a finished line that is no answer; names the file and the line.
    """
    answers: dict[str, Answer] = {}
    for path in sorted(folder.glob(PATTERN)):
        finished = path.read_bytes().rpartition(b"\n")[0]
        for number, line in enumerate(finished.splitlines() if finished else [], start=1):
            answer = _parse(line, f"{path}:{number}")
            known = answers.get(answer.id)
            if known is None or (known.prediction is None and answer.prediction is not None):
                answers[answer.id] = answer
    return answers


def _parse(line: bytes, place: str) -> Answer:
    try:
        values: dict[str, Any] = json.loads(line)
        frames = tuple(tuple(video) for video in values.pop("frames"))
        answer = Answer(frames=frames, **values)
        if not isinstance(answer.id, str) or not isinstance(answer.prediction, str | None):
            raise TypeError("id and prediction must be texts")
        return answer
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{place} is not an answer ({error}). Delete that line: its question is asked again."
        ) from error
