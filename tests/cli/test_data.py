"""`spatial-mllm data generate` and `check-vsibench`, run as a user does."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from annotated_scenes import furnished_scene, make_box, make_scene

from spatial_mllm_hf.data.conversations import read_conversations
from spatial_mllm_hf.data.question_generation import GENERATED_TYPES, GenerationSettings, generate_questions
from spatial_mllm_hf.data.scene_annotations import write_scene_annotations
from spatial_mllm_hf.data.training_prompts import as_conversation

from .conftest import Command

NUM_SCENES = 5


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "scenes.json"
    write_scene_annotations([furnished_scene(seed) for seed in range(NUM_SCENES)], path)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table_numbers(out: str) -> dict[str, list[str]]:
    """What stands beside each name in a printed table."""
    lines = [line.split() for line in out.splitlines() if line.strip()]
    return {words[0]: words[1:] for words in lines}


def test_questions_of_all_scenes_are_written_and_counted(run: Command, annotations: Path, tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    result = run("data", "generate", "--annotations", annotations, "--out", out, "--seed", 3)
    assert result.code == 0, result.err
    expected = [question for seed in range(NUM_SCENES) for question in generate_questions(furnished_scene(seed), 3)]
    assert rows_of(out) == [as_conversation(question, "sft").to_dict() for question in expected]
    counted = Counter(question.question_type for question in expected)
    printed = table_numbers(result.out)
    assert {task: int(printed[task][0].replace(",", "")) for task in GENERATED_TYPES} == counted
    assert f"{NUM_SCENES} scenes, 0 skipped." in result.out
    assert f"Wrote {out}: {len(expected):,} questions." in result.out


def test_shares_stand_beside_the_paper_s(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "scenes.jsonl"
    write_scene_annotations([make_scene({"bed": make_box((0, 0, 0))}, object_counts={"bed": 1, "tv": 2})], path)
    result = run("data", "generate", "-a", path, "-o", tmp_path / "a.jsonl")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "task questions share paper" in lines
    assert "counting 1 50.0% 5.5%" in lines
    assert "room and object size 1 50.0% 16.1%" in lines
    assert "relative direction 0 0.0% 31.6%" in lines


def test_parquet_and_the_prompts_of_grpo(run: Command, annotations: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "train.parquet"
    options = ("--style", "grpo", "--wording", "vsibench", "--tasks", "object_counting, object_rel_distance")
    result = run("data", "generate", "-a", annotations, "-o", out, *options, "--max-relative-distance", 4)
    assert result.code == 0, result.err
    settings = GenerationSettings(("object_counting", "object_rel_distance"), "vsibench", max_relative_distance=4)
    expected = [
        as_conversation(question, "grpo")
        for seed in range(NUM_SCENES)
        for question in generate_questions(furnished_scene(seed), 0, settings)
    ]
    assert [row.to_dict() for row in read_conversations(out)] == [row.to_dict() for row in expected]


def test_the_paper_s_mixture(run: Command, annotations: Path, tmp_path: Path) -> None:
    out, everything = tmp_path / "train.jsonl", tmp_path / "all.jsonl"
    assert run("data", "generate", "-a", annotations, "-o", everything).code == 0
    result = run("data", "generate", "-a", annotations, "-o", out, "--mixture", "paper")
    assert result.code == 0, result.err
    rows = rows_of(out)
    types = Counter(row["metadata"]["question_type"] for row in rows)
    directions = sum(number for name, number in types.items() if "direction" in name)
    assert directions / len(rows) == pytest.approx(0.3164, abs=1 / len(rows))
    assert {row["id"] for row in rows} < {row["id"] for row in rows_of(everything)}
    assert f"{NUM_SCENES} scenes, 0 skipped." in result.out


def test_excluded_scenes_are_left_out(run: Command, annotations: Path, tmp_path: Path) -> None:
    names, out = tmp_path / "exclude.txt", tmp_path / "train.jsonl"
    names.write_text("room0001\nroom0003\nscene0011_00\n")
    result = run("data", "generate", "-a", annotations, "-o", out, "--exclude", names)
    assert {row["metadata"]["scene_name"] for row in rows_of(out)} == {"room0000", "room0002", "room0004"}
    assert "3 scenes, 0 skipped, 2 left out of the 3 to exclude." in result.out
    result = run("data", "generate", "-a", annotations, "-o", tmp_path / "none.jsonl", "--exclude", annotations)
    assert result.code == 2
    assert "no scene has a question to ask" in result.error
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("mixture", ["all", "paper"])
def test_bad_scenes_are_skipped_by_name_and_counted(
    run: Command, annotations: Path, tmp_path: Path, mixture: str
) -> None:
    scenes = json.loads(annotations.read_text())
    scenes["room0001"]["object_bbox"]["table"][0]["centroid"] = [0, None, 0]
    del scenes["room0003"]["dataset"]
    annotations.write_text(json.dumps(scenes))
    more = tmp_path / "more.jsonl"
    write_scene_annotations([furnished_scene(4), furnished_scene(9)], more)
    out = tmp_path / "train.jsonl"
    result = run("data", "generate", "-a", annotations, "-a", more, "-o", out, "--mixture", mixture)
    assert result.code == 0, result.err
    warnings = [line for line in result.err.splitlines() if "warning: skipped" in line]
    assert [line.split("Scene ")[1][:8] for line in warnings] == ["room0001", "room0003", "room0004"]
    assert "'dataset' is missing" in warnings[1]
    assert "it came before" in warnings[2]
    assert "4 scenes, 3 skipped." in result.out
    names = {row["metadata"]["scene_name"] for row in rows_of(out)}
    assert names <= {"room0000", "room0002", "room0004", "room0009"}
    assert len({row["id"] for row in rows_of(out)}) == len(rows_of(out))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "train.csv"), "--out train.csv must end in .jsonl or .parquet, got .csv"),
        (("--out", "a.jsonl", "--tasks", "route_planning"), "tasks must be some of object_counting, "),
        (("--out", "a.jsonl", "--exclude", "gone.txt"), "--exclude gone.txt: there is no such file"),
        (("--out", "a.jsonl", "-a", "gone.json"), "--annotations gone.json: there is no such file"),
    ],
)
def test_mistakes_end_with_one_line(run: Command, annotations: Path, options: tuple[str, ...], message: str) -> None:
    result = run("data", "generate", "--annotations", annotations, *options)
    assert result.code == 2
    assert result.error.startswith(message)


@pytest.fixture
def benchmark(tmp_path: Path) -> tuple[Path, Path]:
    """Questions in the published form, and the annotation that answers them."""
    scenes, questions = tmp_path / "meta_info.json", tmp_path / "test.jsonl"
    write_scene_annotations([furnished_scene(seed) for seed in range(NUM_SCENES)], scenes)
    settings = GenerationSettings(wording="vsibench", max_relative_distance=10, max_other=10)
    rows = [
        question.to_dict()
        for seed in range(NUM_SCENES)
        for question in generate_questions(furnished_scene(seed), 0, settings)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return questions, scenes


def test_check_of_questions_that_agree(run: Command, benchmark: tuple[Path, Path]) -> None:
    questions, scenes = benchmark
    result = run("data", "check-vsibench", "--questions", questions, "--annotations", scenes)
    assert result.code == 0, result.out
    assert "Differs" not in result.out
    counted = Counter(row["question_type"] for row in rows_of(questions))
    lines = [line.split() for line in result.out.splitlines()]
    for task, number in counted.items():
        for dataset in ("scannet", "all"):
            (row,) = [words for words in lines if words[:2] == [task, dataset]]
            assert row[2:6] == [f"{number}", f"{number}", f"{number}", "100.00%"]


def test_check_lists_what_differs_and_says_so_by_its_code(run: Command, benchmark: tuple[Path, Path]) -> None:
    questions, scenes = benchmark
    rows = rows_of(questions)
    counting = next(row for row in rows if row["question_type"] == "object_counting")
    right = counting["ground_truth"]
    counting["ground_truth"] = "77"
    extra = {**counting, "id": "elsewhere", "scene_name": "scene0000_00"}
    questions.write_text("".join(json.dumps(row) + "\n" for row in [*rows, extra]))
    result = run("data", "check-vsibench", "--questions", questions, "--annotations", scenes)
    assert result.code == 1
    place = f"{counting['id']} scannet/{counting['scene_name']}"
    assert f"Differs: {place}: {counting['question']} theirs 77, ours {right}" in result.out
    assert "Not decided: 1 of object_counting: the scene is not annotated" in result.out
    assert "Below its target: object_counting, " in result.out
    report = json.loads(run("data", "check-vsibench", "-q", questions, "-a", scenes, "--json").out)
    assert [item["id"] for item in report["disagreements"]] == [counting["id"]]
    assert report["below_target"] == ["object_counting"]


def test_check_against_other_scenes_is_a_mistake(run: Command, benchmark: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    write_scene_annotations([furnished_scene(0, name="elsewhere")], other)
    result = run("data", "check-vsibench", "-q", benchmark[0], "-a", other)
    assert result.code == 2
    assert "is decided by these scenes; are they of the same benchmark?" in result.error


def test_check_of_a_damaged_file(run: Command, benchmark: tuple[Path, Path]) -> None:
    questions, scenes = benchmark
    questions.write_bytes(questions.read_bytes()[:-20])
    result = run("data", "check-vsibench", "-q", questions, "-a", scenes)
    assert result.code == 2
    assert "The file seems to be cut off" in result.error
