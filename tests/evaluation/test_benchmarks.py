"""How each benchmark puts its questions, word for word, and what its scores are made of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from spatial_mllm_hf.data.spatial_questions import SpatialQuestion
from spatial_mllm_hf.evaluation.evaluation_items import EvaluationItem, checked_items, digest_items, find_data_files
from spatial_mllm_hf.evaluation.published_scores import PUBLISHED, SCANQA_COLUMNS, SQA3D_COLUMNS, VSIBENCH_COLUMNS
from spatial_mllm_hf.evaluation.scanqa import ScanQA
from spatial_mllm_hf.evaluation.sqa3d import SQA3D
from spatial_mllm_hf.evaluation.vsibench import DATA_FILES, VSIBench, to_item

COUNT = SpatialQuestion("1", "scannet", "scene0000_00", "object_counting", "How many chair(s)?", None, "4")
CLOSEST = SpatialQuestion(
    "2", "arkitscenes", "41069025", "object_rel_distance", "Which is the closest?", ("A. bed", "B. sofa"), "B"
)


def test_vsibench_prompts_are_the_published_ones() -> None:
    assert to_item(COUNT, "official-code").prompt == (
        "How many chair(s)?\nPlease answer the question using a single word or phrase."
    )
    assert to_item(CLOSEST, "official-code").prompt == (
        "Which is the closest?\nOptions:\nA. bed\nB. sofa\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert to_item(CLOSEST, "benchmark").prompt == (
        "These are frames of a video.\nWhich is the closest?\nOptions:\nA. bed\nB. sofa\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_vsibench_can_be_asked_as_in_training() -> None:
    sft = to_item(COUNT, "sft").prompt
    assert sft.startswith("How many chair(s)?")
    assert "within the <answer> </answer> tags" in sft
    assert "<think> </think>" not in sft
    assert "<think> </think>" in to_item(COUNT, "grpo").prompt


@pytest.mark.parametrize(("prompt", "tokens"), [("official-code", 1024), ("benchmark", 16)])
def test_the_longest_answer_is_the_published_one(prompt: Any, tokens: int) -> None:
    assert VSIBench(prompt).max_new_tokens == tokens


def vsibench_file(folder: Path, pruned: bool = True) -> Path:
    rows = [question.to_dict() for question in (COUNT, CLOSEST)]
    if pruned:
        rows = [{**row, "pruned": row["id"] == "1"} for row in rows]
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_debiased_edition_leaves_out_what_was_pruned(tmp_path: Path) -> None:
    path = str(vsibench_file(tmp_path))
    assert [item.id for item in VSIBench().read_items(path)] == ["1", "2"]
    assert [item.id for item in VSIBench(edition="debiased").read_items(path)] == ["2"]
    unknown = str(vsibench_file(tmp_path, pruned=False))
    with pytest.raises(ValueError, match="does not say which questions are pruned"):
        VSIBench(edition="debiased").read_items(unknown)


def test_vsibench_scores_by_task_and_both_means() -> None:
    directions = [
        SpatialQuestion(str(n), "d", "s", f"object_rel_direction_{level}", "?", ("A. left", "B. right"), "A")  # type: ignore[arg-type]
        for n, level in ((3, "easy"), (4, "easy"), (5, "hard"))
    ]
    items = [to_item(question, "official-code") for question in (COUNT, CLOSEST, *directions)]
    table = VSIBench().score(items, {"1": "4", "2": "B", "3": "A", "4": "B", "5": "A"})
    row = table.rows["official-code"]
    # Directions: easy 1/2, hard 1 → 3/4. Macro: (1 + 1 + 3/4) / 3; micro: 4 of 5.
    assert (row["Count"], row["Rel. dist."], row["Rel. dir."]) == (100.0, 100.0, 75.0)
    assert row["Macro"] == pytest.approx(100 * 2.75 / 3)
    assert row["Micro"] == pytest.approx(80.0)
    assert row["Route"] is None
    assert table.columns == VSIBENCH_COLUMNS
    assert table.headline == "official-code"


def test_published_scorings_differ_where_they_should() -> None:
    items = [to_item(CLOSEST, "official-code")]
    rows = VSIBench(scoring="benchmark").score(items, {"2": "B because it is near"}).rows
    assert rows["official-code"]["Micro"] == 0.0
    assert rows["benchmark"]["Micro"] == 100.0


def test_a_question_without_an_answer_is_wrong() -> None:
    items = [to_item(question, "official-code") for question in (COUNT, CLOSEST)]
    assert VSIBench().score(items, {"2": "B"}).rows["official-code"]["Micro"] == 50.0


SCANQA_ROWS = [
    {
        "scene_id": f"scene001{n}_00",
        "question_id": f"val-scene001{n}-0",
        "question": question,
        "answers": answers,
        "object_ids": [1],
        "object_names": ["chair"],
    }
    for n, (question, answers) in enumerate(
        [("What color is the chair?", ["brown", "dark brown"]), ("Where is the table?", ["next to the window"])]
    )
]


def test_scanqa_asks_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no Java, as on most machines
    (tmp_path / "ScanQA_v1.0_train.json").write_text("[]")
    (tmp_path / "ScanQA_v1.0_val.json").write_text(json.dumps(SCANQA_ROWS))
    items = ScanQA().read_items(str(tmp_path))
    assert [item.video for item in items] == ["scannet/scene0010_00.mp4", "scannet/scene0011_00.mp4"]
    assert items[0].prompt == "What color is the chair? Answer the question simply."
    table = ScanQA().score(items, {items[0].id: "dark brown", items[1].id: "next to the door"})
    row: Mapping[str, float | None] = table.rows[table.headline]
    assert tuple(row) == SCANQA_COLUMNS
    assert row["EM"] == 50.0
    assert row["METEOR"] is None
    assert "METEOR" in table.notes[0]
    # 2 + 3 of 2 + 4 words are right, none of them too short.
    assert row["BLEU-1"] == pytest.approx(100 * 5 / 6)


def sqa3d_folder(folder: Path) -> Path:
    questions = [
        {
            "scene_id": "scene0380_00",
            "situation": "I am facing the door.",
            "alternative_situation": ["The door is before me."],
            "question": question,
            "question_id": number,
        }
        for number, question in enumerate(["What is behind me?", "Is the door open?"])
    ]
    annotations = [
        {"question_id": number, "answers": [{"answer": answer}]} for number, answer in enumerate(["bed", "no"])
    ]
    for name, key, rows in (
        ("v1_balanced_questions_test_scannetv2.json", "questions", questions),
        ("v1_balanced_sqa_annotations_test_scannetv2.json", "annotations", annotations),
    ):
        (folder / name).write_text(json.dumps({key: rows}))
    return folder


def test_sqa3d_asks_and_scores(tmp_path: Path) -> None:
    items = SQA3D().read_items(str(sqa3d_folder(tmp_path)))
    assert items[0].prompt == (
        "I am facing the door. What is behind me? Answer the question using a single word or phrase."
    )
    assert items[0].video == "scannet/scene0380_00.mp4"
    table = SQA3D().score(items, {"0": "the bed over there", "1": "no"})
    row = table.rows[table.headline]
    assert tuple(row) == SQA3D_COLUMNS
    assert (row["What"], row["Is"], row["EM"], row["EM-R"]) == (0.0, 100.0, 50.0, 100.0)
    assert row["How"] is None


def test_sqa3d_wants_both_files(tmp_path: Path) -> None:
    path = sqa3d_folder(tmp_path) / "v1_balanced_questions_test_scannetv2.json"
    with pytest.raises(ValueError, match="two files, questions and annotations: give the folder"):
        SQA3D().read_items(str(path))


def test_data_is_a_file_a_folder_or_a_hub_data_set(tmp_path: Path) -> None:
    path = vsibench_file(tmp_path)
    assert find_data_files(str(path), ("*.parquet",)) == [path]
    assert find_data_files(str(tmp_path), ("*.parquet", "*.jsonl")) == [path]
    with pytest.raises(ValueError, match=r"holds none of \*\.parquet"):
        find_data_files(str(tmp_path), ("*.parquet",))
    with pytest.raises(ValueError, match=r"--data \./nowhere: there is no such file or folder"):
        find_data_files("./nowhere", ("*.parquet",))


def test_of_vsibenchs_hub_data_set_the_two_files_that_make_up_the_whole_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = ["README.md", "arkitscenes.zip", "pruned_ids.txt", "test.jsonl", "test_debiased.parquet"]
    published += ["test_pruned.parquet"]

    def download(data: str, repo_type: str, allow_patterns: list[str]) -> str:
        assert (data, repo_type) == ("nyu-visionx/VSI-Bench", "dataset")
        for name in filter_repo_objects(published, allow_patterns=allow_patterns):
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr("spatial_mllm_hf.evaluation.evaluation_items.snapshot_download", download)
    found = find_data_files("nyu-visionx/VSI-Bench", DATA_FILES)
    assert [path.name for path in found] == ["test_debiased.parquet", "test_pruned.parquet"]
    assert not (tmp_path / "arkitscenes.zip").exists(), "gigabytes that nobody asked for"


def test_two_questions_with_one_id_and_none_at_all_are_errors() -> None:
    item = EvaluationItem("7", "a.mp4", "?", {})
    with pytest.raises(ValueError, match="two questions have the id '7'"):
        checked_items([item, item], "file.json")
    with pytest.raises(ValueError, match=r"file\.json holds no questions"):
        checked_items([], "file.json")


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|image_pad|>"])
def test_a_question_that_holds_a_placeholder_is_named(token: str) -> None:
    item = EvaluationItem("7", "a.mp4", f"What is {token}?", {})
    with pytest.raises(ValueError, match="question '7' holds"):
        checked_items([item], "file.json")


def test_details_hold_what_the_table_leaves_out() -> None:
    items = [to_item(question, "official-code") for question in (COUNT, CLOSEST)]
    details = VSIBench().score(items, {"1": "4", "2": "A"}).details["official-code"]
    assert details["by_type"] == {"object_counting": 1.0, "object_rel_distance": 0.0}
    assert details["counts"] == {"object_counting": 1, "object_rel_distance": 1}
    assert (details["numerical"], details["multiple_choice"]) == (1.0, 0.0)


def test_the_digest_tells_prompts_and_truths_apart() -> None:
    first = EvaluationItem("7", "a.mp4", "?", {"answer": 1})
    others = [
        EvaluationItem("8", "a.mp4", "?", {"answer": 1}),
        EvaluationItem("7", "b.mp4", "?", {"answer": 1}),
        EvaluationItem("7", "a.mp4", "!", {"answer": 1}),
        EvaluationItem("7", "a.mp4", "?", {"answer": 2}),
    ]
    assert digest_items([first]) == digest_items([EvaluationItem("7", "a.mp4", "?", {"answer": 1})])
    assert len({digest_items([item]) for item in (first, *others)}) == 5


@pytest.mark.parametrize(
    ("name", "columns"), [("vsibench", VSIBENCH_COLUMNS), ("scanqa", SCANQA_COLUMNS), ("sqa3d", SQA3D_COLUMNS)]
)
def test_published_rows_have_columns_of_their_table(name: str, columns: tuple[str, ...]) -> None:
    for row in PUBLISHED[name]:
        assert set(row.scores) <= set(columns)
        assert all(0 < score <= 100 for score in row.scores.values())


def test_published_macro_means_agree_with_their_tasks() -> None:
    """A mistyped number would show: the macro means are those of the eight columns, to within a quarter of a point."""
    for row in PUBLISHED["vsibench"]:
        tasks = [row.scores[column] for column in VSIBENCH_COLUMNS[:8] if column in row.scores]
        if len(tasks) == 8:
            assert row.scores["Macro"] == pytest.approx(sum(tasks) / 8, abs=0.25), row.model
