"""Supervised fine-tuning: what a run changes, learns, reports and leaves."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline
from typer.testing import CliRunner

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.cli.train import train
from spatial_mllm_hf.data.conversations import Conversation, read_conversations, write_conversations
from spatial_mllm_hf.hub.publishing import check_folder
from spatial_mllm_hf.training.checkpoints import last_complete_checkpoint
from spatial_mllm_hf.training.sft import load_model, make_trainer, run_sft
from spatial_mllm_hf.training.sft_recipe import SFTRecipe
from spatial_mllm_hf.training.sft_trainer import EpochLengthGroupedSampler, TooManyFailuresError
from spatial_mllm_hf.training.trained_parts import part_of

from .conftest import QUESTIONS, Values, ask

MakeRecipe = Callable[..., SFTRecipe]
Weights = dict[str, torch.Tensor]


def weights_of(folder: str | Path) -> Weights:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(folder)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def changed_parts(before: Weights, after: Weights) -> tuple[set[str], set[str]]:
    """Parts with a weight that changed, and parts with one that did not."""
    assert before.keys() == after.keys()
    same = {name: torch.equal(weight, after[name]) for name, weight in before.items()}
    changed = {part_of(name) for name, is_same in same.items() if not is_same}
    return changed, {part_of(name) for name, is_same in same.items() if is_same}


def logged(trainer: Any, key: str = "loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


# --- what is trained ---


@pytest.mark.parametrize(
    "rates",
    [
        {"connector": 1e-3, "language_model": 1e-3},
        {"vision_merger": 1e-3, "connector": 1e-3},
        {"vision_tower": 1e-3, "vggt": 1e-3},
    ],
)
def test_a_step_changes_the_trained_parts_whole_and_the_frozen_ones_not_at_all(
    make_recipe: MakeRecipe, tiny_checkpoint: Path, rates: dict[str, float]
) -> None:
    recipe = make_recipe(max_steps=1, trained_parts=rates, weight_decay=0.1)
    trainer = make_trainer(recipe)
    trainer.train()
    after = {name: weight.detach() for name, weight in trainer.model.named_parameters()}
    changed, same = changed_parts(weights_of(tiny_checkpoint), after)
    assert changed == set(rates)
    assert same & set(rates) <= {
        "vggt",
        "language_model",
    }  # geometry heads; the words that did not occur share a matrix
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert {part_of(name) for name in trained} == set(rates)


def test_parts_move_at_their_own_rates(make_recipe: MakeRecipe, tiny_checkpoint: Path) -> None:
    """Adam's first step is the learning rate itself, whatever the gradient."""
    rates = {"connector": 1e-3, "language_model": 1e-5}
    trainer = make_trainer(
        make_recipe(max_steps=1, trained_parts=rates, lr_scheduler_type="constant", max_grad_norm=0.0)
    )
    trainer.train()
    before = weights_of(tiny_checkpoint)
    moved = {"connector": 0.0, "language_model": 0.0}
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            step = (weight.detach() - before[name]).abs().max().item()
            moved[part_of(name)] = max(moved[part_of(name)], step)
    assert moved["connector"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["language_model"] == pytest.approx(1e-5, rel=1e-1)


def test_vggt_stays_in_eval_mode_without_gradients_unless_it_is_trained(make_recipe: MakeRecipe) -> None:
    for rates, expected in (({"connector": 1e-3}, (False, False)), ({"vggt": 1e-3}, (True, True))):
        trainer = make_trainer(make_recipe(max_steps=1, trained_parts=rates))
        seen = []
        trainer.model.model.spatial_encoder.aggregator.register_forward_hook(
            lambda module, _args, _out, seen=seen: seen.append((module.training, torch.is_grad_enabled()))
        )
        trainer.train()
        assert set(seen) == {expected}


# --- the loss ---


def test_the_loss_is_the_mean_over_answer_tokens_and_told_by_task(make_recipe: MakeRecipe) -> None:
    trainer = make_trainer(
        make_recipe(max_steps=1, per_device_train_batch_size=8, train_sampling_strategy="sequential")
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    tasks, labels = batch.pop("sample_tasks"), batch.pop("labels")
    batch.pop("failed_samples")
    with torch.no_grad():
        logits = trainer.model(**batch).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    kept = labels[:, 1:] != -100
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entry["loss"] == pytest.approx(losses[kept].mean().item(), rel=1e-5)
    for task in ("count", "size"):
        rows = torch.tensor([name == task for name in tasks])
        assert entry[f"loss/{task}"] == pytest.approx(losses[rows][kept[rows]].mean().item(), rel=1e-5)
    assert entry["failed_samples"] == 0
    assert entry["samples_per_second"] > 0
    assert entry["memory_gib"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True},
        {"dataloader_num_workers": 2},
    ],
    ids=["accumulation", "checkpointing", "workers"],
)
def test_the_losses_do_not_depend_on_how_a_step_is_computed(
    make_recipe: MakeRecipe, course: Path, changes: Values
) -> None:
    curves = []
    for change in ({}, changes):
        trainer = make_trainer(make_recipe(sources=[str(course / "mixed.jsonl")], max_steps=4, **change))
        trainer.train()
        curves.append(logged(trainer))
    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)
    assert curves[0][-1] < curves[0][0]


