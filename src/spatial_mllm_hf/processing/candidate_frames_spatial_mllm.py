"""Candidate frames of space-aware sampling: made small as they are decoded, kept large only where they are few enough.

Memory is bounded whatever the video's length and resolution: S small frames, and `KEPT_BYTES` of large ones. Beyond
that the chosen frames are decoded a second time.

Shapes: S candidates of h x w pixels (the longer side `size`, both whole patches) out of frames of H x W.
"""

from collections.abc import Iterator, Sequence

import torch
import torchvision.transforms.v2.functional as tvF

from .frame_reading_spatial_mllm import FrameReader

FRAMES_AT_ONCE = 8
KEPT_BYTES = 2**30


class CandidateFrames:
    """S frames of a video at even steps in time, given out small and in order."""

    def __init__(self, reader: FrameReader, indices: Sequence[int], size: int, patch_size: int) -> None:
        self._reader = reader
        self._size, self._patch_size = size, patch_size
        self.indices = list(indices)  # a damaged file may put others in their place while `chunks` runs
        self._small: list[torch.Tensor | None] = [None] * len(self.indices)
        self._large: list[torch.Tensor] | None = None

    def chunks(self) -> Iterator[torch.Tensor]:
        """Decodes and yields the small frames in order, `[s, 3, h, w]` floats in [0, 1], some at a time."""
        S, given = len(self.indices), 0
        large: dict[int, torch.Tensor] = {}
        for position, number, frame in self._reader.stream(self.indices):
            self.indices[position] = number
            self._small[position] = shrink(frame[None], self._size, self._patch_size)[0]
            if not self._reader.in_memory and frame.numel() * S <= KEPT_BYTES:
                large[position] = frame
            ready = given
            while ready < S and self._small[ready] is not None and ready < given + FRAMES_AT_ONCE:
                ready += 1
            if ready == given + FRAMES_AT_ONCE or ready == S:
                yield self.small(given, ready)
                given = ready
        for start in range(given, S, FRAMES_AT_ONCE):  # what a damaged file held back
            yield self.small(start, start + FRAMES_AT_ONCE)
        self._large = [large[position] for position in range(S)] if large else None

    def small(self, start: int = 0, end: int | None = None) -> torch.Tensor:
        """Small frames that have been given out, `[s, 3, h, w]` floats in [0, 1]."""
        frames = torch.stack([frame for frame in self._small[start:end] if frame is not None])
        return (frames.float() / 255 if self._reader.has_levels else frames).clamp(0, 1)

    def large(self, positions: Sequence[int]) -> torch.Tensor:
        """Candidates at these positions in their own size, `[K, 3, H, W]`."""
        if self._large is not None:
            return torch.stack([self._large[position] for position in positions])
        return self._reader.read([self.indices[position] for position in positions])[0]


def shrink(frames: torch.Tensor, size: int, patch_size: int) -> torch.Tensor:
    """Frames `[s, 3, H, W]` → the longer side `size`, both sides whole patches, in the frames' own type.

    8-bit frames are resized in 8 bits: nearest to what Pillow does, which the published sampler uses.
    """
    height, width = frames.shape[-2:]
    scale = size / max(height, width)
    target = [max(1, round(side * scale / patch_size)) * patch_size for side in (height, width)]
    return tvF.resize(frames, target, interpolation=tvF.InterpolationMode.BICUBIC, antialias=True)
