"""The vision tower's windows in groups are the windows one by one."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
)

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.modeling.vision_attention_spatial_mllm import GroupedVisionAttention

GRIDS = torch.tensor([[2, 6, 10], [1, 8, 8], [3, 4, 6]])  # windows of several lengths, frames of three sizes


def tower(attention: str, grouped: bool) -> Qwen2_5_VisionTransformerPretrainedModel:
    torch.manual_seed(5)
    config = Qwen2_5_VLVisionConfig(
        depth=3, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=24, fullatt_block_indexes=[1]
    )
    config._attn_implementation = attention
    model = Qwen2_5_VisionTransformerPretrainedModel._from_config(config).eval()
    for block in model.blocks:
        if grouped:
            plain, block.attn = block.attn, GroupedVisionAttention(block.attn.config)
            block.attn.load_state_dict(plain.state_dict())
    return model


def patches() -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(int(GRIDS.prod(-1).sum()), 3 * 2 * 14 * 14, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_grouped_windows_give_the_same_bits(attention: str) -> None:
    plain = tower(attention, grouped=False)(patches(), grid_thw=GRIDS)
    grouped = tower(attention, grouped=True)(patches(), grid_thw=GRIDS)
    assert torch.equal(grouped.last_hidden_state, plain.last_hidden_state)
    assert torch.equal(grouped.pooler_output, plain.pooler_output)


@torch.no_grad()
def test_as_many_calls_as_there_are_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, lengths = [], []
    attend = F.scaled_dot_product_attention

    def counting(query: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        calls.append((query.shape[0], query.shape[2]))
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    model = tower("sdpa", grouped=True)
    for block in model.blocks:
        block.register_forward_pre_hook(
            lambda _, args, kwargs: lengths.append(kwargs.get("cu_seqlens", args[1] if len(args) > 1 else None).diff()),
            with_kwargs=True,
        )
    model(patches(), grid_thw=GRIDS)
    assert len({tuple(of_layer.tolist()) for of_layer in lengths}) == 2  # windows, and whole frames
    expected = []
    for of_layer in lengths:
        values, counts = of_layer.unique(return_counts=True)
        expected += list(zip(counts.tolist(), values.tolist()))
    assert calls == expected
    assert len(calls) < sum(map(len, lengths))


def test_gradients_are_the_same() -> None:
    gradients = []
    for grouped in (False, True):
        model = tower("sdpa", grouped)
        model(patches(), grid_thw=GRIDS).pooler_output.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4)


def test_the_model_uses_it_and_keeps_the_names_of_the_weights(tiny_checkpoint: object) -> None:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint)
    attentions = [block.attn for block in model.model.visual.blocks]
    assert all(type(attention) is GroupedVisionAttention for attention in attentions)
    plain = Qwen2_5_VLVisionAttention(copy.deepcopy(attentions[0].config))
    assert set(plain.state_dict()) == set(attentions[0].state_dict())
