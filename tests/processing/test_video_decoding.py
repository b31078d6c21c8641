"""Frames read back from clips that we write ourselves, each of which shows its own number."""

import io
import os
import random
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from clips import (
    draw_frame_number,
    patch_display_matrix,
    patch_edit_list,
    read_frame_number,
    read_frame_numbers,
    write_audio_only,
    write_clip,
)
from PIL import Image

import spatial_mllm_hf.processing.video_decoding_spatial_mllm as video_decoding
from spatial_mllm_hf.processing.video_decoding_spatial_mllm import (
    VideoDecodeError,
    decode_frames,
    index_video,
)
from spatial_mllm_hf.processing.video_source_spatial_mllm import VideoNotFoundError

NUM_FRAMES = 40
REORDERED = {"b_frames": 3, "open_gop": True}

# name of the file, and how it is written
KINDS = {
    "h264_plain.mp4": {},
    "h264_b_frames.mp4": {"b_frames": 3},
    "h264_open_gop.mp4": REORDERED,
    "h264_intra.mp4": {"gop": 1},
    "h264_short_gop.mp4": {"gop": 2, "b_frames": 1},
    "h264_faststart.mov": {**REORDERED, "faststart": True},
    "h264.mkv": REORDERED,
    "h264_with_sound.mkv": {**REORDERED, "audio": True},
    "h264.ts": REORDERED,
    "h264.flv": {"b_frames": 2},
    "h264.avi": REORDERED,
    "h264_raw.h264": REORDERED,
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "hevc.mp4": {**REORDERED, "codec": "libx265"},
    "hevc.mkv": {**REORDERED, "codec": "libx265"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
}


@pytest.fixture(scope="module", params=KINDS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = KINDS[request.param]
    if settings.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode {settings['codec']}")
    return write_clip(tmp_path_factory.mktemp("clip") / request.param, NUM_FRAMES, **settings)


def decode_plainly(path: Path) -> np.ndarray:
    """Every frame, by the plainest use of PyAV."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)])


def cut_off(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


# ---------- index and exact frames


def test_index_counts_and_times_the_frames(clip: Path) -> None:
    index = index_video(clip)
    assert index.num_frames == len(decode_plainly(clip)) == NUM_FRAMES
    assert index.announced_frames == NUM_FRAMES
    np.testing.assert_allclose(index.timestamps, np.arange(NUM_FRAMES) / 25, atol=2e-3)
    assert index.average_fps == pytest.approx(25, rel=2e-3)
    assert index.duration == pytest.approx(NUM_FRAMES / 25, rel=2e-3)
    assert (index.width, index.height, index.rotation) == (64, 48, 0)
    assert np.isin(index.keyframe_pts, index.pts).all()


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_any_choice_of_frames_is_bit_equal_to_plain_decoding(clip: Path, num_threads: int) -> None:
    expected, index, rng = decode_plainly(clip), index_video(clip), random.Random(0)
    choices = [range(NUM_FRAMES), [NUM_FRAMES - 1], [0], [23], [12, 11, 13, 36, 35]]
    choices += [rng.choices(range(NUM_FRAMES), k=rng.randint(1, 6)) for _ in range(8)]
    for indices in choices:
        decoded = decode_frames(clip, indices, index=index, num_threads=num_threads)
        assert decoded.indices == list(indices)
        assert read_frame_numbers(decoded.frames) == list(indices)
        np.testing.assert_array_equal(decoded.frames, expected[list(indices)])
        np.testing.assert_array_equal(decoded.timestamps, index.timestamps[list(indices)])


def test_repeated_unsorted_and_numpy_indices(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 20, gop=5)
    indices = [19, 3, 3, 0, 19, 7]
    decoded = decode_frames(path, np.array(indices))
    assert read_frame_numbers(decoded.frames) == decoded.indices == indices
    assert decoded.frames.dtype == np.uint8
    assert decoded.frames.shape == (6, 48, 64, 3)


def test_no_indices_give_no_frames(tmp_path: Path) -> None:
    decoded = decode_frames(write_clip(tmp_path / "a.mp4", 3), [])
    assert decoded.frames.shape == (0, 48, 64, 3)
    assert decoded.indices == []
    assert decoded.timestamps.shape == (0,)


@pytest.mark.parametrize("wrong", [-1, 5, 100])
def test_index_out_of_range_is_named(tmp_path: Path, wrong: int) -> None:
    path = write_clip(tmp_path / "a.mp4", 5)
    with pytest.raises(ValueError, match=rf"between 0 and 4, .*a\.mp4' has 5 frames; got {wrong}\."):
        decode_frames(path, [0, wrong])


def test_negative_num_threads_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_threads must be 0 .* got -1"):
        decode_frames(write_clip(tmp_path / "a.mp4", 2), [0], num_threads=-1)


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path: Path, extension: str) -> None:
    milliseconds = [100, 133, 150, 400, 410, 1100]
    path = write_clip(tmp_path / f"a.{extension}", 6, pts=milliseconds, b_frames=2)
    index = index_video(path)
    np.testing.assert_allclose(index.timestamps, (np.array(milliseconds) - 100) / 1000, atol=1e-3)
    assert index.average_fps == pytest.approx(5 / 1.0, rel=1e-3)
    assert read_frame_numbers(decode_frames(path, [5, 3, 4], index=index).frames) == [5, 3, 4]


def test_single_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1, fps=10)
    index = index_video(path)
    assert (index.num_frames, index.average_fps, index.duration) == (1, 10.0, 0.1)
    np.testing.assert_array_equal(index.timestamps, [0.0])
    assert read_frame_numbers(decode_frames(path, [0, 0]).frames) == [0, 0]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9")])
def test_odd_size(tmp_path: Path, name: str, codec: str) -> None:
    path = write_clip(tmp_path / name, 3, size=(65, 47), codec=codec)
    assert (index_video(path).width, index_video(path).height) == (65, 47)
    assert read_frame_numbers(decode_frames(path, [2, 1]).frames) == [2, 1]


def test_frames_that_change_size_take_that_of_the_first(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "first.h264", 3)
    second = write_clip(tmp_path / "second.h264", 3, size=(128, 96))
    both = first.read_bytes() + second.read_bytes()
    assert index_video(both).num_frames == 6
    decoded = decode_frames(both, range(6))
    assert decoded.frames.shape == (6, 48, 64, 3)
    assert read_frame_numbers(decoded.frames) == [0, 1, 2, 0, 1, 2]


def test_last_frame_that_stays_on_is_not_taken_for_a_cut(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 8, pts=[0, 40, 80, 900, 940, 980, 1020, 1060])
    data, stated = path.read_bytes(), b"00:00:01.1"
    assert data.count(stated) == 1
    assert index_video(data.replace(stated, b"00:00:02.5")).announced_frames == 8
    assert index_video(data.replace(stated, b"00:00:03.5")).announced_frames > 8


# ---------- what can be shown


@pytest.mark.parametrize("b_frames", [0, 2])
def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path: Path, b_frames: int) -> None:
    path = write_clip(tmp_path / "a.mp4", NUM_FRAMES, b_frames=b_frames)
    patch_edit_list(path, num_hidden=5, num_shown=20, fps=25)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == NUM_FRAMES
    index = index_video(path)
    assert index.num_frames == len(decode_plainly(path)) == 20
    assert index.timestamps[0] == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # frames that the edit list hides are not missing
        decoded = decode_frames(path, [0, 19, 10])
    assert read_frame_numbers(decoded.frames) == [5, 24, 15]


def test_reference_only_frames_of_vp8_do_not_count(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.webm", 10, codec="libvpx")
    hidden = packets_of(path)[4]
    assert hidden[0] & 0x10
    path.write_bytes(path.read_bytes().replace(hidden, bytes([hidden[0] & ~0x10]) + hidden[1:]))
    index = index_video(path)
    assert index.num_frames == len(decode_plainly(path)) == 9
    assert read_frame_numbers(decode_frames(path, range(9)).frames) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


# ---------- rotation


@pytest.mark.parametrize("rotation", [90, -90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    path = write_clip(tmp_path / "a.mp4", 6, size=(64, 48), rotation=rotation, b_frames=2)
    index = index_video(path)
    assert (index.width, index.height) == (64, 48)
    assert index.rotation % 360 == rotation % 360
    assert index.rotation in (-180, -90, 90, 180)
    decoded = decode_frames(path, [5, 2])
    assert decoded.frames.shape == (2, 48, 64, 3)
    assert read_frame_numbers(decoded.frames) == [5, 2]
    np.testing.assert_array_equal(decoded.frames, np.rot90(decode_plainly(path), rotation // 90, axes=(1, 2))[[5, 2]])


def test_rotation_has_the_sign_that_pyav_writes(tmp_path: Path) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
        stream.set_display_rotation(90)
        stored = np.ascontiguousarray(np.rot90(draw_frame_number(77, (64, 48)), -1))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    assert index_video(tmp_path / "a.mp4").rotation == 90
    assert read_frame_numbers(decode_frames(tmp_path / "a.mp4", [0]).frames) == [77]


@pytest.mark.parametrize(
    ("matrix", "as_shown"),
    [
        ((-1, 0, 0, 1), lambda stored: stored[:, ::-1]),
        ((1, 0, 0, -1), lambda stored: stored[::-1]),
        ((0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda stored: stored.swapaxes(0, 1)[::-1, ::-1]),
    ],
)
def test_mirrored_video_is_shown_as_a_player_does(tmp_path: Path, matrix: tuple, as_shown: object) -> None:
    path = write_clip(tmp_path / "a.mp4", 2)
    stored = decode_plainly(path)[1]
    patch_display_matrix(path, matrix)
    shown = decode_frames(path, [1]).frames[0]
    np.testing.assert_array_equal(shown, as_shown(stored))
    assert shown.shape[:2] == (index_video(path).height, index_video(path).width)


# ---------- seeking


def test_seeking_decodes_less_than_reading_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", 200, gop=10, codec="mpeg4")
    index, num_packets = index_video(path), 0
    decode_packet = video_decoding.decode_packet

    def counting(stream: av.VideoStream, packet: av.Packet | None) -> list[av.VideoFrame]:
        nonlocal num_packets
        num_packets += 1
        return decode_packet(stream, packet)

    monkeypatch.setattr(video_decoding, "decode_packet", counting)
    assert read_frame_numbers(decode_frames(path, [3, 101, 199], index=index, num_threads=1).frames) == [3, 101, 199]
    assert num_packets < 30


@pytest.mark.parametrize("lands_at", ["start", "end", "a group late", "a group early", "nowhere"])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx265"), ("a.flv", "libx264"), ("a.mpg", "mpeg2video"), ("a.ts", "libx264")],
)
def test_where_a_seek_lands_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lands_at: str, name: str, codec: str
) -> None:
    path = write_clip(tmp_path / name, 60, gop=6, codec=codec, **REORDERED)
    expected, index = decode_plainly(path), index_video(path)
    group = int(index.pts[6] - index.pts[0])

    def landing_elsewhere(container: av.container.InputContainer, stream: av.VideoStream, pts: int) -> bool:
        if lands_at == "nowhere":
            return False
        shift = group if lands_at == "a group late" else -group
        places = {"start": int(index.pts[0]), "end": int(index.pts[-1])}
        container.seek(places.get(lands_at, pts + shift), stream=stream)
        return True

    monkeypatch.setattr(video_decoding, "_seek", landing_elsewhere)
    for indices in ([53], [2, 23, 24, 41], [10, 17, 18, 19, 20, 58]):
        decoded = decode_frames(path, indices, index=index, num_threads=1)
        assert decoded.indices == indices
        np.testing.assert_array_equal(decoded.frames, expected[indices])


def test_frames_before_the_key_frame_sought_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder may show pictures that refer to others from before the seek: such a picture is black here."""
    path = write_clip(tmp_path / "a.mp4", 30, gop=10)
    expected, index, landings = decode_plainly(path), index_video(path), []
    numbered = video_decoding._numbered

    def landing_one_group_late(container: av.container.InputContainer, stream: av.VideoStream, pts: int) -> bool:
        container.seek(int(index.pts[20]), stream=stream)
        landings.append(pts)
        return True

    def with_a_broken_picture(frames: Iterator[av.VideoFrame], index: object) -> Iterator[tuple[int, av.VideoFrame]]:
        if landings:
            landings.clear()
            yield 19, av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8))
        yield from numbered(frames, index)

    monkeypatch.setattr(video_decoding, "_seek", landing_one_group_late)
    monkeypatch.setattr(video_decoding, "_numbered", with_a_broken_picture)
    np.testing.assert_array_equal(decode_frames(path, [19], index=index).frames, expected[[19]])


