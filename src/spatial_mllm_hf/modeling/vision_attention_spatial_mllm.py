"""Attention of Qwen2.5-VL's vision tower with windows of one length taken together.

The tower attends within windows, whose lengths differ at the edges of a frame, and in some layers within whole frames.
Without flash attention transformers takes them one by one: thousands of calls for a video. Here all windows of one
length are one batch; there are at most a few lengths, and the results are the same bits.

Shapes: N patches of all frames, H heads of D channels, W windows of one length L.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
    eager_attention_forward,
    is_flash_attention_requested,
)


class GroupedVisionAttention(Qwen2_5_VLVisionAttention):
    """transformers' attention of the vision tower; only the order of its calls differs."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Patches `[N, C]`; `cu_seqlens` holds where each window starts, and N."""
        if is_flash_attention_requested(self.config) or position_embeddings is None:
            return super().forward(hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs)
        kwargs.pop("max_seqlen", None)  # for flash attention
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)  # [N, H, D]
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        lengths = cu_seqlens.diff()
        outputs, places = [], []
        for length in lengths.unique().tolist():
            starts = cu_seqlens[:-1][lengths == length]
            place = (starts[:, None] + torch.arange(length, device=starts.device)).long()  # [W, L]
            windows = [states[place].transpose(1, 2) for states in (query, key, value)]  # each [W, H, L, D]
            dropout = self.attention_dropout if self.training else 0.0
            options = {"attention_mask": None, "scaling": self.scaling, "dropout": dropout, "is_causal": False}
            output, _ = attend(self, *windows, **options, **kwargs)  # [W, L, H, D]
            outputs.append(output.flatten(0, 1))
            places.append(place.flatten())
        attended = torch.cat(outputs)[torch.cat(places).argsort()]
        return self.proj(attended.flatten(1))
