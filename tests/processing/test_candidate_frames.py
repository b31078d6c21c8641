"""Frames streamed, shrunk and kept large are those of a plain decode from start to end, for every kind of clip."""

import os
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import patch_edit_list, read_frame_numbers, write_clip
from torch.utils.data import DataLoader, Dataset

import spatial_mllm_hf.processing.candidate_frames_spatial_mllm as candidate_frames
import spatial_mllm_hf.processing.frame_reading_spatial_mllm as frame_reading
from spatial_mllm_hf.processing.candidate_frames_spatial_mllm import FRAMES_AT_ONCE, CandidateFrames, shrink
from spatial_mllm_hf.processing.frame_reading_spatial_mllm import FRAMES_AHEAD, FrameReader
from spatial_mllm_hf.processing.video_decoding_spatial_mllm import (
    StreamedFrame,
    VideoDecodeError,
    decode_frames,
    index_video,
    stream_frames,
)

NUM_FRAMES = 64
SIZE, PATCH_SIZE = 42, 14  # of the candidates
OPEN_GOP = {"b_frames": 3, "open_gop": True}
PTS = (np.cumsum(np.random.default_rng(0).integers(4, 90, NUM_FRAMES)) + 100).tolist()

KINDS = {
    **{f"h264_{gop}_{b}.mp4": {"gop": gop, "b_frames": b} for gop in (1, 30, 250) for b in (0, 2)},
    **{f"hevc_{gop}.mp4": {"gop": gop, "codec": "libx265"} for gop in (1, 30, 250)},
    "hevc_30_b.mp4": {"gop": 30, "codec": "libx265", **OPEN_GOP},
    "open_gop.mp4": {"gop": 30, **OPEN_GOP},
    "variable.mp4": {"gop": 10, "b_frames": 2, "pts": PTS},
    "turned.mp4": {"gop": 10, "b_frames": 2, "rotation": 90},
    "edit_list.mp4": {"gop": 10, "b_frames": 2},
    "open_gop.mkv": {"gop": 10, **OPEN_GOP},
    "vp9.webm": {"gop": 10, "codec": "libvpx-vp9"},
    "odd.mp4": {"gop": 10, "size": (65, 47)},
}


@pytest.fixture(scope="module", params=KINDS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = KINDS[request.param]
    if settings.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode {settings['codec']}")
    path = write_clip(tmp_path_factory.mktemp("clip") / request.param, NUM_FRAMES, **settings)
    if request.param == "edit_list.mp4":
        patch_edit_list(path, num_hidden=3, num_shown=50, fps=25)
    return path


@pytest.fixture(scope="module")
def plain_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", NUM_FRAMES, gop=10, b_frames=2)


def decode_plainly(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)])
    return np.rot90(frames, axes=(1, 2)) if path.name.startswith("turned") else frames


def some_of(num_frames: int) -> list[int]:
    """Neither sorted nor without repeats."""
    return [num_frames - 1, 0, num_frames // 3, num_frames // 3, 2 * num_frames // 3, 1, num_frames // 2]


def open_files(path: Path) -> int:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("lists open files as Linux does")
    return [os.path.realpath(folder / name) for name in os.listdir(folder)].count(str(path))


# ---------- stream_frames


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_streamed_frames_are_those_of_plain_decoding_in_order_of_time(clip: Path, num_threads: int) -> None:
    expected, index = decode_plainly(clip), index_video(clip)
    assert index.num_frames == len(expected)
    for indices in (some_of(len(expected)), list(range(len(expected))), [len(expected) - 1]):
        streamed = list(stream_frames(clip, indices, index=index, num_threads=num_threads))
        assert [frame.number for frame in streamed] == sorted(indices)
        assert sorted(frame.position for frame in streamed) == list(range(len(indices)))
        for position, number, pixels in streamed:
            assert indices[position] == number
            np.testing.assert_array_equal(pixels, expected[number])
        decoded = decode_frames(clip, indices, index=index, num_threads=num_threads)
        np.testing.assert_array_equal(decoded.frames, expected[indices])


def test_single_frame_is_streamed_as_often_as_asked_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1)
    streamed = list(stream_frames(path, [0, 0, 0]))
    assert [(frame.position, frame.number) for frame in streamed] == [(0, 0), (1, 0), (2, 0)]
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in streamed]), decode_plainly(path)[[0, 0, 0]])


