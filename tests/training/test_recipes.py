"""Recipes: what they may say, and that those that come along can be read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from spatial_mllm_hf.training.recipes import RECIPES, load_recipe, parse_overrides, read_recipe, shipped_recipes
from spatial_mllm_hf.training.sft_recipe import SFTRecipe

from .conftest import Values


@dataclass
class Toy:
    """Fields of each kind."""

    name: str
    rate: float = 0.1
    steps: int = 1
    mode: Literal["no", "yes"] = "no"
    parts: dict[str, float] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    limit: int | None = None
    on: bool = False


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text("name: a\nrate: 1e-5\nmode: no\nparts: {x: 2E-6, y: 1}\nsources: [p, q]\n")
    return path


def test_numbers_without_a_point_are_numbers_and_no_is_a_word(toy: Path) -> None:
    assert load_recipe(toy, [], Toy) == Toy("a", 1e-5, 1, "no", {"x": 2e-6, "y": 1}, ["p", "q"])


def test_the_command_line_goes_before_the_file(toy: Path) -> None:
    changes = [
        "--rate",
        "3",
        "--steps=7",
        "--parts",
        "{x: 1e-3}",
        "--sources",
        "[r]",
        "--limit",
        "null",
        "--on",
        "true",
    ]
    assert load_recipe(toy, changes, Toy) == Toy("a", 3, 7, "no", {"x": 1e-3}, ["r"], None, True)
    assert parse_overrides(["--save-steps", "-1", "--a", "x=y"]) == {"save_steps": -1, "a": "x=y"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--ratte", "1"], r"unknown key 'ratte'; did you mean 'rate'\?"),
        (["--zzz", "1"], r"unknown key 'zzz'\.$"),
        (["--rate", "fast"], "rate must be float, got str 'fast'"),
        (["--rate", "true"], "rate must be float, got bool True"),
        (["--steps", "1.5"], "steps must be int, got float 1.5"),
        (["--on", "1"], "on must be bool, got int 1"),
        (["--mode", "maybe"], "mode must be 'no' or 'yes', got str 'maybe'"),
        (["--limit", "x"], "limit must be int or null, got str 'x'"),
        (["--sources", "p"], r"sources must be list\[str\], got str 'p'"),
        (["--sources", "[1]"], r"sources must be list\[str\], got list \[1\]"),
        (["--parts", "{x: fast}"], r"parts must be dict\[str, float\], got dict"),
        (["rate", "1"], "--key value, got 'rate' where a key was expected"),
        (["--rate"], "--rate has no value"),
        (["--rate", "{"], r"--rate '\{' is not a YAML value"),
    ],
)
def test_what_a_recipe_may_not_say(toy: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(toy, changes, Toy)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe of that name comes with the package \(.*sft_paper"):
        read_recipe("sft_papers")
    path = tmp_path / "list.yaml"
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="must hold keys and values, got list"):
        read_recipe(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        read_recipe(path)


# --- those that come along ---


@pytest.mark.parametrize("name", ["sft_paper", "sft_v1_1_135k", "sft_v1_1_820k", "cold_start_paper"])
def test_shipped_recipes_can_be_read(name: str, tmp_path: Path) -> None:
    assert name in shipped_recipes()
    recipe = load_recipe(
        name, ["--media_folder", str(tmp_path), "--output_dir", str(tmp_path), "--bf16", "false"], SFTRecipe
    )
    settings = recipe.media_settings()
    assert (settings.num_frames, settings.min_pixels, settings.max_pixels) == (16, 293216, 324576)
    assert settings.second_per_grid == 0.5


def test_the_papers_recipe_and_v1_1s(tmp_path: Path) -> None:
    options = ["--media_folder", str(tmp_path), "--output_dir", str(tmp_path), "--bf16", "false"]
    paper, public = (load_recipe(name, options, SFTRecipe) for name in ("sft_paper", "sft_v1_1_820k"))
    assert paper.trained_parts == {"connector": 1e-5, "language_model": 1e-5}
    assert paper.per_device_train_batch_size * paper.gradient_accumulation_steps == 16
    assert (paper.lr_scheduler_type, paper.num_train_epochs, paper.weight_decay) == ("linear", 1, 0)
    assert public.trained_parts == {"vision_merger": 2e-5, "connector": 2e-5, "language_model": 7e-6}
    assert 6 * public.per_device_train_batch_size * public.gradient_accumulation_steps == 48
    assert (public.lr_scheduler_type, public.weight_decay, public.warmup_steps) == ("cosine", 0.1, 0.03)
    cold = load_recipe("cold_start_paper", options, SFTRecipe)
    assert cold.max_steps == 200


def test_every_value_of_the_papers_recipe_says_its_source() -> None:
    lines = (RECIPES / "sft_paper.yaml").read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("num_frames")))
    plain = [line for line in lines[start:] if line and not line.startswith(("#", " ")) and "#" not in line]
    assert [line.split(":")[0] for line in plain] == [
        "max_pixels",  # with the line above it
        "weight_decay",
        "dataloader_num_workers",
        "logging_steps",
        "save_total_limit",
    ]


def test_accelerates_configurations_are_known_to_it() -> None:
    kinds = {
        name: load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml")) for name in ("ddp", "fsdp2", "zero3")
    }
    assert {name: kind.distributed_type.value for name, kind in kinds.items()} == {
        "ddp": "MULTI_GPU",
        "fsdp2": "FSDP",
        "zero3": "DEEPSPEED",
    }
    assert kinds["fsdp2"].fsdp_config["fsdp_version"] == 2
    assert kinds["fsdp2"].fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    path = kinds["zero3"].deepspeed_config["deepspeed_config_file"]
    deepspeed = yaml.safe_load((RECIPES.parents[2] / path).read_text())
    assert deepspeed["zero_optimization"]["stage"] == 3
    assert deepspeed["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


# --- what SFTRecipe checks ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model is empty: name it in the recipe or as --model"),
        ({"sources": []}, "sources is empty"),
        ({"media_folder": "nowhere"}, "media_folder='nowhere': there is no such folder"),
        ({"num_frames": 5}, "num_frames must be a positive even number, got 5"),
        ({"min_pixels": 10000}, "min_pixels must be positive and at most max_pixels, got 10000 and 7056"),
        ({"second_per_grid": 0.0}, "second_per_grid must be a positive number"),
        ({"max_failed_share": 1.5}, "max_failed_share must be between 0 and 1, got 1.5"),
        ({"trained_parts": {}}, "trained_parts names nothing to train"),
        ({"trained_parts": {"conector": 1e-5}}, "unknown part 'conector', expected some of vision_tower"),
        ({"trained_parts": {"connector": 0.0}}, "the learning rate of connector must be positive, got 0.0"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True would take the media"),
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"lora_rank": 2, "trained_parts": {"connector": 1e-5}}, "trained_parts must name language_model"),
        ({"lora_rank": 2, "trained_parts": {"language_model": 1e-5, "vggt": 1e-5}}, "trained_parts must name"),
        ({"feature_cache": "c", "trained_parts": {"vggt": 1e-5}}, "features of vggt cannot be kept"),
        ({"feature_cache": "c", "trained_parts": {"vision_tower": 1e-5}}, "features of vision_tower cannot be kept"),
        ({"feature_cache": "c", "cached_parts": ["vision_tower"]}, "cached_parts must name vggt"),
    ],
)
def test_settings_that_do_not_fit(values: Values, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SFTRecipe(**(values | changes))
