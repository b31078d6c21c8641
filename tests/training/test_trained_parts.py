"""Parts by name: which weights they hold, and what an optimizer is told."""

import pytest
import torch

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.hub.tiny_checkpoint import tiny_model, tiny_processor
from spatial_mllm_hf.training.trained_parts import (
    PARTS,
    count_parameters,
    parameter_groups,
    part_of,
    select_trained_parts,
)


@pytest.fixture(scope="module")
def model() -> SpatialMLLMForConditionalGeneration:
    return tiny_model(tiny_processor().tokenizer)


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("part", "prefixes"),
    [
        ("connector", ("model.connector.",)),
        ("vision_merger", ("model.visual.merger.",)),
        ("vision_tower", ("model.visual.blocks.", "model.visual.patch_embed.")),
        ("language_model", ("model.language_model.",)),
    ],
)
def test_a_part_is_its_modules_and_no_others(
    model: SpatialMLLMForConditionalGeneration, part: str, prefixes: tuple[str, ...]
) -> None:
    select_trained_parts(model, [part])
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def test_of_vggt_what_answers_depend_on_is_trained(model: SpatialMLLMForConditionalGeneration) -> None:
    """Gradients of an answer reach every weight that is to be trained: data parallelism waits for them."""
    select_trained_parts(model, PARTS)
    inputs = tiny_processor().apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "video", "video": torch.rand(4, 3, 56, 56)}, {"type": "text", "text": "?"}],
            }
        ],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    model.train()
    model(**inputs).logits.square().mean().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained(model)
    assert any("spatial_encoder.aggregator" in name for name in trained(model))
    assert not any("point_head" in name for name in trained(model))
    model.zero_grad()
    model.eval()


def test_layers_above_the_fused_one_stay_frozen(model: SpatialMLLMForConditionalGeneration) -> None:
    model.config.connector_config.spatial_embeds_layer_idx = 1
    try:
        select_trained_parts(model, ["vggt"])
    finally:
        model.config.connector_config.spatial_embeds_layer_idx = -1
    names = trained(model)
    assert any(".global_blocks.1." in name for name in names)
    assert not any(
        f".{kind}_blocks.{layer}." in name for name in names for kind in ("frame", "global") for layer in (2, 3)
    )


def test_every_trained_weight_is_in_one_group_of_its_part(model: SpatialMLLMForConditionalGeneration) -> None:
    select_trained_parts(model, ["connector", "language_model"])
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    rates = {"connector": 2e-5, "language_model": 7e-6}
    groups = parameter_groups(model.named_parameters(), rates, 0.1, decayed)
    assert [(group["part"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("connector", 2e-5, 0.0),
        ("connector", 2e-5, 0.1),
        ("language_model", 7e-6, 0.0),
        ("language_model", 7e-6, 0.1),
    ]
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert all(parameter.ndim > 1 for group in groups if group["weight_decay"] for parameter in group["params"])


def test_all_weights_are_counted_once(model: SpatialMLLMForConditionalGeneration) -> None:
    select_trained_parts(model, ["connector"])
    counts = {part: (some, total) for part, some, total in count_parameters(model)}
    assert sum(total for _, total in counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["connector"][0] == counts["connector"][1] > 0
    assert all(some == 0 for part, (some, _) in counts.items() if part != "connector")


def test_names_under_adapters_and_wrappers() -> None:
    assert part_of("module.base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight") == (
        "language_model"
    )
    assert part_of("base_model.model.model.connector.modules_to_save.default.mlp.0.weight") == "connector"
    with pytest.raises(ValueError, match=r"'head\.weight' is in none of the parts"):
        part_of("head.weight")
