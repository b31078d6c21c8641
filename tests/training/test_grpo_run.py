"""Runs of GRPO as a user makes them: a recipe, conversations, a folder of videos, a checkpoint that loads."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer

pytest.importorskip("trl")

from peft import PeftModel
from safetensors.torch import load_file
from typer.testing import CliRunner

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.cli.train import SETTINGS
from spatial_mllm_hf.cli.train_grpo import grpo
from spatial_mllm_hf.data.conversations import Conversation, write_conversations
from spatial_mllm_hf.data.spatial_questions import SpatialQuestion
from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.data.training_prompts import as_conversation
from spatial_mllm_hf.training.grpo import make_trainer, run_grpo
from spatial_mllm_hf.training.grpo_questions import grpo_rows
from spatial_mllm_hf.training.grpo_recipe import GRPORecipe
from spatial_mllm_hf.training.recipes import load_recipe
from spatial_mllm_hf.training.samples import ConversationDataset

SMALL = {
    "num_frames": 4,
    "min_pixels": 3136,
    "max_pixels": 12544,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "max_completion_length": 4,
    "max_steps": 2,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}


def question(number: int, kind: str = "object_counting", truth: str = "3", video: str | None = "room.mp4") -> Any:
    options = None if kind == "object_counting" else ("A. bed", "B. chair")
    text = "How many chairs are in this room?" if options is None else "What is nearest?"
    return SpatialQuestion(f"q{number}", "rooms", "room", kind, text, options, truth, video)


@pytest.fixture
def data(room_clip: Path, tmp_path: Path) -> Path:
    """A folder with questions.jsonl and the clip that they are about."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "room.mp4").symlink_to(room_clip)
    asked = [question(1), question(2, "object_rel_distance", "B"), question(3), question(4)]
    write_conversations((as_conversation(each, "grpo") for each in asked), folder / "questions.jsonl")
    return folder


def recipe(checkpoint: Path, data: Path, out: Path, **changes: Any) -> GRPORecipe:
    values = SMALL | {
        "model": str(checkpoint),
        "sources": [str(data / "questions.jsonl")],
        "media_folder": str(data),
        "output_dir": str(out),
    }
    arguments = [f"--{key}={json.dumps(value)}" for key, value in (values | changes).items()]
    return load_recipe("grpo_paper", arguments, GRPORecipe)


