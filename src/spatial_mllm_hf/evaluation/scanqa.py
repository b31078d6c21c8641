"""ScanQA (arXiv 2112.10482): free-form questions about ScanNet scenes, each with several right answers.

Scored as in the evaluation of Spatial-MLLM's code v1.1: exact match and BLEU, METEOR, ROUGE-L and CIDEr.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.scanqa import read_scanqa, scanqa_prompt
from ..data.training_prompts import sft_prompt
from .evaluation_items import EvaluationItem, FreeFormPrompt, ScoreTable, checked_items, find_data_files
from .published_scores import SCANQA_COLUMNS
from .text_metrics import score_scanqa

DATA_FILES = ("ScanQA_v1.0_val.json", "*val*.json", "*.json")
HEADLINE = "official-code"


class ScanQA:
    """The benchmark for the runner."""

    name = "scanqa"
    title = "ScanQA"
    max_new_tokens = 256  # of the code v1.1

    def __init__(self, prompt: FreeFormPrompt = "official-code") -> None:
        self.prompt = prompt

    @property
    def settings(self) -> dict[str, Any]:
        return {"prompt": self.prompt}

    def read_items(self, data: str) -> list[EvaluationItem]:
        """The questions of a file in ScanQA's form, of the validation set in a folder or data set."""
        path = find_data_files(data, DATA_FILES)[0]
        items = (
            EvaluationItem(
                question.question_id,
                f"scannet/{question.scene_name}.mp4",
                self._prompt(question.question),
                {"question": question.question, "answers": list(question.answers)},
            )
            for question in read_scanqa(Path(path))
        )
        return checked_items(items, data)

    def _prompt(self, question: str) -> str:
        return sft_prompt(question, "text") if self.prompt == "sft" else scanqa_prompt(question)

    def score(self, items: Sequence[EvaluationItem], predictions: Mapping[str, str]) -> ScoreTable:
        scores, notes = score_scanqa(
            {item.id: predictions.get(item.id, "") for item in items},
            {item.id: item.truth["answers"] for item in items},
        )
        row = {column: None if (score := scores[column]) is None else 100 * score for column in SCANQA_COLUMNS}
        return ScoreTable(SCANQA_COLUMNS, {HEADLINE: row}, HEADLINE, tuple(notes))