# ---------- damaged files


def needs_frame_table(path: Path) -> None:
    if path.suffix == ".mp4" and not hasattr(av.stream.Stream, "index_entries"):
        pytest.skip("PyAV tells how many frames an mp4 announces from version 17 on")


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {"faststart": True}),
        ("a.mp4", {"faststart": True, "b_frames": 2}),
        ("a.mkv", {"b_frames": 2}),
        ("a.webm", {"codec": "libvpx-vp9"}),
    ],
)
def test_cut_off_file_yields_what_is_there(tmp_path: Path, name: str, settings: dict, num_threads: int) -> None:
    path = cut_off(write_clip(tmp_path / name, NUM_FRAMES, size=(160, 120), gop=20, **settings))
    needs_frame_table(path)
    index = index_video(path)
    assert 5 < index.num_frames < NUM_FRAMES
    assert index.announced_frames == NUM_FRAMES
    with pytest.warns(UserWarning, match=rf"Only {index.num_frames} of the 40 frames of .*{name}' can be") as seen:
        decoded = decode_frames(path, range(index.num_frames), index=index, num_threads=num_threads)
    assert seen[0].filename == __file__
    assert decoded.indices == list(range(index.num_frames))
    # The last frame may have been stored before the one shown before it, which is then lost.
    assert read_frame_numbers(decoded.frames) == np.round(decoded.timestamps * 25).astype(int).tolist()


