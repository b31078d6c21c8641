"""GRPO: every log-probability is of a row that sees its own video, and each video is encoded once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.training.grpo import SpatialMLLMGRPOTrainer

FRAMES = {"num_frames": 4, "frame_sampling": "uniform"}
QUESTIONS = ("How many chairs?", "How long is the bed?")
ROLLOUTS = 4


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


def messages(clip: str, question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": question}]}]


def prompts(clips: list[str], questions: tuple[str, str] = QUESTIONS) -> Dataset:
    rows = [{"prompt": messages(clip, question), "question": question} for clip, question in zip(clips, questions)]
    return Dataset.from_list(rows)


def settings(folder: Path, **changes: Any) -> GRPOConfig:
    """Two prompts of four rollouts, generated together, shuffled, and learned from two rows at a time."""
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "num_generations": ROLLOUTS,
        "max_completion_length": 6,
        "beta": 0.04,
        "max_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return GRPOConfig(**defaults | changes)


def lower_case(completions: list, **_: Any) -> list[float]:
    """Share of lower-case letters, which random weights have now and then."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter.islower() for letter in text) / max(1, len(text)) for text in texts]


def processed(processor: SpatialMLLMProcessor, clip: str, question: str) -> dict[str, Any]:
    return processor.apply_chat_template(
        messages(clip, question),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=FRAMES,
    )


class SeenRows:
    """What the language models of a trainer read at the places of the video, for each row of a log-probability."""

    def __init__(self, processor: SpatialMLLMProcessor, video_token: int) -> None:
        self.processor, self.video_token = processor, video_token
        self.rows: list[tuple[str, torch.Tensor]] = []  # question and embeddings
        self.calls = 0
        self._ids: torch.Tensor | None = None

    def watch(self, model: SpatialMLLMForConditionalGeneration) -> None:
        model.register_forward_pre_hook(self._note_ids, with_kwargs=True)
        model.model.language_model.register_forward_pre_hook(self._note_embeddings, with_kwargs=True)

    def _note_ids(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._ids = kwargs["input_ids"] if kwargs.get("fused_lm_head") else None

    def _note_embeddings(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self._ids is None:
            return  # generation
        self.calls += 1
        for ids, embeddings in zip(self._ids, kwargs["inputs_embeds"], strict=True):
            text = self.processor.decode(ids)
            (question,) = [question for question in QUESTIONS if question in text]
            self.rows.append((question, embeddings[ids == self.video_token].detach()))
        self._ids = None

    def assert_own_videos(self, features: dict[str, torch.Tensor]) -> None:
        """Each row saw the features of its question's video."""
        for question, embeddings in self.rows:
            torch.testing.assert_close(embeddings, features[question])


@pytest.fixture
def own_features(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, clips: list[str]
) -> dict[str, torch.Tensor]:
    """What the untouched model makes of each question's video."""
    features = {}
    for clip, question in zip(clips, QUESTIONS):
        inputs = processed(processor, clip, question)
        with torch.no_grad():
            output = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        features[question] = output.pooler_output[0]
    first, second = features.values()
    assert first.shape == second.shape and (first - second).abs().mean() > 0.1  # so that one can stand in for the other
    return features


def watched(trainer: GRPOTrainer, processor: SpatialMLLMProcessor) -> SeenRows:
    seen = SeenRows(processor, trainer.model.config.video_token_id)
    seen.watch(trainer.model)
    seen.watch(trainer.ref_model)
    return seen


def test_every_row_sees_its_own_video(model, processor, clips, own_features, tmp_path) -> None:
    """Of the policy and of the reference, after two prompts of different videos were shuffled and split."""
    trainer = SpatialMLLMGRPOTrainer(
        model,
        lower_case,
        settings(tmp_path),
        train_dataset=prompts(clips),
        processing_class=processor,
        processor_kwargs=FRAMES,
    )
    seen = watched(trainer, processor)
    trainer.train()
    questions = [question for question, _ in seen.rows]
    assert sorted(questions[:8]) == sorted(questions[8:]) == sorted(QUESTIONS * ROLLOUTS)  # reference, then policy
    assert questions[8:] != sorted(questions[8:]) and questions[8:] != sorted(questions[8:], reverse=True)  # shuffled
    assert seen.calls == 8  # of 2 rows each
    seen.assert_own_videos(own_features)


def test_with_the_stock_trainer_no_row_does(model, processor, clips, own_features, tmp_path) -> None:
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


def test_a_video_is_encoded_once_for_rollouts_reference_and_policy(model, processor, clips, tmp_path) -> None:
    args = settings(tmp_path, num_iterations=2, max_steps=2)  # two passes over what was generated once
    trainer = SpatialMLLMGRPOTrainer(
        model,
        lower_case,
        args,
        train_dataset=prompts(clips),
        processing_class=processor,
        processor_kwargs=FRAMES,
    )
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
    assert changed and all(".language_model." in name or name.startswith("lm_head") for name in changed)


class Recording(SpatialMLLMGRPOTrainer):
    """Keeps the log-probabilities that it computes and what they are of."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, mask: Any, kept: int, **kwargs: Any
    ) -> Any:
        output = super()._get_per_token_logps_and_entropies(model, input_ids, mask, kept, **kwargs)
        self.records = getattr(self, "records", [])
        self.records.append((input_ids, mask.bool(), kept, output[0].detach()))
        return output


def test_log_probabilities_are_those_of_the_model_that_reads_pixels(model, processor, clips, tmp_path) -> None:
    """Row by row, without padding, without anything shared."""
    reference = copy.deepcopy(model).eval()
    dataset = prompts(clips, ("Short?", "A longer question, so that rows are padded?"))
    args = settings(tmp_path, learning_rate=0.0)
    trainer = Recording(
        model, lower_case, args, train_dataset=dataset, processing_class=processor, processor_kwargs=FRAMES
    )
    trainer.train()
    inputs = {row["question"]: processed(processor, clip, row["question"]) for row, clip in zip(dataset, clips)}
    compared = 0
    for input_ids, mask, kept, log_probabilities in trainer.records:
        for ids, valid, given in zip(input_ids, mask, log_probabilities, strict=True):
            row = ids[valid][None]
            (question,) = [question for question in inputs if question in processor.decode(row[0])]
            visual = {name: inputs[question][name] for name in ("pixel_values_videos", "video_grid_thw")}
            times = inputs[question]["second_per_grid_ts"]
            with torch.no_grad():
                logits = reference(input_ids=row, **visual, second_per_grid_ts=times).logits[0]
            of_next = logits[:-1].log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
            length = int(valid[-kept:].sum())
            torch.testing.assert_close(given[:length], of_next[-length:], atol=1e-4, rtol=1e-4)
            compared += length
    assert compared > 2 * 2 * ROLLOUTS


def run(trainer: SpatialMLLMGRPOTrainer) -> list[dict[str, float]]:
    trainer.train()
    return [entry for entry in trainer.state.log_history if "reward" in entry]


def test_what_is_rewarded_becomes_more_frequent(model, processor, clips, tmp_path) -> None:
    args = settings(tmp_path, max_steps=15, learning_rate=3e-3, num_generations=8, per_device_train_batch_size=4)
    trainer = SpatialMLLMGRPOTrainer(
        model,
        lower_case,
        args,
        train_dataset=prompts(clips),
        processing_class=processor,
        processor_kwargs=FRAMES,
    )
    logs = run(trainer)
    first, last = (sum(entry["reward"] for entry in part) / 3 for part in (logs[:3], logs[-3:]))
    assert last > first + 0.3
    assert logs[-1]["kl"] > logs[0]["kl"]
