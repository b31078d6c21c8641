"""Connectors: from VGGT's patch tokens to tokens of the language model (section 3.1 and appendix B.2 of the paper).

Both merge two frames of 2 x 2 patches into one token, as Qwen2.5-VL's vision tower does (its configuration says how
many), so the result lines up with the 2D features one to one. They differ in the order of the merged channels and in
depth.

Shapes: B clips, S frames (even), h x w patches (even), D = 2C channels of a VGGT token, T = S / 2.
"""

import torch
from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from .configuration_spatial_mllm import SpatialMLLMConfig

NORM_EPS = 1e-6


class MLPAddConnector(nn.Module):
    """Public v1.1 (`mlp_add`): channels of a merged token in the order (row, column, D, frame), one MLP."""

    def __init__(self, config: SpatialMLLMConfig) -> None:
        super().__init__()
        self.frames_merged = config.vision_config.temporal_patch_size
        self.merge_size = config.vision_config.spatial_merge_size
        merged = _merged_width(config)
        self.ln_q = Qwen2_5_VLRMSNorm(merged, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, config.text_config.hidden_size)
        )

    def forward(self, patch_tokens: torch.Tensor) -> torch.Tensor:
        """`[B, S, h, w, D] → [B, T * h/2 * w/2, hidden]`."""
        x = _windows(patch_tokens, self.frames_merged, self.merge_size)  # [B, T, t, h/2, y, w/2, x, D]
        x = x.permute(0, 1, 3, 5, 4, 6, 7, 2).flatten(4)  # channels (y, x, D, t)
        return self.mlp(self.ln_q(x.flatten(1, 3)))


class EmbeddingMerger(nn.Module):
    """Public v1.0 (`merger`): channels of a merged token in the order (frame, row, column, D), two MLPs."""

    def __init__(self, config: SpatialMLLMConfig) -> None:
        super().__init__()
        self.frames_merged = config.vision_config.temporal_patch_size
        self.merge_size = config.vision_config.spatial_merge_size
        merged, width = _merged_width(config), config.spatial_config.hidden_size
        self.token_merge_ln_q = Qwen2_5_VLRMSNorm(merged, eps=NORM_EPS)
        self.token_merge_mlp = nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, width))
        self.vgg_to_language_ln_q = Qwen2_5_VLRMSNorm(width, eps=NORM_EPS)
        self.vgg_to_language_mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.text_config.hidden_size)
        )

    def forward(self, patch_tokens: torch.Tensor) -> torch.Tensor:
        """`[B, S, h, w, D] → [B, T * h/2 * w/2, hidden]`."""
        x = _windows(patch_tokens, self.frames_merged, self.merge_size)  # [B, T, t, h/2, y, w/2, x, D]
        x = x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)  # channels (t, y, x, D)
        x = self.token_merge_mlp(self.token_merge_ln_q(x.flatten(1, 3)))
        return self.vgg_to_language_mlp(self.vgg_to_language_ln_q(x))


CONNECTORS: dict[str, type[MLPAddConnector] | type[EmbeddingMerger]] = {
    "mlp_add": MLPAddConnector,
    "merger": EmbeddingMerger,
}


def build_connector(config: SpatialMLLMConfig) -> nn.Module:
    """The connector that the configuration names (it has checked the name)."""
    return CONNECTORS[config.connector_config.connector_type](config)


def _merged_width(config: SpatialMLLMConfig) -> int:
    vision = config.vision_config
    return config.spatial_config.hidden_size * vision.temporal_patch_size * vision.spatial_merge_size**2


def _windows(patch_tokens: torch.Tensor, frames: int, merge: int) -> torch.Tensor:
    """Splits time and both axes of the grid: `[B, S, h, w, D] → [B, T, t, h/m, m, w/m, m, D]`."""
    B, S, h, w, D = patch_tokens.shape
    return patch_tokens.view(B, S // frames, frames, h // merge, merge, w // merge, merge, D)
