"""Reads chosen frames out of a video with PyAV (15 or later).

1. `index_video` walks the packets and lists the frames that can be shown; only the first is decoded, as nothing else
   tells the rotation. The header's frame count is not used: it counts frames that an edit list hides.
2. `decode_frames` returns the frames asked for, in the order asked for. It seeks only where that skips a group of
   pictures, and knows each frame by its presentation time stamp (PTS): where a seek lands is never trusted.

The pixels are bit-equal to those of a plain sequential decode converted to RGB. A damaged file yields what can be
decoded, with a warning; what is not a video is a `VideoDecodeError`.

Shapes: N frames in the video, K frames asked for, H x W pixels after the rotation has been applied.
"""

import operator
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .video_source_spatial_mllm import VideoDecodeError, VideoSource, describe_source, open_video

# Where frames to which no other refers can be left out without changing the others. Not HEVC: its "non-reference"
# frames may be referred to from a higher temporal layer.
_EXACT_SKIP_CODECS = ("h264",)
# After a seek in these, FFmpeg may give a frame the time stamp of another.
_SEQUENTIAL_FORMATS = ("mpeg", "mpegts")


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a video that can be shown, in the order in which they are shown.

    Attributes:
        timestamps: float64 [N], seconds; the first is 0.0, strictly increasing.
        pts: int64 [N], presentation time stamps in the stream's time base (frame numbers where `has_pts` is False).
        keyframe_pts: int64, sorted; the entries of `pts` to which a seek can go; empty if seeks are not to be trusted.
        width, height: pixels, after rotation.
        rotation: degrees counter-clockwise by which the stored picture is turned for display, a multiple of 90 in
            [-180, 180]; phones held upright write -90. `decode_frames` applies it.
        average_fps: (N - 1) / (last - first time stamp); with one frame the rate that the stream states, or 1.0.
        announced_frames: the number of frames that the header promises; above N when the file is cut off.
        has_pts: False when the stream carries no usable time stamps; its frames are then found by counting.
    """

    timestamps: np.ndarray
    pts: np.ndarray
    keyframe_pts: np.ndarray
    width: int
    height: int
    rotation: int
    average_fps: float
    announced_frames: int
    has_pts: bool = True

    @property
    def num_frames(self) -> int:
        return len(self.pts)

    @property
    def duration(self) -> float:
        """Seconds on screen, the last frame's average share included: `num_frames / average_fps`."""
        return self.num_frames / self.average_fps


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


def index_video(source: VideoSource) -> VideoIndex:
    """Lists the frames of a video that can be shown.

    Args:
        source: a path, a `file://` or `http(s)://` URL, the bytes of a video file, or a seekable binary file (read from
            its start, wherever it stands).

    Raises:
        VideoNotFoundError: no such file.
        VideoDecodeError: a directory, an empty file, no video, a video without frames, or a file too damaged to open.
    """
    with open_video(source, num_threads=1) as (container, stream):
        scan = _scan_packets(container, stream)
        rate, time_base = float(stream.average_rate or stream.guessed_rate or 1.0), float(stream.time_base or 0)
        announced = _announced_frames(container, stream, scan, rate)
        can_seek = container.format.name not in _SEQUENTIAL_FORMATS
        # AVI stores no presentation times; those that FFmpeg makes up are wrong where frames are reordered.
        has_made_up_pts = container.format.name == "avi" and stream.codec_context.has_b_frames
    first, has_pts = scan.first_frame, scan.has_usable_pts and not has_made_up_pts
    if first is None:
        raise VideoDecodeError(_no_frame_message(source, scan.num_shown))
    if has_pts:
        pts = np.array(sorted(scan.pts), dtype=np.int64)
    else:
        pts, time_base = np.arange(_count_by_decoding(source), dtype=np.int64), 1.0 / rate
    timestamps = (pts - pts[0]) * time_base
    size = (first.height, first.width) if _is_transposed(first) else (first.width, first.height)
    return VideoIndex(
        timestamps=timestamps,
        pts=pts,
        keyframe_pts=np.array(sorted(scan.keyframe_pts) if has_pts and can_seek else [], dtype=np.int64),
        width=size[0],
        height=size[1],
        rotation=round(first.rotation / 90) * 90,
        average_fps=float((len(pts) - 1) / timestamps[-1]) if len(pts) > 1 else rate,
        announced_frames=max(announced, len(pts)),
        has_pts=has_pts,
    )


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
    requested = _checked_indices(indices, index.num_frames, describe_source(source))
    if num_threads < 0:
        raise ValueError(f"num_threads must be 0 (automatic) or positive, got {num_threads}.")
    store = _FrameStore(index, requested)
    with open_video(source, num_threads) as (container, stream):
        missing = _gather_with_seeks(container, stream, index, sorted(set(requested)), store)
    replacements, num_decodable = _recover_missing(source, index, missing, store)
    if num_decodable < index.announced_frames:
        warnings.warn(
            f"Only {num_decodable} of the {index.announced_frames} frames of {describe_source(source)} can be decoded: "
            "it is damaged or cut off. The nearest frames stand in for those that cannot; get a whole copy.",
            stacklevel=2,
        )
    used = [replacements.get(number, number) for number in requested]
    return DecodedFrames(store.frames, used, index.timestamps[used])


