"""Which questions are asked, when, in which company, and what is made of a video that cannot be read."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from evaluation_fakes import EchoPipeline

from spatial_mllm_hf.evaluation.answer_log import Answer
from spatial_mllm_hf.evaluation.evaluation_items import EvaluationItem
from spatial_mllm_hf.evaluation.runner import AnswerSettings, SceneAnswerer, plan_work, without_problems


def answer_all(items: Sequence[EvaluationItem], videos: Path, batch_size: int = 2, **known: Answer) -> list[Answer]:
    answerer = SceneAnswerer(EchoPipeline, AnswerSettings({}, {}, batch_size))
    return [answer for work in plan_work(items, videos, known) for batch in answerer(work) for answer in batch]


def test_every_question_is_answered_once_and_on_its_own_video(echo_items: list[EvaluationItem], videos: Path) -> None:
    answers = answer_all(echo_items, videos)
    assert sorted(answer.id for answer in answers) == sorted(item.id for item in echo_items)
    by_id = {answer.id: answer for answer in answers}
    assert by_id["q6"] == Answer("q6", "c says What is 6?", frames=((0, 5),))


def test_a_scene_is_opened_once_for_all_its_questions(echo_items: list[EvaluationItem], videos: Path) -> None:
    pipe = EchoPipeline()
    answerer = SceneAnswerer(lambda: pipe, AnswerSettings({}, {}, batch_size=2))
    for work in plan_work(echo_items, videos, {}):
        list(answerer(work))
    assert [Path(video).name for video in pipe.opened] == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert [len(prompts) for _, prompts in pipe.asked] == [2, 2, 1] * 4


def test_a_question_stands_beside_the_same_others_whatever_was_answered_before(
    echo_items: list[EvaluationItem], videos: Path
) -> None:
    known = {name: Answer(name, "before") for name in ("q0", "q4", "q8", "q2")}
    pipe = EchoPipeline()
    answerer = SceneAnswerer(lambda: pipe, AnswerSettings({}, {}, batch_size=2))
    work = plan_work(echo_items, videos, known)
    answers = [answer.id for piece in work for batch in answerer(piece) for answer in batch]
    assert not {"q0", "q4", "q8", "q2"} & set(answers)
    # Of a.mp4 (q0 q4 | q8 q12 | q16) the first batch is done and the second stays whole.
    asked_of_a = [prompts for video, prompts in pipe.asked if video.endswith("a.mp4")]
    assert asked_of_a == [["What is 8?", "What is 12?"], ["What is 16?"]]


def test_a_scene_whose_questions_all_have_answers_is_not_opened(echo_items: list[EvaluationItem], videos: Path) -> None:
    known = {item.id: Answer(item.id, "before") for item in echo_items if item.video != "b.mp4"}
    assert [work.video.name for work in plan_work(echo_items, videos, known)] == ["b.mp4"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_the_scenes_without_loss_or_repetition(
    echo_items: list[EvaluationItem], videos: Path, count: int
) -> None:
    parts = [plan_work(echo_items, videos, {}, (index, count)) for index in range(count)]
    assert sorted(work.video.name for part in parts for work in part) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert sum(work.num_left for part in parts for work in part) == len(echo_items)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2)])
def test_a_shard_that_is_none_of_them_is_an_error(videos: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got {shard[0]}/{shard[1]}"):
        plan_work([], videos, {}, shard)


def test_a_missing_video_is_the_problem_of_its_questions_and_of_no_others(
    echo_items: list[EvaluationItem], videos: Path
) -> None:
    (videos / "c.mp4").unlink()
    answers = answer_all(echo_items, videos)
    failed = [answer for answer in answers if answer.prediction is None]
    assert {answer.id for answer in failed} == {"q2", "q6", "q10", "q14", "q18"}
    assert all(
        "There is no video file at" in str(answer.problem) and "c.mp4" in str(answer.problem) for answer in failed
    )
    assert without_problems({answer.id: answer for answer in answers}).keys() == {
        item.id for item in echo_items if item.video != "c.mp4"
    }


def test_other_mistakes_are_not_taken_for_broken_videos(echo_items: list[EvaluationItem], videos: Path) -> None:
    class Refusing(EchoPipeline):
        def open_scene(self, video: str, **sampling: object) -> None:  # type: ignore[override]
            raise ValueError("num_frames must be even, got 3.")

    answerer = SceneAnswerer(Refusing, AnswerSettings({"num_frames": 3}, {}))
    with pytest.raises(ValueError, match="num_frames must be even"):
        list(answerer(plan_work(echo_items, videos, {})[0]))


def test_videos_are_found_as_published_flat_or_with_another_suffix(tmp_path: Path) -> None:
    for name in ("scannet/scene0001_00.mp4", "scene0002_00.mp4", "scannet/scene0003_00.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    items = [EvaluationItem(str(n), f"scannet/scene000{n}_00.mp4", "?", {}) for n in (1, 2, 3, 4)]
    found = [work.video.relative_to(tmp_path).as_posix() for work in plan_work(items, tmp_path, {})]
    assert found == [
        "scannet/scene0001_00.mp4",
        "scene0002_00.mp4",
        "scannet/scene0003_00.mkv",
        "scannet/scene0004_00.mp4",
    ]


def test_drawn_answers_depend_on_the_seed_and_not_on_what_came_before(
    echo_items: list[EvaluationItem], videos: Path
) -> None:
    class Drawing(EchoPipeline):
        def open_scene(self, video: str, **sampling: object) -> "Drawing":  # type: ignore[override]
            self.frames: list = []
            return self

        def ask(self, prompts: list[str], **generation: object) -> list[dict[str, str]]:
            return [{"generated_text": str(torch.randint(10**9, ()).item())} for _ in prompts]

    def draw(seed: int, work: list) -> dict[str, str | None]:
        answerer = SceneAnswerer(Drawing, AnswerSettings({}, {"do_sample": True}, 2, seed))
        return {answer.id: answer.prediction for piece in work for batch in answerer(piece) for answer in batch}

    work = plan_work(echo_items, videos, {})
    first = draw(1, work)
    random.Random(0).shuffle(work)
    assert draw(1, work) == first
    assert draw(2, work) != first
    assert len(set(first.values())) == len(first)