def test_bfloat16_arithmetic_trains_full_precision_weights(make_recipe: MakeRecipe) -> None:
    full, mixed = (make_trainer(make_recipe(max_steps=3, bf16=bf16)) for bf16 in (False, True))
    full.train(), mixed.train()
    assert logged(mixed) != logged(full)
    assert logged(mixed) == pytest.approx(logged(full), rel=2e-2)
    assert {weight.dtype for weight in mixed.model.parameters()} == {torch.float32}


def test_batches_of_similar_length_follow_from_seed_and_epoch(make_recipe: MakeRecipe, course: Path) -> None:
    lengths = [10, 500] * 32
    sampler = EpochLengthGroupedSampler(4, lengths, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(64))
    batches = [first[start : start + 4] for start in range(0, 64, 4)]
    assert sum(len({index % 2 for index in batch}) == 1 for batch in batches) >= 12  # long ones or short ones alone
    sampler.set_epoch(3)
    third = list(sampler)
    assert list(sampler) == third != first
    recipe = make_recipe(
        sources=[str(course / "mixed.jsonl")], train_sampling_strategy="group_by_length", per_device_train_batch_size=2
    )
    trainer = make_trainer(recipe)
    assert isinstance(trainer._get_train_sampler(), EpochLengthGroupedSampler)
    trainer.train()
    assert all(loss > 0 for loss in logged(trainer))


# --- samples that fail ---


def spoilt(course: Path, folder: Path, every: int) -> str:
    """The eight questions, and after each `every` of them one on a clip that is not there."""
    rows = list(read_conversations(course / QUESTIONS))
    for place in range(len(rows), 0, -every):
        rows.insert(place, ask(100 + place, "1", "count", "nowhere.mp4"))
    write_conversations(rows, folder / "spoilt.jsonl")
    return str(folder / "spoilt.jsonl")


def test_samples_that_fail_are_named_counted_and_not_replaced(
    make_recipe: MakeRecipe, course: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(
        sources=[spoilt(course, tmp_path, every=4)],
        per_device_train_batch_size=1,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        max_failed_share=0.2,
    )
    trainer = make_trainer(recipe)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    named = [record.getMessage() for record in caplog.records if "failed to load" in record.getMessage()]
    assert len(named) == 2
    assert named[0].startswith("Sample spoilt:q104 failed to load and is left out: ")
    assert named[0].endswith("nowhere.mp4 is not there.")
    assert [sample.label for sample in trainer.failed] == ["spoilt:q104", "spoilt:q108"]
    losses = logged(trainer)
    assert len(losses) == 10
    assert [place for place, loss in enumerate(losses) if loss == 0] == [4, 9]  # steps of failed samples alone
    assert logged(trainer, "failed_samples") == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]