@dataclass
class _PacketScan:
    """What one walk over the packets of a stream tells about its frames."""

    num_shown: int = 0
    pts: set[int] = field(default_factory=set)
    keyframe_pts: set[int] = field(default_factory=set)
    first_frame: VideoFrame | None = None

    def add(self, packet: Packet) -> None:
        self.num_shown += 1
        if packet.pts is not None:
            self.pts.add(packet.pts)
            if packet.is_keyframe:
                self.keyframe_pts.add(packet.pts)

    @property
    def has_usable_pts(self) -> bool:
        """Whether each frame has a time stamp of its own, and the decoder hands it on."""
        return len(self.pts) == self.num_shown and self.first_frame is not None and self.first_frame.pts in self.pts


def _scan_packets(container: InputContainer, stream: VideoStream) -> _PacketScan:
    scan = _PacketScan()
    for packet in _packets(container, stream):
        if _is_shown(packet):
            scan.add(packet)
        if scan.first_frame is None:
            scan.first_frame = next(iter(_decode_packet(stream, packet)), None)
    if scan.first_frame is None:
        scan.first_frame = next(iter(_decode_packet(stream, None)), None)
    return scan


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets with data, up to the end of the file or to where it can be read no further."""
    try:
        for packet in container.demux(stream):
            if packet.size:  # an empty packet would make the decoder believe that the stream has ended
                yield packet
    except av.error.FFmpegError:
        return


def _is_shown(packet: Packet) -> bool:
    """Whether a packet's frame can be shown whole: not hidden by an edit list, not cut off in the middle."""
    if packet.is_discard or packet.is_corrupt:
        return False
    # VP8 stores frames that serve as references only; bit 4 of the first byte says whether a frame is shown.
    return packet.stream.codec_context.name != "vp8" or bool(memoryview(packet)[0] & 0x10)


def _decode_packet(stream: VideoStream, packet: Packet | None) -> list[VideoFrame]:
    """The frames that a packet completes (None drains the decoder); none for a packet that is damaged."""
    try:
        return stream.decode(packet)
    except av.error.FFmpegError:
        return []


def _announced_frames(container: InputContainer, stream: VideoStream, scan: _PacketScan, rate: float) -> int:
    """How many frames the header promises, or 0 if it does not say."""
    formats = container.format.name.split(",")
    if "mov" in formats:
        # The sample table after its edit list, which `stream.frames` does not apply.
        return sum(not entry.is_discard for entry in stream.index_entries)
    if "matroska" not in formats:
        return stream.frames
    stated = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if stated is None or not scan.pts:
        return 0
    seconds = int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    times = np.array(sorted(scan.pts)) * float(stream.time_base or 0)
    # With a variable frame rate the last frame may stay on for long, but hardly for longer than all others.
    is_whole = seconds - times[-1] <= 2 * np.diff(times).max(initial=1 / rate)
    return 0 if is_whole else max(round(seconds * rate), scan.num_shown + 1)


def _count_by_decoding(source: VideoSource) -> int:
    with open_video(source, num_threads=1) as (container, stream):
        return sum(1 for _ in _decode_all(container, stream))


