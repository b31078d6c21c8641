"""GRPO: every log-probability is of a row that sees its own video, and each video is encoded once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset
from grpo_runs import (
    FRAMES,
    QUESTIONS,
    ROLLOUTS,
    SeenRows,
    StopAtReward,
    lower_case,
    make,
    messages,
    plain_log_probabilities,
    processed,
    prompts,
    recent_reward,
    run,
    settings,
)
from peft import LoraConfig
from PIL import Image
from trl import GRPOTrainer

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.modeling.lora_spatial_mllm import LORA_TARGET_MODULES
from spatial_mllm_hf.training.grpo_trainer import SpatialMLLMGRPOTrainer, up_to_end


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two rooms."""
    folder = tmp_path_factory.mktemp("rooms")
    paths = []
    for seed in (7, 8):
        room = make_room(seed=seed)
        extrinsics, intrinsics = camera_path(room, num_frames=6, size=(112, 84))
        write_clip(render(room, extrinsics, intrinsics, size=(112, 84)).rgb, folder / f"{seed}.mp4", fps=8)
        paths.append(str(folder / f"{seed}.mp4"))
    return paths


@pytest.fixture
def model(tiny_checkpoint: Path) -> SpatialMLLMForConditionalGeneration:
    return SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint)


@pytest.fixture
def processor(tiny_checkpoint: Path) -> SpatialMLLMProcessor:
    return SpatialMLLMProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture
def own_features(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, clips: list[str]
) -> dict[str, torch.Tensor]:
    """What the untouched model makes of each question's video."""
    features = {}
    for clip, question in zip(clips, QUESTIONS):
        inputs = processed(processor, messages(clip, question))
        with torch.no_grad():
            output = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        features[question] = output.pooler_output[0]
    first, second = features.values()
    assert first.shape == second.shape
    assert (first - second).abs().mean() > 0.1
    return features


def watched(trainer: GRPOTrainer, processor: SpatialMLLMProcessor) -> SeenRows:
    seen = SeenRows(processor, trainer.model.config.video_token_id)
    seen.watch(trainer.model)
    seen.watch(trainer.ref_model)
    return seen


