"""`spatial-mllm train geometry`: a VGGT from nothing, on rooms whose depth and cameras are known."""

import typer

from . import common
from .train import CONFIG, check_trainer_installed, print_metrics


def geometry(context: typer.Context, config: str = CONFIG) -> None:
    """Train VGGT on depth, points and cameras of rooms that `data rooms --geometry` made. Goes on after a kill."""
    check_trainer_installed()
    from ..training.geometry import GeometryRecipe, run_geometry
    from ..training.recipes import load_recipe

    recipe = load_recipe(config, context.args, GeometryRecipe)
    common.quiet_transformers()
    metrics = run_geometry(recipe)
    if recipe.process_index == 0:
        print_metrics(metrics, str(recipe.output_dir))
