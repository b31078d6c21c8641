"""What a run leaves in its folder, and going on from there.

OUTPUT_DIR/run.json          the settings that decide the result; a folder holds one run
OUTPUT_DIR/checkpoint-N/     a complete checkpoint and the trainer's state after N steps
OUTPUT_DIR/                  at the end, the trained checkpoint; with LoRA merged, the adapter in `adapter/`
OUTPUT_DIR/trainer_state.json    at the end, what was logged
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from .sft_recipe import SFTRecipe

RUN_FILE, ADAPTER_FOLDER = "run.json", "adapter"
# Of transformers' settings, those that decide the result.
DECISIVE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "train_sampling_strategy",
)
# Of our own, those that do not.
NEUTRAL = ("attn_implementation", "media_folder", "max_failed_share", "feature_cache", "cached_parts")


def last_complete_checkpoint(folder: str | os.PathLike) -> str | None:
    """The newest checkpoint that was written to its end: the trainer's state comes last."""
    found = [
        (int(path.name.rpartition("-")[2]), path) for path in Path(folder).glob("checkpoint-*") if _is_numbered(path)
    ]
    return next((str(path) for _, path in sorted(found, reverse=True) if _is_complete(path)), None)


def hold_to_one_run(recipe: SFTRecipe) -> None:
    """Writes down a run's settings, or holds it to those of the run that its folder has.

    Raises:
        ValueError: for a folder of another run.
    """
    path = Path(str(recipe.output_dir)) / RUN_FILE
    settings = decisive_settings(recipe)
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        different = [
            f"{name}={there.get(name)!r} (asked for: {value!r})"
            for name, value in settings.items()
            if there.get(name) != value
        ]
        if different:
            raise ValueError(
                f"output_dir={recipe.output_dir} holds a run with {', '.join(different)}; ask for the same to go on "
                "with it, or name another folder."
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def decisive_settings(recipe: SFTRecipe) -> dict[str, Any]:
    """What the result of a run depends on, as JSON says it."""
    own = {field.name for field in dataclasses.fields(SFTRecipe)} - {
        field.name for field in dataclasses.fields(SFTRecipe.__mro__[1])
    }
    names = [*sorted(own - set(NEUTRAL)), *DECISIVE]
    return json.loads(json.dumps({name: getattr(recipe, name, None) for name in names}))


def _is_numbered(path: Path) -> bool:
    return re.fullmatch(r"checkpoint-\d+", path.name) is not None


def _is_complete(path: Path) -> bool:
    try:
        json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
