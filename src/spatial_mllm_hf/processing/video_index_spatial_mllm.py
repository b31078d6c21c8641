"""Lists the frames of a video that can be shown, by walking its packets; only the first frame is decoded.

Over the network the walk takes the sample tables of an mp4 and leaves the samples where they are. Nothing but a frame
tells the rotation. The header's frame count is not used: it counts frames that an edit list hides.
What packets are and what they decode to stands here too, for `video_decoding_spatial_mllm.py`.

Shapes: N frames in the video, H x W pixels after the rotation has been applied.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .http_video_spatial_mllm import has_all_tables
from .video_source_spatial_mllm import OpenedVideo, VideoDecodeError, VideoSource, describe_source, open_video

# After a seek in these, FFmpeg may give a frame the time stamp of another.
_SEQUENTIAL_FORMATS = ("mpeg", "mpegts")
# Of which an mp4's sample table says all that the walk needs.
_TABLE_CODECS = ("h264", "hevc", "vp9", "av1", "libdav1d")


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

    @cached_property
    def number_of_pts(self) -> dict[int, int]:
        """The number of the frame with each time stamp."""
        return {pts: number for number, pts in enumerate(self.pts.tolist())}

    @property
    def duration(self) -> float:
        """Seconds on screen, the last frame's average share included: `num_frames / average_fps`."""
        return self.num_frames / self.average_fps


def index_video(source: VideoSource) -> VideoIndex:
    """Lists the frames of a video that can be shown.

    Args:
        source: a path, a `file://` or `http(s)://` URL, the bytes of a video file, or a seekable binary file (read from
            its start, wherever it stands).

    Raises:
        VideoNotFoundError: no such file.
        VideoDecodeError: a directory, an empty file, no video, a video without frames, or a file too damaged to open.
    """
    with open_video(source, num_threads=1) as opened:
        container, stream, _ = opened
        scan = _scan_packets(opened)
        rate, time_base = float(stream.average_rate or stream.guessed_rate or 1.0), float(stream.time_base or 0)
        announced = _announced_frames(container, stream, scan, rate)
        can_seek = container.format.name not in _SEQUENTIAL_FORMATS
        # AVI stores no presentation times; those that FFmpeg makes up are wrong where frames are reordered.
        has_made_up_pts = container.format.name == "avi" and stream.codec_context.has_b_frames
    if scan.first_frame is None:
        scan.first_frame = next(_decode_plainly(source), None)
    first, has_pts = scan.first_frame, scan.has_usable_pts and not has_made_up_pts
    if first is None:
        raise VideoDecodeError(no_frame_message(source, scan.num_shown))
    if has_pts:
        pts = np.array(sorted(scan.pts), dtype=np.int64)
    else:
        pts, time_base = np.arange(sum(1 for _ in _decode_plainly(source)), dtype=np.int64), 1.0 / rate
    timestamps = (pts - pts[0]) * time_base
    size = (first.height, first.width) if is_transposed(first) else (first.width, first.height)
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


@dataclass
class _PacketScan:
    """What one walk over the packets of a stream tells about its frames."""

    num_packets: int = 0
    num_shown: int = 0
    pts: set[int] = field(default_factory=set)
    keyframe_pts: set[int] = field(default_factory=set)
    first_frame: VideoFrame | None = None

    def add(self, packet: Packet, can_seek_to: bool) -> None:
        self.num_shown += 1
        if packet.pts is not None:
            self.pts.add(packet.pts)
            if can_seek_to:
                self.keyframe_pts.add(packet.pts)

    @property
    def has_usable_pts(self) -> bool:
        """Whether each frame has a time stamp of its own, and the decoder hands it on."""
        return len(self.pts) == self.num_shown and self.first_frame is not None and self.first_frame.pts in self.pts


def _scan_packets(opened: OpenedVideo) -> _PacketScan:
    container, stream, http_file = opened
    scan, table = _PacketScan(), _keyframe_table(container, stream)
    # A table that calls every frame a key frame may be wrong, which only the frames themselves tell.
    is_table_enough = not all(table) and stream.codec_context.name in _TABLE_CODECS
    can_go_blank = http_file is not None and is_table_enough and has_all_tables(http_file)
    for packet in read_packets(container, stream):
        is_blank = http_file is not None and http_file.is_blank
        is_in_table = scan.num_packets >= len(table) or table[scan.num_packets]
        scan.num_packets += 1
        if _is_shown(packet):
            scan.add(packet, can_seek_to=is_in_table and (is_blank or packet.is_keyframe))
        if scan.first_frame is None:
            scan.first_frame = _first_frame(stream, packet, drain=scan.num_shown == 1 and not packet.is_discard)
            if http_file is not None and scan.first_frame is not None:
                http_file.is_blank = can_go_blank
    if scan.first_frame is None:
        scan.first_frame = next(iter(decode_packet(stream, None)), None)
    return scan


def _keyframe_table(container: InputContainer, stream: VideoStream) -> list[bool]:
    """For each packet whether FFmpeg seeks to it, as far as an mp4's sample table says; empty for other containers."""
    if "mov" not in container.format.name.split(","):
        return []
    return [entry.is_keyframe for entry in stream.index_entries if entry.size]


def _first_frame(stream: VideoStream, packet: Packet, drain: bool) -> VideoFrame | None:
    frames = decode_packet(stream, packet)
    if not frames and drain:
        # The decoder holds the frame back, as later packets may hold earlier ones: no need to wait for these.
        frames = decode_packet(stream, None)
        stream.codec_context.flush_buffers()
    return frames[0] if frames else None


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
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


def decode_packet(stream: VideoStream, packet: Packet | None) -> list[VideoFrame]:
    """The frames that a packet completes (None drains the decoder); none for a packet that is damaged."""
    try:
        return stream.decode(packet)
    except av.error.FFmpegError:
        return []


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d): a stored pixel (x right, y down) is shown at (a x + c y, b x + d y), up to scale and origin."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, side_data)), dtype=np.int32)[:5].tolist()
    return a, b, c, d


def is_transposed(frame: VideoFrame) -> bool:
    a, b, c, d = display_matrix(frame)
    return abs(b) + abs(c) > abs(a) + abs(d)


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


def _decode_plainly(source: VideoSource) -> Iterator[VideoFrame]:
    with open_video(source, num_threads=1) as (container, stream, _):
        for packet in read_packets(container, stream):
            yield from decode_packet(stream, packet)
        yield from decode_packet(stream, None)


def no_frame_message(source: VideoSource, num_shown: int) -> str:
    if num_shown == 0:
        return f"{describe_source(source)} has a video stream without a single frame. Record or download it again."
    return (
        f"None of the {num_shown} frames of {describe_source(source)} can be decoded: it is damaged or encrypted. "
        "Get a whole copy, or convert it with ffmpeg."
    )
