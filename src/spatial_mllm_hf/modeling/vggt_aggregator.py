"""VGGT's aggregator: attention within a frame and over all frames in turn (section 3.2 of arXiv 2503.11651).

Shapes: B clips, S frames, H x W pixels, C channels, P = 1 + R + (H/14)(W/14) tokens of a frame: one camera token,
R register tokens, then the patches row by row. The first frame has camera and register tokens of its own: it sets
the world's coordinate frame.
"""

from collections.abc import Collection

import torch
from torch import nn

from .configuration_spatial_mllm import VGGTConfig
from .vggt_blocks import VGGTBlock
from .vggt_patch_embed import VGGTPatchEmbed
from .vggt_rope import rotary_tables

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGGTAggregator(nn.Module):
    """Frames in, tokens of the wanted layers out. Runs no layer past the last wanted one and keeps no other."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_size = config.patch_size
        self.patch_token_start = 1 + config.num_register_tokens
        dim, heads, depth = config.embed_dim, config.num_attention_heads, config.num_hidden_layers
        self.patch_embed = VGGTPatchEmbed(config)
        self.frame_blocks = nn.ModuleList(VGGTBlock(config, dim, heads, qk_norm=True) for _ in range(depth))
        self.global_blocks = nn.ModuleList(VGGTBlock(config, dim, heads, qk_norm=True) for _ in range(depth))
        # [1, 2, tokens, C]: index 0 for the first frame, 1 for the others
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.empty(1, 2, config.num_register_tokens, dim))

    def forward(self, frames: torch.Tensor, layers: Collection[int]) -> dict[int, torch.Tensor]:
        """Frames `[B, S, 3, H, W]` in [0, 1] → for each wanted layer, frame and global tokens `[B, S, P, 2C]`."""
        B, S, _, H, W = frames.shape
        tokens = self._embed(frames)
        P, C = tokens.shape[-2:]
        rotary = rotary_tables(
            H // self.patch_size,
            W // self.patch_size,
            self.patch_token_start,
            C // self.config.num_attention_heads,
            tokens.dtype,
            tokens.device,
        )
        kept = {}
        for layer in range(max(layers) + 1):
            frame_tokens = self.frame_blocks[layer](tokens.view(B * S, P, C), rotary)
            tokens = self.global_blocks[layer](frame_tokens.view(B, S * P, C), rotary)
            if layer in layers:
                halves = (frame_tokens.to(tokens.device), tokens)  # a device map may put the two blocks apart
                kept[layer] = torch.cat([half.view(B, S, P, C) for half in halves], dim=-1)
        return kept

    def _embed(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalised frames with their special tokens, `[B * S, P, C]`."""
        B, S, _, H, W = frames.shape
        mean = frames.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
        std = frames.new_tensor(IMAGENET_STD).view(3, 1, 1)
        frames = ((frames - mean) / std).to(self.camera_token.dtype)
        patches = self.patch_embed(frames.view(B * S, 3, H, W))
        special = torch.cat([self.camera_token, self.register_token], dim=2)  # [1, 2, 1 + R, C]
        first, others = special[:, :1], special[:, 1:].expand(-1, S - 1, -1, -1)
        special = torch.cat([first, others], dim=1).expand(B, -1, -1, -1).flatten(0, 1)
        return torch.cat([special.to(patches.device), patches], dim=1)
