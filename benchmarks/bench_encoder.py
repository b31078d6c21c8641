"""VGGT and the vision tower at their real width: time against the plain implementation, memory of both.

On a CPU time is taken with few of the 24 layers (each is like the next) and small frames; memory is counted on the
meta device at full size, where the numbers of elements are all there is.
"""

from functools import partial

import torch
from activation_memory import peak_bytes
from baseline.vggt import PlainVGGT
from measuring import Comparison, compare, describe
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from spatial_mllm_hf.modeling.configuration_spatial_mllm import VGGTConfig
from spatial_mllm_hf.modeling.modeling_vggt import VGGTModel
from spatial_mllm_hf.modeling.vggt_blocks import TOKENS_AT_ONCE
from spatial_mllm_hf.modeling.vggt_linear import apply_linear
from spatial_mllm_hf.modeling.vision_attention_spatial_mllm import GroupedVisionAttention

FULL_WIDTH, FULL_HEIGHT = 518, 392
MEMORY_FRAMES = (8, 16, 32, 64, 128)


def run(
    repeats: int, device: torch.device, layers: int, frames: tuple[int, ...], size: tuple[int, int]
) -> list[Comparison]:
    """Time of the encoder in float32 and bfloat16."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        plain, ours = twins(layers, device, dtype)
        for count in frames:
            clip = torch.rand(1, count, 3, size[1], size[0], device=device)
            setting = f"{count} frames of {size[0]}x{size[1]}, {layers} of 24 layers, {_name(dtype)}"
            rows.append(
                _time("VGGT for the language model", setting, partial(plain.aggregate, clip), ours, clip, repeats)
            )
    return rows


def kernels(
    repeats: int, device: torch.device, layers: int, frames: tuple[int, ...], size: tuple[int, int]
) -> list[Comparison]:
    """Compiled blocks, and on a CPU what bounds the encoder's time, and the vision tower's windows."""
    rows = [_compiled(repeats, device, layers, frames[0], size)]
    return [*rows, _linear(repeats), _windows(repeats)] if device.type == "cpu" else rows


def _time(name: str, setting: str, published: object, ours: VGGTModel, clip: torch.Tensor, repeats: int) -> Comparison:
    with torch.no_grad():
        return compare(name, setting, published, lambda: ours.encode(clip), repeats, target=1.3, warm_up=True)


def twins(layers: int, device: torch.device, dtype: torch.dtype) -> tuple[PlainVGGT, VGGTModel]:
    """The plain VGGT and ours with the same random weights; the plain one's heads stay in float32, as published."""
    dpt = [max(0, round(layers * place / 24) - 1) for place in (5, 12, 18, 24)]
    config = VGGTConfig(num_hidden_layers=layers, patch_embed_num_hidden_layers=layers, dpt_layer_indices=dpt)
    torch.manual_seed(0)
    ours = VGGTModel(config).eval()
    plain = PlainVGGT(config).eval()
    plain.load_state_dict(ours.state_dict())
    plain.aggregator.to(dtype)
    return plain.to(device), ours.to(device, dtype)


def _compiled(repeats: int, device: torch.device, layers: int, count: int, size: tuple[int, int]) -> Comparison:
    """With `compile_blocks`; the compilation itself is not in the time."""
    plain, ours = twins(layers, device, torch.bfloat16)
    ours.compile_blocks()
    clip = torch.rand(1, count, 3, size[1], size[0], device=device)
    setting = f"{count} frames of {size[0]}x{size[1]}, {layers} of 24 layers, bfloat16, compiled"
    return _time("VGGT with compiled blocks", setting, partial(plain.aggregate, clip), ours, clip, repeats)


def geometry(repeats: int, device: torch.device, size: tuple[int, int]) -> list[Comparison]:
    """All 24 layers and the heads, as both are used to choose frames: bfloat16, the published heads in float32."""
    plain, ours = twins(24, device, torch.bfloat16)
    count = 16 if device.type == "cpu" else 128
    clip = torch.rand(1, count, 3, size[1], size[0], device=device)
    setting = f"{count} frames of {size[0]}x{size[1]}, bfloat16; published: all heads in float32"
    with torch.no_grad():
        row = compare(
            "VGGT for choosing frames",
            setting,
            lambda: plain(clip),
            lambda: ours.predict_geometry(clip[0]),
            repeats,
            target=1.3,
            warm_up=device.type != "cpu",
        )
    return [row]


def _linear(repeats: int) -> Comparison:
    """Where the two differ most in float32: the widest linear layer of a block, on one piece of tokens."""
    layer, tokens = torch.nn.Linear(1024, 4096), torch.randn(TOKENS_AT_ONCE, 1024)
    with torch.no_grad():
        return compare(
            "a linear layer of VGGT",
            f"{TOKENS_AT_ONCE} tokens, 1024 to 4096 channels, float32, 20 times",
            lambda: [layer(tokens) for _ in range(20)],
            lambda: [apply_linear(layer, tokens) for _ in range(20)],
            repeats,
            warm_up=True,
        )


def _windows(repeats: int) -> Comparison:
    """Two layers of the vision tower, one with windows and one with whole frames, against transformers' own."""
    config = Qwen2_5_VLVisionConfig(depth=2, hidden_size=1280, out_hidden_size=2048, fullatt_block_indexes=[1])
    config._attn_implementation = "sdpa"
    upstream = Qwen2_5_VisionTransformerPretrainedModel._from_config(config).eval()
    ours = Qwen2_5_VisionTransformerPretrainedModel._from_config(config).eval()
    for block in ours.blocks:
        block.attn = GroupedVisionAttention(block.attn.config)
    ours.load_state_dict(upstream.state_dict())
    grid = torch.tensor([[8, 34, 46]])
    patches = torch.randn(8 * 34 * 46, 3 * 2 * 14 * 14)
    with torch.no_grad():
        assert torch.equal(
            ours(patches, grid_thw=grid).last_hidden_state, upstream(patches, grid_thw=grid).last_hidden_state
        )
        return compare(
            "vision tower, grouped windows",
            "16 frames of 644x476, 2 of 32 layers, float32, against transformers",
            lambda: upstream(patches, grid_thw=grid),
            lambda: ours(patches, grid_thw=grid),
            repeats,
            target=1,
        )


def memory(dtype: torch.dtype = torch.float32) -> list[Comparison]:
    """Most bytes of activations at once, weights and frames aside, at full size (24 layers)."""
    with torch.device("meta"):
        ours, plain = VGGTModel(VGGTConfig()).eval().to(dtype), PlainVGGT(VGGTConfig()).eval()
        plain.aggregator.to(dtype)
    rows = []
    for count in MEMORY_FRAMES:
        clip = torch.empty(1, count, 3, FULL_HEIGHT, FULL_WIDTH, device="meta")
        given = [clip, *ours.parameters(), *plain.parameters()]
        for name, published, own in (
            ("memory of VGGT for the language model", lambda c=clip: plain.aggregate(c), lambda c=clip: ours.encode(c)),
            (
                "memory of VGGT for choosing frames",
                lambda c=clip: plain(c),
                lambda c=clip: ours.predict_geometry(c[0]),
            ),
        ):
            setting = f"{count} frames of {FULL_WIDTH}x{FULL_HEIGHT}, {_name(dtype)}"
            target = 10 if count == 128 else None
            sizes = [float(peak_bytes(work, given)) for work in (published, own)]
            rows.append(Comparison(name, setting, sizes[:1], sizes[1:], target, "bytes", {"frames": count}))
            print(describe(rows[-1]), flush=True)
    return rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
