"""The transformer block that every part of VGGT is made of (vggt/layers/block.py, attention.py of the public code).

Without gradients a block of many tokens holds little more than its queries, keys and values: attention takes one head,
and everything else `TOKENS_AT_ONCE` tokens. The results are those of doing it all at once.

Shapes: B sequences, N tokens, C channels, H heads of D channels. With rotary tables `[P, 1, D]`, N is a multiple of P:
the tables repeat for each frame of the sequence.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_spatial_mllm import VGGTConfig
from .pieces_spatial_mllm import Tensors, in_pieces
from .vggt_linear import apply_linear
from .vggt_rope import apply_rotary

WHOLE_UP_TO = 16384  # tokens for which pieces save too little memory to be worth their time
TOKENS_AT_ONCE = 2048
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
        return apply_linear(self.proj, self.attend(*self.project(hidden_states, rotary)))

    def project(
        self, hidden_states: torch.Tensor, rotary: RotaryTables | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, each `[B, N, H, D]`, of tokens `[B, N, C]`."""
        qkv = apply_linear(self.qkv, hidden_states).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.unbind(2)
        query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = _rotate(query, rotary), _rotate(key, rotary)
        return query, key, value

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention of `[B, N, H, D]` over all N tokens of each sequence, `[B, N, C]`."""
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, _ = attention(
            self,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attention_mask=None,
            dropout=0.0,
            scaling=self.scaling,
            is_causal=False,
        )
        return output.flatten(2)


def _rotate(x: torch.Tensor, rotary: RotaryTables) -> torch.Tensor:
    return apply_rotary(x.unflatten(1, (-1, len(rotary[0]))), *rotary).flatten(1, 2)


class VGGTMLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return apply_linear(self.fc2, self.act(apply_linear(self.fc1, hidden_states)))


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
        B, N, _ = hidden_states.shape
        if torch.is_grad_enabled() or B * N <= WHOLE_UP_TO:
            return self._finish(hidden_states, self.attn.attend(*self._project(hidden_states, rotary)))[0]
        if N <= WHOLE_UP_TO:  # short sequences, which do not see each other
            return in_pieces(lambda some: (self.forward(some, rotary),), (hidden_states,), WHOLE_UP_TO // N, dim=0)[0]
        frame = 1 if rotary is None else len(rotary[0])
        size = max(1, TOKENS_AT_ONCE // frame) * frame
        attended = self._attend_in_place(*in_pieces(lambda x: self._project(x, rotary), (hidden_states,), size, dim=1))
        return in_pieces(self._finish, (hidden_states, attended), size, dim=1)[0]

    def _project(self, hidden_states: torch.Tensor, rotary: RotaryTables | None) -> Tensors:
        return self.attn.project(self.norm1(hidden_states), rotary)

    def _attend_in_place(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """As `attend`; what a head finds takes the place of its queries."""
        for number in range(query.shape[2]):
            head = slice(number, number + 1)
            found = self.attn.attend(query[:, :, head], key[:, :, head], value[:, :, head])
            query[:, :, head] = found.view_as(query[:, :, head])
        return query.flatten(2)

    def _finish(self, hidden_states: torch.Tensor, attended: torch.Tensor) -> Tensors:
        """All of the block that comes after attention."""
        hidden_states = hidden_states + self.ls1(apply_linear(self.attn.proj, attended))
        return (hidden_states + self.ls2(self.mlp(self.norm2(hidden_states))),)
