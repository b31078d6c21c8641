"""`spatial-mllm train grpo`: reinforcement learning with answers that can be checked."""

import typer

from . import common
from .train import CONFIG, print_metrics

NEEDED = ("trl", "datasets", "accelerate")


def grpo(context: typer.Context, config: str = CONFIG) -> None:
    """Train by GRPO on questions whose prompts ask for thoughts. Also under `accelerate launch`."""
    try:
        from ..training.grpo import run_grpo
        from ..training.grpo_recipe import GRPORecipe
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in NEEDED:
            raise
        raise ValueError(
            f'train grpo needs {error.name}, which is not installed: pip install "spatial-mllm-hf[train]".'
        ) from error
    from ..training.recipes import load_recipe

    recipe = load_recipe(config, context.args, GRPORecipe)
    common.quiet_transformers()
    metrics = run_grpo(recipe)
    if recipe.process_index == 0:
        print_metrics(metrics, str(recipe.output_dir))
