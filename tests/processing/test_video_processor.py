"""From a clip to patches: which frames are chosen, what they become, and what is told about them.

The clips' frames show their own number, which is read back out of the patches. SIZE leaves 84 x 56 pixels as they are.
"""

import copy
import json
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import draw_frame_number, read_frame_number, read_frame_numbers, write_clip
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoVideoProcessor, BatchFeature

from spatial_mllm_hf import SpatialMLLMVideoProcessor

SIZE = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
WIDTH, HEIGHT = 84, 56
NUM_FRAMES = 20  # of `clip`, ten a second
OPTIONS: dict[str, Any] = {
    "num_frames": 6,
    "frame_sampling": "space_aware",
    "num_candidate_frames": 9,
    "candidate_size": 70,
    "geometry_source": "depth",
    "second_per_grid": 0.5,
    "size": {"shortest_edge": 3136, "longest_edge": 6272},
    "do_sample_frames": False,
}


class NumberedScene:
    """Geometry of clips whose frames show their number: frame n sees the voxels `seen[n]` of a row, of side 1.

    Keeps what it was asked, and holds a lock, which can be neither pickled nor copied.
    """

    def __init__(self, seen: dict[int, list[int]]) -> None:
        self.seen = seen
        self.lock = threading.Lock()
        self.frames = torch.empty(0)
        self.numbers: list[int] = []
        self.options: dict[str, Any] = {}

    def predict_geometry(self, frames: torch.Tensor, **options: Any) -> SimpleNamespace:
        self.frames, self.options = frames, options
        self.numbers = read_frame_numbers(frames.permute(0, 2, 3, 1).numpy() * 255)
        S, _, H, W = frames.shape
        points = torch.zeros(S, H * W, 3)
        points[:, 0] = torch.tensor([20.0, 20.0, 40.0])  # the far corner of the box
        for frame, number in enumerate(self.numbers):
            for place, voxel in enumerate(self.seen.get(number, []), start=1):
                points[frame, place] = torch.tensor([0.5, 0.5, voxel + 0.5])
        return SimpleNamespace(points=points.view(S, H, W, 3), confidence=torch.ones(S, H, W))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", NUM_FRAMES, size=(WIDTH, HEIGHT), fps=10))


@pytest.fixture(scope="module")
def processor() -> SpatialMLLMVideoProcessor:
    """Not to be bound to anything."""
    return SpatialMLLMVideoProcessor(size=SIZE)


@pytest.fixture
def bound() -> tuple[SpatialMLLMVideoProcessor, NumberedScene]:
    """Frames 3, 8, 15 and 16 see something; 16 is picked first, and 3 then adds nothing."""
    scene = NumberedScene({3: [5], 8: [1, 2, 3], 15: [9, 10], 16: [4, 5, 6, 7]})
    processor = SpatialMLLMVideoProcessor(size=SIZE, num_frames=4, frame_sampling="space_aware", candidate_size=WIDTH)
    processor.bind_geometry(scene)
    return processor, scene


