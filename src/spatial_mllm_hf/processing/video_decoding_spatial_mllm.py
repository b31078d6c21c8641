"""Reads chosen frames out of a video with PyAV (17 or later).

`stream_frames` yields the frames asked for as they are decoded, `decode_frames` returns them in the order asked for.
Both take the index of `video_index_spatial_mllm.py`, seek only where that skips a group of pictures, and know each
frame by its presentation time stamp (PTS): where a seek lands is never trusted.

The pixels are bit-equal to those of a plain sequential decode converted to RGB. A damaged file yields what can be
decoded, with a warning; what is not a video is a `VideoDecodeError`.

Shapes: N frames in the video, K frames asked for, H x W pixels after the rotation has been applied.
"""

import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .video_index_spatial_mllm import (
    VideoIndex,
    decode_packet,
    display_matrix,
    index_video,
    is_transposed,
    no_frame_message,
    read_packets,
)
from .video_source_spatial_mllm import VideoDecodeError, VideoSource, describe_source, open_video

# Where frames to which no other refers can be left out without changing the others. Not HEVC: its "non-reference"
# frames may be referred to from a higher temporal layer.
_EXACT_SKIP_CODECS = ("h264",)


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """What `decode_frames` returns.

    Attributes:
        frames: uint8 [K, H, W, 3], RGB in [0, 255], rotation applied, one for each index asked for.
        indices: the K frame numbers really used; they differ from those asked for only in a damaged file.
        timestamps: float64 [K], seconds since the first frame, of the frames really used.
    """

    frames: np.ndarray
    indices: list[int]
    timestamps: np.ndarray


class StreamedFrame(NamedTuple):
    """One frame out of `stream_frames`.

    Attributes:
        position: for which of the K numbers asked for it stands.
        number: its own number; it differs from the one asked for only in a damaged file.
        pixels: uint8 `[H, W, 3]`, RGB, rotation applied.
    """

    position: int
    number: int
    pixels: np.ndarray


def decode_frames(
    source: VideoSource, indices: Sequence[int], *, index: VideoIndex | None = None, num_threads: int = 0
) -> DecodedFrames:
    """Decodes the frames with the given numbers.

    Args:
        source: as in `index_video`.
        indices: K frame numbers in [0, N), in any order, repeated or not.
        index: what `index_video(source)` returned, to spare a second walk over the packets.
        num_threads: decoder threads; 0 lets FFmpeg choose. Use 1 in data loader workers.

    Returns:
        Exactly one frame for each number, in the order asked for. Where a damaged file does not yield a frame, the
        nearest one that it does yield takes its place (the earlier of two equally near), with a warning.

    Raises:
        ValueError: an index outside [0, N), or a negative `num_threads`.
        VideoDecodeError: as in `index_video`, or not a single frame can be decoded.
    """
    index = index_video(source) if index is None else index
    frames = np.empty((len(indices), index.height, index.width, 3), dtype=np.uint8)
    used = [0] * len(indices)
    for position, number, pixels in stream_frames(source, indices, index=index, num_threads=num_threads):
        frames[position], used[position] = pixels, number
    return DecodedFrames(frames, used, index.timestamps[used])


def stream_frames(
    source: VideoSource, indices: Sequence[int], *, index: VideoIndex | None = None, num_threads: int = 0
) -> Iterator[StreamedFrame]:
    """Yields the frames with the given numbers as they are decoded, holding none back.

    They come in order of time, whatever the order of `indices`; only what stands in for frames that a damaged file
    does not yield comes last. Arguments and errors are those of `decode_frames`; those of the arguments come at once.
    """
    index = index_video(source) if index is None else index
    requested = _checked_indices(indices, index.num_frames, describe_source(source))
    if num_threads < 0:
        raise ValueError(f"num_threads must be 0 (automatic) or positive, got {num_threads}.")
    return _stream(source, requested, index, num_threads)


def _stream(source: VideoSource, requested: list[int], index: VideoIndex, num_threads: int) -> Iterator[StreamedFrame]:
    positions: dict[int, list[int]] = {}
    for position, number in enumerate(requested):
        positions.setdefault(number, []).append(position)
    missing, num_decodable = set(requested), index.num_frames
    with open_video(source, num_threads) as (container, stream, _):
        for number, frame in _decode_wanted(container, stream, index, sorted(missing)):
            missing.remove(number)
            yield from _placed(positions[number], number, frame, index)
    if missing:
        decodable = []
        for number, frame in _decode_again(source, index):
            decodable.append(number)
            if number in missing:
                yield from _placed(positions[number], number, frame, index)
        num_decodable = len(decodable)
        if not decodable:
            raise VideoDecodeError(no_frame_message(source, index.num_frames))
        yield from _replacements(source, index, missing.difference(decodable), decodable, positions)
    if num_decodable < index.announced_frames:
        warnings.warn(
            f"Only {num_decodable} of the {index.announced_frames} frames of {describe_source(source)} can be decoded: "
            "it is damaged or cut off. The nearest frames stand in for those that cannot; get a whole copy.",
            stacklevel=3,
        )