def test_cut_off_file_with_its_frame_table_at_the_end_cannot_be_opened(tmp_path: Path) -> None:
    path = cut_off(write_clip(tmp_path / "a.mp4", NUM_FRAMES, size=(160, 120)))
    with pytest.raises(VideoDecodeError, match=r"a\.mp4' cannot be opened as a video .* get a whole copy") as caught:
        index_video(path)
    assert isinstance(caught.value.__cause__, av.error.FFmpegError)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_frame_that_cannot_be_decoded_is_replaced_by_the_nearest(tmp_path: Path, num_threads: int) -> None:
    path = write_clip(tmp_path / "a.mp4", 12, gop=1)
    damaged = path.read_bytes()
    for number in (0, 5, 6):
        packet = packets_of(path)[number]
        damaged = damaged.replace(packet, bytes(len(packet)))
    index = index_video(damaged)
    assert index.num_frames == 12
    with pytest.warns(UserWarning, match="Only 9 of the 12 frames of the video of"):
        decoded = decode_frames(damaged, [6, 0, 5, 5, 9], index=index, num_threads=num_threads)
    assert read_frame_numbers(decoded.frames) == decoded.indices == [7, 1, 4, 4, 9]
    np.testing.assert_array_equal(decoded.timestamps, index.timestamps[[7, 1, 4, 4, 9]])


