"""Transformer blocks of the plain VGGT, with rotary positions worked out anew in every attention layer.

Follows vggt/layers/rope.py, attention.py and block.py of the public code: what they compute and when, not their text.

Shapes: B sequences, N tokens, C channels, H heads of D channels. Positions `[B, N, 2]` are the row and the column of
each token, 0 for tokens that are no patch.
"""

import torch
from torch import nn
from torch.nn import functional as F

ROPE_BASE = 100.0


class PlainRotary(nn.Module):
    """Turns the first half of a head's channels by a token's row, the second half by its column.

    One instance is shared by all layers. It keeps tables of cosines and sines for each largest position; which tables
    to take and what they hold for each token is looked up on every call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[tuple[int, int, torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Queries or keys `[B, H, N, D]` and positions `[B, N, 2]`."""
        half = x.shape[-1] // 2
        cos, sin = self._cos_and_sin(half, int(positions.max()) + 1, x.device, x.dtype)
        by_row, by_column = x.split(half, dim=-1)
        by_row = _turn(by_row, positions[..., 0], cos, sin)
        by_column = _turn(by_column, positions[..., 1], cos, sin)
        return torch.cat([by_row, by_column], dim=-1)

    def _cos_and_sin(
        self, dim: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tables `[length, dim]`. Angles are rounded to `dtype` before the cosine, as in the public code."""
        key = (dim, length, device, dtype)
        if key not in self._tables:
            frequencies = 1.0 / ROPE_BASE ** (torch.arange(0, dim, 2, device=device).float() / dim)
            angles = torch.outer(torch.arange(length, device=device).float(), frequencies).to(dtype)
            angles = torch.cat([angles, angles], dim=-1)
            self._tables[key] = (angles.cos(), angles.sin())
        return self._tables[key]


def _turn(x: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns `[B, H, N, dim]` by positions `[B, N]`, given tables of all positions."""
    cos_of_token = F.embedding(positions, cos)[:, None]  # [B, 1, N, dim]
    sin_of_token = F.embedding(positions, sin)[:, None]
    first, second = x.split(x.shape[-1] // 2, dim=-1)
    return x * cos_of_token + torch.cat([-second, first], dim=-1) * sin_of_token


class PlainAttention(nn.Module):
    """Self-attention with q, k and v in one projection; with a `rotary`, q and k are normalised and turned."""

    def __init__(self, dim: int, num_heads: int, rotary: PlainRotary | None = None) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.Identity() if rotary is None else nn.LayerNorm(head_dim)
        self.k_norm = nn.Identity() if rotary is None else nn.LayerNorm(head_dim)
        self.proj = nn.Linear(dim, dim)
        self.rotary = rotary

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # each [B, H, N, D]
        query, key = self.q_norm(query), self.k_norm(key)
        if self.rotary is not None:
            query, key = self.rotary(query, positions), self.rotary(key, positions)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(B, N, C))


class PlainMLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PlainLayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class PlainBlock(nn.Module):
    """Pre-norm block: attention, then an MLP, each scaled and added to its input."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, rotary: PlainRotary | None = None, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = PlainAttention(dim, num_heads, rotary)
        self.ls1 = PlainLayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = PlainMLP(dim, int(dim * mlp_ratio), dim)
        self.ls2 = PlainLayerScale(dim)

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), positions))
        return x + self.ls2(self.mlp(self.norm2(x)))
