"""Cold-start data: which paths are kept, and runs against a small endpoint with faults, kills and all."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import CUT, GARBAGE, HANG_UP, question_of, serve
from typer import Typer
from typer.testing import CliRunner

from spatial_mllm_hf.cli.data_cold_start import cold_start
from spatial_mllm_hf.data.conversations import read_conversations, write_conversations
from spatial_mllm_hf.data.spatial_questions import SpatialQuestion
from spatial_mllm_hf.data.training_prompts import as_conversation
from spatial_mllm_hf.training import cold_start as module
from spatial_mllm_hf.training.cold_start import (
    ColdStartQuestion,
    read_questions,
    run_cold_start,
    select_paths,
)
from spatial_mllm_hf.training.samples import ConversationDataset
from spatial_mllm_hf.training.teachers import EndpointTeacher, Sampling, TeacherError

FEW = Sampling(num_frames=2, max_new_tokens=8)


def path(answer: str, thought: str = "Let me think.") -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


def spatial_question(name: str, kind: str = "object_counting", truth: str = "4") -> SpatialQuestion:
    options = None if kind == "object_counting" else ("A. bed", "B. chair")
    text = f"{name}: how many chairs?" if options is None else f"{name}: what is nearest?"
    return SpatialQuestion(name, "rooms", "room", kind, text, options, truth, "room.mp4")


def as_question(asked: SpatialQuestion) -> ColdStartQuestion:
    row = as_conversation(asked, "grpo")
    return ColdStartQuestion(asked.id, "room.mp4", asked.question, asked.question_type, asked.ground_truth, None, row)


def answers_of(**texts: list[str]) -> dict[str, str]:
    return {f"{name}#{number}": text for name, several in texts.items() for number, text in enumerate(several, 1)}


# ---------- which paths are kept
def test_of_a_type_the_better_half_is_kept() -> None:
    """With the truth 4, the answer 4 has reward 1, 3 has 0.5 (as in test_rewards), and 40 has 0."""
    questions = [as_question(spatial_question(name)) for name in "abcde"]
    answers = answers_of(
        a=[path("40"), path("4", "Right."), path("4", "Right again.")],
        b=[path("3"), path("40"), path("40")],
        c=[path("40"), path("40"), path("40")],
        d=[path("40"), path("3"), path("4")],
        e=[path("40"), path("3", "Half."), path("3", "Half again.")],
    )
    chosen, by_type = select_paths(questions, answers, paths=3)
    report = by_type["object_counting"]
    assert (report.questions, report.answered, report.median, report.kept) == (5, 5, 0.5, 4)
    assert [row.id for row in chosen] == ["a", "b", "d", "e"]
    assert chosen[0].turns == (questions[0].conversation.turns[0], ("gpt", path("4", "Right.")))
    assert chosen[3].turns[1] == ("gpt", path("3", "Half."))  # the first of equals
    assert [row.metadata["reward"] for row in chosen] == [1.0, 0.5, 1.0, 0.5]
    assert chosen[0].metadata["ground_truth"] == "4"


def test_the_median_is_of_each_type_and_nothing_without_reward_is_kept() -> None:
    choice = "object_rel_distance"
    questions = [as_question(spatial_question(name)) for name in "ab"]
    questions += [as_question(spatial_question(name, choice, "B")) for name in "cde"]
    answers = answers_of(a=[path("4")], b=[path("3")], c=[path("A")], d=[path("A")], e=[path("B")])
    chosen, by_type = select_paths(questions, answers, paths=1)
    assert by_type["object_counting"].median == 0.75
    assert by_type[choice].median == 0  # so that c and d reach it
    assert [row.id for row in chosen] == ["a", "e"]


def test_a_path_that_is_not_of_the_form_teaches_nothing() -> None:
    questions = [as_question(spatial_question("a"))]
    texts = ["<answer>4</answer>", "4", path("4") + path("4"), path("3")]
    (row,), _ = select_paths(questions, answers_of(a=texts), paths=4)
    assert row.turns[1] == ("gpt", path("3"))
    assert select_paths(questions, answers_of(a=texts[:3]), paths=3)[0] == []


def test_white_space_around_a_path_does_not_matter() -> None:
    (row,), _ = select_paths([as_question(spatial_question("a"))], answers_of(a=["\n\n" + path("4") + "\n"]), paths=1)
    assert row.turns[1] == ("gpt", path("4"))


def test_questions_without_an_answer_do_not_count() -> None:
    questions = [as_question(spatial_question(name)) for name in "abc"]
    chosen, by_type = select_paths(questions, answers_of(a=[path("3")]), paths=3)
    report = by_type["object_counting"]
    assert (report.questions, report.answered, report.median, report.kept) == (3, 1, 0.5, 1)
    assert [row.id for row in chosen] == ["a"]
    assert select_paths(questions, {}, paths=3)[1]["object_counting"].median is None


def test_more_paths_than_are_asked_for_are_left_aside() -> None:
    questions = [as_question(spatial_question("a"))]
    assert select_paths(questions, answers_of(a=[path("40"), path("4")]), paths=1)[0] == []


# ---------- runs
@pytest.fixture
def data(room_clip: Path, tmp_path: Path) -> Path:
    """A folder with the clip and six questions on it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "room.mp4").symlink_to(room_clip)
    asked = [spatial_question(name) for name in "abcd"]
    asked += [spatial_question(name, "object_rel_distance", "B") for name in "ef"]
    write_conversations((as_conversation(each, "grpo") for each in asked), folder / "questions.jsonl")
    return folder