def numbered(*numbers: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """uint8 frames [T, H, W, 3] that show these numbers."""
    return np.stack([draw_frame_number(number, size) for number in numbers])


def frames_of(inputs: BatchFeature, video: int = 0) -> torch.Tensor:
    """The frames [T, 3, H, W] in 0..255 that one video's patches show."""
    ends = inputs["video_grid_thw"].prod(-1).cumsum(0).tolist()
    patches = inputs["pixel_values_videos"][([0, *ends])[video] : ends[video]]
    t, h, w = inputs["video_grid_thw"][video].tolist()
    patches = patches.view(t, h // 2, w // 2, 2, 2, 3, 2, 14, 14)  # merged rows and columns, rows and columns in them
    frames = patches.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(2 * t, 3, 14 * h, 14 * w)
    return (frames * STD + MEAN) * 255


def numbers_of(inputs: BatchFeature, video: int = 0) -> list[int]:
    return read_frame_numbers(frames_of(inputs, video).permute(0, 2, 3, 1).numpy())


def evenly(num_available: int, num_frames: int) -> list[int]:
    return np.round(np.linspace(0, num_available - 1, num_frames)).astype(int).tolist()


# ---- against the public preprocessing, on real clips ----


@pytest.mark.parametrize("name", ["47334096", "man_walking_long"])
def test_preprocessing_of_the_public_code(media: Path, reference: Path, name: str) -> None:
    expected = json.loads((reference / "preprocess" / "expected.json").read_text())[name]
    tensors = load_file(reference / "preprocess" / "expected.safetensors")
    inputs = SpatialMLLMVideoProcessor()(str(media / f"{name}.mp4"), return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    assert metadata.total_num_frames == expected["total_frames"]
    assert metadata.frames_indices == expected["frame_indices"]
    assert inputs["video_grid_thw"].tolist() == [expected["video_grid_thw"]]
    assert len(inputs["pixel_values_videos"]) == expected["num_patches"]
    rows = inputs["pixel_values_videos"][tensors[f"{name}.rows"]]
    torch.testing.assert_close(rows, tensors[f"{name}.pixel_values_rows"], atol=1e-3, rtol=0)
    frames = frames_of(inputs)
    assert list(frames.shape[-2:]) == expected["resized_height_width"]
    torch.testing.assert_close(frames.mean((1, 2, 3)), tensors[f"{name}.frame_mean"], atol=0.1, rtol=0)
    torch.testing.assert_close(frames.std((1, 2, 3)), tensors[f"{name}.frame_std"], atol=0.1, rtol=0)


def test_folder_of_frames_gives_the_clip(media: Path) -> None:
    paths = sorted((media / "47334096_frames").iterdir())
    processor = SpatialMLLMVideoProcessor(size=SIZE, num_frames=4)
    from_files = processor(paths, num_frames=4, return_metadata=True)
    from_clip = processor(str(media / "47334096.mp4"), return_metadata=True)
    assert len(paths) == from_clip["video_metadata"][0].total_num_frames
    assert from_files["video_metadata"][0].frames_indices == from_clip["video_metadata"][0].frames_indices
    assert torch.equal(from_files["video_grid_thw"], from_clip["video_grid_thw"])
    difference = (frames_of(from_files) - frames_of(from_clip)).abs().mean()
    assert difference < 10  # the files are compressed another way


def test_frames_hidden_by_an_edit_list_do_not_count(media: Path) -> None:
    _, metadata = SpatialMLLMVideoProcessor(num_frames=2).choose_frames(str(media / "robot_unitree.mp4"))
    assert metadata.total_num_frames == 174
    assert metadata.frames_indices == [0, 173]
    assert metadata.timestamps == pytest.approx([0, 173 / metadata.fps])


# ---- uniform sampling ----


@pytest.mark.parametrize("num_frames", [2, 4, 16, 20, 32])
def test_uniform_frames_of_a_file(processor: SpatialMLLMVideoProcessor, clip: str, num_frames: int) -> None:
    inputs = processor(clip, num_frames=num_frames, return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    expected = evenly(NUM_FRAMES, num_frames)
    assert numbers_of(inputs) == metadata.frames_indices == expected
    assert inputs["video_grid_thw"].tolist() == [[num_frames // 2, HEIGHT // 14, WIDTH // 14]]
    assert metadata.timestamps == pytest.approx([index / 10 for index in expected])


def test_default_is_sixteen_uniform_frames(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    inputs = processor(clip, return_metadata=True)
    assert numbers_of(inputs) == evenly(NUM_FRAMES, 16)
    assert inputs["video_metadata"][0].frame_sampling == "uniform"


@pytest.mark.parametrize("available", [1, 2, 3, 7])
def test_short_file_still_gives_as_many_frames(tmp_path: Path, available: int) -> None:
    path = write_clip(tmp_path / "short.mp4", available, size=(WIDTH, HEIGHT))
    inputs = SpatialMLLMVideoProcessor(size=SIZE, num_frames=8)(path)
    assert numbers_of(inputs) == evenly(available, 8)


def test_metadata_of_a_file(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    (metadata,) = processor(clip, num_frames=4, return_metadata=True)["video_metadata"]
    assert (metadata.total_num_frames, metadata.width, metadata.height) == (NUM_FRAMES, WIDTH, HEIGHT)
    assert metadata.fps == pytest.approx(10)
    assert metadata.duration == pytest.approx(2)
    assert metadata.video_backend == "pyav"
    assert metadata.covered_voxels is metadata.total_voxels is None
    assert metadata["frame_timestamps"] == metadata.timestamps
    assert "video_metadata" not in processor(clip, num_frames=4)


def test_timestamps_of_a_variable_frame_rate(tmp_path: Path) -> None:
    milliseconds = [0, 40, 90, 500, 501, 1250, 3000, 3033]
    path = write_clip(tmp_path / "variable.mp4", len(milliseconds), size=(WIDTH, HEIGHT), pts=milliseconds)
    processor = SpatialMLLMVideoProcessor(size=SIZE, num_frames=4)
    (metadata,) = processor(path, return_metadata=True)["video_metadata"]
    assert metadata.frames_indices == [0, 2, 5, 7]
    assert metadata.timestamps == pytest.approx([0, 0.09, 1.25, 3.033], abs=1e-6)
    assert metadata.fps == pytest.approx(7 / 3.033)


def test_portrait_video_is_shown_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "portrait.mp4", 4, size=(HEIGHT, WIDTH), rotation=270)
    inputs = SpatialMLLMVideoProcessor(size=SIZE, num_frames=4)(path)
    assert inputs["video_grid_thw"].tolist() == [[2, WIDTH // 14, HEIGHT // 14]]
    assert numbers_of(inputs) == [0, 1, 2, 3]


def test_fps_gives_an_even_number_of_frames_by_duration(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    assert numbers_of(processor(clip, fps=4)) == evenly(NUM_FRAMES, 8)
    assert numbers_of(processor(clip, fps=2.6)) == evenly(NUM_FRAMES, 4)  # 5.2 frames
    assert numbers_of(processor(clip, fps=0.1)) == [0, NUM_FRAMES - 1]
    assert numbers_of(processor(clip, fps=8, max_frames=7)) == evenly(NUM_FRAMES, 6)


def test_saved_fps_holds_until_num_frames_is_named(clip: str) -> None:
    processor = SpatialMLLMVideoProcessor(size=SIZE, fps=2)
    assert numbers_of(processor(clip)) == evenly(NUM_FRAMES, 4)
    assert numbers_of(processor(clip, num_frames=8)) == evenly(NUM_FRAMES, 8)


def test_fps_above_that_of_the_clip_repeats_nothing(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    assert numbers_of(processor(clip, fps=40)) == list(range(NUM_FRAMES))


def test_fps_of_frames_whose_rate_is_given(processor: SpatialMLLMVideoProcessor) -> None:
    inputs = processor(numbered(*range(12)), fps=2, video_metadata={"fps": 4, "total_num_frames": 12})
    assert numbers_of(inputs) == evenly(12, 6)


def test_do_sample_frames_false_takes_them_all(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    inputs = processor(clip, do_sample_frames=False, return_metadata=True)
    assert numbers_of(inputs) == list(range(NUM_FRAMES))
    assert inputs["video_metadata"][0].frame_sampling == "all"
    many = processor(numbered(*range(19)), do_sample_frames=False)
    assert numbers_of(many) == [*range(19), 18]


# ---- frames handed over ----


def test_frames_up_to_num_frames_are_used_as_they_are(processor: SpatialMLLMVideoProcessor) -> None:
    inputs = processor(numbered(9, 2, 7, 4), return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    assert numbers_of(inputs) == [9, 2, 7, 4]
    assert metadata.frames_indices == [0, 1, 2, 3]
    assert metadata.frame_sampling == "all"
    assert metadata.total_num_frames == 4
    assert metadata.frame_timestamps is metadata.fps is metadata.video_backend is None
    with pytest.raises(ValueError, match="timestamps"):
        _ = metadata.timestamps


def test_frames_above_num_frames_are_sampled(processor: SpatialMLLMVideoProcessor) -> None:
    inputs = processor(numbered(*range(40)), return_metadata=True)
    assert numbers_of(inputs) == inputs["video_metadata"][0].frames_indices == evenly(40, 16)
    assert numbers_of(processor(numbered(*range(16)))) == list(range(16))


@pytest.mark.parametrize("num_frames", [2, 4, 8])
def test_frames_are_sampled_when_the_call_names_a_number(processor: SpatialMLLMVideoProcessor, num_frames: int) -> None:
    assert numbers_of(processor(numbered(*range(6)), num_frames=num_frames)) == evenly(6, num_frames)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_odd_number_of_frames_repeats_the_last(processor: SpatialMLLMVideoProcessor, count: int) -> None:
    frames = [Image.fromarray(frame) for frame in numbered(*range(count))]
    assert numbers_of(processor(frames)) == [*range(count), count - 1]


def test_all_forms_of_the_same_frames_give_the_same_patches(
    processor: SpatialMLLMVideoProcessor, tmp_path: Path
) -> None:
    frames = numbered(1, 2, 3, 4)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, frame in zip(paths, frames):
        Image.fromarray(frame).save(path)
    expected = processor(frames)
    channels_first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    images = [Image.fromarray(frame) for frame in frames]
    for form in (channels_first, channels_first[None], images, paths, list(frames)):
        assert torch.equal(processor(form)["pixel_values_videos"], expected["pixel_values_videos"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_up_to_one_give_the_pixels_of_their_bytes(
    processor: SpatialMLLMVideoProcessor, dtype: torch.dtype
) -> None:
    levels = torch.randint(0, 256, (4, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = processor(levels)["pixel_values_videos"]
    atol = 5e-3 if dtype == torch.float16 else 1e-5
    given = processor((levels.double() / 255).to(dtype))["pixel_values_videos"]
    torch.testing.assert_close(given, expected, atol=atol, rtol=0)
    torch.testing.assert_close(processor(levels.to(dtype))["pixel_values_videos"], expected, atol=1e-5, rtol=0)


def test_floats_are_resized_like_their_bytes(processor: SpatialMLLMVideoProcessor) -> None:
    levels = torch.randint(0, 256, (2, 3, 97, 131), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    expected, given = processor(levels), processor(levels / 255)
    assert torch.equal(given["video_grid_thw"], expected["video_grid_thw"])
    difference = (frames_of(given) - frames_of(expected)).abs()
    assert difference.max() < 1.5  # bytes are rounded after the resize


def test_do_rescale_false_leaves_floats_up_to_one(processor: SpatialMLLMVideoProcessor) -> None:
    frames = torch.from_numpy(numbered(1, 2)).permute(0, 3, 1, 2)
    given = processor(frames / 255, do_rescale=False)["pixel_values_videos"]
    torch.testing.assert_close(given, processor(frames)["pixel_values_videos"], atol=1e-5, rtol=0)


def test_metadata_given_with_frames_picked_before(processor: SpatialMLLMVideoProcessor) -> None:
    known = {"fps": 25, "total_num_frames": 100, "frames_indices": [0, 10, 50, 99]}
    (metadata,) = processor(numbered(1, 2, 3, 4), video_metadata=known, return_metadata=True)["video_metadata"]
    assert metadata.frames_indices == [0, 10, 50, 99]
    assert metadata.timestamps == pytest.approx([0, 0.4, 2.0, 3.96])
    assert (metadata.total_num_frames, metadata.fps) == (100, 25)
    assert metadata.duration == pytest.approx(4.0)


def test_metadata_of_frames_sampled_again_keeps_their_numbers(processor: SpatialMLLMVideoProcessor) -> None:
    known = {"fps": 25, "total_num_frames": 100, "frames_indices": [0, 10, 50, 99]}
    inputs = processor(numbered(1, 2, 3, 4), video_metadata=[known], num_frames=2, return_metadata=True)
    assert numbers_of(inputs) == [1, 4]
    assert inputs["video_metadata"][0].frames_indices == [0, 99]


def test_metadata_of_an_earlier_call_may_be_given_again(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    earlier = processor(clip, num_frames=4, return_metadata=True)["video_metadata"]
    inputs = processor(clip, num_frames=4, video_metadata=earlier, return_metadata=True)
    assert numbers_of(inputs) == evenly(NUM_FRAMES, 4)
    assert inputs["video_metadata"][0].timestamps == earlier[0].timestamps


def test_metadata_that_does_not_fit(processor: SpatialMLLMVideoProcessor) -> None:
    frames = numbered(1, 2)
    with pytest.raises(ValueError, match="video_metadata has 1 entries for 2 videos; pass one for each"):
        processor([frames, frames], video_metadata=[{"fps": 4}])
    with pytest.raises(ValueError, match="frames_indices"):
        processor(frames, video_metadata=[{"fps": 4, "frames_indices": [0]}], return_metadata=True)


def test_batch_equals_one_by_one(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    videos = [clip, numbered(5, 6, 7, size=(56, 84)), [Image.fromarray(frame) for frame in numbered(8, 9)], Path(clip)]
    together = processor(videos, return_metadata=True)
    alone = [processor(video, return_metadata=True) for video in videos]
    assert torch.equal(together["pixel_values_videos"], torch.cat([one["pixel_values_videos"] for one in alone]))
    assert torch.equal(together["video_grid_thw"], torch.cat([one["video_grid_thw"] for one in alone]))
    assert together["video_metadata"] == [one["video_metadata"][0] for one in alone]
    assert numbers_of(together, video=1) == [5, 6, 7, 7]


def test_size_bounds_the_pixels_of_a_frame(clip: str) -> None:
    published = SpatialMLLMVideoProcessor()(clip, num_frames=2)
    _, height, width = (14 * published["video_grid_thw"][0]).tolist()
    assert 100_352 <= height * width <= 602_112
    small = SpatialMLLMVideoProcessor(size=SIZE)(clip, num_frames=2, size={"shortest_edge": 784, "longest_edge": 3136})
    assert small["video_grid_thw"].tolist() == [[1, 2, 4]]


def test_choose_frames_gives_the_frames_in_their_own_size(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    stages: list[str] = []
    frames, metadata = processor.choose_frames(clip, progress=stages.append, num_frames=4)
    assert (frames.dtype, tuple(frames.shape)) == (torch.uint8, (4, 3, HEIGHT, WIDTH))
    assert read_frame_numbers(frames.permute(0, 2, 3, 1).numpy()) == metadata.frames_indices == evenly(NUM_FRAMES, 4)
    assert stages == ["decode"]
    with pytest.raises(ValueError, match="choose_frames takes one video, got 2"):
        processor.choose_frames([clip, clip])


# ---- space-aware sampling ----


def test_space_aware_frames_are_those_that_see_most(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str
) -> None:
    processor, _ = bound
    inputs = processor(clip, return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    chosen = numbers_of(inputs)
    assert len(chosen) == 4
    assert {8, 15, 16} <= set(chosen)
    assert chosen == sorted(chosen) == metadata.frames_indices
    assert metadata.timestamps == pytest.approx([number / 10 for number in chosen])
    assert metadata.frame_sampling == "space_aware"
    assert metadata.covered_voxels == metadata.total_voxels == 2 + 9  # two that all frames see


def test_coverage_counts_what_the_chosen_frames_see(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str
) -> None:
    processor, _ = bound
    inputs = processor(clip, num_frames=2, return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    assert numbers_of(inputs) == [8, 16]
    assert (metadata.covered_voxels, metadata.total_voxels) == (2 + 7, 2 + 9)


def test_geometry_sees_all_candidates_in_range(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str
) -> None:
    processor, scene = bound
    processor(clip)
    assert scene.numbers == list(range(NUM_FRAMES))
    assert scene.frames.dtype == torch.float32
    assert scene.options == {}
    assert scene.frames.min() >= 0
    assert 0.85 < scene.frames.max() <= 1  # white is drawn as 230


@pytest.mark.parametrize(("num_candidates", "expected"), [(5, 5), (2, 4), (12, 12), (500, NUM_FRAMES)])
def test_number_of_candidates(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str, num_candidates: int, expected: int
) -> None:
    processor, scene = bound
    chosen = numbers_of(processor(clip, num_candidate_frames=num_candidates))
    assert scene.numbers == evenly(NUM_FRAMES, expected)  # never fewer than the four to choose
    assert len(chosen) == 4
    assert set(chosen) <= set(scene.numbers)


@pytest.mark.parametrize(
    ("size", "candidate_size", "height", "width"),
    [
        ((84, 56), 70, 42, 70),  # 46.7 pixels high
        ((56, 84), 70, 70, 42),
        ((84, 56), 77, 56, 84),  # 5.5 patches are rounded to even
        ((64, 64), 56, 56, 56),
        ((84, 56), 518, 350, 518),
        ((56, 84), 518, 518, 350),
        ((280, 28), 98, 14, 98),  # at least one patch
    ],
)
def test_shape_of_the_candidates(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene],
    size: tuple[int, int],
    candidate_size: int,
    height: int,
    width: int,
) -> None:
    processor, scene = bound
    processor(numbered(*range(6), size=size), candidate_size=candidate_size)
    assert tuple(scene.frames.shape) == (6, 3, height, width)
    assert scene.numbers == list(range(6))


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("do_rescale", [True, False])
def test_candidates_of_float_frames_are_in_range(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], scale: int, do_rescale: bool
) -> None:
    """Sharp edges, which a bicubic resize overshoots."""
    processor, scene = bound
    black_or_white = torch.from_numpy(numbered(*range(6)) > 128).permute(0, 3, 1, 2).float()
    processor(black_or_white * scale, do_rescale=do_rescale, candidate_size=70)
    assert scene.frames.min() == 0
    assert scene.frames.max() == 1
    assert scene.numbers == list(range(6))


def test_geometry_source_is_passed_on(bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str) -> None:
    processor, scene = bound
    processor(clip, geometry_source="depth")
    assert scene.options == {"source": "depth"}


def test_progress_of_space_aware_sampling(bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str) -> None:
    stages: list[str] = []
    frames, metadata = bound[0].choose_frames(clip, progress=stages.append)
    assert stages == ["decode", "geometry"]
    assert read_frame_numbers(frames.permute(0, 2, 3, 1).numpy()) == metadata.frames_indices


def test_space_aware_sampling_of_frames_and_short_clips(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], tmp_path: Path
) -> None:
    processor, _ = bound
    assert {8, 15, 16} <= set(numbers_of(processor(numbered(*range(20, 3, -1)))))
    assert numbers_of(processor(write_clip(tmp_path / "short.mp4", 3, size=(WIDTH, HEIGHT)))) == evenly(3, 4)


def test_space_aware_without_geometry_names_the_three_ways_out(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    with pytest.raises(ValueError, match='frame_sampling="space_aware" needs geometry') as caught:
        processor(clip, frame_sampling="space_aware")
    for way_out in ("bind_geometry(model)", "load_geometry(device=", 'frame_sampling="uniform"'):
        assert way_out in str(caught.value)


def test_geometry_can_be_let_go(bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str) -> None:
    processor, _ = bound
    processor.bind_geometry(None)
    with pytest.raises(ValueError, match="needs geometry"):
        processor(clip)


@pytest.mark.parametrize("model", [object(), torch.nn.Linear(1, 1), SimpleNamespace(predict_geometry=3), "vggt"])
def test_bind_geometry_refuses_what_has_none(processor: SpatialMLLMVideoProcessor, model: Any) -> None:
    message = rf"bind_geometry needs an object with predict_geometry\(frames\), got {type(model).__name__}"
    with pytest.raises(ValueError, match=message):
        processor.bind_geometry(model)


# ---- errors ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 3}, r"num_frames must be a positive even number .*, got 3\."),
        ({"num_frames": 0}, r"num_frames must be a positive even number .*, got 0\."),
        ({"num_frames": -2}, r"num_frames must be a positive even number .*, got -2\."),
        ({"frame_sampling": "random"}, "frame_sampling must be 'uniform' or 'space_aware', got 'random'"),
        ({"geometry_source": "guess"}, "geometry_source must be 'points' or 'depth', got 'guess'"),
        ({"num_candidate_frames": 0}, "num_candidate_frames must be positive, got 0"),
        ({"candidate_size": 13}, "candidate_size must be at least one patch of 14 pixels, got 13"),
        ({"size": {"shortest_edge": 100, "longest_edge": 783}}, "size: longest_edge=783 .* one merged patch of 784"),
        ({"fps": 0}, "fps must be positive, got 0"),
        ({"fps": -1.5}, "fps must be positive, got -1.5"),
    ],
)
def test_options_out_of_range(
    processor: SpatialMLLMVideoProcessor, clip: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        processor(clip, **options)
    with pytest.raises(ValueError, match=message):
        processor.choose_frames(clip, **options)
    with pytest.raises(ValueError, match=message):
        SpatialMLLMVideoProcessor(**options)


def test_fps_and_num_frames_exclude_each_other(processor: SpatialMLLMVideoProcessor, clip: str) -> None:
    with pytest.raises(ValueError, match="num_frames=4 and fps=2 exclude each other"):
        processor(clip, fps=2, num_frames=4)


def test_fps_needs_a_rate(processor: SpatialMLLMVideoProcessor) -> None:
    with pytest.raises(ValueError, match=r"fps=2 needs the rate of the video.*pass video_metadata=.* or num_frames"):
        processor(numbered(1, 2, 3), fps=2)


@pytest.mark.parametrize("size", [(13, 60), (60, 13), (5, 5), (0, 20)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_frames_smaller_than_a_patch(
    processor: SpatialMLLMVideoProcessor, size: tuple[int, int], dtype: type[np.generic]
) -> None:
    width, height = size
    with pytest.raises(ValueError, match=f"frames of {width}x{height} pixels are smaller than one patch of 14x14"):
        processor(np.zeros((2, height, width, 3), dtype))


def test_frames_of_one_patch_do(processor: SpatialMLLMVideoProcessor) -> None:
    assert processor(np.zeros((2, 14, 14, 3), np.uint8))["video_grid_thw"].tolist() == [[1, 2, 2]]


def test_files_that_are_no_video(processor: SpatialMLLMVideoProcessor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no video file at .*missing\.mp4"):
        processor(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.mp4' is empty"):
        processor(tmp_path / "empty.mp4")
    with pytest.raises(ValueError, match="videos: got an empty list"):
        processor([])


def test_truncated_file_warns_and_gives_as_many_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "cut.mp4", 40, size=(WIDTH, HEIGHT), gop=5, faststart=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    processor = SpatialMLLMVideoProcessor(size=SIZE, num_frames=8)
    with pytest.warns(UserWarning, match=r"Only \d+ of the 40 frames of .*cut\.mp4' can be decoded"):
        inputs = processor(path, return_metadata=True)
    shown = numbers_of(inputs)
    assert len(shown) == 8
    assert shown == inputs["video_metadata"][0].frames_indices
    assert 0 < max(shown) < 39


# ---- saving, copying, workers ----


def test_every_option_survives_saving(tmp_path: Path) -> None:
    processor = SpatialMLLMVideoProcessor(**OPTIONS)
    processor.save_pretrained(tmp_path)
    defaults = SpatialMLLMVideoProcessor().to_dict()
    for loaded in (SpatialMLLMVideoProcessor.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is SpatialMLLMVideoProcessor
        assert loaded.to_dict() == processor.to_dict()
        for name, value in OPTIONS.items():
            assert loaded.to_dict()[name] == value != defaults[name]


@pytest.mark.parametrize("sampling", [{"fps": 2.5}, {"fps": 3, "max_frames": 6}])
def test_fps_survives_saving(tmp_path: Path, clip: str, sampling: dict[str, Any]) -> None:
    processor = SpatialMLLMVideoProcessor(size=SIZE, **sampling)
    processor.save_pretrained(tmp_path)
    loaded = SpatialMLLMVideoProcessor.from_pretrained(tmp_path)
    assert numbers_of(loaded(clip)) == numbers_of(processor(clip)) == evenly(NUM_FRAMES, 4 if len(sampling) == 1 else 6)


def test_saved_options_are_checked_at_loading(tmp_path: Path) -> None:
    SpatialMLLMVideoProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_frames must be a positive even number"):
        SpatialMLLMVideoProcessor.from_pretrained(tmp_path, num_frames=5)


def test_defaults_are_the_published_ones() -> None:
    settings = SpatialMLLMVideoProcessor().to_dict()
    published = {"num_frames": 16, "num_candidate_frames": 128, "candidate_size": 518, "geometry_source": "points"}
    published |= {"frame_sampling": "uniform", "second_per_grid": 1.0}
    assert {name: settings[name] for name in published} == published
    assert settings["size"] == {"shortest_edge": 100_352, "longest_edge": 602_112}


def test_geometry_is_never_saved(bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], tmp_path: Path) -> None:
    processor, _ = bound
    unbound = copy.deepcopy(processor).to_dict()
    assert processor.to_dict() == unbound
    assert json.loads(processor.to_json_string()).keys() == unbound.keys()
    assert not any("geometry" in name for name in unbound if name != "geometry_source")
    assert "NumberedScene" not in repr(processor)
    processor.save_pretrained(tmp_path)
    assert "NumberedScene" not in "".join(path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda processor: pickle.loads(pickle.dumps(processor))])
def test_geometry_is_never_copied(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str, duplicate: Any
) -> None:
    processor, _ = bound
    twin = duplicate(processor)
    assert twin.to_dict() == processor.to_dict()
    with pytest.raises(ValueError, match="needs geometry"):
        twin(clip)
    assert numbers_of(twin(clip, frame_sampling="uniform")) == evenly(NUM_FRAMES, 4)
    twin.bind_geometry(NumberedScene({0: [1]}))
    assert {8, 15, 16} <= set(numbers_of(processor(clip)))  # the original keeps its own


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader_workers_give_the_same_tensors(
    bound: tuple[SpatialMLLMVideoProcessor, NumberedScene], clip: str, start: str
) -> None:
    processor, _ = bound
    processor.frame_sampling = "uniform"
    videos = [clip, clip]
    loader = DataLoader(videos, batch_size=1, num_workers=2, collate_fn=processor, multiprocessing_context=start)
    batches = list(loader)
    expected = processor(clip)
    assert len(batches) == 2
    for batch in batches:
        assert torch.equal(batch["video_grid_thw"], expected["video_grid_thw"])
        assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])


def test_frame_numbers_survive_the_patches(processor: SpatialMLLMVideoProcessor) -> None:
    """Of this file's own tools: patches unfolded here are the frames that went in."""
    frames = numbered(0, 85, 170, 255)
    shown = frames_of(processor(frames))
    torch.testing.assert_close(shown, torch.from_numpy(frames).permute(0, 3, 1, 2).float(), atol=1e-2, rtol=0)
    assert [read_frame_number(frame) for frame in frames] == [0, 85, 170, 255]


def test_chosen_frames_keep_their_numbers_and_times_when_they_are_handed_on(
    processor: SpatialMLLMVideoProcessor, tmp_path: Path
) -> None:
    pts = [0, 100, 500, 600, 2000, 2100, 2200, 4000]  # milliseconds
    write_clip(tmp_path / "clip.mp4", len(pts), fps=10, pts=pts)
    frames, chosen = processor.choose_frames(str(tmp_path / "clip.mp4"), num_frames=4)
    outputs = processor(frames, video_metadata=[chosen], do_sample_frames=False, return_metadata=True)
    again = outputs["video_metadata"][0]
    assert again.frames_indices == chosen.frames_indices == [0, 2, 5, 7]
    assert again.timestamps == chosen.timestamps == pytest.approx([0.0, 0.5, 2.1, 4.0])