def test_the_papers_recipe(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    arguments = [f"--model={tiny_checkpoint}", "--sources=[x.jsonl]", f"--media_folder={data}"]
    published = load_recipe("grpo_paper", [*arguments, f"--output_dir={tmp_path}", "--use_cpu=true"], GRPORecipe)
    values = (published.num_generations, published.temperature, published.beta, published.learning_rate)
    assert values == (8, 1.0, 0.04, 1e-6)
    assert (published.max_steps, published.num_frames, published.length_reward) == (1000, 16, False)


def test_a_run_writes_a_checkpoint_that_loads_and_says_what_it_rewarded(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    metrics = run_grpo(recipe(tiny_checkpoint, data, out))
    assert metrics["steps"] == 2
    last = metrics["last"]
    assert {"reward", "kl", "completions/mean_length", "completions/clipped_ratio"} <= last.keys()
    assert {"rewards/format_reward/mean", "rewards/accuracy_reward/mean"} <= last.keys()
    tasks = [f"rewards/accuracy_reward/{kind}" for kind in ("object_counting", "object_rel_distance")]
    assert any(name in metrics[when] for name in tasks for when in ("first", "last"))
    tables = sorted((out / "completions").glob("*.parquet"))
    assert len(tables) == 2
    table = pd.read_parquet(tables[-1])
    assert {"prompt", "completion", "format_reward", "accuracy_reward", "advantage"} <= set(table)
    assert len(table) == 4
    trained = SpatialMLLMForConditionalGeneration.from_pretrained(out)
    before = SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint)
    assert trained.state_dict().keys() == before.state_dict().keys()
    SpatialMLLMProcessor.from_pretrained(out)
    assert (out / "trainer_state.json").exists()


def test_adapters_are_written_alone(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_grpo(recipe(tiny_checkpoint, data, out, lora_rank=2, dtype="bfloat16"))
    assert not (out / "model.safetensors").exists()
    base = SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint)
    layers = base.config.text_config.num_hidden_layers
    adapted = PeftModel.from_pretrained(base, out)
    adapters = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert len(adapters) == 7 * layers
    assert all(".language_model." in name for name in adapters)


def test_frames_chosen_by_the_models_own_geometry(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Space-aware sampling reaches the prompts."""
    settings = recipe(tiny_checkpoint, data, tmp_path / "out", frame_sampling="space_aware", max_steps=1)
    trainer = make_trainer(settings)
    assert trainer.processing_class.video_processor._geometry.require() is trainer.model
    trainer.train()
    assert trainer.state.global_step == 1


def test_the_length_reward_is_off_unless_asked_for(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    plain = make_trainer(recipe(tiny_checkpoint, data, tmp_path / "out"))
    assert plain.reward_func_names == ["format_reward", "accuracy_reward"]
    more = make_trainer(recipe(tiny_checkpoint, data, tmp_path / "out", length_reward=True))
    assert more.reward_func_names == ["format_reward", "accuracy_reward", "length_reward"]


def letters(completions: list, **_: Any) -> list[float]:
    """A reward out of the completions' letters, so that there is something to learn from."""
    return [float(sum(map(ord, completion[0]["content"])) % 7) for completion in completions]


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2, "dtype": "bfloat16"}], ids=["whole", "adapters"])
def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_had_been(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """From within the second epoch: questions, answers, losses and weights are those of the undisturbed run.

    Also in the third, whose questions come in another order.
    """
    monkeypatch.setattr("spatial_mllm_hf.training.grpo.format_reward", letters)
    saving = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    undisturbed, again = tmp_path / "undisturbed", tmp_path / "again"
    run_grpo(recipe(tiny_checkpoint, data, undisturbed, **saving, **changes))
    checkpoint = undisturbed / "checkpoint-3"
    run_grpo(recipe(tiny_checkpoint, data, again, **saving, **changes, resume_from_checkpoint=str(checkpoint)))

    expected = reports(undisturbed)
    assert reports(again) == expected
    assert len({report["reward"] for report in expected}) > 1
    for step in (4, 5):
        tables = [folder / "completions" / f"completions_{step:05d}.parquet" for folder in (undisturbed, again)]
        columns = ["prompt", "completion", "letters", "advantage"]
        pd.testing.assert_frame_equal(*(pd.read_parquet(table, columns=columns) for table in tables))
    name = "adapter_model.safetensors" if "lora_rank" in changes else "model.safetensors"
    before, weights, found = (load_file(folder / name) for folder in (checkpoint, undisturbed, again))
    assert any(not torch.equal(before[key], weights[key]) for key in weights)  # there was more to learn
    assert found.keys() == weights.keys()
    assert [key for key in weights if not torch.equal(found[key], weights[key])] == []


def reports(folder: Path) -> list[dict[str, float]]:
    """What was reported of each step, but how long it took."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{name: entry[name] for name in entry if name != "step_time"} for entry in history if "loss" in entry]


def test_rows_hold_what_rewards_need(data: Path) -> None:
    first, second, *_ = grpo_rows(ConversationDataset([str(data / "questions.jsonl")]), data)
    content = first["prompt"][0]["content"]
    assert [part["type"] for part in content] == ["video", "text"]
    assert content[0]["video"] == str(data / "room.mp4")
    assert content[1]["text"].startswith("How many chairs are in this room?\nPlease think about this question")
    assert [len(first["prompt"]), first["prompt"][0]["role"]] == [1, "user"]
    assert (first["question_type"], first["ground_truth"], first["answers"]) == ("object_counting", "3", None)
    assert (second["question_type"], second["ground_truth"]) == ("object_rel_distance", "B")


def rows_of(folder: Path, *conversations: Conversation) -> list[dict[str, Any]]:
    write_conversations(conversations, folder / "some.jsonl")
    return grpo_rows(ConversationDataset([str(folder / "some.jsonl")]), folder)


def test_answers_in_words_come_with_all_that_are_right(data: Path) -> None:
    template = as_conversation(question(1), "grpo")
    metadata = {"question_type": "text", "ground_truth": "brown", "answers": ["brown", "dark brown"]}
    (row,) = rows_of(data, Conversation("q", template.videos, (), template.turns, metadata))
    assert row["answers"] == ["brown", "dark brown"]


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        (as_conversation(question(1), "sft"), "some:q1: the prompt asks for the answer alone.*--style grpo"),
        (as_conversation(question(1, video="gone.mp4"), "grpo"), "some:q1: .*gone.mp4 is not there"),
        (as_conversation(question(1, video="torn.mp4"), "grpo"), "Videos cannot be read: .*torn.mp4"),
        (as_conversation(question(1, truth="many"), "grpo"), "ground_truth of question 'some:q1'.*finite number"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_before_the_run(
    data: Path, conversation: Conversation, message: str
) -> None:
    (data / "torn.mp4").write_bytes((data / "room.mp4").read_bytes()[:300])
    with pytest.raises(ValueError, match=message):
        rows_of(data, conversation)


def test_more_than_one_question_a_row_is_refused(data: Path) -> None:
    one = as_conversation(question(1), "grpo")
    two = Conversation("q", one.videos, (), (*one.turns, ("human", "And?"), ("gpt", "4")), one.metadata)
    with pytest.raises(ValueError, match="some:q: GRPO takes one question a row, got 2"):
        rows_of(data, two)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model is empty"),
        ({"sources": []}, "sources is empty"),
        ({"media_folder": "nowhere"}, "media_folder='nowhere': there is no such folder"),
        ({"num_frames": 5}, "num_frames must be a positive even number, got 5"),
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"model_init_kwargs": {"dtype": "auto"}}, "model_init_kwargs is set by revision, dtype"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True would take the right answers"),
        ({"dtype": "bfloat16"}, "16 bits lose steps.*float32 with bf16: true"),
        ({"per_device_train_batch_size": 3}, "divisible by num_generations"),
        ({"frame_sampling": "random"}, "frame_sampling must be 'uniform' or 'space_aware', got str 'random'"),
    ],
)
def test_settings_that_cannot_be_trained_with_are_refused(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(tiny_checkpoint, data, tmp_path, **changes)


@pytest.mark.slow
def test_rollouts_of_a_question_on_two_processes(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Data parallel; eight rollouts of a question are four on each. Both keep the same weights."""
    room = make_room(seed=8)
    extrinsics, intrinsics = camera_path(room, num_frames=24, size=(160, 120))
    write_clip(render(room, extrinsics, intrinsics, size=(160, 120)).rgb, data / "other.mp4", fps=8)
    asked = [question(1), dataclasses.replace(question(2, video="other.mp4"), question="How many beds?")]
    write_conversations((as_conversation(each, "grpo") for each in asked), data / "questions.jsonl")
    values = SMALL | {
        "model": str(tiny_checkpoint),
        "sources": [str(data / "questions.jsonl")],
        "media_folder": str(data),
        "output_dir": str(tmp_path / "out"),
        "num_generations": 8,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [f"--{key}={json.dumps(value)}" for key, value in values.items()]
    script = str(Path(__file__).with_name("run_grpo.py"))
    finished = subprocess.run(
        [*launch, script, "grpo_paper", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    first, second = (json.loads(line) for line in finished.stdout.splitlines() if line.startswith('{"rows"'))
    assert first["weights"] == second["weights"]
    questions = [{question for question, _ in process["rows"]} for process in (first, second)]
    assert questions[0] == questions[1]  # one after the other
    assert len(questions[0]) == 2
    assert all(own for process in (first, second) for _, own in process["rows"])
    # Two steps of two accumulated batches of two rows.
    assert len(first["rows"]) == len(second["rows"]) == 8


def app() -> typer.Typer:
    verbs = typer.Typer()
    verbs.command(context_settings=SETTINGS)(grpo)
    return verbs


def test_the_command_trains_and_prints_what_came_of_it(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    values = SMALL | {"model": str(tiny_checkpoint), "media_folder": str(data), "output_dir": str(tmp_path / "out")}
    values |= {"sources": [str(data / "questions.jsonl")], "max_steps": 1}
    arguments = [f"--{key}={json.dumps(value)}" for key, value in values.items()]
    result = CliRunner().invoke(app(), ["--config", "grpo_paper", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    printed = result.stdout[result.stdout.index('{\n  "steps"') :]
    assert json.loads(printed)["steps"] == 1
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_command_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("spatial_mllm_hf.training.grpo"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ValueError, match=r"needs trl, which is not installed: .*spatial-mllm-hf\[train\]"):
        CliRunner().invoke(app(), ["--config", "grpo_paper"], catch_exceptions=False)
