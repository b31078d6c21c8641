"""Frames of one video by number, whether they are in a file or in memory already, and what is known of them.

Shapes: T frames in the video, K frames asked for, H x W pixels.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from .frame_loading_spatial_mllm import Video, has_levels
from .video_decoding_spatial_mllm import VideoIndex, decode_frames, index_video, stream_frames

FRAMES_AHEAD = 8  # decoded while others are being worked on
Item = TypeVar("Item")


@dataclass
class SpatialVideoMetadata(VideoMetadata):
    """transformers' metadata with the time stamps of the chosen frames and, after space-aware sampling, the coverage.

    Attributes:
        frame_timestamps: seconds since the first frame, one for each of `frames_indices`, exact for variable rates.
            None for frames handed over without a rate.
        frame_sampling: how the frames were chosen: "uniform", "space_aware", or "all".
        covered_voxels, total_voxels: voxels that the chosen frames see, and that all candidates see.
    """

    frame_timestamps: list[float] | None = None
    frame_sampling: str = "all"
    covered_voxels: int | None = None
    total_voxels: int | None = None

    @property
    def timestamps(self) -> list[float]:
        """Seconds since the first frame; as in transformers, a ValueError where the rate is not known."""
        return super().timestamps if self.frame_timestamps is None else self.frame_timestamps


class FrameReader:
    """Frames of one video by number, whether they are in a file or in memory already."""

    def __init__(self, video: Video, known: dict[str, Any]) -> None:
        self._video = video
        self._known = known
        self.in_memory = isinstance(video, torch.Tensor)
        if isinstance(video, torch.Tensor):
            self.num_frames = video.shape[0]
            self.has_levels = has_levels(video)
            self._index: VideoIndex | None = None
        else:
            self._index = index_video(video)
            self.num_frames = self._index.num_frames
            self.has_levels = True

    @property
    def fps(self) -> float | None:
        """Frames a second, None for frames in memory of which nothing is known."""
        return self._known.get("fps") or (self._index.average_fps if self._index else None)

    def read(self, indices: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Frames `[K, 3, H, W]` and their numbers, which differ from `indices` where a damaged file forces it."""
        if isinstance(self._video, torch.Tensor):
            return self._video[list(indices)], list(indices)
        decoded = decode_frames(self._video, indices, index=self._index, num_threads=_decoder_threads())
        return torch.from_numpy(decoded.frames).permute(0, 3, 1, 2), decoded.indices

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Position in `indices`, number and pixels `[3, H, W]` of each frame, as soon as it is there.

        A file is decoded in a thread of its own meanwhile, but not in a worker of a data loader.
        """
        if isinstance(self._video, torch.Tensor):
            yield from ((position, number, self._video[number]) for position, number in enumerate(indices))
            return
        threads = _decoder_threads()
        frames = stream_frames(self._video, indices, index=self._index, num_threads=threads)
        for position, number, pixels in frames if threads else _ahead(frames):
            yield position, number, torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)

    def metadata(self, indices: list[int], frame_sampling: str) -> SpatialVideoMetadata:
        known, fps = (self._known if self.in_memory else {}), self.fps
        if isinstance(self._video, torch.Tensor):
            height, width = self._video.shape[-2:]
        elif self._index is not None:
            height, width = self._index.height, self._index.width
        # Frames that were already picked out of a longer video keep their numbers and times there.
        stamps = known.get("frame_timestamps")
        timestamps = None if stamps is None else [stamps[index] for index in indices]
        if (original := known.get("frames_indices")) is not None:
            if len(original) != self.num_frames:
                raise ValueError(
                    f"video_metadata: frames_indices has {len(original)} entries for {self.num_frames} frames."
                )
            indices = [int(original[index]) for index in indices]
        if self._index is not None:
            timestamps = self._index.timestamps[indices].tolist()
        elif timestamps is None and fps is not None:
            timestamps = [index / fps for index in indices]
        total = known.get("total_num_frames") or self.num_frames
        return SpatialVideoMetadata(
            total_num_frames=total,
            fps=fps,
            width=width,
            height=height,
            duration=known.get("duration") or (None if fps is None else total / fps),
            video_backend=None if self._index is None else "pyav",
            frames_indices=indices,
            frame_timestamps=timestamps,
            frame_sampling=frame_sampling,
        )


def _decoder_threads() -> int:
    """One in a worker of a data loader, as many as FFmpeg likes (0) elsewhere."""
    return 0 if torch.utils.data.get_worker_info() is None else 1


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, made in a thread of its own up to `FRAMES_AHEAD` before they are wanted."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(FRAMES_AHEAD))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            thread.shutdown(cancel_futures=True)
