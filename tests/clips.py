"""Writes small test clips whose frames carry their own number, so that a test can tell which frame came back.

The number is drawn in a grid of 4 x 3 black and white blocks, which survives compression: the corners say which way is
up (only the top left one is white), the eight blocks between them hold the number in binary.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from os import PathLike
from pathlib import Path

import av
import numpy as np

COLUMNS, ROWS = 4, 3
CORNERS = {(0, 0): True, (0, 3): False, (2, 0): False, (2, 3): False}
NUMBER_BLOCKS = [(row, column) for row in range(ROWS) for column in range(COLUMNS) if (row, column) not in CORNERS]
MILLISECONDS = 1000

ENCODER_OPTIONS = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


def draw_frame_number(number: int, size: tuple[int, int]) -> np.ndarray:
    """A picture, uint8 [H, W, 3], that shows a number in [0, 255]; `size` is (width, height)."""
    blocks = np.zeros((ROWS, COLUMNS), dtype=bool)
    for place, white in CORNERS.items():
        blocks[place] = white
    for bit, place in enumerate(NUMBER_BLOCKS):
        blocks[place] = number >> bit & 1
    width, height = size
    rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    grey = np.where(blocks[rows][:, columns], 230, 25).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_frame_number(frame: np.ndarray) -> int:
    """The number that a frame [H, W, 3] shows. ValueError if the picture is not upright."""
    height, width = frame.shape[:2]
    centre_rows = [(2 * row + 1) * height // (2 * ROWS) for row in range(ROWS)]
    centre_columns = [(2 * column + 1) * width // (2 * COLUMNS) for column in range(COLUMNS)]
    white = frame.mean(axis=2)[centre_rows][:, centre_columns] > 128
    if any(bool(white[place]) != expected for place, expected in CORNERS.items()):
        raise ValueError(f"The frame is not upright: its blocks are\n{white.astype(int)}")
    return sum(int(white[place]) << bit for bit, place in enumerate(NUMBER_BLOCKS))


def read_frame_numbers(frames: np.ndarray) -> list[int]:
    return [read_frame_number(frame) for frame in frames]


def write_clip(
    path: str | PathLike,
    num_frames: int,
    *,
    size: tuple[int, int] = (64, 48),
    fps: int = 25,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 0,
    open_gop: bool = False,
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    audio: bool = False,
    faststart: bool = False,
    format: str | None = None,
) -> Path:
    """Writes frames 0, 1, ... that look upright once `rotation` is applied; `size` is (width, height) as shown.

    Args:
        pts: the time of each frame in milliseconds, for a variable frame rate.
        rotation: degrees counter-clockwise by which a player must turn the stored picture (mp4 and mov only).
        faststart: an mp4 with its frame table before the frames.
    """
    path = Path(path)
    times = list(range(num_frames)) if pts is None else list(pts)
    quarter_turns = rotation // 90
    with av.open(str(path), "w", format=format, options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=_encoder_options(codec, gop, b_frames, open_gop))
        stream.width, stream.height = size[::-1] if quarter_turns % 2 else size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps if pts is None else MILLISECONDS)
        sound = container.add_stream("aac", rate=8000) if audio else None
        for number, time in enumerate(times):
            stored = np.rot90(draw_frame_number(number, size), -quarter_turns)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            frame.pts, frame.time_base = time, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_silence(container, sound, seconds=1 + num_frames / fps)
    if rotation:
        a, b = {0: (1, 0), 1: (0, -1), 2: (-1, 0), 3: (0, 1)}[quarter_turns % 4]
        patch_display_matrix(path, (a, b, -b, a))
    return path


def _encoder_options(codec: str, gop: int, b_frames: int, open_gop: bool) -> dict[str, str]:
    options = {"g": str(gop), "bf": str(b_frames), **ENCODER_OPTIONS.get(codec, {})}
    parameters = f"scenecut=0:open-gop={int(open_gop)}:keyint={gop}:min-keyint={gop}:bframes={b_frames}:b-adapt=0"
    if codec == "libx264":
        options["x264-params"] = parameters
    if codec == "libx265":
        options["x265-params"] = f"log-level=none:{parameters}"
    return options


def _write_silence(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    for start in range(0, int(8000 * seconds), 1024):
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts, silence.time_base = 8000, start, Fraction(1, 8000)
        container.mux(stream.encode(silence))
    container.mux(stream.encode(None))


def write_audio_only(path: str | PathLike, codec: str = "aac") -> Path:
    """Writes a second of silence without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8000, layout="mono")
        _write_silence(container, stream, seconds=1.0)
    return Path(path)


def patch_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes (a, b, c, d) into the first track header of an mp4: pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def patch_edit_list(path: Path, num_hidden: int, num_shown: int, fps: int) -> None:
    """Makes the edit list of an mp4 hide the first `num_hidden` frames and end after `num_shown` more."""
    data = bytearray(path.read_bytes())
    timescale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    at = data.index(b"elst") + 12
    start = struct.unpack_from(">i", data, at + 4)[0]
    struct.pack_into(">Ii", data, at, num_shown * 1000 // fps, start + num_hidden * timescale // fps)
    path.write_bytes(data)
