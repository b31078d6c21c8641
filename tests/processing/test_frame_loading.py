"""Everything that users hand over as videos, brought into one form, and what they are told when it is no video."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spatial_mllm_hf.processing.frame_loading_spatial_mllm import load_videos

T, H, W = 3, 6, 8
URL = "https://example.com/walk.mp4?token=1"


def make_frames(seed: int = 0, num_frames: int = T) -> np.ndarray:
    """Noise, uint8 [T, H, W, 3], so that no two frames or axes look alike."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, H, W, 3), dtype=np.uint8)


def first(frames: np.ndarray) -> torch.Tensor:
    """[T, H, W, 3] → [T, 3, H, W]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def assert_loaded(videos: Any, expected: list[Any]) -> None:
    loaded = load_videos(videos)
    assert len(loaded) == len(expected)
    for video, wanted in zip(loaded, expected):
        if isinstance(wanted, str):
            assert video == wanted
        else:
            assert isinstance(video, torch.Tensor)
            assert video.dtype == wanted.dtype
            torch.testing.assert_close(video, wanted, rtol=0, atol=0)


@pytest.fixture
def image_paths(tmp_path: Path) -> list[Path]:
    """Frames of `make_frames()` as png files."""
    paths = [tmp_path / f"frame_{number}.png" for number in range(T)]
    for path, frame in zip(paths, make_frames()):
        Image.fromarray(frame).save(path)
    return paths


@pytest.mark.parametrize("source", ["walk.mp4", "walk", "/data/a b.webm", "file:///data/walk.mkv", URL])
def test_source_is_left_as_it_is(source: str) -> None:
    assert load_videos(source) == [source]
    assert load_videos([source, source]) == [source, source]


def test_path_object_becomes_its_path() -> None:
    assert load_videos(Path("/data/walk.mp4")) == ["/data/walk.mp4"]
    assert load_videos([[Path("/data/walk.mp4")], ["other.mp4"]]) == ["/data/walk.mp4", "other.mp4"]


@pytest.mark.parametrize("as_input", [torch.from_numpy, np.asarray], ids=["tensor", "array"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_one_array_is_one_video(as_input: Callable[[np.ndarray], Any], channels_first: bool) -> None:
    frames = make_frames()
    given = np.moveaxis(frames, -1, 1).copy() if channels_first else frames
    assert_loaded(as_input(given), [first(frames)])
    assert_loaded([as_input(given)], [first(frames)])


@pytest.mark.parametrize("as_input", [torch.from_numpy, np.asarray], ids=["tensor", "array"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_five_dimensions_are_a_batch(as_input: Callable[[np.ndarray], Any], channels_first: bool) -> None:
    clips = np.stack([make_frames(seed) for seed in range(2)])
    given = np.moveaxis(clips, -1, 2).copy() if channels_first else clips
    assert_loaded(as_input(given), [first(clip) for clip in clips])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_dtype_and_values_are_kept(dtype: torch.dtype) -> None:
    frames = first(make_frames()).to(dtype)
    assert_loaded(frames, [frames])


@pytest.mark.parametrize("shape", [(T, H, W, 1), (T, 1, H, W)])
def test_one_channel_becomes_three(shape: tuple[int, ...]) -> None:
    grey = make_frames()[..., 0]
    assert_loaded(grey.reshape(shape), [torch.from_numpy(grey)[:, None].expand(T, 3, H, W)])


def test_channels_first_is_taken_where_both_would_do() -> None:
    frames = torch.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3)
    assert_loaded(frames, [frames])


@pytest.mark.parametrize(
    "as_frame",
    [
        np.asarray,
        lambda frame: np.moveaxis(frame, -1, 0).copy(),
        torch.from_numpy,
        lambda frame: torch.from_numpy(frame).permute(2, 0, 1),
        Image.fromarray,
    ],
    ids=["array", "array_channels_first", "tensor", "tensor_channels_first", "image"],
)
def test_list_of_frames_is_one_video(as_frame: Callable[[np.ndarray], Any]) -> None:
    frames = make_frames()
    assert_loaded([as_frame(frame) for frame in frames], [first(frames)])
    assert_loaded(tuple(as_frame(frame) for frame in frames), [first(frames)])
    assert_loaded([as_frame(frames[0])], [first(frames[:1])])


def test_list_of_image_paths_is_one_video(image_paths: list[Path]) -> None:
    assert_loaded(image_paths, [first(make_frames())])
    assert_loaded([str(path) for path in image_paths], [first(make_frames())])
    assert_loaded([str(image_paths[1])], [first(make_frames()[1:2])])


@pytest.mark.parametrize("suffix", [".PNG", ".bmp", ".tiff", ".webp", ".ppm"])
def test_other_kinds_of_image_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"frame{suffix}"
    Image.fromarray(make_frames()[0]).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert_loaded([path], [first(make_frames()[:1])])


def test_frames_of_different_kinds_are_one_video(image_paths: list[Path]) -> None:
    frames = make_frames()
    assert_loaded([image_paths[0], Image.fromarray(frames[1]), torch.from_numpy(frames[2])], [first(frames)])


def test_grey_and_transparent_frames_become_rgb(tmp_path: Path) -> None:
    grey = make_frames()[0, ..., 0]
    threefold = torch.from_numpy(grey)[None, None].expand(1, 3, H, W)
    assert_loaded([grey], [threefold])
    assert_loaded([torch.from_numpy(grey)], [threefold])
    assert_loaded([grey[..., None]], [threefold])
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert_loaded([tmp_path / "grey.png"], [threefold])
    opaque = Image.fromarray(make_frames()[0]).convert("RGBA")
    assert_loaded([opaque], [first(make_frames()[:1])])


def test_nested_lists_of_batched_chats() -> None:
    frames, other = make_frames(), make_frames(1, num_frames=2)
    images = [Image.fromarray(frame) for frame in frames]
    expected = ["walk.mp4", first(frames), first(other), URL]
    assert_loaded([["walk.mp4", images], [], [[other]], [URL], []], expected)
    assert_loaded([[], ["walk.mp4"], []], ["walk.mp4"])


def test_videos_of_different_kinds_keep_their_order(image_paths: list[Path]) -> None:
    frames = make_frames()
    batch = np.stack([frames, frames])
    videos = [first(frames), Path("walk.mp4"), [str(path) for path in image_paths], batch, list(frames), "other.mkv"]
    clip = first(frames)
    assert_loaded(videos, [clip, "walk.mp4", clip, clip, clip, clip, "other.mkv"])


def test_frames_of_two_videos_may_differ_in_size() -> None:
    small = np.zeros((2, 4, 4, 3), np.uint8)
    assert_loaded([list(small), list(make_frames())], [first(small), first(make_frames())])


@pytest.mark.parametrize(
    "flipped",
    [lambda frames: frames[::-1], lambda frames: list(frames[:, ::-1]), lambda frames: frames[..., ::-1]],
    ids=["backwards", "list_upside_down", "bgr_to_rgb"],
)
def test_arrays_with_negative_strides(flipped: Callable[[np.ndarray], Any]) -> None:
    expected = np.ascontiguousarray(np.stack(list(flipped(make_frames()))))
    assert_loaded(flipped(make_frames()), [first(expected)])


def test_read_only_arrays_are_neither_warned_about_nor_written_to(recwarn: pytest.WarningsRecorder) -> None:
    frames = make_frames()
    frames.flags.writeable = False
    assert_loaded(frames, [first(make_frames())])
    assert [str(warning.message) for warning in recwarn if "writable" in str(warning.message)] == []


def test_orientation_of_photographs_is_applied(tmp_path: Path) -> None:
    frame = make_frames()[0]
    photograph = Image.fromarray(frame)
    exif = photograph.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    photograph.save(tmp_path / "photograph.png", exif=exif)
    assert_loaded([tmp_path / "photograph.png"], [first(np.rot90(frame, -1)[None].copy())])


@pytest.mark.parametrize("videos", [[], (), [[]], [[], []], np.zeros((0, T, H, W, 3))])
def test_nothing_at_all(videos: Any) -> None:
    with pytest.raises(ValueError, match="videos: got an empty list; a video needs at least one frame"):
        load_videos(videos)


@pytest.mark.parametrize("shape", [(0, H, W, 3), (0, 3, H, W), (2, 0, H, W, 3)])
def test_video_of_zero_frames(shape: tuple[int, ...]) -> None:
    for video in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        with pytest.raises(ValueError, match="videos: got a video of zero frames; at least one is needed"):
            load_videos(video)


@pytest.mark.parametrize("shape", [(T, H, W, 4), (T, H, W, 2), (T, 4, H, W), (2, T, H, W, 4)])
def test_wrong_number_of_channels(shape: tuple[int, ...]) -> None:
    found = ", ".join(str(side) for side in shape[-4:])
    with pytest.raises(ValueError, match=rf"videos: frames need 1 or 3 channels, got shape \[{found}\]"):
        load_videos(np.zeros(shape, np.uint8))


def test_frames_of_different_size() -> None:
    frames = [Image.new("RGB", (8, 6)), Image.new("RGB", (8, 6)), Image.new("RGB", (6, 8))]
    with pytest.raises(ValueError, match=r"one size, but frame 0 is 8x6 and frame 2 is 6x8\. .* as images") as caught:
        load_videos(frames)
    assert str(caught.value).startswith("videos: ")


def test_missing_image_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"videos: there is no image file '.*missing\.png'"):
        load_videos([tmp_path / "missing.png"])


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_image_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"videos: '.*broken\.png' cannot be read as an image"):
        load_videos([tmp_path / "broken.png"])


def test_truncated_image_file(image_paths: list[Path]) -> None:
    whole = image_paths[1].read_bytes()
    image_paths[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"videos: '.*frame_1\.png' cannot be read as an image"):
        load_videos(image_paths)


@pytest.mark.parametrize(
    ("videos", "what"),
    [
        (None, "None"),
        (3, "3"),
        ({"path": "walk.mp4"}, r"\{'path': 'walk.mp4'\}"),
        (["walk.mp4", None], "None"),
        (np.zeros((H, W)), r"ndarray of shape \[6, 8\]"),
        (torch.zeros(T, H, W), r"Tensor of shape \[3, 6, 8\]"),
        (np.zeros((1, 1, T, H, W, 3)), r"ndarray of shape \[1, 1, 3, 6, 8, 3\]"),
        ([Image.new("RGB", (8, 6)), "walk.mp4"], r"<PIL\.Image\.Image .* size=8x6"),
    ],
    ids=[
        "none",
        "number",
        "dict",
        "none_in_list",
        "grey_frame",
        "frame",
        "six_dimensions",
        "frame_and_video",
    ],
)
def test_what_is_no_video(videos: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"videos: cannot make a video of {what}.*Pass a path or URL, frames as"):
        load_videos(videos)


def test_error_does_not_quote_a_whole_file() -> None:
    with pytest.raises(ValueError, match="cannot make a video of") as caught:
        load_videos(b"\x00" * 100_000)
    assert len(str(caught.value)) < 1000
