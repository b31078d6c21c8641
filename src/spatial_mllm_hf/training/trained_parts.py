"""The parts of Spatial-MLLM that are trained or frozen by name, each at its own learning rate.

The paper trains the connector and the language model (section 4.1); the public code v1.1 the vision tower's merger
besides. What takes no part in an answer is never trained: VGGT's geometry heads, its mask token, and the layers above
the one that is fused; a data-parallel run would wait for their gradients.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from ..modeling.configuration_spatial_mllm import SpatialMLLMConfig

PartName = Literal["vision_tower", "vision_merger", "vggt", "connector", "language_model"]
PARTS: tuple[PartName, ...] = get_args(PartName)
# Of names as the generator, adapters around it and wrappers of data parallelism have them; the first that fits counts.
_PATTERNS: tuple[tuple[PartName, re.Pattern[str]], ...] = (
    ("vision_merger", re.compile(r"(^|\.)visual\.merger\.")),
    ("vision_tower", re.compile(r"(^|\.)visual\.")),
    ("vggt", re.compile(r"(^|\.)spatial_encoder\.")),
    ("connector", re.compile(r"(^|\.)connector\.")),
    ("language_model", re.compile(r"(^|\.)(language_model|lm_head)\.")),
)
_BLOCK = re.compile(r"\.aggregator\.(?:frame|global)_blocks\.(\d+)\.")


def part_of(name: str) -> PartName:
    """The part that a parameter of the generator belongs to.

    Raises:
        ValueError: for a name that is in none.
    """
    for part, pattern in _PATTERNS:
        if pattern.search(name):
            return part
    raise ValueError(f"The parameter {name!r} is in none of the parts {', '.join(PARTS)}.")


def check_parts(learning_rates: Mapping[str, float]) -> None:
    """Holds part names and rates to what they may be.

    Raises:
        ValueError: for an unknown part, none at all, or a rate that is not positive.
    """
    if not learning_rates:
        raise ValueError(f"trained_parts names nothing to train; expected some of {', '.join(PARTS)}.")
    for part, rate in learning_rates.items():
        if part not in PARTS:
            raise ValueError(f"trained_parts: unknown part {part!r}, expected some of {', '.join(PARTS)}.")
        if not rate > 0:
            raise ValueError(
                f"trained_parts: the learning rate of {part} must be positive, got {rate}; leave the part out to "
                "freeze it."
            )


def select_trained_parts(model: PreTrainedModel, parts: Iterable[str]) -> None:
    """Lets gradients into the parameters of these parts and no others."""
    wanted, config = set(parts), model.config
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in wanted and _is_used(name, config))


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    learning_rates: Mapping[str, float],
    weight_decay: float,
    decayed: Iterable[str],
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the trained parameters of each part, with weight decay and without.

    Args:
        parameters: names and parameters; those without gradients are left out.
        learning_rates: of each part.
        weight_decay: of the parameters named in `decayed`.
        decayed: names of those that are matrices, not norms or biases.
    """
    decayed = set(decayed)
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault((part_of(name), name in decayed), []).append(parameter)
    return [
        {
            "params": members,
            "lr": learning_rates[part],
            "weight_decay": weight_decay if has_decay else 0.0,
            "part": part,
        }
        for (part, has_decay), members in sorted(groups.items())
    ]


def count_parameters(model: nn.Module) -> Iterator[tuple[PartName, int, int]]:
    """For each part its name, its trained and all its parameters."""
    trained, total = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        total[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    return ((part, trained[part], total[part]) for part in PARTS)


def _is_used(name: str, config: SpatialMLLMConfig) -> bool:
    """Whether a parameter takes part in an answer."""
    if "spatial_encoder." not in name:
        return True
    if ".aggregator." not in name or name.endswith("mask_token"):
        return False
    block = _BLOCK.search(name)
    last = config.connector_config.spatial_embeds_layer_idx % config.spatial_config.num_hidden_layers
    return block is None or int(block[1]) <= last
