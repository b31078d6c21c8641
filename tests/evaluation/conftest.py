"""Questions and files that stand for videos."""

from pathlib import Path

import pytest

from spatial_mllm_hf.evaluation.evaluation_items import EvaluationItem


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Files that stand for four videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.mp4").write_bytes(b"video")
    return folder


@pytest.fixture
def echo_items() -> list[EvaluationItem]:
    """Five questions on each of four videos, the videos taking turns."""
    return [
        EvaluationItem(f"q{number}", f"{'abcd'[number % 4]}.mp4", f"What is {number}?", {"answer": f"{number}?"})
        for number in range(20)
    ]
