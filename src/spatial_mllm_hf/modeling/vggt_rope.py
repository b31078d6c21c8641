"""Rotary positions in two dimensions (vggt/layers/rope.py of the public code).

The first half of a head's channels is turned by a token's row, the second half by its column. Special tokens stand at
position 0 and the patch grid starts at (1, 1). Angles are rounded to the tokens' dtype before the cosine, as in the
public code: in bfloat16 this moves a cosine by up to 0.06, and the weights have lived with it.

Shapes: P tokens of a frame, H heads of D channels.
"""

import torch

ROPE_BASE = 100.0


def rotary_tables(
    grid_height: int, grid_width: int, num_special_tokens: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines `[P, 1, D]` for one frame: the special tokens first, then the patches row by row."""
    rows = torch.arange(1, grid_height + 1, device=device).repeat_interleave(grid_width)
    columns = torch.arange(1, grid_width + 1, device=device).repeat(grid_height)
    special = rows.new_zeros(num_special_tokens)
    row_angles, column_angles = (
        _angles(torch.cat([special, axis]), head_dim // 2, dtype) for axis in (rows, columns)
    )  # each [P, D / 4]
    cosines = [angles.cos() for angles in (row_angles, row_angles, column_angles, column_angles)]
    row_sines, column_sines = row_angles.sin(), column_angles.sin()
    sines = [-row_sines, row_sines, -column_sines, column_sines]
    return torch.cat(cosines, dim=-1)[:, None], torch.cat(sines, dim=-1)[:, None]


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Turns queries or keys `[..., P, H, D]` by tables `[P, 1, D]`.

    Within the half of each axis, channel i turns with channel i + D / 4: (a, b) → (a cos - b sin, b cos + a sin).
    """
    swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return (x * cos).add_(swapped.mul_(signed_sin))


def _angles(positions: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Angles `[P, dim / 2]` of one axis; both halves of its `dim` channels turn alike."""
    exponents = torch.arange(0, dim, 2, device=positions.device).float() / dim
    return (positions.float()[:, None] * (1.0 / ROPE_BASE**exponents)).to(dtype)
