"""What is kept of VGGT's layers while they run: nothing but what will be read.

A dense head reads four layers, but of each only a projection that is a fraction as wide; so the projections are made
at once and the layers let go.

Shapes: B clips, S frames of H x W pixels in h x w patches, P tokens of a frame, 2C channels of both halves.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from .pieces_spatial_mllm import Tensors, in_pieces
from .vggt_aggregator import LayerTokens
from .vggt_dpt_head import VGGTDPTHead

FRAMES_AT_ONCE = 8  # projected for a dense head
PIXELS_AT_ONCE = 2**19  # decoded by a dense head, whose maps are by far larger than the tokens


class LayerKeeper:
    """Receives each layer's tokens from the aggregator.

    Attributes:
        joined: `[B, S, P, 2C]` of each layer that was to be kept whole.
        camera_tokens: `[B, S, 2C]` of the last layer received.
    """

    def __init__(
        self,
        whole: Collection[int],
        patch_token_start: int = 0,
        dense_layers: Sequence[int] = (),
        dense_heads: Mapping[str, VGGTDPTHead] | None = None,
    ) -> None:
        self.joined: dict[int, torch.Tensor] = {}
        self.camera_tokens: torch.Tensor | None = None
        self._whole = set(whole)
        self._patch_token_start = patch_token_start
        self._dense_layers = dense_layers
        self._heads = dense_heads or {}
        self._maps: dict[str, dict[int, torch.Tensor]] = {name: {} for name in self._heads}
        self._shape = (0, 0, 0, 0)

    def __call__(self, tokens: LayerTokens) -> None:
        if tokens.layer in self._whole:
            self.joined[tokens.layer] = tokens.joined()
        self.camera_tokens = tokens.joined(slice(0, 1))[:, :, 0]
        self._shape = (*tokens.world.shape[:2], tokens.height, tokens.width)
        for name, head in self._heads.items():
            for number, layer in enumerate(self._dense_layers):
                if layer == tokens.layer:
                    self._maps[name][number] = self._project(head, number, tokens)

    def _project(self, head: VGGTDPTHead, number: int, tokens: LayerTokens) -> torch.Tensor:
        """The head's map of a layer, `[B * S, channels, h, w]`."""

        def project(frame: torch.Tensor, world: torch.Tensor) -> Tensors:
            joined = torch.cat([frame.to(world.device), world], dim=-1)
            return (head.project(number, joined, tokens.height, tokens.width),)

        halves = [half[:, :, self._patch_token_start :].flatten(0, 1) for half in (tokens.frame, tokens.world)]
        return _apply(project, tuple(halves), FRAMES_AT_ONCE)[0]

    def run_dense(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A head's values `[B, S, H, W, channels]` and confidence `[B, S, H, W]`; its maps are let go."""
        B, S, H, W = self._shape
        maps = self._maps.pop(name)
        head = self._heads[name]
        ordered = tuple(maps[number] for number in range(len(self._dense_layers)))
        values, confidence = _apply(lambda *some: head(some, H, W), ordered, max(1, PIXELS_AT_ONCE // (H * W)))
        return values.unflatten(0, (B, S)), confidence.unflatten(0, (B, S))


def _apply(function: Callable[..., Tensors], inputs: Tensors, size: int) -> Tensors:
    """`function` over frames, some at a time; with gradients, which would keep everything anyway, all at once."""
    return function(*inputs) if torch.is_grad_enabled() else in_pieces(function, inputs, size, dim=0)
