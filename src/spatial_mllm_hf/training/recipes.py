"""Recipes: YAML files of a training run's settings, read into the dataclass of its trainer.

A recipe is flat: its keys are the fields of the dataclass (transformers' `TrainingArguments` or TRL's configuration,
with our own fields added), so that whatever a trainer knows can be said in a file or as `--key value`. Unknown keys and
values of another type are errors. The recipes that come with the package (`spatial_mllm_hf/recipes/`) go by name.

    load_recipe("sft_paper", ["--output_dir", "runs/first", "--trained_parts", "{connector: 2e-5}"], SFTRecipe)
"""

import dataclasses
import difflib
import enum
import os
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

RECIPES = Path(__file__).parents[1] / "recipes"
R = TypeVar("R")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and truth values: PyYAML takes 1e-5 for text and `no`, a value of some settings, for false."""

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$", re.IGNORECASE), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(recipe: str | os.PathLike, overrides: Sequence[str], config_class: type[R]) -> R:
    """The settings of a run.

    Args:
        recipe: a YAML file, or the name of a shipped recipe.
        overrides: `--key value` or `--key=value`, as on the command line; values are YAML.
        config_class: the dataclass to make.

    Raises:
        ValueError: for a recipe that is not there or is no mapping, an unknown key, a value of another type, and
            whatever the dataclass raises.
    """
    values = read_recipe(recipe) | parse_overrides(overrides)
    check_values(values, config_class, str(recipe))
    return config_class(**values)


def read_recipe(recipe: str | os.PathLike) -> dict[str, Any]:
    """The keys and values of a recipe, unchecked.

    Raises:
        ValueError: if it is not there, or not a mapping in YAML.
    """
    path = Path(recipe)
    if not path.is_file():
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise ValueError(
            f"--config {recipe}: there is no such file, and no recipe of that name comes with the package "
            f"({', '.join(shipped_recipes())})."
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, got {type(values).__name__}.")
    return values


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Keys and values out of `--key value` and `--key=value`.

    Raises:
        ValueError: for a key without a value, or a value that no key precedes.
    """
    values: dict[str, Any] = {}
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--"):
            raise ValueError(f"Settings are given as --key value, got {argument!r} where a key was expected.")
        key, equals, text = argument.removeprefix("--").partition("=")
        value = text if equals else next(remaining, None)
        if value is None:
            raise ValueError(f"--{key} has no value: settings are given as --key value.")
        try:
            values[key.replace("-", "_")] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"--{key} {value!r} is not a YAML value: {error}") from error
    return values


def check_values(values: Mapping[str, Any], config_class: type, recipe: str) -> None:
    """Holds keys and values to the fields of a dataclass.

    Raises:
        ValueError: for an unknown key, with the nearest known one, or a value of another type.
    """
    hints = get_type_hints(config_class)
    known = [field.name for field in dataclasses.fields(config_class) if field.init]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"Recipe {recipe}: unknown key {key!r}{hint}")
        if not _fits(value, hints[key]):
            raise ValueError(
                f"Recipe {recipe}: {key} must be {_describe(hints[key])}, got {type(value).__name__} {value!r}."
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of YAML is one of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments and type(value) in {type(argument) for argument in arguments}
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(_fits(entry, arguments[0]) for entry in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            _fits(key, arguments[0]) and _fits(entry, arguments[1]) for key, entry in value.items()
        )
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in get_args(hint))
    if origin is Literal:
        return " or ".join(repr(argument) for argument in get_args(hint))
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")