def test_of_two_equally_near_frames_the_earlier_is_taken(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 9, gop=1)
    packet = packets_of(path)[4]
    with pytest.warns(UserWarning, match="Only 8 of the 9 frames"):
        decoded = decode_frames(path.read_bytes().replace(packet, bytes(len(packet))), [4])
    assert read_frame_numbers(decoded.frames) == decoded.indices == [3]


def test_file_without_a_decodable_frame_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 4)
    data = path.read_bytes()
    for packet in packets_of(path):
        data = data.replace(packet, bytes(len(packet)))
    with pytest.raises(VideoDecodeError, match=r"None of the 4 frames of the video of .* damaged or encrypted"):
        index_video(data)
    with pytest.raises(VideoDecodeError, match="None of the 4 frames"):
        decode_frames(data, [2], index=index_video(path))


def test_messages_of_ffmpeg_stay_off_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = cut_off(write_clip(tmp_path / "a.mp4", NUM_FRAMES, size=(160, 120), faststart=True, b_frames=2))
    needs_frame_table(path)
    capfd.readouterr()
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)  # as torchvision does when imported
    try:
        with pytest.warns(UserWarning, match="frames of"):
            decode_frames(path, [0, index_video(path).num_frames - 1], num_threads=3)
        assert not caplog.records
        decode_loudly(path)
        assert caplog.records  # so the file does make FFmpeg complain
    finally:
        av.logging.set_level(level)
    assert capfd.readouterr().err == ""