class _FrameStore:
    """The pixels asked for: each frame is converted once and written wherever it was asked for."""

    def __init__(self, index: VideoIndex, requested: list[int]) -> None:
        self.frames = np.empty((len(requested), index.height, index.width, 3), dtype=np.uint8)
        self.positions: dict[int, list[int]] = {}
        for position, number in enumerate(requested):
            self.positions.setdefault(number, []).append(position)

    def put(self, number: int, frame: VideoFrame) -> None:
        height, width = self.frames.shape[1:3]
        if _is_transposed(frame):
            height, width = width, height
        # The size given is that of the first frame: a stream may change it on the way. One thread: a frame keeps its
        # converter with the threads it started, and a forked loader worker that frees it would wait for them for ever.
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
        self.frames[self.positions[number]] = _oriented(pixels, frame)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d): a stored pixel (x right, y down) is shown at (a x + c y, b x + d y), up to scale and origin."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, side_data)), dtype=np.int32)[:5].tolist()
    return a, b, c, d


def _is_transposed(frame: VideoFrame) -> bool:
    a, b, c, d = _display_matrix(frame)
    return abs(b) + abs(c) > abs(a) + abs(d)


def _oriented(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Turns (and mirrors, if the matrix does) stored pixels [H, W, 3] to how they are shown."""
    a, b, c, d = _display_matrix(frame)
    if _is_transposed(frame):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _decode_all(
    container: InputContainer, stream: VideoStream, wanted_pts: set[int] | None = None
) -> Iterator[VideoFrame]:
    """Decodes from where the container stands; with `wanted_pts`, other frames may be left out to save time."""
    for packet in _packets(container, stream):
        if wanted_pts is not None and stream.codec_context.name in _EXACT_SKIP_CODECS:
            needed = packet.is_keyframe or packet.pts in wanted_pts
            stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
        yield from _decode_packet(stream, packet)
    yield from _decode_packet(stream, None)


def _numbered(frames: Iterator[VideoFrame], index: VideoIndex) -> Iterator[tuple[int, VideoFrame]]:
    """Pairs frames with their numbers; those that the index does not hold are left out."""
    number_of = {int(pts): number for number, pts in enumerate(index.pts)}
    for order, frame in enumerate(frames):
        number = (number_of.get(frame.pts) if frame.pts is not None else None) if index.has_pts else order
        if number is not None:
            yield number, frame


def _gather_with_seeks(
    container: InputContainer, stream: VideoStream, index: VideoIndex, wanted: list[int], store: _FrameStore
) -> set[int]:
    """Stores the wanted frames (sorted), seeking over groups of pictures without any; returns the numbers not met."""
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
                store.put(position, frame)
                missing.remove(position)
    return missing


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


def _recover_missing(
    source: VideoSource, index: VideoIndex, missing: set[int], store: _FrameStore
) -> tuple[dict[int, int], int]:
    """Stores the missing frames, or the nearest ones to those that are not there, decoding from the start.

    With one thread: with several, an error in one frame takes intact neighbours away with it.

    Returns:
        The replacement for each frame that is not there, and how many frames of the video can be decoded.
    """
    if not missing:
        return {}, index.num_frames
    decodable = _store_sequentially(source, index, {number: number for number in missing}, store)
    if not decodable:
        raise VideoDecodeError(_no_frame_message(source, index.num_frames))
    lost = missing.difference(decodable)
    replacements = {number: min(decodable, key=lambda other: (abs(other - number), other)) for number in lost}
    if replacements:
        _store_sequentially(source, index, replacements, store)
    return replacements, len(decodable)


def _store_sequentially(
    source: VideoSource, index: VideoIndex, stand_ins: dict[int, int], store: _FrameStore
) -> list[int]:
    """Decodes everything, storing frame `stand_ins[number]` as `number`; returns the numbers that could be decoded."""
    decodable = []
    with open_video(source, num_threads=1) as (container, stream):
        for number, frame in _numbered(_decode_all(container, stream), index):
            decodable.append(number)
            for asked in [asked for asked, used in stand_ins.items() if used == number]:
                store.put(asked, frame)
    return decodable


def _checked_indices(indices: Sequence[int], num_frames: int, name: str) -> list[int]:
    numbers = [operator.index(number) for number in indices]
    for number in numbers:
        if not 0 <= number < num_frames:
            raise ValueError(
                f"indices must lie between 0 and {num_frames - 1}, as {name} has {num_frames} frames; got {number}."
            )
    return numbers


def _no_frame_message(source: VideoSource, num_shown: int) -> str:
    if num_shown == 0:
        return f"{describe_source(source)} has a video stream without a single frame. Record or download it again."
    return (
        f"None of the {num_shown} frames of {describe_source(source)} can be decoded: it is damaged or encrypted. "
        "Get a whole copy, or convert it with ffmpeg."
    )
