"""What README and docs show is what works."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC_CHECKPOINT = "Diankun/Spatial-MLLM-v1.1-Instruct-820K"


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_readme_examples_run(
    number: int,
    tiny_checkpoint: Path,
    room_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a tiny checkpoint in place of the named one and a rendered room for the kitchen."""
    shutil.copy(room_clip, tmp_path / "kitchen.mp4")
    monkeypatch.chdir(tmp_path)
    code = python_blocks("README.md")[number]
    for checkpoint in (PUBLIC_CHECKPOINT, "my-tiny-model"):
        code = code.replace(checkpoint, str(tiny_checkpoint))
    exec(compile(code, f"README.md, block {number}", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].strip()
    if number == 0:
        numbers = [int(line.split()[0]) for line in printed[1:]]
        assert len(numbers) == 16
        assert numbers == sorted(numbers)


def test_the_example_of_evaluation_runs(
    tiny_checkpoint: Path,
    room_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With one question on a rendered room in place of VSI-Bench."""
    (tmp_path / "videos" / "rooms").mkdir(parents=True)
    shutil.copy(room_clip, tmp_path / "videos" / "rooms" / "room.mp4")
    row = {"id": 0, "dataset": "rooms", "scene_name": "room", "question_type": "object_counting", "options": None}
    row |= {"question": "How many chair(s) are in this room?", "ground_truth": "3"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    (code,) = python_blocks("docs/evaluation.md")
    code = code.replace(PUBLIC_CHECKPOINT, str(tiny_checkpoint)).replace("nyu-visionx/VSI-Bench", "questions.jsonl")
    exec(compile(code, "docs/evaluation.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "0.0"  # a model of random weights says no number
    assert "1 of 1 questions answered." in (tmp_path / "runs" / "vsibench" / "report.md").read_text()


def test_the_example_of_rooms_runs() -> None:
    (code,) = python_blocks("docs/data.md")
    names: dict[str, Any] = {}
    exec(compile(code, "docs/data.md", "exec"), names)
    assert names["scene"].frames.rgb.shape == (32, 84, 112, 3)


def test_readme_has_no_examples_that_are_not_run() -> None:
    assert len(python_blocks("README.md")) == 2


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([\w-]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)) <= targets


@pytest.mark.parametrize(
    "name",
    ["README.md", "CONTRIBUTING.md", "DEVIATIONS.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))],
)
def test_paths_that_the_docs_name_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    missing = [link for link in links if not ((ROOT / name).parent / link).exists()]
    assert missing == []


def test_the_file_map_names_every_folder_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "src" / "spatial_mllm_hf").glob("*/__init__.py")}
    assert folders - set(re.findall(r"^  (\w+)/ ", readme, flags=re.MULTILINE)) == set()


def test_every_deviation_gives_a_reason() -> None:
    rows = [line for line in (ROOT / "DEVIATIONS.md").read_text().splitlines() if line.startswith("| ")]
    assert all(len(row.split(" | ")) == 4 and len(row.split(" | ")[3].strip(" |")) > 2 for row in rows)
