"""A run in a folder: killed, continued, shared, changed; and what it reports."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import EchoBenchmark, EchoPipeline

from spatial_mllm_hf.evaluation.answer_log import read_answers
from spatial_mllm_hf.evaluation.benchmark_run import AnswerSettings, RunOptions, run_benchmark
from spatial_mllm_hf.evaluation.evaluation_items import EvaluationItem
from spatial_mllm_hf.evaluation.reports import RunReport, write_reports
from spatial_mllm_hf.evaluation.run_record import checkpoint_revision


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that stands for a checkpoint."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def options(tmp_path: Path, videos: Path, model: Path) -> RunOptions:
    return RunOptions("echo", videos, tmp_path / "run", str(model), AnswerSettings({}, {"max_new_tokens": 8}, 2))


def changed(options: RunOptions, **values: Any) -> RunOptions:
    return RunOptions(**{**vars(options), **values})


def results(report: RunReport | int, out: Path) -> dict[str, Any]:
    assert isinstance(report, RunReport)
    return json.loads((out / "results.json").read_text())


def test_a_run_asks_everything_and_reports(echo_items: list[EvaluationItem], options: RunOptions) -> None:
    seen: list[tuple[int, int]] = []
    report = run_benchmark(EchoBenchmark(echo_items), options, EchoPipeline, progress=lambda *now: seen.append(now))
    found = results(report, options.out)
    assert found["scores"] == {"echo": {"Micro": 100.0}}
    assert (found["questions"], found["answered"], found["unanswered_videos"]) == (20, 20, {})
    assert found["model_revision"] == checkpoint_revision(options.model)
    assert {"torch", "transformers", "spatial-mllm-hf"} <= found["versions"].keys()
    assert found["seed"] == 0
    assert found["settings"]["generation"] == {"max_new_tokens": 8}
    assert seen[0] == (2, 20)
    assert seen[-1] == (20, 20)
    text = (options.out / "report.md").read_text()
    assert "20 of 20 questions answered." in text
    assert "| **this run** | echo | 100.0 |" in text
    assert (options.out / "report.png").stat().st_size > 0


def test_a_finished_run_is_reported_again_without_a_model(
    echo_items: list[EvaluationItem], options: RunOptions
) -> None:
    run_benchmark(EchoBenchmark(echo_items), options, EchoPipeline)
    before = (options.out / "results.json").read_bytes()
    (options.out / "results.json").unlink()

    def refuse() -> None:
        raise AssertionError("nothing is left to ask")

    run_benchmark(EchoBenchmark(echo_items), options, refuse)
    assert (options.out / "results.json").read_bytes() == before


class SlowPipeline(EchoPipeline):
    """Takes its time, so that a kill meets it anywhere, in the middle of a line too."""

    def open_scene(self, video: str, **sampling: Any) -> Any:
        time.sleep(0.02)
        return super().open_scene(video, **sampling)


def _run(items: Sequence[EvaluationItem], options: RunOptions) -> None:
    run_benchmark(EchoBenchmark(items), options, SlowPipeline)


def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(
    echo_items: list[EvaluationItem], options: RunOptions, tmp_path: Path
) -> None:
    context, draw = multiprocessing.get_context("fork"), random.Random(3)
    kills = 0
    for _ in range(60):
        process = context.Process(target=_run, args=(echo_items, options))
        process.start()
        process.join(draw.uniform(0, 0.06))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            kills += 1
        process.join()
        log = options.out / "answers.jsonl"
        if log.exists() and draw.random() < 0.5 and (content := log.read_bytes()):
            log.write_bytes(content[: -draw.randrange(1, 20)])  # as if the disk had not taken the last of it
        if process.exitcode == 0:
            break
    _run(echo_items, options)
    undisturbed = changed(options, out=tmp_path / "undisturbed")
    _run(echo_items, undisturbed)
    assert kills >= 5
    assert read_answers(options.out) == read_answers(undisturbed.out)
    lines = (options.out / "answers.jsonl").read_text().splitlines()
    assert len(lines) == len(echo_items), "a question was asked twice"
    assert (options.out / "results.json").read_bytes() == (undisturbed.out / "results.json").read_bytes()


def test_shards_share_a_folder_and_the_last_one_reports(echo_items: list[EvaluationItem], options: RunOptions) -> None:
    bench = EchoBenchmark(echo_items)
    assert run_benchmark(bench, changed(options, shard=(0, 2)), EchoPipeline) == 10
    assert not (options.out / "results.json").exists()
    report = run_benchmark(bench, changed(options, shard=(1, 2)), EchoPipeline)
    assert results(report, options.out)["answered"] == 20
    # Whoever goes on need not be as many as before.
    (options.out / "answers-1-of-2.jsonl").unlink()
    assert results(run_benchmark(bench, options, EchoPipeline), options.out)["answered"] == 20


def test_a_limit_can_be_raised_later(echo_items: list[EvaluationItem], options: RunOptions) -> None:
    bench = EchoBenchmark(echo_items)
    part = results(run_benchmark(bench, changed(options, limit=3), EchoPipeline), options.out)
    assert (part["questions"], part["questions_in_data"]) == (3, 20)
    assert "They are the first of 20:" in (options.out / "report.md").read_text()
    assert results(run_benchmark(bench, options, EchoPipeline), options.out)["questions"] == 20
    assert "They are the first" not in (options.out / "report.md").read_text()
    assert len((options.out / "answers.jsonl").read_text().splitlines()) == 20


def test_missing_videos_are_reported_count_as_wrong_and_can_be_tried_again(
    echo_items: list[EvaluationItem], options: RunOptions
) -> None:
    (options.videos / "b.mp4").unlink()
    bench = EchoBenchmark(echo_items)
    found = results(run_benchmark(bench, options, EchoPipeline), options.out)
    assert found["scores"]["echo"]["Micro"] == 75.0
    assert (found["answered"], list(found["unanswered_videos"])) == (15, ["b.mp4"])
    text = (options.out / "report.md").read_text()
    assert "15 of 20 questions answered.\nThose that are not count as answered wrongly; `--retry-failed`" in text
    assert "\n- `b.mp4`: There is no" in text
    (options.videos / "b.mp4").write_bytes(b"video")
    assert results(run_benchmark(bench, options, EchoPipeline), options.out)["answered"] == 15
    again = run_benchmark(bench, changed(options, retry_failed=True), EchoPipeline)
    assert results(again, options.out)["scores"]["echo"]["Micro"] == 100.0


def edit_weights(options: RunOptions) -> RunOptions:
    (Path(options.model) / "model.safetensors").write_bytes(b"other weights")
    return options


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda o: changed(o, settings=AnswerSettings({}, {"max_new_tokens": 9}, 2)), "max_new_tokens was 8 and is 9"),
        (
            lambda o: changed(o, settings=AnswerSettings({"num_frames": 4}, {"max_new_tokens": 8}, 2)),
            "num_frames was None",
        ),
        (lambda o: changed(o, settings=AnswerSettings({}, {"max_new_tokens": 8}, 2, seed=1)), "seed was 0 and is 1"),
        (lambda o: changed(o, dtype="bfloat16"), "settings.dtype was 'auto' and is 'bfloat16'"),
        (edit_weights, "model_revision was 'sha256:"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    echo_items: list[EvaluationItem], options: RunOptions, change: Any, named: str
) -> None:
    run_benchmark(EchoBenchmark(echo_items), changed(options, limit=2), EchoPipeline)
    with pytest.raises(ValueError, match=r"holds another run: .*Give --out another folder") as caught:
        run_benchmark(EchoBenchmark(echo_items), change(options), EchoPipeline)
    assert named in str(caught.value)


def test_other_questions_or_prompts_are_another_run(echo_items: list[EvaluationItem], options: RunOptions) -> None:
    run_benchmark(EchoBenchmark(echo_items), options, EchoPipeline)
    with pytest.raises(ValueError, match="questions_sha256 was"):
        run_benchmark(EchoBenchmark(echo_items[:-1]), options, EchoPipeline)
    with pytest.raises(ValueError, match=r"settings.prompt was 'plain' and is 'long'"):
        run_benchmark(EchoBenchmark(echo_items, "long"), options, EchoPipeline)


def test_a_smaller_batch_goes_on_with_the_run(echo_items: list[EvaluationItem], options: RunOptions) -> None:
    bench = EchoBenchmark(echo_items)
    run_benchmark(bench, changed(options, limit=7), EchoPipeline)
    smaller = changed(options, settings=AnswerSettings({}, {"max_new_tokens": 8}, 1))
    assert results(run_benchmark(bench, smaller, EchoPipeline), options.out)["answered"] == 20


def test_another_batch_size_is_another_run_when_answers_are_drawn(
    echo_items: list[EvaluationItem], options: RunOptions
) -> None:
    drawing = [AnswerSettings({}, {"do_sample": True}, batch_size) for batch_size in (2, 1)]
    bench = EchoBenchmark(echo_items)
    run_benchmark(bench, changed(options, limit=7, settings=drawing[0]), EchoPipeline)
    with pytest.raises(ValueError, match="batch_size was 2 and is 1"):
        run_benchmark(bench, changed(options, settings=drawing[1]), EchoPipeline)


def test_shards_that_report_at_once_do_not_disturb_each_other(
    echo_items: list[EvaluationItem], options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run_benchmark(EchoBenchmark(echo_items), options, EchoPipeline)
    assert isinstance(report, RunReport)
    before = (options.out / "results.json").read_bytes()
    replace = Path.replace

    def replace_late(path: Path, target: Path) -> Path:
        time.sleep(0.01)  # so that all have written before the first of them goes on
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_late)
    monkeypatch.setattr("spatial_mllm_hf.evaluation.reports.draw", lambda report, path: None)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_reports(report, options.out), range(4)))
    assert (options.out / "results.json").read_bytes() == before


def test_a_file_is_no_folder_for_a_run(echo_items: list[EvaluationItem], options: RunOptions, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out .*file is a file, and a run needs a folder"):
        run_benchmark(EchoBenchmark(echo_items), changed(options, out=tmp_path / "file"), EchoPipeline)


def test_what_an_engine_gave_before_it_failed_is_kept(echo_items: list[EvaluationItem], options: RunOptions) -> None:
    def failing(work: Any, make_worker: Any) -> Iterator[Any]:
        worker = make_worker()
        yield from worker(work[0])
        raise ConnectionError("a node is gone")

    with pytest.raises(ConnectionError):
        run_benchmark(EchoBenchmark(echo_items), options, EchoPipeline, failing)
    assert len(read_answers(options.out)) == 5
    assert results(run_benchmark(EchoBenchmark(echo_items), options, EchoPipeline), options.out)["answered"] == 20


def test_a_folder_without_any_of_the_videos_is_a_mistake_and_leaves_no_answers(
    echo_items: list[EvaluationItem], options: RunOptions, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(ValueError, match=r"elsewhere: none of the 4 videos is there\. .*a\.mp4 was looked for"):
        run_benchmark(EchoBenchmark(echo_items), changed(options, videos=elsewhere), EchoPipeline)
    assert read_answers(options.out) == {}
    assert results(run_benchmark(EchoBenchmark(echo_items), options, EchoPipeline), options.out)["answered"] == 20


def test_a_run_without_answers_says_that_its_folder_can_go(
    echo_items: list[EvaluationItem], options: RunOptions
) -> None:
    def fail() -> None:
        raise ValueError("num_frames must be even, got 3.")

    with pytest.raises(ValueError, match="must be even"):
        run_benchmark(EchoBenchmark(echo_items), options, fail)
    other = changed(options, settings=AnswerSettings({}, {"max_new_tokens": 8}, 2, seed=1))
    with pytest.raises(ValueError, match=r"seed was 0 and is 1.* It has no answers yet: delete it"):
        run_benchmark(EchoBenchmark(echo_items), other, EchoPipeline)


def test_other_files_beside_a_checkpoint_do_not_make_it_another(model: Path) -> None:
    before = checkpoint_revision(str(model))
    (model / "scores.json").write_text("{}")
    assert checkpoint_revision(str(model)) == before
    (model / "tokenizer.json").write_text("{}")
    assert checkpoint_revision(str(model)) != before
