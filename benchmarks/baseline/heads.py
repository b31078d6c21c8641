"""Heads of the plain VGGT: poses, and dense depth or points. They work in float32 on the list of all layers.

Follows vggt/heads/camera_head.py, dpt_head.py and utils.py of the public code: what they compute and when, not their
text.

Shapes: B clips, S frames of H x W pixels, P tokens of a frame, h x w patches, C2 = 2C channels of the aggregator's
tokens, N = B * S frames of a chunk, F channels of the fusion. Maps are `[N, channels, height, width]`.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from spatial_mllm_hf.modeling.configuration_spatial_mllm import VGGTConfig

from .blocks import PlainBlock, PlainMLP

POSE_SIZE = 9  # translation (3), quaternion (4), vertical and horizontal field of view (2)
POSE_ROUNDS = 4
FRAMES_AT_ONCE = 8
POSITION_SCALE = 0.1
POSITION_BASE = 100.0
CONFIDENCE_HIDDEN = 32


class PlainCameraHead(nn.Module):
    """All layers → pose encodings `[B, S, 9]`, refined in four rounds from the last layer's camera tokens."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.trunk = nn.Sequential(
            *(
                PlainBlock(dim, config.camera_num_attention_heads, config.mlp_ratio)
                for _ in range(config.camera_num_hidden_layers)
            )
        )
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = PlainMLP(dim, dim // 2, POSE_SIZE)

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        tokens = self.token_norm(layers[-1][:, :, 0].float())  # [B, S, C2]
        B, S, _ = tokens.shape
        pose: torch.Tensor | None = None
        for _ in range(POSE_ROUNDS):
            known = self.empty_pose_tokens.expand(B, S, -1) if pose is None else pose.detach()
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)
            modulated = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            step = self.pose_branch(self.trunk_norm(self.trunk(modulated)))
            pose = step if pose is None else pose + step
        assert pose is not None
        return torch.cat([pose[..., :7], F.relu(pose[..., 7:])], dim=-1)


