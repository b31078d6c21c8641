"""VGGT's camera head: the pose of each frame, refined in four rounds (vggt/heads/camera_head.py of the public code).

Shapes: B clips, S frames, C2 = 2C channels. A pose encoding has nine numbers: translation (3), quaternion x, y, z, w
(4), vertical and horizontal field of view in radians (2); see `vggt_geometry.py` for their conventions.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_spatial_mllm import VGGTConfig
from .vggt_blocks import VGGTMLP, VGGTBlock

POSE_ENCODING_SIZE = 9
NUM_REFINEMENTS = 4


class VGGTCameraHead(nn.Module):
    """Camera tokens `[B, S, C2]` → pose encodings `[B, S, 9]`, in float32."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.trunk = nn.ModuleList(
            VGGTBlock(config, dim, config.camera_num_attention_heads) for _ in range(config.camera_num_hidden_layers)
        )
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.empty(1, 1, POSE_ENCODING_SIZE))
        self.embed_pose = nn.Linear(POSE_ENCODING_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = VGGTMLP(dim, dim // 2, POSE_ENCODING_SIZE)

    def forward(self, camera_tokens: torch.Tensor) -> torch.Tensor:
        B, S, _ = camera_tokens.shape
        camera_tokens = self.token_norm(camera_tokens)
        pose = self.empty_pose_tokens.expand(B, S, -1)
        total = torch.zeros(B, S, POSE_ENCODING_SIZE, dtype=torch.float32, device=camera_tokens.device)
        for _ in range(NUM_REFINEMENTS):
            total = total + self._refine(camera_tokens, pose).float()
            pose = total.detach().to(camera_tokens.dtype)  # each round learns its own step
        return torch.cat([total[..., :7], F.relu(total[..., 7:])], dim=-1)

    def _refine(self, camera_tokens: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, dim=-1)
        hidden_states = gate * (self.adaln_norm(camera_tokens) * (1 + scale) + shift) + camera_tokens
        for block in self.trunk:
            hidden_states = block(hidden_states)
        return self.pose_branch(self.trunk_norm(hidden_states))
