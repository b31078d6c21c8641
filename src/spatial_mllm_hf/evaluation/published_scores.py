"""Scores that others have published, in percent, to stand beside a run's own.

Sources: Spatial-MLLM's paper (arXiv 2505.23747v2, tables 1 to 3) and the README of its code v1.1. The paper's averages
over VSI-Bench are means over questions (micro), with the mean over tasks (macro) given beside for Spatial-MLLM and
Qwen2.5-VL; for the closed models it quotes VSI-Bench's own table, whose averages are means over tasks.
"""

from typing import NamedTuple

PAPER, README_V1_1 = "paper", "v1.1 README"


class PublishedRow(NamedTuple):
    """Scores of a model by column; a column that was not published is absent."""

    model: str
    source: str
    scores: dict[str, float]


VSIBENCH_COLUMNS = (
    "Count",
    "Abs. dist.",
    "Size",
    "Room",
    "Rel. dist.",
    "Rel. dir.",
    "Route",
    "Order",
    "Micro",
    "Macro",
)
SCANQA_COLUMNS = ("EM", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR", "CIDEr")
SQA3D_COLUMNS = ("What", "Is", "How", "Can", "Which", "Other", "EM", "EM-R")


def _row(model: str, source: str, columns: tuple[str, ...], *scores: float) -> PublishedRow:
    return PublishedRow(model, source, dict(zip(columns, scores, strict=True)))


_TASKS, _MEANS = VSIBENCH_COLUMNS[:8], VSIBENCH_COLUMNS[8:]
_TASKS_AND_MACRO = (*_TASKS, "Macro")

VSIBENCH = (
    _row("Spatial-MLLM", PAPER, VSIBENCH_COLUMNS, 65.3, 34.8, 63.1, 45.1, 41.3, 46.2, 33.5, 46.3, 48.4, 47.0),
    _row("Qwen2.5-VL-3B", PAPER, VSIBENCH_COLUMNS, 24.3, 24.7, 31.7, 22.6, 38.3, 41.6, 26.3, 21.2, 30.6, 29.0),
    _row("Qwen2.5-VL-7B", PAPER, VSIBENCH_COLUMNS, 40.9, 14.8, 43.4, 10.7, 38.6, 38.5, 33.0, 29.8, 33.0, 31.4),
    _row("Qwen2.5-VL-72B", PAPER, VSIBENCH_COLUMNS, 25.1, 29.3, 57.9, 29.4, 41.7, 37.0, 23.2, 29.0, 37.0, 34.3),
    _row("GPT-4o", PAPER, _TASKS_AND_MACRO, 46.2, 5.3, 43.8, 38.2, 37.0, 41.3, 31.5, 28.5, 34.0),
    _row("Gemini-1.5-Pro", PAPER, _TASKS_AND_MACRO, 56.2, 30.9, 64.1, 43.6, 51.3, 46.3, 36.0, 34.6, 45.4),
    _row("Qwen2.5-VL-3B", README_V1_1, _MEANS, 27.86, 27.25),
    _row("Qwen2.5-VL-3B, SFT on 135K", README_V1_1, _MEANS, 49.84, 49.64),
    _row("Spatial-MLLM 135K, uniform frames", README_V1_1, _MEANS, 51.13, 50.48),
    _row("Spatial-MLLM 135K, space-aware frames", README_V1_1, _MEANS, 52.75, 51.81),
    _row("Spatial-MLLM 820K, uniform frames", README_V1_1, _MEANS, 53.53, 53.00),
    _row("Spatial-MLLM 820K, space-aware frames", README_V1_1, _MEANS, 54.24, 53.43),
)
SCANQA = (
    _row("Spatial-MLLM", PAPER, SCANQA_COLUMNS, 26.3, 44.4, 28.8, 21.0, 14.8, 45.0, 18.4, 91.8),
    _row("Qwen2.5-VL-3B", PAPER, ("CIDEr",), 62.7),
    _row("Qwen2.5-VL-7B", PAPER, ("CIDEr",), 64.9),
    _row("Qwen2.5-VL-72B", PAPER, ("CIDEr",), 66.9),
)
SQA3D = (
    _row("Spatial-MLLM", PAPER, SQA3D_COLUMNS, 45.9, 71.6, 55.1, 69.5, 52.0, 53.0, 55.9, 58.7),
    _row("Qwen2.5-VL-3B", PAPER, ("EM", "EM-R"), 43.4, 45.9),
    _row("Qwen2.5-VL-72B", PAPER, ("EM", "EM-R"), 47.0, 50.9),
)
PUBLISHED = {"vsibench": VSIBENCH, "scanqa": SCANQA, "sqa3d": SQA3D}
