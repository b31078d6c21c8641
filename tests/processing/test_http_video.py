"""Videos read from a web server that gives parts of files, counts what it sends, and fails in every way it can."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from clips import patch_edit_list, read_frame_numbers, write_clip

import spatial_mllm_hf.processing.http_video_spatial_mllm as http_video
import spatial_mllm_hf.processing.video_source_spatial_mllm as video_source
from spatial_mllm_hf.processing.http_video_spatial_mllm import HttpFile, HttpReadError, has_all_tables
from spatial_mllm_hf.processing.video_decoding_spatial_mllm import VideoDecodeError, decode_frames, index_video
from spatial_mllm_hf.processing.video_index_spatial_mllm import VideoIndex

WAY_OUT = "Check the URL and the network, or download the file and give its path"
BLOCK = 1024  # of the tests, whose files are small


class Server(ThreadingHTTPServer):
    """Gives `files` by name; what it sends is counted, and `fault` may do something else with a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.num_bytes = self.num_requests = 0
        self.has_ranges = True
        self.fault: Callable[[Handler, int], bool] | None = None

    def add(self, path: Path, name: str | None = None) -> str:
        name = name or path.name
        self.files[name] = path.read_bytes()
        return self.url(name)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.num_requests += 1
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        if server.fault is not None and server.fault(self, start):
            return
        data = server.files.get(self.path.lstrip("/").split("?")[0])
        if data is None:
            self.send_error(404)
        elif found and server.has_ranges and start >= len(data):
            self.send_error(416)
        elif found and server.has_ranges:
            end = min(int(found[2]) + 1 if found[2] else len(data), len(data))
            self.send_part(206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})
        else:
            self.send_part(200, data, {})

    def send_part(self, status: int, data: bytes, headers: dict[str, str], announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(announced or len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:  # the reader has seen enough
            return
        self.server.num_bytes += len(data)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "long.mp4"
    return write_clip(path, 250, size=(320, 240), gop=2, b_frames=1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small clips are not read in one go, neither by our reader nor by FFmpeg in front of it."""
    monkeypatch.setattr(av, "open", partial(av.open, buffer_size=512))
    monkeypatch.setattr(http_video, "BLOCK_BYTES", BLOCK)


def assert_same_index(found: VideoIndex, expected: VideoIndex) -> None:
    for field in fields(VideoIndex):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


# ---------- what goes through the network


def test_few_frames_of_a_long_clip_take_few_of_its_bytes(server: Server, long_clip: Path) -> None:
    url, size = server.add(long_clip), long_clip.stat().st_size
    index = index_video(url)
    assert server.num_bytes < size / 4
    assert_same_index(index, index_video(long_clip))
    decoded = decode_frames(url, [3, 201], index=index)
    np.testing.assert_array_equal(decoded.frames, decode_frames(long_clip, [3, 201]).frames)
    assert server.num_bytes < size / 2


KINDS = {
    "plain.mp4": {},
    "open_gop.mp4": {"b_frames": 3, "open_gop": True},
    "intra.mp4": {"gop": 1},
    "faststart.mov": {"b_frames": 3, "faststart": True},
    "sound.mp4": {"b_frames": 2, "audio": True},
    "turned.mp4": {"rotation": 90},
    "variable.mp4": {"pts": [100, 133, 150, 400, 410, 1100], "b_frames": 2},
    "odd.mp4": {"size": (65, 47)},
    "hevc.mp4": {"codec": "libx265", "b_frames": 3, "open_gop": True},
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "h264.mkv": {"b_frames": 3},
    "vp8.webm": {"codec": "libvpx"},
    "h264.ts": {},
}


@pytest.mark.parametrize("name", KINDS)
def test_index_and_frames_are_those_of_the_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(http_video, "BLOCK_BYTES", 512)
    settings = KINDS[name]
    num_frames = len(settings.get("pts", range(30)))
    path = write_clip(tmp_path / name, num_frames, **settings)
    url = server.add(path)
    assert_same_index(index_video(url), index_video(path))
    wanted = [num_frames - 1, 0, num_frames // 2]
    np.testing.assert_array_equal(decode_frames(url, wanted).frames, decode_frames(path, wanted).frames)


def test_edit_list_hides_the_same_frames(server: Server, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 40, b_frames=2)
    patch_edit_list(path, num_hidden=5, num_shown=20, fps=25)
    url = server.add(path)
    assert_same_index(index_video(url), index_video(path))
    assert read_frame_numbers(decode_frames(url, [0, 19]).frames) == [5, 24]


def test_fragments_are_walked_in_full(server: Server, tmp_path: Path, long_clip: Path) -> None:
    path = tmp_path / "fragments.mp4"
    with av.open(str(long_clip)) as given, av.open(str(path), "w", options={"movflags": "frag_keyframe"}) as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                written.mux(packet)
    index = index_video(server.add(path))
    assert index.num_frames == 250
    assert_same_index(index, index_video(path))
    # FFmpeg looks ahead so far at opening that it knows all fragments of so small a file.
    assert not has_all_tables(HttpFile(server.url(path.name), timeout=5))
    whole = HttpFile(server.add(long_clip), timeout=5)
    whole.seek(99)
    assert has_all_tables(whole)
    assert whole.tell() == 99


def test_cut_off_file_yields_the_same_frames(server: Server, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 40, size=(160, 120), gop=20, faststart=True)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    url = server.add(path)
    index = index_video(url)
    assert 5 < index.num_frames < index.announced_frames == 40
    assert_same_index(index, index_video(path))


def test_blocks_kept_are_few(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_video, "KEPT_BLOCKS", 4)
    monkeypatch.setattr(http_video, "MAX_BLOCKS_AT_ONCE", 4)
    data = np.random.default_rng(0).bytes(20 * BLOCK + 7)
    (tmp_path / "data").write_bytes(data)
    file = HttpFile(server.add(tmp_path / "data"), timeout=5)
    read = b""
    while part := file.read(1000):
        read += part
        assert len(file._blocks) <= 4
    assert read == data
    assert server.num_requests < 10  # read on and on, it takes several blocks at a time
    for start in (9 * BLOCK - 3, 5, 20 * BLOCK, 9 * BLOCK - 3):
        file.seek(start)
        assert file.read(3) == data[start : start + 3]
    assert file.seek(-2, 2) == file.tell() == len(data) - 2
    assert file.read() == data[-2:]


# ---------- servers of other kinds


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.has_ranges = False
    url = server.add(write_clip(tmp_path / "a.mp4", 20, gop=5, faststart=True))
    assert read_frame_numbers(decode_frames(url, [17, 2], index=index_video(url)).frames) == [17, 2]


def test_redirect_is_followed_once(server: Server, tmp_path: Path) -> None:
    server.add(write_clip(tmp_path / "a.mp4", 40, size=(160, 120)), "stored")
    redirects = []

    def redirect(handler: Handler, start: int) -> bool:
        if handler.path != "/a.mp4":
            return False
        redirects.append(start)
        handler.send_part(302, b"", {"Location": "/stored?signature=1"})
        return True

    server.fault = redirect
    assert index_video(server.url("a.mp4")).num_frames == 40
    assert redirects == [0]


def test_expired_address_behind_a_redirect_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.add(write_clip(tmp_path / "a.mp4", 60, size=(160, 120)), "stored")
    asked: list[str] = []

    def redirect(handler: Handler, start: int) -> bool:
        asked.append(handler.path)
        if handler.path == "/a.mp4":
            handler.send_part(302, b"", {"Location": f"/stored?signature={len(asked)}"})
        elif handler.path == "/stored?signature=1" and start > 0:
            handler.send_error(403)
        else:
            return False
        return True

    server.fault = redirect
    assert index_video(server.url("a.mp4")).num_frames == 60
    assert asked.count("/a.mp4") == 2


def test_characters_that_a_url_may_not_hold(server: Server, tmp_path: Path) -> None:
    server.add(write_clip(tmp_path / "a.mp4", 3), "a%20clip%20%C3%A9.mp4")
    assert index_video(server.url("a clip é.mp4")).num_frames == 3


# ---------- faults


def test_missing_file_and_host_that_is_not_there(server: Server) -> None:
    with pytest.raises(VideoDecodeError, match=rf"nowhere\.mp4' cannot be opened .*HTTP 404 .*{WAY_OUT}"):
        index_video(server.url("nowhere.mp4"))
    assert server.num_requests == 1
    with pytest.raises(
        VideoDecodeError, match=rf"'http://127\.0\.0\.1:9/a\.mp4' cannot be opened .*refused.*{WAY_OUT}"
    ):
        index_video("http://127.0.0.1:9/a.mp4")


@pytest.mark.parametrize("content", [b"", b"<html>nothing here</html>" * 50, b"no video at all " * 100])
def test_file_that_is_no_video(server: Server, content: bytes) -> None:
    server.files["a.mp4"] = content
    with pytest.raises(VideoDecodeError, match=r"a\.mp4' cannot be opened as a video"):
        index_video(server.url("a.mp4"))


def failing(server: Server, how: str, after: int, times: int = 1000) -> Callable[[Handler, int], bool]:
    """Fails `times` times, and only for what lies at `after` or beyond."""
    left = [times]

    def fault(handler: Handler, start: int) -> bool:
        if start < after or left[0] == 0:
            return False
        left[0] -= 1
        size = len(server.files[handler.path.lstrip("/")])
        if how == "cut":
            handler.send_part(206, b"x" * 10, {"Content-Range": f"bytes {start}-{start + 999}/{size}"}, announced=1000)
        elif how == "late":
            time.sleep(0.8)
        elif how == "closed":
            handler.connection.close()
        else:
            handler.send_error(503)
        return True

    return fault


FAULTS = {
    "cut": "cut after 10 of 1000 bytes",
    "late": "timed out",
    "closed": "closed|reset|response",
    "busy": "HTTP 503",
}


@pytest.mark.parametrize("how", FAULTS)
def test_connection_that_fails_in_the_middle_is_an_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(video_source, "NETWORK_TIMEOUT_SECONDS", 0.4 if how == "late" else 20)
    path = write_clip(tmp_path / "a.mkv", 120, size=(160, 120), gop=10)
    url, index = server.add(path), index_video(path)
    server.fault = failing(server, how, after=path.stat().st_size // 2)
    for read in (lambda: index_video(url), lambda: decode_frames(url, [110], index=index)):
        with pytest.raises(VideoDecodeError, match=rf"a\.mkv' cannot be .*({FAULTS[how]}).*{WAY_OUT}"):
            read()


@pytest.mark.parametrize("how", FAULTS)
def test_one_failure_is_forgiven(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(video_source, "NETWORK_TIMEOUT_SECONDS", 0.4 if how == "late" else 20)
    path = write_clip(tmp_path / "a.mkv", 120, size=(160, 120), gop=10)
    url = server.add(path)
    server.fault = failing(server, how, after=path.stat().st_size // 2, times=1)
    assert_same_index(index_video(url), index_video(path))


def test_file_that_changes_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(3 * BLOCK))
    file = HttpFile(server.add(tmp_path / "data"), timeout=5)
    server.files["data"] = bytes(4 * BLOCK)
    file.seek(2 * BLOCK)
    assert file.read() == b""
    assert file.error == f"the file changed from {3 * BLOCK} to {4 * BLOCK} bytes while it was read"
    file.seek(0)
    assert file.read(1) == b""  # once it has failed, nothing more is asked for


def test_address_that_is_none() -> None:
    with pytest.raises(HttpReadError):
        HttpFile("http://[::1/a.mp4", timeout=1)