def decode_loudly(path: Path) -> None:
    with av.open(str(path)) as container, pytest.raises(av.error.FFmpegError):
        list(container.decode(video=0))


# ---------- not a video


def write_still_picture(path: Path) -> Path:
    Image.new("RGB", (32, 32)).save(path, format="JPEG")
    return path


def write_text(path: Path) -> Path:
    path.write_text("hello world\n" * 40)
    return path


def write_sound_with_cover(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        container.mux(cover.encode(av.VideoFrame.from_ndarray(draw_frame_number(0, (64, 48)), format="rgb24")))
        container.mux(cover.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def write_without_frames(path: Path) -> Path:
    write_clip(path, 0, audio=True)
    return path


def write_unknown_codec(path: Path) -> Path:
    write_clip(path, 2)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    return path


def touch(path: Path) -> Path:
    path.touch()
    return path


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (touch, "a.mp4", r"is empty \(0 bytes\)"),
        (make_directory, "clips.mp4", "is a directory"),
        (write_text, "a.txt", "is a text file, not a video"),
        (write_text, "a.mp4", "cannot be opened as a video"),
        (write_still_picture, "a.jpg", r"is a still picture \(\w+\), not a video. Pass it as an image"),
        (write_still_picture, "a.mp4", "is a still picture"),
        (write_audio_only, "a.m4a", r"has no video stream \(found: audio\)"),
        (partial(write_audio_only, codec="pcm_s16le"), "a.wav", r"has no video stream \(found: audio\)"),
        (write_sound_with_cover, "a.mp4", r"has no video stream \(found: audio\)"),
        (write_without_frames, "a.mkv", "has a video stream without a single frame"),
        (write_unknown_codec, "a.mp4", "FFmpeg has no decoder for"),
    ],
)
def test_what_is_not_a_video_has_its_own_error(tmp_path: Path, write: object, name: str, message: str) -> None:
    path = write(tmp_path / name)
    with pytest.raises(VideoDecodeError, match=message) as caught:
        index_video(path)
    assert str(path) in str(caught.value)
    with pytest.raises(VideoDecodeError, match=message):
        decode_frames(path, [0])


def test_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match=r"no video file at .*nowhere\.mp4.*Check the path") as caught:
        index_video(tmp_path / "nowhere.mp4")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("wrong", [3, None, io.StringIO("text"), ["a.mp4"]])
def test_source_of_a_wrong_type_is_named(wrong: object) -> None:
    with pytest.raises(VideoDecodeError, match=f"seekable binary file, got {type(wrong).__name__}"):
        index_video(wrong)


