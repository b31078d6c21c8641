"""The transformer block that every part of VGGT is made of (vggt/layers/block.py, attention.py of the public code).

Shapes: B sequences, N tokens, C channels, H heads of D channels. With rotary tables `[P, D]`, N is a multiple of P:
the tables repeat for each frame of the sequence.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_spatial_mllm import VGGTConfig
from .vggt_rope import apply_rotary

RotaryTables = tuple[torch.Tensor, torch.Tensor]


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, in the signature of transformers' attention interface. VGGT never masks."""
    weights = (query @ key.transpose(-1, -2)) * scaling
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class VGGTAttention(nn.Module):
    """Self-attention with one projection for q, k and v, and optionally normalised and rotated q and k."""

    def __init__(self, config: VGGTConfig, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (dim // num_heads) ** -0.5
        self.is_causal = False
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, hidden_states: torch.Tensor, rotary: RotaryTables | None = None) -> torch.Tensor:
        B, N, C = hidden_states.shape
        qkv = self.qkv(hidden_states).view(B, N, 3, self.num_heads, C // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, N, D]
        query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = _rotate(query, rotary), _rotate(key, rotary)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, _ = attend(
            self, query, key, value, attention_mask=None, dropout=0.0, scaling=self.scaling, is_causal=False
        )
        return self.proj(output.reshape(B, N, C))


def _rotate(x: torch.Tensor, rotary: RotaryTables) -> torch.Tensor:
    B, H, N, D = x.shape
    P = rotary[0].shape[0]
    return apply_rotary(x.reshape(B, H, N // P, P, D), *rotary).view(B, H, N, D)


class VGGTMLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(hidden_states)))


class VGGTLayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.gamma


class VGGTBlock(GradientCheckpointingLayer):
    """Pre-norm transformer block with layer scale."""

    def __init__(
        self, config: VGGTConfig, dim: int, num_heads: int, qk_norm: bool = False, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = VGGTAttention(config, dim, num_heads, qk_norm)
        self.ls1 = VGGTLayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = VGGTMLP(dim, int(dim * config.mlp_ratio), dim)
        self.ls2 = VGGTLayerScale(dim)

    def forward(self, hidden_states: torch.Tensor, rotary: RotaryTables | None = None) -> torch.Tensor:
        hidden_states = hidden_states + self.ls1(self.attn(self.norm1(hidden_states), rotary))
        return hidden_states + self.ls2(self.mlp(self.norm2(hidden_states)))
