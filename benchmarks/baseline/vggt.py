"""VGGT as the public code runs it, to compare `VGGTModel` with: same weights, same numbers, nothing left out.

Follows vggt/models/vggt.py, models/aggregator.py and layers/vision_transformer.py of the public code, as Spatial-MLLM
ships them: what they compute and when, not their text. Every layer's tokens are kept, every head runs, and positions
are looked up in each attention layer. Only the configuration is shared with `VGGTModel`.

Shapes: B clips, S frames, H x W pixels, h x w patches, C channels, P = 1 + R + hw tokens of a frame: one camera token,
R register tokens, then the patches row by row.
"""

import torch
from torch import nn
from torch.nn import functional as F

from spatial_mllm_hf.modeling.configuration_spatial_mllm import VGGTConfig

from .blocks import PlainBlock, PlainRotary
from .heads import PlainCameraHead, PlainDPTHead

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PlainVGGT(nn.Module):
    """VGGT with the heads that its configuration names; takes the state dictionary of a `VGGTModel`.

    The heads' weights stay in float32. For a lower precision run under `torch.autocast`, as the public sampler does
    (the heads leave it), or cast `aggregator` alone, as the public Spatial-MLLM does.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.aggregator = PlainAggregator(config)
        if "camera" in config.heads:
            self.camera_head = PlainCameraHead(config)
        if "depth" in config.heads:
            self.depth_head = PlainDPTHead(config, out_channels=2, activation="exp")
        if "points" in config.heads:
            self.point_head = PlainDPTHead(config, out_channels=4, activation="inv_log")

    def aggregate(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Frames `[B, S, 3, H, W]` in [0, 1] → frame and global tokens `[B, S, P, 2C]` of every layer."""
        return self.aggregator(frames)

    def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Frames `[B, S, 3, H, W]` in [0, 1] → what each head says, in float32, under the names of `VGGTOutput`."""
        layers = self.aggregate(frames)
        output = {}
        with torch.autocast("cpu" if frames.is_meta else frames.device.type, enabled=False):
            if hasattr(self, "camera_head"):
                output["pose_enc"] = self.camera_head(layers)
            if hasattr(self, "depth_head"):
                output["depth"], output["depth_conf"] = self.depth_head(layers, frames)
            if hasattr(self, "point_head"):
                output["world_points"], output["world_points_conf"] = self.point_head(layers, frames)
        return output


class PlainAggregator(nn.Module):
    """Attention within a frame and over all frames in turn."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.num_special_tokens = 1 + config.num_register_tokens
        dim, heads, depth = config.embed_dim, config.num_attention_heads, config.num_hidden_layers
        rotary = PlainRotary()
        self.patch_embed = PlainPatchEmbed(config)
        self.frame_blocks = nn.ModuleList(PlainBlock(dim, heads, config.mlp_ratio, rotary) for _ in range(depth))
        self.global_blocks = nn.ModuleList(PlainBlock(dim, heads, config.mlp_ratio, rotary) for _ in range(depth))
        # [1, 2, tokens, C]: index 0 for the first frame, 1 for the others
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.num_register_tokens, dim))
        self._grids: dict[tuple[int, int], torch.Tensor] = {}

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        B, S, _, H, W = frames.shape
        mean, std = frames.new_tensor(IMAGENET_MEAN), frames.new_tensor(IMAGENET_STD)
        frames = (frames - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        frames = frames.to(self.camera_token.dtype)
        patches = self.patch_embed(frames.view(B * S, 3, H, W))
        camera, registers = _for_each_frame(self.camera_token, B, S), _for_each_frame(self.register_token, B, S)
        tokens = torch.cat([camera, registers, patches], dim=1)
        positions = self._positions(B * S, H // self.patch_size, W // self.patch_size, frames.device)
        _, P, C = tokens.shape
        layers = []
        for frame_block, global_block in zip(self.frame_blocks, self.global_blocks):
            tokens = frame_block(tokens.view(B * S, P, C), positions.view(B * S, P, 2))
            frame_tokens = tokens.view(B, S, P, C)
            tokens = global_block(tokens.view(B, S * P, C), positions.view(B, S * P, 2))
            global_tokens = tokens.view(B, S, P, C)
            layers.append(torch.cat([frame_tokens, global_tokens], dim=-1))
        return layers

    def _positions(self, num_frames: int, height: int, width: int, device: torch.device) -> torch.Tensor:
        """`[B * S, P, 2]`: (0, 0) for the special tokens, then rows and columns of the patches from (1, 1)."""
        if (height, width) not in self._grids:
            rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
            self._grids[height, width] = torch.cartesian_prod(rows, columns)
        grid = self._grids[height, width][None].expand(num_frames, -1, -1).clone() + 1
        special = torch.zeros(num_frames, self.num_special_tokens, 2, dtype=grid.dtype, device=device)
        return torch.cat([special, grid], dim=1)


def _for_each_frame(token: torch.Tensor, batch: int, num_frames: int) -> torch.Tensor:
    """Tokens `[1, 2, X, C]` → `[B * S, X, C]`: the first kind for the first frame of a clip, the second for others."""
    first = token[:, :1].expand(batch, -1, -1, -1)
    others = token[:, 1:].expand(batch, num_frames - 1, -1, -1)
    return torch.cat([first, others], dim=1).flatten(0, 1)


class PlainPatchEmbed(nn.Module):
    """DINOv2 with registers over all frames at once, `[B * S, 3, H, W] → [B * S, hw, C]`."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        side, dim = config.img_size // config.patch_size, config.embed_dim
        self.patch_size = config.patch_size
        self.num_register_tokens = config.num_register_tokens
        self.patch_embed = PlainPatchProjection(dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(
            PlainBlock(dim, config.patch_embed_num_attention_heads, config.mlp_ratio, norm_eps=1e-6)
            for _ in range(config.patch_embed_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        num_frames, _, H, W = frames.shape
        patches = self.patch_embed(frames)
        tokens = torch.cat([self.cls_token.expand(num_frames, -1, -1), patches], dim=1)
        tokens = tokens + self._position_embedding(tokens, H // self.patch_size, W // self.patch_size)
        registers = self.register_tokens.expand(num_frames, -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1 + self.num_register_tokens :]

    def _position_embedding(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`[1, 1 + hw, C]`, resampled when the grid of patches is not the trained one."""
        num_trained = self.pos_embed.shape[1] - 1
        if num_trained == height * width and height == width:
            return self.pos_embed
        side = int(num_trained**0.5)
        position = self.pos_embed.float()
        grid = position[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # [1, C, side, side]
        grid = F.interpolate(grid, size=(height, width), mode="bicubic", antialias=True)
        grid = grid.permute(0, 2, 3, 1).reshape(1, height * width, -1)
        return torch.cat([position[:, :1], grid], dim=1).to(tokens.dtype)


class PlainPatchProjection(nn.Module):
    """Patches as tokens, `[B * S, 3, H, W] → [B * S, hw, C]`."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.proj(frames).flatten(2).transpose(1, 2)
