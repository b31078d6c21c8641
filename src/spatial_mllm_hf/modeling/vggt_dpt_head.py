"""VGGT's DPT heads: dense depth or points with a confidence (vggt/heads/dpt_head.py of the public code).

Shapes: N frames, a grid of h x w patches, H x W pixels, C2 = 2C channels of the aggregator's tokens, F channels of
the fusion. Maps are `[N, channels, height, width]`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_spatial_mllm import VGGTConfig

POSITION_SCALE = 0.1
POSITION_BASE = 100.0


class VGGTDPTHead(nn.Module):
    """Patch tokens of four layers → values `[N, H, W, channels]` and confidence `[N, H, W]`, in float32.

    Confidence is `1 + exp(x)`: 1 at least, without an upper bound. The values are positive depths (`"exp"`) or
    signed coordinates (`"inv_log"`), in the scale of the scene as VGGT sees it (no metric unit).
    """

    def __init__(self, config: VGGTConfig, out_channels: int, activation: Literal["exp", "inv_log"]) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.activation = activation
        sizes, features = list(config.dpt_neck_hidden_sizes), config.dpt_hidden_size
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
        self.scratch = VGGTDPTFusion(sizes, features, out_channels)

    def project(self, number: int, patch_tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The map that the head makes of the first, second, third or fourth layer that it reads.

        Args:
            number: 0 to 3.
            patch_tokens: `[N, h * w, C2]` of frames of `height` x `width` pixels.

        Returns:
            `[N, channels, h, w]`: all that has to be kept of a layer, some tenths of it.
        """
        h, w = height // self.patch_size, width // self.patch_size
        device = self.norm.weight.device
        patch_tokens = patch_tokens if device.type == "meta" else patch_tokens.to(device)  # "meta": offloaded
        grid = self.norm(patch_tokens).transpose(1, 2).unflatten(2, (h, w))  # [N, C2, h, w]
        return _add_positions(self.projects[number](grid), width / height)

    def forward(self, maps: Sequence[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The four maps that `project` made of frames of `height` x `width` pixels."""
        fused = self.scratch.fuse([resize(m) for resize, m in zip(self.resize_layers, maps)])
        fused = F.interpolate(fused, size=(height, width), mode="bilinear", align_corners=True)
        raw = self.scratch.output_conv2(_add_positions(fused, width / height)).float().permute(0, 2, 3, 1)
        return self._activate(raw[..., :-1]), 1 + raw[..., -1].exp()

    def _activate(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.exp() if self.activation == "exp" else raw.sign() * raw.abs().expm1()


class VGGTDPTFusion(nn.Module):
    """Fuses the four maps from the coarsest to the finest, then the output convolutions."""

    def __init__(self, in_channels: Sequence[int], features: int, out_channels: int) -> None:
        super().__init__()
        first, second, third, fourth = in_channels
        self.layer1_rn = nn.Conv2d(first, features, kernel_size=3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(second, features, kernel_size=3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(third, features, kernel_size=3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(fourth, features, kernel_size=3, padding=1, bias=False)
        self.refinenet1 = VGGTFusionBlock(features)
        self.refinenet2 = VGGTFusionBlock(features)
        self.refinenet3 = VGGTFusionBlock(features)
        self.refinenet4 = VGGTFusionBlock(features, has_residual=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, out_channels, kernel_size=1),
        )

    def fuse(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Four maps, finest first → `[N, F / 2, 8h, 8w]` for maps of 4, 2, 1 and 1/2 times the patch grid."""
        first, second, third, fourth = (
            layer(m) for layer, m in zip((self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn), maps)
        )
        fused = self.refinenet4(fourth, size=third.shape[-2:])
        fused = self.refinenet3(fused, third, size=second.shape[-2:])
        fused = self.refinenet2(fused, second, size=first.shape[-2:])
        return self.output_conv1(self.refinenet1(fused, first))


class VGGTFusionBlock(nn.Module):
    """Adds a finer map to a coarser one and resamples the sum to `size`, or to twice its own."""

    def __init__(self, features: int, has_residual: bool = True) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, kernel_size=1)
        if has_residual:
            self.resConfUnit1 = VGGTResidualConv(features)
        self.resConfUnit2 = VGGTResidualConv(features)

    def forward(
        self, coarse: torch.Tensor, fine: torch.Tensor | None = None, size: torch.Size | None = None
    ) -> torch.Tensor:
        fused = coarse if fine is None else coarse + self.resConfUnit1(fine)
        fused = self.resConfUnit2(fused)
        target = size or (2 * fused.shape[-2], 2 * fused.shape[-1])
        return self.out_conv(F.interpolate(fused, size=target, mode="bilinear", align_corners=True))


class VGGTResidualConv(nn.Module):
    """Two convolutions around a shortcut. The public code's first ReLU works in place, so the shortcut is rectified."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(features, features, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


def _add_positions(x: torch.Tensor, aspect_ratio: float) -> torch.Tensor:
    """Adds, in place, sine-cosine positions on the rectangle of the frame's shape and unit half diagonal."""
    _, channels, height, width = x.shape
    diagonal = (aspect_ratio**2 + 1) ** 0.5
    span_x, span_y = aspect_ratio / diagonal, 1 / diagonal
    # On the CPU: a handful of numbers, and not every accelerator has float64.
    columns = torch.linspace(-span_x * (width - 1) / width, span_x * (width - 1) / width, width)
    rows = torch.linspace(-span_y * (height - 1) / height, span_y * (height - 1) / height, height)
    half = channels // 2
    x[:, :half].add_(POSITION_SCALE * _sincos(columns, half).to(x.device, x.dtype, non_blocking=True)[:, None, :])
    x[:, half:].add_(POSITION_SCALE * _sincos(rows, half).to(x.device, x.dtype, non_blocking=True)[:, :, None])
    return x


def _sincos(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Positions `[L]` → `[dim, L]`: sines, then cosines."""
    exponents = torch.arange(dim // 2, dtype=torch.float64) / (dim / 2)
    angles = positions.double() / POSITION_BASE ** exponents[:, None]
    return torch.cat([angles.sin(), angles.cos()]).float()