def test_stream_that_is_closed_early_lets_go_of_the_file(plain_clip: Path) -> None:
    before = open_files(plain_clip)
    frames = stream_frames(plain_clip, range(NUM_FRAMES))
    assert next(frames).number == 0
    assert open_files(plain_clip) == before + 1
    frames.close()
    assert open_files(plain_clip) == before


def test_wrong_arguments_are_refused_before_the_first_frame(plain_clip: Path) -> None:
    with pytest.raises(ValueError, match=f"between 0 and {NUM_FRAMES - 1}, .* got {NUM_FRAMES}"):
        stream_frames(plain_clip, [NUM_FRAMES])
    with pytest.raises(ValueError, match="num_threads must be 0"):
        stream_frames(plain_clip, [0], num_threads=-1)


def test_key_frame_to_which_no_seek_goes_is_not_sought(tmp_path: Path) -> None:
    """Some writers leave key frames of open groups out of the table: a seek lands before them, each time anew."""
    path = write_clip(tmp_path / "a.mp4", NUM_FRAMES, gop=10)
    expected, data = decode_plainly(path), bytearray(path.read_bytes())
    count = data.index(b"stss") + 8
    assert struct.unpack_from(">I", data, count)[0] == 7
    struct.pack_into(">I", data, count, 1)
    index = index_video(bytes(data))
    assert index.keyframe_pts.tolist() == [index.pts[0]]
    np.testing.assert_array_equal(decode_frames(bytes(data), [63, 15], index=index).frames, expected[[63, 15]])


# ---------- candidates


