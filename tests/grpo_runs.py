"""Tiny runs of GRPO for the tests: two rooms, a question on each, and what the language models get to see."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.training.grpo_trainer import SpatialMLLMGRPOTrainer

FRAMES = {"num_frames": 4, "frame_sampling": "uniform"}
TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids")  # of the processor's output
QUESTIONS = ("How many chairs?", "How long is the bed?")
ROLLOUTS = 4


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


def processed(processor: SpatialMLLMProcessor, chat: list[dict[str, Any]]) -> dict[str, Any]:
    return processor.apply_chat_template(
        chat,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=FRAMES,
    )


def make(
    trainer_class: Any, model: Any, reward: Any, args: GRPOConfig, dataset: Dataset, processor: Any, **more: Any
) -> Any:
    """Any of our trainers."""
    return trainer_class(
        model, reward, args, train_dataset=dataset, processing_class=processor, processor_kwargs=FRAMES, **more
    )


def plain_log_probabilities(model: Any, ids: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """Of each token of one row `[1, L]` but the first, by a model that reads pixels."""
    visual = {name: value for name, value in inputs.items() if name not in TOKENS}
    with torch.no_grad():
        logits = model(input_ids=ids, **visual).logits[0]
    return logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]


def run(trainer: SpatialMLLMGRPOTrainer) -> list[dict[str, float]]:
    """What training logs."""
    trainer.train()
    return [entry for entry in trainer.state.log_history if "reward" in entry]


def recent_reward(logs: list[dict[str, float]]) -> float:
    """Mean of the last three steps."""
    return sum(entry["reward"] for entry in logs[-3:]) / 3


class StopAtReward(TrainerCallback):
    """Ends a run that has learned enough; what is left is only time."""

    def __init__(self, reward: float) -> None:
        self.reward = reward

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        logs = [entry for entry in state.log_history if "reward" in entry]
        control.should_training_stop = len(logs) > 3 and recent_reward(logs) > self.reward


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
            (question,) = [question for question in QUESTIONS if question in self.processor.decode(ids)]
            self.rows.append((question, embeddings[ids == self.video_token].detach()))
        self._ids = None

    def assert_own_videos(self, features: dict[str, torch.Tensor]) -> None:
        """Each row saw the features of its question's video."""
        for question, embeddings in self.rows:
            torch.testing.assert_close(embeddings, features[question])