def test_every_row_sees_its_own_video(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    clips: list[str],
    own_features: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    """Of the policy and of the reference, after two prompts of different videos were shuffled and split."""
    trainer = make(SpatialMLLMGRPOTrainer, model, lower_case, settings(tmp_path), prompts(clips), processor)
    seen = watched(trainer, processor)
    trainer.train()
    questions = [question for question, _ in seen.rows]
    assert sorted(questions[:8]) == sorted(questions[8:]) == sorted(QUESTIONS * ROLLOUTS)  # reference, then policy
    assert questions[8:] != sorted(questions[8:])
    assert questions[8:] != sorted(questions[8:], reverse=True)
    assert seen.calls == 8  # of 2 rows each
    seen.assert_own_videos(own_features)


def test_with_the_stock_trainer_no_row_does(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    clips: list[str],
    own_features: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    """The same assertion fails; what stands in the video's place is the embedding of its placeholder."""
    processor.video_processor.num_frames = FRAMES["num_frames"]
    dataset = prompts(clips)
    # Without the keys that the table adds, which the stock trainer would take for a second video.
    plain = {question: messages(clip, question) for clip, question in zip(clips, QUESTIONS)}
    dataset.set_transform(lambda rows: {"prompt": [copy.deepcopy(plain[question]) for question in rows["question"]]})
    model.generation_config.suppress_tokens = None
    trainer = GRPOTrainer(model, lower_case, settings(tmp_path), train_dataset=dataset, processing_class=processor)
    seen = watched(trainer, processor)
    trainer.train()
    assert len(seen.rows) == 2 * 2 * ROLLOUTS
    with pytest.raises(AssertionError):
        seen.assert_own_videos(own_features)
    placeholder = trainer.ref_model.get_input_embeddings().weight[trainer.model.config.video_token_id]
    for _, embeddings in seen.rows:
        torch.testing.assert_close(embeddings, placeholder.detach().expand_as(embeddings))


def test_a_video_is_encoded_once_for_rollouts_reference_and_policy(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    clips: list[str],
    tmp_path: Path,
) -> None:
    args = settings(tmp_path, num_iterations=2, max_steps=2)  # two passes over what was generated once
    trainer = make(SpatialMLLMGRPOTrainer, model, lower_case, args, prompts(clips), processor)
    assert trainer.ref_model.model.spatial_encoder is trainer.model.model.spatial_encoder  # nor kept twice
    calls = {"visual": 0, "vggt": 0, "connector": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    backbone = trainer.model.model
    backbone.visual.register_forward_hook(count("visual"))
    backbone.spatial_encoder.aggregator.register_forward_hook(count("vggt"))
    backbone.connector.register_forward_hook(count("connector"))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert calls == {"visual": 2, "vggt": 2, "connector": 2}
    changed = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all(".language_model." in name or name.startswith("lm_head") for name in changed)


class Recording(SpatialMLLMGRPOTrainer):
    """Keeps the log-probabilities that it computes and what they are of."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, mask: Any, kept: int, **kwargs: Any
    ) -> Any:
        output = super()._get_per_token_logps_and_entropies(model, input_ids, mask, kept, **kwargs)
        self.records = getattr(self, "records", [])
        self.records.append((input_ids, mask.bool(), kept, output[0].detach()))
        return output


def test_log_probabilities_are_those_of_the_model_that_reads_pixels(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    clips: list[str],
    tmp_path: Path,
) -> None:
    """Row by row, without padding, without anything shared."""
    reference = copy.deepcopy(model).eval()
    dataset = prompts(clips, ("Short?", "A longer question, so that rows are padded?"))
    args = settings(tmp_path, learning_rate=0.0)
    trainer = make(Recording, model, lower_case, args, dataset, processor)
    trainer.train()
    inputs = {
        row["question"]: processed(processor, messages(clip, row["question"])) for row, clip in zip(dataset, clips)
    }
    compared = 0
    for input_ids, mask, kept, log_probabilities in trainer.records:
        for ids, valid, given in zip(input_ids, mask, log_probabilities, strict=True):
            (question,) = [question for question in inputs if question in processor.decode(ids)]
            expected = plain_log_probabilities(reference, ids[valid][None], inputs[question])
            length = int(valid[-kept:].sum())
            torch.testing.assert_close(given[:length], expected[-length:], atol=1e-4, rtol=1e-4)
            compared += length
    assert compared > 2 * 2 * ROLLOUTS


def test_the_same_question_is_learned_to_be_answered_by_what_the_video_shows(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, clips: list[str], tmp_path: Path
) -> None:
    """Lower case is rewarded for one room and everything else for the other: who is blind gets one half."""
    rows = [{"prompt": messages(clip, "Same?"), "wanted": wanted} for clip, wanted in zip(clips, ("lower", "other"))]

    def reward(completions: list, wanted: list[str], **_: Any) -> list[float]:
        shares = lower_case(completions)
        return [share if kind == "lower" else 1 - share for share, kind in zip(shares, wanted)]

    args = settings(
        tmp_path,
        max_steps=100,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        num_generations=8,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        max_completion_length=4,
        gradient_checkpointing=False,
        beta=0.01,
    )
    trainer = make(SpatialMLLMGRPOTrainer, model, reward, args, Dataset.from_list(rows), processor)
    trainer.add_callback(StopAtReward(0.8))
    logs = run(trainer)
    assert recent_reward(logs[:3]) < 0.65
    assert recent_reward(logs) > 0.8
    assert logs[-1]["kl"] > logs[0]["kl"] >= 0


def test_adapters_are_trained_against_the_model_without_them(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    clips: list[str],
    own_features: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    lora = LoraConfig(r=2, target_modules=LORA_TARGET_MODULES, task_type="CAUSAL_LM")
    args = settings(tmp_path, max_steps=3, learning_rate=1e-1)
    trainer = make(SpatialMLLMGRPOTrainer, model, lower_case, args, prompts(clips), processor, peft_config=lora)
    assert trainer.ref_model is None
    seen = SeenRows(processor, model.config.video_token_id)
    seen.watch(trainer.model.get_base_model())
    logs = run(trainer)
    assert len(seen.rows) == 3 * 2 * 2 * ROLLOUTS
    seen.assert_own_videos(own_features)
    assert logs[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert logs[-1]["kl"] > 1e-4
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)


def test_adapters_of_what_is_shared_are_refused(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, clips: list[str], tmp_path: Path
) -> None:
    lora = LoraConfig(r=2, target_modules=LORA_TARGET_MODULES, modules_to_save=["connector"], task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match=r"language model alone, but '.*connector.*LORA_TARGET_MODULES"):
        make(SpatialMLLMGRPOTrainer, model, lower_case, settings(tmp_path), prompts(clips), processor, peft_config=lora)


@pytest.mark.parametrize("option", ["use_vllm", "use_transformers_continuous_batching"])
def test_generation_without_the_video_is_refused(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    clips: list[str],
    tmp_path: Path,
    option: str,
) -> None:
    args = settings(tmp_path, **{option: True})
    with pytest.raises(ValueError, match=f"{option}=True: .*[Ll]eave it out"):
        make(SpatialMLLMGRPOTrainer, model, lower_case, args, prompts(clips), processor)


def test_a_trl_that_works_otherwise_is_refused(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    clips: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rather than to train without the video."""
    monkeypatch.delattr(GRPOTrainer, "_compute_loss")
    with pytest.raises(ValueError, match=r"TRL [\d.]+ has no _compute_loss in its GRPOTrainer"):
        make(SpatialMLLMGRPOTrainer, model, lower_case, settings(tmp_path), prompts(clips), processor)


def test_completions_never_hold_placeholders(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, clips: list[str], tmp_path: Path
) -> None:
    """They would ask for features that are not there; a head that wants nothing else shows it."""
    model.generation_config.suppress_tokens = None
    placeholders = [model.config.video_token_id, model.config.image_token_id]
    sampled: list[int] = []

    def note(completions: list, completion_ids: list[list[int]], **_: Any) -> list[float]:
        sampled.extend(token for ids in completion_ids for token in ids)
        return [0.0] * len(completions)

    def prefer(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., placeholders] = 1e4
        return logits

    trainer = make(SpatialMLLMGRPOTrainer, model, note, settings(tmp_path), prompts(clips), processor)
    trainer.model.lm_head.register_forward_hook(prefer)
    trainer.train()
    assert sampled
    assert not set(sampled) & set(placeholders)


def test_the_order_of_prompts_follows_from_seed_and_epoch(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, clips: list[str], tmp_path: Path
) -> None:
    rows = [{"prompt": messages(clips[0], f"{number}?"), "number": number} for number in range(8)]
    trainer = make(SpatialMLLMGRPOTrainer, model, lower_case, settings(tmp_path), Dataset.from_list(rows), processor)
    loader = trainer.get_train_dataloader()
    orders = []
    for epoch in (0, 1, 2, 1):
        loader.set_epoch(epoch)
        orders.append([row["number"] for batch in loader for row in batch])
    assert all(set(order) == set(range(8)) for order in orders)
    assert orders[3] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


def test_completions_end_at_the_end_of_a_turn() -> None:
    assert up_to_end([5, 6, 2, 0, 0], [2, 3]) == [5, 6, 2]
    assert up_to_end([2, 2], [2]) == [2]
    assert up_to_end([5, 6], [2]) == [5, 6]  # cut off


def test_prompts_of_pictures_and_of_text_alone_stand_beside_each_other(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, clips: list[str], tmp_path: Path
) -> None:
    """And the log-probabilities of evaluation are computed likewise."""
    picture = tmp_path / "picture.png"
    Image.effect_noise((112, 84), 80).convert("RGB").save(picture)
    contents = [
        [{"type": "video", "video": clips[0]}, {"type": "text", "text": "A video?"}],
        [{"type": "text", "text": "Nothing?"}],
        [{"type": "image", "image": str(picture)}, {"type": "text", "text": "A picture?"}],
        [{"type": "image", "image": str(picture)}] * 2 + [{"type": "text", "text": "One scene?"}],
    ]
    rows = [{"prompt": [{"role": "user", "content": content}]} for content in contents]
    args = settings(tmp_path / "run", per_device_eval_batch_size=8, num_generations_eval=2)
    trainer = make(Recording, model, lower_case, args, prompts(clips), processor)
    metrics = trainer.evaluate(Dataset.from_list(rows))
    assert 0 <= metrics["eval_reward"] <= 1
    reference = trainer.ref_model.eval()
    messages_of = {content[-1]["text"]: [{"role": "user", "content": content}] for content in contents}
    compared = set()
    for input_ids, mask, kept, log_probabilities in trainer.records:
        for ids, valid, given in zip(input_ids, mask, log_probabilities, strict=True):
            (text,) = [text for text in messages_of if text in processor.decode(ids)]
            inputs = processed(processor, messages_of[text])
            expected = plain_log_probabilities(reference, ids[valid][None], inputs)
            length = int(valid[-kept:].sum())
            torch.testing.assert_close(given[:length], expected[-length:], atol=1e-4, rtol=1e-4)
            compared.add(text)
    assert compared == set(messages_of)