def test_too_many_failures_end_the_run(make_recipe: MakeRecipe, course: Path, tmp_path: Path) -> None:
    recipe = make_recipe(sources=[spoilt(course, tmp_path, every=2)], max_failed_share=0.1)
    with pytest.raises(
        TooManyFailuresError, match=r"more than max_failed_share=0.1 allows. The last is spoilt:q10\d: .*not there"
    ):
        make_trainer(recipe).train()


# --- what a run leaves ---


def learn_and_answer(
    make_recipe: MakeRecipe, clip: Path, questions: Path, cache: Path, **changes: Any
) -> tuple[float, list[str]]:
    """The last loss of a run on questions about one clip, and what its checkpoint answers them."""
    recipe = make_recipe(
        sources=[str(questions)],
        media_folder=str(clip.parent),
        trained_parts={"connector": 3e-3, "language_model": 3e-3},
        per_device_train_batch_size=8,
        max_pixels=140 * 140,  # as the tiny checkpoint's processor
        adam_beta2=0.95,
        logging_steps=10,
        feature_cache=str(cache),
        **changes,
    )
    run_sft(recipe)
    folder = Path(str(recipe.output_dir))
    check_folder(folder, but_for_card=True)
    pipe = pipeline("video-question-answering", model=str(folder))
    asked = [row.turns[0][1].removeprefix("<video>\n") for row in read_conversations(questions)]
    answers = pipe(
        [{"video": str(clip), "question": question} for question in asked],
        batch_size=8,
        frame_sampling="uniform",
        num_frames=recipe.num_frames,
        second_per_grid=recipe.second_per_grid,
        max_new_tokens=40,
        repetition_penalty=1.0,
    )
    losses = [entry["loss"] for entry in read_history(folder) if "loss" in entry]
    return losses[-1], [answer["generated_text"] for answer in answers]


def test_eight_questions_are_learnt_and_answered(make_recipe: MakeRecipe, course: Path, tmp_path: Path) -> None:
    loss, answers = learn_and_answer(
        make_recipe, course / "room.mp4", course / QUESTIONS, tmp_path / "cache", max_steps=110, num_frames=2
    )
    assert loss < 0.01
    assert answers == [row.turns[1][1] for row in read_conversations(course / QUESTIONS)]


# Ours, and true of the kitchen that the clip walks through.
KITCHEN = "47334096.mp4"
KITCHEN_QUESTIONS = {
    "How many red flower pots stand on the window sill?": "3",
    "How many basins does the sink have?": "2",
    "How many bowls are in the tray on the floor?": "2",
    "What colour is the line along the splashback?": "red",
    "What colour is the wall with books in its niches?": "blue",
    "What colour are the chairs at the table?": "white",
    "What stands on top of the cupboard? A. a kettle B. a rack for bottles": "B",
    "What colour are the covers on the shoes?": "blue",
}


def test_eight_questions_about_a_real_clip_are_learnt_and_answered(
    make_recipe: MakeRecipe, media: Path, tmp_path: Path
) -> None:
    rows = [
        Conversation(text, (KITCHEN,), (), (("human", f"<video>\n{text}"), ("gpt", f"<answer>{answer}</answer>")), {})
        for text, answer in KITCHEN_QUESTIONS.items()
    ]
    write_conversations(rows, tmp_path / QUESTIONS)
    loss, answers = learn_and_answer(
        make_recipe, media / KITCHEN, tmp_path / QUESTIONS, tmp_path / "cache", max_steps=110, num_frames=4
    )
    assert loss < 0.01
    assert answers == [f"<answer>{answer}</answer>" for answer in KITCHEN_QUESTIONS.values()]


