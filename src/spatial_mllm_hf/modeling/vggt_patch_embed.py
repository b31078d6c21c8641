"""VGGT's patch embedding: DINOv2 ViT-L/14 with registers (vggt/layers/vision_transformer.py of the public code).

Shapes: N frames, H x W pixels, P = (H/14)(W/14) patches, C channels, R register tokens.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_spatial_mllm import VGGTConfig
from .vggt_blocks import VGGTBlock


class VGGTPatchProjection(nn.Module):
    """Cuts frames into patches and projects them: `[N, 3, H, W] → [N, P, C]`."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.embed_dim, kernel_size=config.patch_size, stride=config.patch_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.proj(frames).flatten(2).transpose(1, 2)


class VGGTPatchEmbed(nn.Module):
    """Patch tokens of single frames, `[N, 3, H, W] → [N, P, C]`: the class and register tokens are left behind."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        side, dim = config.img_size // config.patch_size, config.embed_dim
        self.num_register_tokens = config.num_register_tokens
        self.patch_embed = VGGTPatchProjection(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, side * side + 1, dim))
        # DINOv2's token for masked patches: only its pre-training used it, but it is in every public file.
        self.mask_token = nn.Parameter(torch.empty(1, dim))
        self.blocks = nn.ModuleList(
            VGGTBlock(config, dim, config.patch_embed_num_attention_heads, norm_eps=1e-6)
            for _ in range(config.patch_embed_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        N, _, H, W = frames.shape
        tokens = torch.cat([self.cls_token.expand(N, -1, -1), self.patch_embed(frames)], dim=1)
        tokens = tokens + self._position_embedding(H // self.patch_size, W // self.patch_size, tokens.dtype)
        registers = self.register_tokens.expand(N, -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1 + self.num_register_tokens :]

    def _position_embedding(self, grid_height: int, grid_width: int, dtype: torch.dtype) -> torch.Tensor:
        """`[1, 1 + P, C]`, resampled (bicubic, antialiased) when the grid is not the trained one."""
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if (grid_height, grid_width) == (side, side):
            return self.pos_embed.to(dtype)
        class_position, patch_positions = self.pos_embed.float().split([1, side * side], dim=1)
        grid = patch_positions.view(1, side, side, -1).permute(0, 3, 1, 2)  # [1, C, side, side]
        grid = F.interpolate(grid, size=(grid_height, grid_width), mode="bicubic", antialias=True)
        return torch.cat([class_position, grid.flatten(2).transpose(1, 2)], dim=1).to(dtype)
