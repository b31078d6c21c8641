"""VGGT's aggregator: attention within a frame and over all frames in turn (section 3.2 of arXiv 2503.11651).

Shapes: B clips, S frames, H x W pixels, C channels, P = 1 + R + (H/14)(W/14) tokens of a frame: one camera token,
R register tokens, then the patches row by row. The first frame has camera and register tokens of its own: it sets
the world's coordinate frame.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn

from .configuration_spatial_mllm import VGGTConfig
from .pieces_spatial_mllm import in_pieces
from .vggt_blocks import VGGTBlock
from .vggt_patch_embed import VGGTPatchEmbed
from .vggt_rope import rotary_tables

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FRAMES_AT_ONCE = 8  # in the patch embedding


class LayerTokens(NamedTuple):
    """What one layer says of B clips.

    Attributes:
        layer: its number.
        frame, world: what its frame block and its global block put out, `[B, S, P, C]` each.
        height, width: pixels of a frame.
    """

    layer: int
    frame: torch.Tensor
    world: torch.Tensor
    height: int
    width: int

    def joined(self, tokens: slice = slice(None)) -> torch.Tensor:
        """Frame and global halves side by side, `[B, S, P, 2C]`."""
        frame = self.frame.to(self.world.device)  # a device map may put the two blocks apart
        return torch.cat([frame[:, :, tokens], self.world[:, :, tokens]], dim=-1)


class VGGTAggregator(nn.Module):
    """Frames in, tokens of each layer handed out as they are made. Keeps none of them."""

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

    def forward(
        self, chunks: Iterable[torch.Tensor], num_clips: int, last_layer: int, receive: Callable[[LayerTokens], None]
    ) -> None:
        """Runs the layers up to `last_layer` and calls `receive` with what each puts out.

        Args:
            chunks: frames `[s, 3, H, W]` in [0, 1] of B clips of S frames, one clip after the other; each chunk is
                embedded as it comes.
            num_clips: B.
        """
        tokens, (H, W) = self._embed(chunks, num_clips)
        B, S, P, C = tokens.shape
        rotary = rotary_tables(
            H // self.patch_size,
            W // self.patch_size,
            self.patch_token_start,
            C // self.config.num_attention_heads,
            tokens.dtype,
            tokens.device,
        )
        for layer in range(last_layer + 1):
            tokens = self.frame_blocks[layer](tokens.view(B * S, P, C), rotary).view(B, S, P, C)
            world_tokens = self.global_blocks[layer](tokens.view(B, S * P, C), rotary).view(B, S, P, C)
            receive(LayerTokens(layer, tokens, world_tokens, H, W))
            tokens = world_tokens
            del world_tokens  # or the next layer would run with this one still there

    def _embed(self, chunks: Iterable[torch.Tensor], num_clips: int) -> tuple[torch.Tensor, tuple[int, int]]:
        """Tokens of the normalised frames with their special tokens, `[B, S, P, C]`, and the frames' H and W."""
        embedded = []
        for frames in chunks:
            size = frames.shape[-2], frames.shape[-1]
            frames = _normalise(frames.to(self.camera_token.device)).to(self.camera_token.dtype)
            if torch.is_grad_enabled():
                embedded.append(self.patch_embed(frames))
            else:
                embedded += in_pieces(lambda some: (self.patch_embed(some),), (frames,), FRAMES_AT_ONCE, dim=0)
        patches = torch.cat(embedded).unflatten(0, (num_clips, -1))
        B, S = patches.shape[:2]
        special = torch.cat([self.camera_token, self.register_token], dim=2)  # [1, 2, 1 + R, C]
        first, others = special[:, :1], special[:, 1:].expand(-1, S - 1, -1, -1)
        special = torch.cat([first, others], dim=1).expand(B, -1, -1, -1)
        return torch.cat([special.to(patches.device), patches], dim=2), size


def _normalise(frames: torch.Tensor) -> torch.Tensor:
    """By ImageNet's mean and deviation; the constants are made where the frames are, not copied there."""
    mean, std = (
        torch.cat([frames.new_full((1, 1, 1), value) for value in values]) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (frames - mean) / std