def _placed(positions: list[int], number: int, frame: VideoFrame, index: VideoIndex) -> Iterator[StreamedFrame]:
    """A frame's pixels, converted once, wherever they were asked for."""
    height, width = index.height, index.width
    if is_transposed(frame):
        height, width = width, height
    # The size given is that of the first frame: a stream may change it on the way. One thread: a frame keeps its
    # converter with the threads it started, and a forked loader worker that frees it would wait for them for ever.
    pixels = _oriented(frame.to_ndarray(format="rgb24", width=width, height=height, threads=1), frame)
    return (StreamedFrame(position, number, pixels) for position in positions)


def _oriented(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Turns (and mirrors, if the matrix does) stored pixels [H, W, 3] to how they are shown."""
    a, b, c, d = display_matrix(frame)
    if is_transposed(frame):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _decode_all(
    container: InputContainer, stream: VideoStream, wanted_pts: set[int] | None = None
) -> Iterator[VideoFrame]:
    """Decodes from where the container stands; with `wanted_pts`, other frames may be left out to save time."""
    for packet in read_packets(container, stream):
        if wanted_pts is not None and stream.codec_context.name in _EXACT_SKIP_CODECS:
            needed = packet.is_keyframe or packet.pts in wanted_pts
            stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
        yield from decode_packet(stream, packet)
    yield from decode_packet(stream, None)


def _numbered(frames: Iterator[VideoFrame], index: VideoIndex) -> Iterator[tuple[int, VideoFrame]]:
    """Pairs frames with their numbers; those that the index does not hold are left out."""
    for order, frame in enumerate(frames):
        number = (index.number_of_pts.get(frame.pts) if frame.pts is not None else None) if index.has_pts else order
        if number is not None:
            yield number, frame


def _decode_wanted(
    container: InputContainer, stream: VideoStream, index: VideoIndex, wanted: list[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """The wanted frames (sorted) with their numbers, seeking over groups of pictures without any."""
    wanted_pts = set(index.pts[wanted].tolist()) if index.has_pts else None
    frames = _numbered(_decode_all(container, stream, wanted_pts), index)
    missing, position, trusted = set(wanted), -1, True
    for target in wanted:
        keyframe = _last_keyframe(index, target)
        if keyframe > position + 1 and _seek(container, stream, int(index.pts[keyframe])):
            frames, trusted = _numbered(_decode_all(container, stream, wanted_pts), index), False
        while target in missing and position < target:
            position, frame = next(frames, (index.num_frames, None))
            # After a seek, frames shown before its key frame may lack what they refer to (open groups of pictures).
            trusted = trusted or position == keyframe
            if frame is not None and trusted and position in missing:
                missing.remove(position)
                yield position, frame


def _last_keyframe(index: VideoIndex, target: int) -> int:
    """The number of the last key frame at or before a frame; 0 if there is none, as decoding starts there anyway."""
    at = int(np.searchsorted(index.keyframe_pts, index.pts[target], side="right")) - 1
    return int(np.searchsorted(index.pts, index.keyframe_pts[at])) if at >= 0 else 0


def _seek(container: InputContainer, stream: VideoStream, pts: int) -> bool:
    """Whether the container could be moved to a key frame; if not, decoding goes on from where it stands."""
    try:
        container.seek(pts, stream=stream)
    except av.error.FFmpegError:
        return False
    return True


def _decode_again(source: VideoSource, index: VideoIndex) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame that can be decoded, from the start.

    With one thread: with several, an error in one frame takes intact neighbours away with it.
    """
    with open_video(source, num_threads=1) as (container, stream, _):
        yield from _numbered(_decode_all(container, stream), index)


def _replacements(
    source: VideoSource, index: VideoIndex, lost: set[int], decodable: list[int], positions: dict[int, list[int]]
) -> Iterator[StreamedFrame]:
    """For each lost frame the nearest decodable one."""
    if not lost:
        return
    places: dict[int, list[int]] = {}
    for number in lost:
        nearest = min(decodable, key=lambda other: (abs(other - number), other))
        places.setdefault(nearest, []).extend(positions[number])
    for number, frame in _decode_again(source, index):
        if number in places:
            yield from _placed(places[number], number, frame, index)


def _checked_indices(indices: Sequence[int], num_frames: int, name: str) -> list[int]:
    numbers = [operator.index(number) for number in indices]
    for number in numbers:
        if not 0 <= number < num_frames:
            raise ValueError(
                f"indices must lie between 0 and {num_frames - 1}, as {name} has {num_frames} frames; got {number}."
            )
    return numbers
