"""The measure of the tiny model: scores by task, and what can be had without looking."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_rooms import TASKS, baselines, fine_tuning_curve, scores, spread

TEMPLATES = {
    "object_counting": "How many {}(s) are in this room?",
    "room_size_estimation": "What is the size of this room (in square meters)? \nIf multiple rooms are shown, estimate "
    "the size of the combined space.",
}
SIDES = ["A. left", "B. right"]


def write(folder: Path, name: str, rows: list[tuple[str, str, str, list[str] | None]]) -> None:
    """Questions as (type, what is asked, truth, options)."""
    (folder / name).mkdir()
    with (folder / name / "questions.jsonl").open("w") as file:
        for number, (kind, asked, truth, options) in enumerate(rows):
            fields = {"question_type": kind, "question": TEMPLATES.get(kind, "{}").format(asked), "options": options}
            place = {"dataset": "synthetic_rooms", "scene_name": "room_000001", "video": "room_000001.mp4"}
            file.write(json.dumps({"id": str(number), **place, **fields, "ground_truth": truth}) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    easy, hard = "object_rel_direction_easy", "object_rel_direction_hard"
    held_out = [("object_counting", "chair", count, None) for count in ("2", "4", "4")]
    held_out += [("object_counting", "lamp", "3", None), ("room_size_estimation", "", "20.0", None)]
    held_out += [(easy, "?", "A", SIDES), (easy, "?", "B", ["A. right", "B. left"]), (easy, "?", "B", SIDES)]
    write(tmp_path, "sparse_held_out", held_out)
    test = [("object_counting", "chair", "4", None), ("object_counting", "plant", "2", None)]
    test += [(easy, "?", "A", SIDES), (easy, "?", "A", ["A. right", "B. left"])]
    test += [(hard, "?", "C", ["A. back-left", "B. back-right", "C. front-left", "D. front-right"])]
    write(tmp_path, "sparse_test", test)
    return tmp_path


def test_what_can_be_had_without_looking(folder: Path) -> None:
    found = baselines(folder)
    # Chairs are mostly 4; of plants nothing is known, and the median of all counts is 3.5: off by 75 % of 2, so one
    # of ten thresholds (above 0.75 of relative error allowed: none) is passed.
    assert found["constant"]["counting"] == pytest.approx((100 + 0) / 2)
    assert found["chance"]["direction"] == pytest.approx((50 + 25) / 2)
    assert found["constant"]["direction"] == pytest.approx((50 + 25) / 2)  # left, which is right once of twice; by lot
    assert "counting" not in found["chance"]


def test_scores_by_task(folder: Path) -> None:
    said = ["<answer>4</answer>", "<answer>3</answer>", "<answer>A</answer>", "<answer>B</answer>", "no answer"]
    rows: dict[str, Any] = {}
    for kind, truth in (
        ("object_abs_distance", "2.0"),
        ("object_size_estimation", "90"),
        ("room_size_estimation", "9"),
    ):
        rows[kind] = (kind, "", truth, None)
    questions = (folder / "sparse_test" / "questions.jsonl").read_text().splitlines()
    more = [("object_rel_direction_medium", "A"), ("object_rel_distance", "B"), ("obj_appearance_order", "A")]
    for kind, truth in [*((row[0], row[2]) for row in rows.values()), *more]:
        options = SIDES if truth in "AB" else None
        row = json.loads(questions[0]) | {"question_type": kind, "ground_truth": truth, "options": options}
        questions.append(json.dumps(row | {"id": str(len(questions))}))
        said.append(f"<answer>{truth}</answer>")
    (folder / "sparse_test" / "questions.jsonl").write_text("\n".join(questions) + "\n")
    found = scores(folder, {str(number): answer for number, answer in enumerate(said)})
    assert set(found["tasks"]) == set(TASKS)
    assert found["types"]["exact count"] == 50
    assert found["types"]["object_counting"] == pytest.approx((100 + 0) / 2)  # 3 for 2 is off by half: no threshold
    assert found["tasks"]["direction"] == pytest.approx((50 + 100 + 0) / 3)
    assert found["tasks"]["absolute distance"] == found["tasks"]["relative distance"] == 100


def test_spread_and_curves(tmp_path: Path) -> None:
    runs = {f"sft_{seed}": {"tasks": {"counting": value}} for seed, value in enumerate((70.0, 80.0, 72.0), start=1)}
    assert spread({"runs": runs, "seeds": [1, 2, 3]}, "sft", "counting") == (74.0, 70.0, 80.0)
    for name, losses in (("a", [3.0, 2.0]), ("b", [1.5])):
        (tmp_path / name).mkdir()
        log = [{"step": 25 * (number + 1), "loss": loss} for number, loss in enumerate(losses)]
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": [*log, {"step": 50, "x": 1}]}))
    assert fine_tuning_curve(tmp_path, ("a", "b")) == ([25, 50, 75], [3.0, 2.0, 1.5])