def test_checkpoints_on_the_way_are_complete_and_keep_the_processors_settings(
    make_recipe: MakeRecipe, tiny_checkpoint: Path
) -> None:
    recipe = make_recipe(max_steps=2, save_strategy="steps", save_steps=1)
    run_sft(recipe)
    for folder in (Path(str(recipe.output_dir)), Path(str(recipe.output_dir)) / "checkpoint-1"):
        check_folder(folder, but_for_card=True)
        saved, first = (SpatialMLLMProcessor.from_pretrained(path) for path in (folder, tiny_checkpoint))
        assert saved.video_processor.to_dict() == first.video_processor.to_dict()
        assert load_file(folder / "model.safetensors").keys() == load_file(tiny_checkpoint / "model.safetensors").keys()


def test_adapters_are_saved_and_merged(make_recipe: MakeRecipe, course: Path) -> None:
    recipe = make_recipe(lora_rank=4, trained_parts={"language_model": 1e-2, "connector": 1e-3}, max_steps=3)
    trainer_losses = run_sft(recipe)
    folder = Path(str(recipe.output_dir))
    check_folder(folder, but_for_card=True)
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(load_model(recipe), folder / "adapter").eval()
    merged = SpatialMLLMForConditionalGeneration.from_pretrained(folder)
    before = SpatialMLLMForConditionalGeneration.from_pretrained(recipe.model)
    batch = make_trainer(make_recipe()).data_collator([make_trainer(make_recipe()).train_dataset[0]])
    inputs = {name: batch[name] for name in batch if name not in ("labels", "sample_tasks", "failed_samples")}
    with torch.no_grad():
        logits = [model(**inputs).logits for model in (adapted, merged, before)]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-4)
    assert (logits[2] - logits[0]).abs().max() > 0.05
    changed, _ = changed_parts(weights_of(recipe.model), weights_of(folder))
    assert changed == {"language_model", "connector"}
    assert trainer_losses["train_loss"] > 0


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}, {"train_sampling_strategy": "group_by_length"}], ids=str)
def test_an_interrupted_run_goes_on_with_the_same_losses(
    make_recipe: MakeRecipe, tmp_path: Path, changes: Values
) -> None:
    """In the second epoch; its data, weights, moments and rates are those of the undisturbed run."""
    recipe = make_recipe(
        per_device_train_batch_size=2, num_train_epochs=2, save_strategy="steps", save_steps=5, **changes
    )
    run_sft(recipe)
    folder = Path(str(recipe.output_dir))
    curve = [entry["loss"] for entry in read_history(folder) if "loss" in entry]
    for name in ("trainer_state.json", "model.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-8")
    run_sft(recipe)
    again = [entry["loss"] for entry in read_history(folder) if "loss" in entry]
    assert len(curve) == 8
    assert again == pytest.approx(curve, abs=1e-6)


def read_history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_a_folder_holds_one_run(make_recipe: MakeRecipe) -> None:
    run_sft(make_recipe(max_steps=1))
    with pytest.raises(ValueError, match=r"holds a run with max_steps=1 \(asked for: 2\)"):
        run_sft(make_recipe(max_steps=2))


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path) is None
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"epoch":')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-14").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_the_command_trains_and_says_where(write_recipe: Callable[..., Path], values: Values, tmp_path: Path) -> None:
    out = str(tmp_path / "elsewhere")
    arguments = ["--config", str(write_recipe()), "--max_steps", "1", f"--output_dir={out}"]
    result = CliRunner().invoke(train, ["sft", *arguments] if len(train.registered_commands) > 1 else arguments)
    assert result.exit_code == 0, result.output
    assert (Path(out) / "model.safetensors").exists()
    assert f"The trained checkpoint: {out}" in result.stderr
    assert re.search(r"^vggt: 0 of [\d,]+ parameters are trained\.$", result.stderr, re.MULTILINE)
    (count,) = re.findall(r"^connector: ([\d,]+) of \1 parameters are trained\.$", result.stderr, re.MULTILINE)
    connector = SpatialMLLMForConditionalGeneration.from_pretrained(out).model.connector
    assert int(count.replace(",", "")) == sum(weight.numel() for weight in connector.parameters())
    metrics = json.loads(result.stdout[result.stdout.rindex("{\n") :])
    assert metrics["failed_samples"] == 0
    assert metrics["train_loss"] > 0