def questions_of(data: Path, **options: Any) -> list[ColdStartQuestion]:
    return read_questions([str(data / "questions.jsonl")], data, **options)


def teacher(url: str, **changes: Any) -> EndpointTeacher:
    return EndpointTeacher(url, **{"model": "big", "sampling": FEW, "pause": 0.0, "timeout": 2.0} | changes)


def good_answer(body: dict[str, Any], before: int = 0) -> str:
    """Right about a, b and e, half right about c, wrong about d and f; each time with other thoughts."""
    answers = {"a": "4", "b": "4", "c": "3", "d": "40", "e": "B", "f": "A"}
    return path(answers[question_of(body)[0]], f"Seed {body['seed']}.")


def chosen_of(folder: Path) -> list[str]:
    return [row.id for row in read_conversations(folder / "cold_start.jsonl")]


def test_a_run_asks_everything_once_and_keeps_the_better_half(data: Path, tmp_path: Path) -> None:
    out, shown = tmp_path / "out", []
    with serve(good_answer) as endpoint:
        report = run_cold_start(
            out, questions_of(data), teacher(endpoint.url), show=lambda done, total: shown.append((done, total))
        )
    asked = Counter(question_of(body)[0] for body in endpoint.bodies)
    assert asked == dict.fromkeys("abcdef", 3)
    assert len({body["seed"] for body in endpoint.bodies}) == 18  # each path is drawn anew
    assert shown[0] == (0, 18)
    assert shown[-1] == (18, 18)
    assert chosen_of(out) == ["a", "b", "e"]  # medians 0.75 (of 1, 1, 0.5, 0) and 0.5 (of 1, 0)
    assert report.failures == {}
    written = json.loads((out / "report.json").read_text())
    assert written["kept"] == report.kept == 3
    assert written["by_type"]["object_counting"] == {"questions": 4, "answered": 4, "median": 0.75, "kept": 2}
    (row, *_) = read_conversations(out / "cold_start.jsonl")
    assert row.videos == ("room.mp4",)
    assert "Please think about this question" in row.turns[0][1]
    assert row.turns[1][1].startswith("<think>Seed ")
    assert ConversationDataset([str(out / "cold_start.jsonl")])[0].conversation == row  # what fine-tuning reads


def test_the_same_answers_give_the_same_files(data: Path, tmp_path: Path) -> None:
    written = []
    for parallel in (1, 5):
        out = tmp_path / f"out-{parallel}"
        with serve(good_answer) as endpoint:
            run_cold_start(out, questions_of(data), teacher(endpoint.url), parallel=parallel)
        written.append((out / "cold_start.jsonl").read_bytes())
    assert written[0] == written[1]


def test_no_more_than_asked_for_are_under_way(data: Path, tmp_path: Path) -> None:
    barrier = threading.Barrier(3)

    def together(body: dict[str, Any], before: int) -> str:
        barrier.wait(timeout=10)  # breaks unless three come at a time; 18 is a multiple of it
        return good_answer(body)

    with serve(together) as endpoint:
        run_cold_start(tmp_path / "out", questions_of(data), teacher(endpoint.url, timeout=20), parallel=3)
    assert endpoint.most_at_once == 3
    assert len(endpoint.bodies) == 18


