"""Data for the cold start (section 3.2 and appendix B of the paper): a teacher's best reasoning on each question.

A teacher answers each of N questions K times, with its thoughts (the paper: N = 5000, K = 3, Qwen2.5-VL-72B). An
answer's reward is that of GRPO: its accuracy if it has the form of a thought and an answer, else 0, as a path that is
not of the form cannot teach it. Of a question the best path is taken, the first of equals, and kept if its reward is
positive and at least the median, over the questions of its type, of their best rewards (the paper kept 2459).

    OUT/settings.json     what the answers depend on; a folder holds those of one choice
    OUT/answers.jsonl     every answer as it came, as the evaluation keeps its own (`answer_log`): a run that was killed
                          goes on, and no answer is asked for twice
    OUT/cold_start.jsonl  the kept paths, as conversations for supervised fine-tuning
    OUT/report.json       how many questions of each type were answered and kept
"""

from __future__ import annotations

import json
import os
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

from filelock import FileLock, Timeout

from ..data.conversations import Conversation, write_conversations
from ..evaluation.answer_log import Answer, AnswerLog, read_answers
from ..processing.video_source_spatial_mllm import VideoDecodeError
from .grpo_questions import grpo_rows
from .rewards import has_form, score_completion
from .samples import ConversationDataset
from .teachers import Teacher, TeacherError

SETTINGS, ANSWERS, CHOSEN, REPORT = "settings.json", "answers.jsonl", "cold_start.jsonl", "report.json"
MOST_FAILURES = 10  # one after the other, before the teacher counts as down

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ColdStartQuestion:
    """A question as the teacher is asked it.

    Attributes:
        id: unique.
        video: where it lies.
        prompt: the text.
        question_type, ground_truth, answers: what its reward has to know.
        conversation: the row that it comes from.
    """

    id: str
    video: str
    prompt: str
    question_type: str
    ground_truth: str
    answers: tuple[str, ...] | None
    conversation: Conversation

    def reward(self, text: str) -> float:
        """Of an answer without white space around it, 0 to 1."""
        if not has_form(text):
            return 0.0
        return score_completion(text, self.question_type, self.ground_truth, self.answers)


@dataclass(frozen=True)
class TypeReport:
    """Of the questions of one type: how many there are, were answered, and were kept; the median of the best rewards
    of those answered, None without any."""

    questions: int
    answered: int
    median: float | None
    kept: int


@dataclass(frozen=True)
class ColdStartReport:
    """What came of a run.

    Attributes:
        by_type: of each question type.
        failures: answers that could not be had, with why; asking again is what another run does.
    """

    by_type: Mapping[str, TypeReport]
    failures: Mapping[str, str]

    @property
    def kept(self) -> int:
        return sum(report.kept for report in self.by_type.values())


@dataclass(frozen=True)
class _Request:
    question: ColdStartQuestion
    path: int

    @property
    def id(self) -> str:
        return f"{self.question.id}#{self.path}"


@dataclass(frozen=True)
class _Outcome:
    """Of a request: "failed" by itself, or since the teacher is "down" or has "refused" to answer anything."""

    kind: Literal["answered", "failed", "down", "refused"]
    text: str | None = None
    problem: str = ""


def read_questions(
    sources: Sequence[str], media_folder: Path, count: int | None = None, seed: int = 0
) -> list[ColdStartQuestion]:
    """Questions out of conversations with GRPO's prompts.

    Args:
        sources: files and data sets, as `ConversationDataset` takes them.
        media_folder: that paths are relative to.
        count: draw so many of them by the seed; None takes all.

    Raises:
        ValueError: for rows that cannot be rewarded, are not about one video, or have an id that came before.
    """
    samples = ConversationDataset(sources, seed=seed)
    numbers: Sequence[int] = range(len(samples))
    if count is not None and count < len(samples):
        numbers = sorted(random.Random(seed).sample(numbers, count))
    chosen = [samples[number] for number in numbers]
    questions = []
    seen: set[str] = set()
    for sample, row in zip(chosen, grpo_rows(chosen, media_folder), strict=True):
        parts = row["prompt"][0]["content"]
        if [part["type"] for part in parts] != ["video", "text"]:
            raise ValueError(f"{sample.label}: a teacher is asked about one video, which comes before the question.")
        if sample.label in seen:
            raise ValueError(f"{sample.label}: the id came before; ids must be unique within a source.")
        seen.add(sample.label)
        answers = row["answers"]
        questions.append(
            ColdStartQuestion(
                id=sample.label,
                video=parts[0]["video"],
                prompt=parts[1]["text"],
                question_type=row["question_type"],
                ground_truth=row["ground_truth"],
                answers=None if answers is None else tuple(answers),
                conversation=sample.conversation,
            )
        )
    return questions


