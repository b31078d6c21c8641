"""SQA3D (arXiv 2210.07474): questions from a situation that is described, about ScanNet scenes.

Scored by exact match and by LEO's refined match (EM-R), over all questions and by type of question.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.sqa3d import read_sqa3d, sqa3d_prompt
from ..data.training_prompts import sft_prompt
from .evaluation_items import EvaluationItem, FreeFormPrompt, ScoreTable, checked_items, find_data_files
from .published_scores import SQA3D_COLUMNS
from .text_metrics import SQA3D_TYPES, score_sqa3d

QUESTION_FILES = ("v1_balanced_questions_test_*.json", "*questions*test*.json")
ANNOTATION_FILES = ("v1_balanced_sqa_annotations_test_*.json", "*annotations*test*.json")
HEADLINE = "official-code"
MAX_NEW_TOKENS = 256  # nothing is published: as for ScanQA


class SQA3D:
    """The benchmark for the runner."""

    name = "sqa3d"
    title = "SQA3D"
    max_new_tokens = MAX_NEW_TOKENS

    def __init__(self, prompt: FreeFormPrompt = "official-code") -> None:
        self.prompt = prompt

    @property
    def settings(self) -> dict[str, Any]:
        return {"prompt": self.prompt}

    def read_items(self, data: str) -> list[EvaluationItem]:
        """The questions of the test set in a folder or data set that holds SQA3D's files of questions and annotations.

        Raises:
            ValueError: if one of the two is not there, or is of another form.
        """
        if Path(data).is_file():
            raise ValueError(f"--data {data}: SQA3D is two files, questions and annotations: give the folder of both.")
        questions, annotations = (find_data_files(data, names)[0] for names in (QUESTION_FILES, ANNOTATION_FILES))
        items = (
            EvaluationItem(
                row.question_id,
                f"scannet/{row.scene_name}.mp4",
                self._prompt(row.situation, row.question),
                {"question": row.question, "answers": list(row.answers)},
            )
            for row in read_sqa3d(questions, annotations)
        )
        return checked_items(items, data)

    def _prompt(self, situation: str, question: str) -> str:
        return (
            sft_prompt(f"{situation} {question}", "text") if self.prompt == "sft" else sqa3d_prompt(situation, question)
        )

    def score(self, items: Sequence[EvaluationItem], predictions: Mapping[str, str]) -> ScoreTable:
        scores = score_sqa3d(
            {item.id: predictions.get(item.id, "") for item in items},
            {item.id: item.truth["answers"] for item in items},
            {item.id: item.truth["question"] for item in items},
        )
        by_type = {column: scores.exact.get(name) for column, name in zip(SQA3D_COLUMNS, SQA3D_TYPES)}
        row = {**by_type, "EM": scores.exact["all"], "EM-R": scores.refined["all"]}
        percent = {column: None if share is None else 100 * share for column, share in row.items()}
        return ScoreTable(SQA3D_COLUMNS, {HEADLINE: percent}, HEADLINE)
