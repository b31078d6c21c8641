"""`spatial-mllm train`: training by recipes; each setting of a recipe can be given as `--key value` too."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

train = typer.Typer(name="train", help="Train by recipes.", no_args_is_help=True)

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
CONFIG = typer.Option(..., "--config", "-c", help="A recipe: a YAML file, or the name of one that comes along.")


@train.command(context_settings=SETTINGS)
def sft(context: typer.Context, config: str = CONFIG) -> None:
    """Fine-tune on questions with answers. Also under `accelerate launch`; the same command goes on after a kill."""
    check_trainer_installed()
    from ..training.recipes import load_recipe
    from ..training.sft import run_sft
    from ..training.sft_recipe import SFTRecipe

    recipe = load_recipe(config, context.args, SFTRecipe)
    with log_on_stderr(recipe.process_index == 0):
        metrics = run_sft(recipe)
    if recipe.process_index == 0:
        print_metrics(metrics, str(recipe.output_dir))


@contextmanager
def log_on_stderr(everything: bool) -> Iterator[None]:
    """Shows what the package logs: all of it, or warnings alone."""
    logger, handler = logging.getLogger(__package__.split(".")[0]), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if everything else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def check_trainer_installed() -> None:
    """Looks for what transformers' Trainer needs.

    Raises:
        ValueError: if accelerate is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("accelerate") is None:
        raise ValueError('Training needs accelerate, which is not installed: pip install "spatial-mllm-hf[train]".')


def print_metrics(metrics: dict[str, Any], folder: str) -> None:
    """The metrics of a run as JSON on stdout, and where its checkpoint lies on stderr."""
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")
    sys.stderr.write(f"The trained checkpoint: {folder}\n")