def run_cold_start(
    folder: Path,
    questions: Sequence[ColdStartQuestion],
    teacher: Teacher,
    paths: int = 3,
    parallel: int = 8,
    seed: int = 0,
    show: Progress = lambda done, total: None,
) -> ColdStartReport:
    """Asks what has not been answered, chooses, and writes the files named above.

    Args:
        folder: one that was begun goes on.
        questions: with unique ids.
        paths: answers to each question, K.
        parallel: requests under way at a time, if the teacher takes several.
        seed: of the answers.
        show: is told how many answers of how many are there.

    Raises:
        ValueError: for a number below 1, a folder of other settings, or a teacher that refuses or is down. What was
            answered until then is kept.
    """
    for name, value in (("paths", paths), ("parallel", parallel), ("questions", len(questions))):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder), AnswerLog(folder / ANSWERS) as log:
        _check_settings(folder / SETTINGS, {"paths": paths, "seed": seed, **teacher.describe()})
        wanted = [_Request(question, path) for question in questions for path in range(1, paths + 1)]
        known = read_answers(folder)
        missing = [request for request in wanted if request.id not in known]
        missing.sort(key=lambda request: request.question.video)  # one video's together, else in their order
        done = len(wanted) - len(missing)
        show(done, len(wanted))
        failures: dict[str, str] = {}
        for request, text, problem in _ask(teacher, missing, parallel if teacher.is_parallel else 1, seed):
            if text is None:
                failures[request.id] = problem
                continue
            log.append([Answer(request.id, text)])
            done += 1
            show(done, len(wanted))
        answers = {name: answer.prediction or "" for name, answer in read_answers(folder).items()}
        chosen, by_type = select_paths(questions, answers, paths)
        write_conversations(chosen, folder / CHOSEN)
        report = ColdStartReport(by_type, failures)
        _write_json(folder / REPORT, {"kept": report.kept, **asdict(report)})
    return report


def select_paths(
    questions: Sequence[ColdStartQuestion], answers: Mapping[str, str], paths: int
) -> tuple[list[Conversation], dict[str, TypeReport]]:
    """The kept paths, in the order of the questions, and the counts of each type.

    Args:
        answers: by id of the question, "#" and number of the path from 1 on. Of a question without any nothing is said.
    """
    best: dict[str, tuple[float, str]] = {}  # reward and text
    of_type: dict[str, list[ColdStartQuestion]] = {}
    for question in questions:
        of_type.setdefault(question.question_type, []).append(question)
        names = [f"{question.id}#{path}" for path in range(1, paths + 1)]
        texts = [answers[name].strip() for name in names if name in answers]
        rated = [(question.reward(text), text) for text in texts]
        if rated:
            best[question.id] = max(rated, key=lambda pair: pair[0])  # the first of equals
    kept: set[str] = set()
    by_type = {}
    for kind, members in sorted(of_type.items()):
        rewards = {question.id: best[question.id][0] for question in members if question.id in best}
        median = statistics.median(rewards.values()) if rewards else None
        good = {name for name, reward in rewards.items() if median is not None and reward >= median and reward > 0}
        kept |= good
        by_type[kind] = TypeReport(len(members), len(rewards), median, len(good))
    chosen = [_with_path(question, *best[question.id]) for question in questions if question.id in kept]
    return chosen, by_type


def _with_path(question: ColdStartQuestion, reward: float, text: str) -> Conversation:
    """The question's row with a teacher's path for an answer."""
    row = question.conversation
    metadata = {**row.metadata, "reward": reward}
    return Conversation(row.id, row.videos, row.images, (row.turns[0], ("gpt", text)), metadata)


def _ask(
    teacher: Teacher, requests: Sequence[_Request], parallel: int, seed: int
) -> Iterator[tuple[_Request, str | None, str]]:
    """Requests with their answers as they come, or None and what was wrong.

    Raises:
        ValueError: if the teacher refuses, or has failed so often that it counts as down.
    """

    remaining = iter(requests)
    failures, end = 0, ""
    with ThreadPoolExecutor(parallel) as pool:
        running: dict[Future[_Outcome], _Request] = {}
        while True:
            if not end:
                for request in islice(remaining, parallel - len(running)):
                    running[pool.submit(_answer, teacher, request, seed)] = request
            if not running:
                break
            # Also after the end: what is under way gets its place in the log.
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                yield running.pop(future), outcome.text, outcome.problem
                failures = failures + 1 if outcome.kind == "down" else 0
                if outcome.kind == "refused":
                    end = outcome.problem
                elif failures == MOST_FAILURES:
                    end = f"The teacher has failed {failures} times in a row, at last: {outcome.problem}."
    if end:
        raise ValueError(f"{end} What was answered is kept: start again to go on.")


def _answer(teacher: Teacher, request: _Request, seed: int) -> _Outcome:
    question = request.question
    try:
        text = teacher.answer(question.video, question.prompt, crc32(request.id.encode(), seed))
    except TeacherError as error:
        return _Outcome("down" if error.is_down else "failed", problem=str(error))
    except VideoDecodeError as error:
        return _Outcome("failed", problem=str(error))
    except ValueError as error:
        return _Outcome("refused", problem=str(error))
    return _Outcome("answered", text)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another process is writing {folder}; wait for it, or name another folder.") from error
    try:
        yield
    finally:
        lock.release()


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Holds a folder to answers of one kind, from its first on."""
    if not path.exists():
        _write_json(path, settings)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    different = [
        f"{name}={there.get(name)!r} (asked for: {settings.get(name)!r})"
        for name in sorted(there.keys() | settings.keys())
        if there.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError(
            f"{path.parent} holds answers with {', '.join(different)}; ask for the same, or name another folder."
        )


def _write_json(path: Path, content: Any) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
