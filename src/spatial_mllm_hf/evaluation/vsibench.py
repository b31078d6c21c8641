"""VSI-Bench (arXiv 2412.14171): 5,131 questions in ten types about videos of rooms, by number or option's letter.

Read from the published parquet or jsonl, or from the file of Spatial-MLLM's v1.0 evaluation (5,130 of them). Both
published ways of scoring, and a lenient one, are always computed; the user chooses which is the headline.

    >>> item = to_item(question, "official-code")
    >>> print(item.prompt)
    Which of these objects (chair, stool) is the closest to the tv?
    Options:
    A. chair
    B. stool
    Answer with the option's letter from the given choices directly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from ..data.spatial_questions import SpatialQuestion
from ..data.training_prompts import grpo_prompt, question_with_options, sft_prompt
from ..data.vsibench_questions import read_vsibench_questions
from .answers import SCORINGS, Scoring
from .evaluation_items import EvaluationItem, ScoreTable, checked_items, find_data_files
from .metrics import VSIBenchScores, score_answer, summarize_vsibench
from .published_scores import VSIBENCH_COLUMNS

Prompt = Literal["official-code", "benchmark", "sft", "grpo"]
Edition = Literal["full", "debiased"]
DATA_FILES = ("eval_vsibench.json", "test*.parquet", "test*.jsonl", "*.parquet", "*.jsonl", "*.json")

# Spatial-MLLM's code v1.1 (evaluation of VSI-Bench) and thinking-in-space's (lmms_eval/tasks/vsibench) end alike.
OPTIONS_HEADING = "Options:"
CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly."
NUMBER_INSTRUCTION = "Please answer the question using a single word or phrase."
# Only thinking-in-space begins with it.
BENCHMARK_PREAMBLE = "These are frames of a video."
# Longest answers: of the code v1.1, of thinking-in-space, and of this package for prompts of training.
MAX_NEW_TOKENS: dict[Prompt, int] = {"official-code": 1024, "benchmark": 16, "sft": 128, "grpo": 1024}

LENIENT_NOTE = (
    "`lenient` is published by nobody: it reads number words, units and bracketed letters, to show what form costs."
)

_COLUMN_OF_TASK = {
    "object_counting": "Count",
    "object_abs_distance": "Abs. dist.",
    "object_size_estimation": "Size",
    "room_size_estimation": "Room",
    "object_rel_distance": "Rel. dist.",
    "object_rel_direction": "Rel. dir.",
    "route_planning": "Route",
    "obj_appearance_order": "Order",
}


class VSIBench:
    """The benchmark for the runner.

    Args:
        prompt: how a question is put: as the code v1.1 of Spatial-MLLM, as the benchmark's own code, or as in training.
        scoring: the headline: as the code of Spatial-MLLM, or as the benchmark's own.
        edition: "debiased" leaves out the questions that VSI-Bench marks as pruned.
    """

    name = "vsibench"
    title = "VSI-Bench"

    def __init__(
        self, prompt: Prompt = "official-code", scoring: Scoring = "official-code", edition: Edition = "full"
    ) -> None:
        self.prompt = prompt
        self.scoring = scoring
        self.edition = edition
        self.max_new_tokens = MAX_NEW_TOKENS[prompt]

    @property
    def settings(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "edition": self.edition}

    def read_items(self, data: str) -> list[EvaluationItem]:
        """The questions.

        Raises:
            ValueError: as `read_vsibench_questions`, or if the debiased edition is wanted of a file that does not say
                which questions are pruned.
        """
        questions = [row for path in find_data_files(data, DATA_FILES) for row in read_vsibench_questions(path)]
        if self.edition == "debiased":
            if any(question.pruned is None for question in questions):
                raise ValueError(
                    f"--edition debiased: {data} does not say which questions are pruned (column `pruned`)."
                )
            questions = [question for question in questions if not question.pruned]
        return checked_items((to_item(question, self.prompt) for question in questions), data)

    def score(self, items: Sequence[EvaluationItem], predictions: Mapping[str, str]) -> ScoreTable:
        """Micro is the mean over questions; macro the mean over tasks, the three directions averaged first."""
        scores = {scoring: _summarize(items, predictions, scoring) for scoring in SCORINGS}
        return ScoreTable(
            columns=VSIBENCH_COLUMNS,
            rows={scoring: _columns(found) for scoring, found in scores.items()},
            headline=self.scoring,
            notes=(LENIENT_NOTE,),
            details={scoring: asdict(found) for scoring, found in scores.items()},
        )


def to_item(question: SpatialQuestion, prompt: Prompt) -> EvaluationItem:
    """A question as it is asked."""
    if prompt in ("sft", "grpo"):
        kind: Literal["number", "multiple_choice"] = "number" if question.is_numerical else "multiple_choice"
        text = question_with_options(question)
        text = sft_prompt(text, kind) if prompt == "sft" else grpo_prompt(text, kind)
    else:
        preamble = [BENCHMARK_PREAMBLE] if prompt == "benchmark" else []
        instruction = NUMBER_INSTRUCTION if question.options is None else CHOICE_INSTRUCTION
        text = "\n".join([*preamble, question.question, *_options(question), instruction])
    truth = {
        "question_type": question.question_type,
        "question": question.question,
        "options": None if question.options is None else list(question.options),
        "ground_truth": question.ground_truth,
    }
    return EvaluationItem(question.id, question.video_path, text, truth)


def _options(question: SpatialQuestion) -> list[str]:
    return [] if question.options is None else [OPTIONS_HEADING, *question.options]


def _summarize(items: Sequence[EvaluationItem], predictions: Mapping[str, str], scoring: Scoring) -> VSIBenchScores:
    return summarize_vsibench(
        (
            item.truth["question_type"],
            score_answer(
                item.truth["question_type"], predictions.get(item.id, ""), item.truth["ground_truth"], scoring
            ),
        )
        for item in items
    )


def _columns(scores: VSIBenchScores) -> dict[str, float | None]:
    columns: dict[str, float | None] = dict.fromkeys(VSIBENCH_COLUMNS)
    for task, score in scores.by_task.items():
        columns[_COLUMN_OF_TASK[task]] = 100 * score
    return {**columns, "Micro": 100 * scores.micro, "Macro": 100 * scores.macro}
