"""Runs a recipe of GRPO in a process of its own: `python run_grpo.py RECIPE [--key value ...]`.

Rewards come out of the completions' letters, so that there is something to learn from. Prints, as one line of JSON,
what this process had: for each row of a log-probability its question and whether it saw that question's video, and the
sum of the trained weights.
"""

import json
import sys
from typing import Any

import torch

from spatial_mllm_hf.training.grpo import make_trainer
from spatial_mllm_hf.training.grpo_recipe import GRPORecipe
from spatial_mllm_hf.training.recipes import load_recipe


def letters(completions: list, **_: Any) -> list[float]:
    return [float(sum(map(ord, completion[0]["content"])) % 7) for completion in completions]


if __name__ == "__main__":
    trainer = make_trainer(load_recipe(sys.argv[1], sys.argv[2:], GRPORecipe))
    trainer.reward_funcs[0] = letters
    model, processor = trainer.model, trainer.processing_class
    features = {}
    for row in trainer.train_dataset:
        content = [{key: value for key, value in part.items() if value} for part in row["prompt"][0]["content"]]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=trainer.processor_kwargs,
        )
        question = content[1]["text"].split("\n")[0]
        with torch.no_grad():
            output = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        features[question] = output.pooler_output[0]
    rows: list[tuple[str, bool]] = []
    current: list[torch.Tensor] = []

    def note_ids(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        current[:] = [kwargs["input_ids"]] if kwargs.get("fused_lm_head") else []

    def note_embeddings(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        for ids, embeddings in zip(current[0] if current else (), kwargs["inputs_embeds"]):
            (question,) = [question for question in features if question in processor.decode(ids)]
            own = torch.allclose(embeddings[ids == model.config.video_token_id], features[question], atol=1e-5)
            rows.append((question, own))

    model.register_forward_pre_hook(note_ids, with_kwargs=True)
    model.model.language_model.register_forward_pre_hook(note_embeddings, with_kwargs=True)
    trainer.train()
    trained = [weight.detach().double().sum() for weight in model.parameters() if weight.requires_grad]
    result = {"rows": rows, "weights": float(sum(trained)), "reward": trainer.state.log_history[0]["reward"]}
    sys.stdout.write(json.dumps(result) + "\n")
