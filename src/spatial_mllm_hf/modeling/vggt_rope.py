"""Rotary positions in two dimensions (vggt/layers/rope.py of the public code).

The first half of a head's channels is turned by a token's row, the second half by its column. Special tokens stand at
position 0 and the patch grid starts at (1, 1). Angles are rounded to the tokens' dtype before the cosine, as in the
public code: in bfloat16 this moves a cosine by up to 0.06, and the weights have lived with it.

Shapes: P tokens of a frame, D channels of a head.
"""

import torch

ROPE_BASE = 100.0


def rotary_tables(
    grid_height: int, grid_width: int, num_special_tokens: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `[P, D]` for one frame: the special tokens first, then the patches row by row."""
    rows = torch.arange(1, grid_height + 1, device=device).repeat_interleave(grid_width)
    columns = torch.arange(1, grid_width + 1, device=device).repeat(grid_height)
    special = rows.new_zeros(num_special_tokens)
    angles = torch.cat([_angles(torch.cat([special, axis]), head_dim // 2, dtype) for axis in (rows, columns)], dim=-1)
    return angles.cos(), angles.sin()


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns queries or keys `[..., P, D]` by tables `[P, D]`."""
    row_a, row_b, column_a, column_b = x.chunk(4, dim=-1)
    turned = torch.cat((-row_b, row_a, -column_b, column_a), dim=-1)
    return x * cos + turned * sin


def _angles(positions: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Angles `[P, dim]` of one axis; both halves of the channels turn alike."""
    exponents = torch.arange(0, dim, 2, device=positions.device).float() / dim
    angles = (positions.float()[:, None] * (1.0 / ROPE_BASE**exponents)).to(dtype)
    return torch.cat((angles, angles), dim=-1)