def test_small_and_large_frames_are_those_of_plain_decoding(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = torch.from_numpy(np.ascontiguousarray(decode_plainly(clip))).permute(0, 3, 1, 2)
    indices = np.round(np.linspace(0, len(expected) - 1, 21)).astype(int).tolist()
    small = torch.stack([shrink(expected[[number]], SIZE, PATCH_SIZE)[0] for number in indices]) / 255
    chosen = [20, 3, 11, 3]
    for kept_bytes in (2**30, 0):
        monkeypatch.setattr(candidate_frames, "KEPT_BYTES", kept_bytes)
        candidates = CandidateFrames(FrameReader(str(clip), {}), indices, SIZE, PATCH_SIZE)
        chunks = list(candidates.chunks())
        assert [len(chunk) for chunk in chunks] == [FRAMES_AT_ONCE, FRAMES_AT_ONCE, 21 - 2 * FRAMES_AT_ONCE]
        assert torch.equal(torch.cat(chunks), small)
        assert torch.equal(candidates.small(), small)
        assert candidates.indices == indices
        assert torch.equal(candidates.large(chosen), expected[[indices[position] for position in chosen]])


@pytest.mark.parametrize("spare", [0, -1])
def test_large_frames_are_kept_up_to_the_bound(plain_clip: Path, monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    monkeypatch.setattr(candidate_frames, "KEPT_BYTES", 10 * 3 * 48 * 64 + spare)
    reader = FrameReader(str(plain_clip), {})
    candidates = CandidateFrames(reader, range(0, 60, 6), SIZE, PATCH_SIZE)
    list(candidates.chunks())
    decoded_again: list[list[int]] = []
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda indices: (decoded_again.append(list(indices)), read(indices))[1])
    assert read_frame_numbers(candidates.large([4, 0]).permute(0, 2, 3, 1).numpy()) == [24, 0]
    assert decoded_again == ([] if spare == 0 else [[24, 0]])


def damaged(path: Path, numbers: list[int]) -> None:
    """Wipes out frames of a clip in which no frame refers to another."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for number in numbers:
        data = data.replace(packets[number], bytes(len(packets[number])))
    path.write_bytes(data)


@pytest.mark.parametrize("kept_bytes", [2**30, 0])
def test_candidates_of_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int) -> None:
    monkeypatch.setattr(candidate_frames, "KEPT_BYTES", kept_bytes)
    path = write_clip(tmp_path / "a.mp4", 24, gop=1)
    damaged(path, [0, 10, 11])
    candidates = CandidateFrames(FrameReader(str(path), {}), range(24), SIZE, PATCH_SIZE)
    with pytest.warns(UserWarning, match="Only 21 of the 24 frames"):
        small = torch.cat(list(candidates.chunks()))
    expected = [1, *range(1, 10), 9, 12, *range(12, 24)]
    assert candidates.indices == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        large = candidates.large(range(24))
    assert read_frame_numbers(large.permute(0, 2, 3, 1).numpy()) == expected
    assert torch.equal(shrink(large, SIZE, PATCH_SIZE) / 255, small)


def test_frames_in_memory_are_not_kept_twice() -> None:
    frames = torch.randint(0, 256, (5, 3, 48, 64), dtype=torch.uint8)
    candidates = CandidateFrames(FrameReader(frames, {}), [4, 0, 2], SIZE, PATCH_SIZE)
    assert torch.equal(torch.cat(list(candidates.chunks())), shrink(frames[[4, 0, 2]], SIZE, PATCH_SIZE) / 255)
    assert candidates._large is None
    assert torch.equal(candidates.large([1, 0]), frames[[0, 4]])


# ---------- the decoding thread


@pytest.fixture
def decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Number and thread of each frame as it is decoded."""
    seen: list[tuple[int, int]] = []
    stream = frame_reading.stream_frames

    def watching(*args: object, **options: object) -> Iterator[StreamedFrame]:
        for frame in stream(*args, **options):
            seen.append((frame.number, threading.get_ident()))
            yield frame

    monkeypatch.setattr(frame_reading, "stream_frames", watching)
    return seen


def test_no_more_frames_than_wanted_wait_in_memory(plain_clip: Path, decoded_ahead: list[tuple[int, int]]) -> None:
    for taken, (position, number, _) in enumerate(FrameReader(str(plain_clip), {}).stream(range(NUM_FRAMES)), 1):
        assert position == number == taken - 1
        assert len(decoded_ahead) <= taken + FRAMES_AHEAD
    assert len({thread for _, thread in decoded_ahead} - {threading.get_ident()}) == 1


def test_closing_early_ends_the_thread_and_frees_the_file(
    plain_clip: Path, decoded_ahead: list[tuple[int, int]]
) -> None:
    files, threads = open_files(plain_clip), threading.active_count()
    frames = FrameReader(str(plain_clip), {}).stream(range(NUM_FRAMES))
    assert next(frames)[1] == 0
    assert threading.active_count() == threads + 1
    frames.close()
    assert threading.active_count() == threads
    assert len(decoded_ahead) <= 2 + FRAMES_AHEAD
    assert open_files(plain_clip) == files


def test_error_in_the_decoding_thread_reaches_the_caller(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 8, gop=1)
    reader, threads = FrameReader(str(path), {}), threading.active_count()
    damaged(path, list(range(8)))
    with pytest.raises(VideoDecodeError, match="None of the 8 frames"):
        list(reader.stream(range(8)))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no video file at"):
        list(CandidateFrames(reader, range(8), SIZE, PATCH_SIZE).chunks())
    assert threading.active_count() == threads


class ThreadsWhileReading(Dataset):
    """Numbers of the frames read, and how many threads of a pool there were meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> tuple[list[int], int]:
        most, numbers = 0, []
        for _, number, _ in FrameReader(self.path, {}).stream([1, 20, 40]):
            numbers.append(number)
            most = max(most, sum("ThreadPoolExecutor" in thread.name for thread in threading.enumerate()))
        return numbers, most


def test_worker_of_a_data_loader_starts_no_thread(plain_clip: Path) -> None:
    for numbers, num_threads in DataLoader(ThreadsWhileReading(plain_clip), num_workers=1, batch_size=None):
        assert (numbers, num_threads) == ([1, 20, 40], 0)
    assert ThreadsWhileReading(plain_clip)[0] == ([1, 20, 40], 1)  # here it does
