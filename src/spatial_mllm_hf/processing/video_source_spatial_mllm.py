"""Opens a video source with PyAV and rules out what is no video, each mistake with its own message.

Sources are paths, `file://` and `http(s)://` URLs, the bytes of a video file, and seekable binary files.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias, cast
from urllib.parse import urlparse
from urllib.request import url2pathname

import av
import av.error
import av.logging
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from .http_video_spatial_mllm import HttpFile, HttpReadError, open_http

VideoSource: TypeAlias = str | os.PathLike | BinaryIO | bytes

NETWORK_TIMEOUT_SECONDS = 30.0
_NETWORK_WAY_OUT = "Check the URL and the network, or download the file and give its path."
# FFmpeg shows a .txt file as the video of a text terminal.
_TEXT_FORMATS = ("tty", "bin", "xbin", "adf", "idf")


class VideoDecodeError(ValueError):
    """The source cannot be read as a video. The message names the source, what is wrong and the way out."""


class VideoNotFoundError(VideoDecodeError, FileNotFoundError):
    """There is no file at the path given."""


class OpenedVideo(NamedTuple):
    """What `open_video` yields.

    Attributes:
        http_file: through which the container is read, if it comes over the network in parts.
    """

    container: InputContainer
    stream: VideoStream
    http_file: HttpFile | None


@contextmanager
def open_video(source: VideoSource, num_threads: int) -> Iterator[OpenedVideo]:
    """Opens the source at its start, with FFmpeg's own messages kept off the terminal while it is open.

    Raises:
        VideoDecodeError: it is no video; when it is closed, a connection failed while it was read.
    """
    name, http_file = describe_source(source), _http_file(source)
    target = _openable(source) if http_file is None else cast(BinaryIO, http_file)
    timeout = NETWORK_TIMEOUT_SECONDS if _is_network_url(source) else None
    with av.logging.Capture(local=False):  # the decoder's threads write messages too
        try:
            container = av.open(target, mode="r", metadata_errors="ignore", timeout=timeout)
        except av.error.FFmpegError as error:
            _check_network(name, http_file)
            way_out = "It is cut off, damaged or no video: get a whole copy, or convert it with ffmpeg."
            if _is_network_url(source):
                way_out = _NETWORK_WAY_OUT
            raise VideoDecodeError(f"{name} cannot be opened as a video ({error.strerror}). {way_out}") from error
        with container:
            _check_network(name, http_file)
            stream = _video_stream(container, name)
            stream.thread_type = "AUTO"
            stream.thread_count = num_threads
            yield OpenedVideo(container, stream, http_file)
            _check_network(name, http_file)


def _http_file(source: VideoSource) -> HttpFile | None:
    if not isinstance(source, str) or not _is_network_url(source):
        return None
    try:
        return open_http(source, NETWORK_TIMEOUT_SECONDS)
    except HttpReadError as error:
        name = describe_source(source)
        raise VideoDecodeError(f"{name} cannot be opened as a video ({error}). {_NETWORK_WAY_OUT}") from error


def _check_network(name: str, http_file: HttpFile | None) -> None:
    if http_file is not None and http_file.error is not None:
        raise VideoDecodeError(f"{name} cannot be read to its end ({http_file.error}). {_NETWORK_WAY_OUT}")


def _openable(source: VideoSource) -> str | BinaryIO:
    """What PyAV can open, once the mistakes that need no FFmpeg to be seen are ruled out."""
    name = describe_source(source)
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return str(source) if _is_network_url(source) else _checked_path(source, name)
    if isinstance(source, io.TextIOBase) or not (hasattr(source, "read") and hasattr(source, "seek")):
        kind = type(source).__name__
        raise VideoDecodeError(f"A video must be a path, a URL, bytes or a seekable binary file, got {kind}.")
    if source.seek(0, os.SEEK_END) == 0:
        raise VideoDecodeError(f"{name} is empty (0 bytes). Check how it was read or downloaded.")
    source.seek(0)
    return source


def _checked_path(source: str | os.PathLike, name: str) -> str:
    text = os.fspath(source)
    path = Path(url2pathname(urlparse(text).path) if text.startswith("file://") else text)
    if not path.exists():
        raise VideoNotFoundError(f"There is no video file at {name}. Check the path (working directory: {Path.cwd()}).")
    if path.is_dir():
        raise VideoDecodeError(f"{name} is a directory, not a video file. Give the path of one file in it.")
    if path.stat().st_size == 0:
        raise VideoDecodeError(f"{name} is empty (0 bytes). Copy or download it again.")
    return str(path.absolute())  # FFmpeg would take the "take2:" of a relative "take2:cut.mp4" for a protocol


def _is_network_url(source: VideoSource) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def describe_source(source: VideoSource) -> str:
    if isinstance(source, bytes):
        return f"the video of {len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        return f"'{os.fspath(source)}'"
    return f"the video file object {getattr(source, 'name', type(source).__name__)!r}"


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    format_name = container.format.name
    if format_name in _TEXT_FORMATS:
        raise VideoDecodeError(f"{name} is a text file, not a video. Give a video file (mp4, mkv, webm, ...).")
    if format_name == "image2" or format_name.endswith("_pipe"):
        raise VideoDecodeError(f"{name} is a still picture ({format_name}), not a video. Pass it as an image.")
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of an album is no video
        found = ", ".join(sorted({other.type for other in container.streams if other is not stream})) or "nothing"
        raise VideoDecodeError(f"{name} has no video stream (found: {found}). Give a file that holds a video.")
    if stream.codec_context is None:
        raise VideoDecodeError(f"{name} holds video of a kind that FFmpeg has no decoder for. Convert it to H.264.")
    return cast(VideoStream, stream)