def test_faults_on_the_way_leave_no_trace(data: Path, tmp_path: Path) -> None:
    faults = [(500, "busy"), CUT, GARBAGE, HANG_UP, (429, "")]

    def failing_at_first(body: dict[str, Any], before: int) -> Any:
        return faults[body["seed"] % len(faults)] if before == 0 else good_answer(body)

    with serve(failing_at_first) as endpoint:
        report = run_cold_start(tmp_path / "out", questions_of(data), teacher(endpoint.url))
    assert len(endpoint.bodies) == 36
    assert report.failures == {}
    assert chosen_of(tmp_path / "out") == ["a", "b", "e"]


def test_what_failed_is_asked_again_by_the_next_run_and_nothing_else(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serve(lambda body, before: (400, "too long") if question_of(body)[0] in "be" else good_answer(body)) as first:
        report = run_cold_start(out, questions_of(data), teacher(first.url))
    names = {f"questions:{name}#{number}" for name in "be" for number in (1, 2, 3)}
    assert set(report.failures) == names
    assert "400 Bad Request: too long" in report.failures["questions:b#1"]
    assert report.by_type["object_counting"].answered == 3
    with serve(good_answer) as second:
        report = run_cold_start(out, questions_of(data), teacher(second.url))
    assert Counter(question_of(body)[0] for body in second.bodies) == {"b": 3, "e": 3}
    assert report.failures == {}
    assert chosen_of(out) == ["a", "b", "e"]
    with serve(good_answer) as third:
        run_cold_start(out, questions_of(data), teacher(third.url))
    assert third.bodies == []


def test_a_log_that_a_kill_cut_off_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serve(good_answer) as endpoint:
        run_cold_start(out, questions_of(data), teacher(endpoint.url), parallel=1)
    whole, lines = (out / "cold_start.jsonl").read_bytes(), (out / "answers.jsonl").read_bytes().splitlines(True)
    (out / "answers.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:20])
    (out / "cold_start.jsonl").unlink()
    with serve(good_answer) as endpoint:
        run_cold_start(out, questions_of(data), teacher(endpoint.url))
    assert len(endpoint.bodies) == 11
    assert (out / "cold_start.jsonl").read_bytes() == whole


def test_a_teacher_that_is_down_ends_the_run_and_what_was_answered_stays(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serve(lambda body, before: good_answer(body) if question_of(body)[0] in "ab" else (503, "")) as endpoint:
        with pytest.raises(ValueError, match=r"failed 10 times in a row, at last: .*503.*start again to go on"):
            run_cold_start(out, questions_of(data), teacher(endpoint.url, attempts=1), parallel=1)
        assert len(endpoint.bodies) == 6 + module.MOST_FAILURES
    with serve(good_answer) as endpoint:
        run_cold_start(out, questions_of(data), teacher(endpoint.url))
    assert len(endpoint.bodies) == 12


def test_a_refusal_ends_the_run_after_what_is_under_way(data: Path, tmp_path: Path) -> None:
    """Answers that were already asked for are not thrown away."""
    out, refused = tmp_path / "out", threading.Event()

    def script(body: dict[str, Any], before: int) -> Any:
        if question_of(body)[0] == "a":
            refused.set()
            return (401, "who are you?")
        refused.wait(timeout=10)
        return good_answer(body)

    asked = questions_of(data)[:2]  # a and b
    with serve(script) as endpoint, pytest.raises(ValueError, match=r"refuses: 401 .*who are you.*start again"):
        run_cold_start(out, asked, teacher(endpoint.url, timeout=20), paths=1, parallel=2)
    assert len(endpoint.bodies) == 2
    assert [json.loads(line)["id"] for line in (out / "answers.jsonl").read_text().splitlines()] == ["questions:b#1"]


class DamagedVideos:
    """A teacher that cannot read the video of some questions."""

    is_parallel = False

    def answer(self, video: str, prompt: str, seed: int) -> str:
        if prompt.startswith("a"):
            raise module.VideoDecodeError("the video ends too early")
        if prompt.startswith("b"):
            raise TeacherError("too many frames")
        return path("4")

    def describe(self) -> dict[str, Any]:
        return {"teacher": "fake"}


def test_a_video_that_turns_out_damaged_fails_alone(data: Path, tmp_path: Path) -> None:
    report = run_cold_start(tmp_path / "out", questions_of(data)[:4], DamagedVideos(), paths=1)
    assert report.failures == {
        "questions:a#1": "the video ends too early",
        "questions:b#1": "too many frames",
    }
    assert report.by_type["object_counting"].answered == 2


def test_answers_of_another_kind_are_not_mixed_in(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serve(good_answer) as endpoint:
        run_cold_start(out, questions_of(data)[:1], teacher(endpoint.url, api_key="secret"))
        with pytest.raises(ValueError, match=r"paths=3 \(asked for: 4\), teacher='big' \(asked for: 'small'\)"):
            run_cold_start(out, questions_of(data)[:1], teacher(endpoint.url, model="small"), paths=4)
        run_cold_start(out, questions_of(data)[:2], teacher(endpoint.url))  # more questions are welcome
    assert len(endpoint.bodies) == 6
    assert "secret" not in (out / "settings.json").read_text()


@pytest.mark.parametrize(
    ("changes", "message"), [({"paths": 0}, "paths must be"), ({"parallel": 0}, "parallel must be")]
)
def test_numbers_below_one(data: Path, tmp_path: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_cold_start(tmp_path / "out", questions_of(data), DamagedVideos(), **changes)


def test_questions_are_drawn_by_the_seed(data: Path) -> None:
    def names(**options: Any) -> list[str]:
        return [question.id for question in questions_of(data, **options)]

    assert names(count=100) == names() == [f"questions:{name}" for name in "abcdef"]
    assert names(count=3, seed=1) == names(count=3, seed=1)
    assert len({tuple(names(count=3, seed=seed)) for seed in range(8)}) > 1
    assert set(names(count=3)) < set(names())


def test_an_id_must_not_come_twice(data: Path) -> None:
    rows = [as_conversation(spatial_question("a"), "grpo")] * 2
    write_conversations(rows, data / "questions.jsonl")
    with pytest.raises(ValueError, match="questions:a: the id came before"):
        questions_of(data)


def test_a_question_is_about_one_video(data: Path) -> None:
    row = as_conversation(spatial_question("a"), "grpo")
    text = "How many?" + row.turns[0][1].removeprefix("<video>")
    write_conversations([type(row)("a", (), (), (("human", text), row.turns[1]), row.metadata)], data / "q.jsonl")
    with pytest.raises(ValueError, match="q:a: a teacher is asked about one video"):
        read_questions([str(data / "q.jsonl")], data)


# ---------- the command
def command() -> Typer:
    app = Typer()
    app.command()(cold_start)
    return app


def test_the_command_reports_what_was_kept_by_type(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(data / "questions.jsonl"), "--videos", str(data), "--out", str(out), "--teacher", "big"]
    with serve(good_answer) as endpoint:
        result = CliRunner().invoke(
            command(),
            [*arguments, "--endpoint", endpoint.url, "--num-frames", "2", "--paths", "2"],
            env={"OPENAI_API_KEY": "secret"},
            catch_exceptions=False,
        )
    assert result.exit_code == 0
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer secret"}
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["object_counting", "4", "4", "0.75", "2"] in lines
    assert ["object_rel_distance", "2", "2", "0.50", "1"] in lines
    assert f"Wrote {out / 'cold_start.jsonl'}: 3 of 6 questions." in result.stdout


def test_the_command_names_failures(data: Path, tmp_path: Path) -> None:
    arguments = [str(data / "questions.jsonl"), "--videos", str(data), "--out", str(tmp_path / "out")]
    with serve(lambda body, before: (400, "no pictures please")) as endpoint:
        result = CliRunner().invoke(
            command(), [*arguments, "--teacher", "big", "--endpoint", endpoint.url, "--paths", "1", "--count", "2"]
        )
    assert result.exit_code == 0
    assert "2 answers could not be had" in result.stderr
    assert "no pictures please" in result.stderr
    assert "0 of 2 questions" in result.stdout


def test_the_command_with_a_local_teacher(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(data / "questions.jsonl"), "--videos", str(data), "--out", str(out), "--num-frames", "4"]
    more = ["--teacher", str(tiny_checkpoint), "--paths", "2", "--count", "1", "--max-new-tokens", "4"]
    result = CliRunner().invoke(command(), [*arguments, *more, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0
    texts = [json.loads(line)["prediction"] for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(texts) == len(set(texts)) == 2
    assert "0 of 1 questions" in result.stdout