class PlainDPTHead(nn.Module):
    """All layers → values `[B, S, H, W, channels]` and confidence `[B, S, H, W]`, eight frames at a time."""

    def __init__(self, config: VGGTConfig, out_channels: int, activation: Literal["exp", "inv_log"]) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.patch_token_start = 1 + config.num_register_tokens
        self.layer_indices = list(config.dpt_layer_indices)
        self.activation = activation
        sizes = list(config.dpt_neck_hidden_sizes)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.projects = nn.ModuleList(nn.Conv2d(config.hidden_size, size, kernel_size=1) for size in sizes)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(sizes[0], sizes[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(sizes[1], sizes[1], kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(sizes[3], sizes[3], kernel_size=3, stride=2, padding=1),
            ]
        )
        self.scratch = PlainFusion(sizes, config.dpt_hidden_size, out_channels)

    def forward(self, layers: list[torch.Tensor], frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        S = frames.shape[1]
        chunks = [
            self._run_chunk(layers, frames, start, min(start + FRAMES_AT_ONCE, S))
            for start in range(0, S, FRAMES_AT_ONCE)
        ]
        values, confidence = (torch.cat(parts, dim=1) for parts in zip(*chunks))
        return values, confidence

    def _run_chunk(
        self, layers: list[torch.Tensor], frames: torch.Tensor, start: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames from `start` up to, not including, `end`."""
        B, S, _, H, W = frames[:, start:end].shape
        h, w = H // self.patch_size, W // self.patch_size
        maps = []
        for index, project, resize in zip(self.layer_indices, self.projects, self.resize_layers):
            tokens = layers[index][:, :, self.patch_token_start :][:, start:end].float()
            tokens = self.norm(tokens.reshape(B * S, h * w, -1))
            grid = tokens.permute(0, 2, 1).reshape(B * S, -1, h, w)
            maps.append(resize(_add_positions(project(grid), W / H)))
        fused = self.scratch.fuse(maps)
        fused = F.interpolate(fused, size=(H, W), mode="bilinear", align_corners=True)
        raw = self.scratch.output_conv2(_add_positions(fused, W / H)).permute(0, 2, 3, 1)
        values, confidence = self._activate(raw[..., :-1]), 1 + raw[..., -1].exp()
        return values.view(B, S, H, W, -1), confidence.view(B, S, H, W)

    def _activate(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.exp() if self.activation == "exp" else torch.sign(raw) * torch.expm1(raw.abs())


class PlainFusion(nn.Module):
    """Fuses four maps from the coarsest to the finest; holds the output convolutions too."""

    def __init__(self, sizes: list[int], features: int, out_channels: int) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(sizes[0], features, kernel_size=3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(sizes[1], features, kernel_size=3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(sizes[2], features, kernel_size=3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(sizes[3], features, kernel_size=3, padding=1, bias=False)
        self.refinenet1 = PlainFusionBlock(features)
        self.refinenet2 = PlainFusionBlock(features)
        self.refinenet3 = PlainFusionBlock(features)
        self.refinenet4 = PlainFusionBlock(features, takes_finer=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, CONFIDENCE_HIDDEN, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(CONFIDENCE_HIDDEN, out_channels, kernel_size=1),
        )

    def fuse(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Four maps, finest first → `[N, F / 2, 8h, 8w]`."""
        first, second = self.layer1_rn(maps[0]), self.layer2_rn(maps[1])
        third, fourth = self.layer3_rn(maps[2]), self.layer4_rn(maps[3])
        fused = self.refinenet4(fourth, None, third.shape[-2:])
        fused = self.refinenet3(fused, third, second.shape[-2:])
        fused = self.refinenet2(fused, second, first.shape[-2:])
        fused = self.refinenet1(fused, first, None)
        return self.output_conv1(fused)


class PlainFusionBlock(nn.Module):
    """Adds a finer map to a coarser one and resamples the sum, to twice its size if no size is given."""

    def __init__(self, features: int, takes_finer: bool = True) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, kernel_size=1)
        if takes_finer:
            self.resConfUnit1 = PlainResidualUnit(features)
        self.resConfUnit2 = PlainResidualUnit(features)

    def forward(self, coarse: torch.Tensor, finer: torch.Tensor | None, size: torch.Size | None) -> torch.Tensor:
        fused = coarse if finer is None else coarse + self.resConfUnit1(finer)
        fused = self.resConfUnit2(fused)
        if size is None:
            fused = F.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=True)
        else:
            fused = F.interpolate(fused, size=size, mode="bilinear", align_corners=True)
        return self.out_conv(fused)


class PlainResidualUnit(nn.Module):
    """Two convolutions around a shortcut; the first ReLU works in place, so it rectifies the shortcut too."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(self.activation(x))
        return self.conv2(self.activation(hidden)) + x


def _add_positions(x: torch.Tensor, aspect_ratio: float) -> torch.Tensor:
    """Adds sine-cosine positions of every cell of a map, on a rectangle of the frame's shape and half diagonal 1."""
    N, channels, height, width = x.shape
    diagonal = (1 + aspect_ratio**2) ** 0.5
    right, bottom = aspect_ratio / diagonal * (width - 1) / width, 1 / diagonal * (height - 1) / height
    columns = torch.linspace(-right, right, width, dtype=x.dtype, device=x.device)
    rows = torch.linspace(-bottom, bottom, height, dtype=x.dtype, device=x.device)
    column_of_cell, row_of_cell = torch.meshgrid(columns, rows, indexing="xy")  # [height, width]
    embedding = torch.cat(
        [_sines_and_cosines(column_of_cell, channels // 2), _sines_and_cosines(row_of_cell, channels // 2)], dim=-1
    )
    embedding = embedding.view(height, width, channels) * POSITION_SCALE
    return x + embedding.permute(2, 0, 1)[None].expand(N, -1, -1, -1)


def _sines_and_cosines(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Positions of any shape → `[cells, dim]`, sines before cosines, worked out in float64."""
    frequencies = torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim / 2)
    frequencies = 1.0 / POSITION_BASE**frequencies
    angles = positions.reshape(-1)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