def test_empty_bytes_are_an_error() -> None:
    with pytest.raises(VideoDecodeError, match="the video of 0 bytes is empty"):
        index_video(b"")


# ---------- sources


@pytest.fixture
def plain_clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "take2:a clip.mp4", 10, gop=4, b_frames=1)


def test_bytes_paths_and_urls_read_the_same(plain_clip: Path) -> None:
    for source in (plain_clip, str(plain_clip), plain_clip.as_uri(), plain_clip.read_bytes()):
        assert index_video(source).num_frames == 10
        assert read_frame_numbers(decode_frames(source, [8, 1]).frames) == [8, 1]


def test_file_object_is_read_from_its_start_each_time(plain_clip: Path) -> None:
    with plain_clip.open("rb") as file:
        file.seek(0, os.SEEK_END)
        for indices in ([9], [0, 5]):
            assert read_frame_numbers(decode_frames(file, indices).frames) == indices
        assert not file.closed


def test_relative_path_with_a_colon_is_no_protocol(plain_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plain_clip.parent)
    assert index_video(plain_clip.name).num_frames == 10


def test_metadata_that_is_not_utf8_does_no_harm(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 2)
    data = path.read_bytes()
    assert data.count(b"VideoHandler") == 1
    path.write_bytes(data.replace(b"VideoHandler", b"Video\xff\xfe\xfdnder"))
    assert index_video(path).num_frames == 2


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(plain_clip: Path) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(plain_clip.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_video_is_streamed_over_http(server: str) -> None:
    url = f"{server}/take2%3Aa%20clip.mp4"
    assert read_frame_numbers(decode_frames(url, [7, 2], index=index_video(url)).frames) == [7, 2]


def test_http_failure_is_a_video_decode_error(server: str) -> None:
    with pytest.raises(VideoDecodeError, match=r"nowhere\.mp4' cannot be opened .*404.* Check the URL and the network"):
        index_video(f"{server}/nowhere.mp4")


# ---------- helpers, real clips


def test_helper_refuses_a_picture_that_is_not_upright() -> None:
    picture = draw_frame_number(201, (64, 48))
    assert read_frame_number(picture) == 201
    for turned in (np.rot90(picture), picture[::-1, ::-1], picture[:, ::-1]):
        with pytest.raises(ValueError, match="not upright"):
            read_frame_number(turned)


@pytest.mark.skipif(not os.environ.get("SPATIAL_MLLM_MEDIA"), reason="SPATIAL_MLLM_MEDIA names no folder of real clips")
@pytest.mark.parametrize(
    ("name", "num_frames", "size", "fps"),
    [
        ("robot_unitree.mp4", 174, (1024, 576), 50.0),
        ("47334096.mp4", 28, (480, 640), 2.0),
        ("man_walking_long.mp4", 24, (720, 352), 1.0),
    ],
)
def test_real_clips(name: str, num_frames: int, size: tuple[int, int], fps: float) -> None:
    path = Path(os.environ["SPATIAL_MLLM_MEDIA"]) / name
    index, expected = index_video(path), decode_plainly(path)
    assert index.num_frames == len(expected) == num_frames
    assert (index.width, index.height) == size
    assert index.average_fps == pytest.approx(fps)
    indices = np.round(np.linspace(num_frames - 1, 0, 9)).astype(int).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_frames(path, indices, index=index).frames, expected[indices])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux lists them")
def test_a_converted_frame_holds_no_threads(tmp_path: Path) -> None:
    """They would be waited for, for ever, by a forked loader worker that frees the frame."""
    write_clip(tmp_path / "clip.mp4", 1, fps=10, size=(640, 480))
    index = index_video(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        container.streams.video[0].thread_count = 1
        frame = next(container.decode(video=0))
        before = len(os.listdir("/proc/self/task"))
        list(video_decoding._placed([0], 0, frame, index))
        assert len(os.listdir("/proc/self/task")) == before
