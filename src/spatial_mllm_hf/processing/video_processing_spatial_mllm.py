"""Video processor: from what the user has to the patches that the model takes, choosing the frames on the way.

Decoding and sampling are ours; resizing, normalising and patchifying are Qwen2-VL's, with the pixel limits of the
published evaluation.

Shapes: T frames in a video, K frames chosen, H x W pixels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_vl.video_processing_qwen2_vl import (
    Qwen2VLVideoProcessor,
    Qwen2VLVideoProcessorInitKwargs,
)
from transformers.video_utils import VideoMetadata

from .candidate_frames_spatial_mllm import CandidateFrames
from .frame_loading_spatial_mllm import Video, has_levels, load_videos
from .frame_reading_spatial_mllm import FrameReader, SpatialVideoMetadata
from .frame_sampling_spatial_mllm import (
    FrameSelection,
    VoxelSightings,
    choose_by_coverage,
    find_sightings,
    select_frames,
    uniform_indices,
)
from .geometry_slot_spatial_mllm import GeometryModel, GeometrySlot

FrameSampling = Literal["uniform", "space_aware"]
GeometrySource = Literal["points", "depth"]
MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 768 * 28 * 28


# What choosing frames depends on, in a call or in the processor.
OPTIONS = (
    "do_sample_frames",
    "num_frames",
    "fps",
    "max_frames",
    "size",
    "patch_size",
    "merge_size",
    "frame_sampling",
    "num_candidate_frames",
    "candidate_size",
    "geometry_source",
    "second_per_grid",
)


class SpatialMLLMVideosKwargs(Qwen2VLVideoProcessorInitKwargs, total=False):  # type: ignore[call-arg]
    """Options of a call and of the saved processor, besides Qwen2-VL's.

    Attributes:
        frame_sampling: "uniform" over time, or "space_aware" by voxel coverage (needs geometry).
        num_candidate_frames: frames that space-aware sampling looks at, evenly spaced.
        candidate_size: longer side in pixels of those frames, as the geometry model sees them.
        geometry_source: "points" reads the point head, "depth" unprojects depth with the predicted cameras.
        second_per_grid: what the model is told of the time between two frame pairs, whatever the video's rate.
    """

    frame_sampling: FrameSampling
    num_candidate_frames: int
    candidate_size: int
    geometry_source: GeometrySource
    second_per_grid: int | float


@dataclass(eq=False)
class SceneSample:
    """All that space-aware sampling saw of a video; what `SpatialMLLMVideoProcessor.sample_scene` returns.

    Attributes:
        frames, metadata: the K chosen frames, as `choose_frames` returns them.
        candidates: `[S, 3, h, w]` floats in [0, 1], the frames that were looked at, as the geometry model saw them.
        candidate_indices: their S numbers in the video.
        candidate_timestamps: their seconds since the first frame, None where the rate is not known.
        points, confidence: `[S, h, w, 3]` world points and `[S, h, w]`.
        extrinsics, intrinsics: cameras `[S, 3, 4]` (camera from world) and `[S, 3, 3]` (pixels of the candidates).
        sightings: which candidate sees which voxel.
        selection: which candidates were chosen, numbered from 0 to S - 1.
    """

    frames: torch.Tensor
    metadata: SpatialVideoMetadata
    candidates: torch.Tensor
    candidate_indices: list[int]
    candidate_timestamps: list[float] | None
    points: torch.Tensor
    confidence: torch.Tensor
    extrinsics: torch.Tensor
    intrinsics: torch.Tensor
    sightings: VoxelSightings
    selection: FrameSelection


class SpatialMLLMVideoProcessor(Qwen2VLVideoProcessor):
    """Qwen2-VL's video processor with its own decoder (PyAV) and with uniform or space-aware frame sampling.

    A call takes a path, a URL, frames as an array, a tensor or a list (arrays, PIL images, image paths), or a list of
    such videos, mixed; arrays hold 0..255 or floats in [0, 1]. A file gives exactly `num_frames` frames. Frames that
    are handed over are used as they are up to `num_frames`, and sampled above it or when `num_frames` is named in the
    call.
    """

    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}  # noqa: RUF012
    do_sample_frames = True
    num_frames = 16
    cap_pixels_per_frame = False
    frame_sampling: FrameSampling = "uniform"
    num_candidate_frames = 128
    candidate_size = 518
    geometry_source: GeometrySource = "points"
    second_per_grid = 1.0
    valid_kwargs = SpatialMLLMVideosKwargs

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._geometry = GeometrySlot()
        _check_options(self._options({}))

    def to_dict(self) -> dict[str, Any]:
        """The settings; never the geometry model."""
        settings = super().to_dict()
        settings.pop("_geometry", None)
        return settings

    def bind_geometry(self, model: GeometryModel | None) -> None:
        """Uses `model.predict_geometry` for space-aware sampling; None lets go of it. Never saved nor pickled."""
        self._geometry.bind(model)

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Decodes, samples, resizes and patchifies videos.

        Args:
            videos: see the class.
            kwargs: any of `SpatialMLLMVideosKwargs`; `return_metadata=True` adds a list of `SpatialVideoMetadata`.

        Returns:
            `pixel_values_videos` `[sum(T * h * w), 3 * 2 * 14 * 14]`, `video_grid_thw` `[videos, 3]` and, if asked
            for, `video_metadata`.

        Raises:
            ValueError: for options out of range, videos that cannot be read (`VideoDecodeError`), frames smaller than a
                patch, or space-aware sampling without geometry.
        """
        options = self._checked_options(kwargs)
        do_rescale = kwargs.get("do_rescale")
        loaded = _load(videos, self.do_rescale if do_rescale is None else do_rescale)
        given = _given_metadata(kwargs.pop("video_metadata", None), len(loaded))
        frames, metadata = [], []
        for video, known in zip(loaded, given):
            explicit = kwargs.get("num_frames") is not None
            chosen, about = self._choose_frames(video, known, options, explicit, _silent)
            self._check_frame_size(chosen)
            frames.append(chosen)
            metadata.append(about)
        kwargs["do_sample_frames"] = False  # done
        return super().preprocess(frames, video_metadata=metadata, **kwargs)

    def choose_frames(
        self, video: Any, progress: Callable[[str], None] | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, SpatialVideoMetadata]:
        """Decodes and samples one video without making patches of it.

        Args:
            video: one video, see the class.
            progress: called with "decode" and "geometry" as each begins.
            kwargs: sampling options as in a call.

        Returns:
            frames `[K, 3, H, W]` of 0..255 in the video's own size (uint8 when decoded), and their metadata.

        Raises:
            ValueError: as `preprocess`.
        """
        options = self._checked_options(kwargs)
        loaded = _load_one(video, self.do_rescale, "choose_frames")
        explicit = kwargs.get("num_frames") is not None
        return self._choose_frames(loaded, {}, options, explicit, progress or _silent)

    def sample_scene(self, video: Any, progress: Callable[[str], None] | None = None, **kwargs: Any) -> SceneSample:
        """Space-aware sampling of one video, with all that it saw: candidates, points, cameras and voxels.

        Args and errors as in `choose_frames`, whatever `frame_sampling` says. The geometry model has to know
        `predict_geometry(..., return_cameras=True)`, as VGGTModel and Spatial-MLLM do.
        """
        options = self._checked_options(kwargs)
        reader = FrameReader(_load_one(video, self.do_rescale, "sample_scene"), {})
        progress = progress or _silent
        progress("decode")
        takes_all = reader.in_memory and kwargs.get("num_frames") is None and self._fits(reader, options)
        num_frames = reader.num_frames if takes_all else _num_frames(options, reader)
        candidates, scene = self._look_around(reader, num_frames, options, progress, return_cameras=True)
        sightings = find_sightings(scene.points, scene.confidence)
        selection = choose_by_coverage(sightings, num_frames)
        frames, metadata = _chosen(reader, candidates, selection)
        if takes_all:
            metadata.frame_sampling = "all"
        return SceneSample(
            frames=frames,
            metadata=metadata,
            candidates=candidates.small(),
            candidate_indices=candidates.indices,
            candidate_timestamps=reader.metadata(candidates.indices, "all").frame_timestamps,
            points=scene.points,
            confidence=scene.confidence,
            extrinsics=scene.extrinsics,
            intrinsics=scene.intrinsics,
            sightings=sightings,
            selection=selection,
        )

    def resize(self, videos: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As Qwen2-VL's, computed in float32 and rounded to whole levels as in the published evaluation.

        (torchvision's path for 8-bit pixels rounds its filter weights and is off by one level in places.)
        """
        if videos.dtype != torch.uint8:
            return super().resize(videos, *args, **kwargs)
        return super().resize(videos.float(), *args, **kwargs).round_().clamp_(0, 255)

    def _checked_options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        options = self._options(kwargs)
        _check_options(options)
        return options

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Sampling options of a call, completed from the processor's own."""
        own = {name: getattr(self, name, None) for name in OPTIONS}
        called = {name: kwargs[name] for name in OPTIONS if kwargs.get(name) is not None}
        if "fps" in called and "num_frames" in called:
            raise ValueError(f"num_frames={called['num_frames']} and fps={called['fps']} exclude each other.")
        if "num_frames" in called:
            own["fps"] = None  # the processor's own rate gives way
        return {**own, **called}

    def _choose_frames(
        self,
        video: Video,
        known: dict[str, Any],
        options: dict[str, Any],
        explicit: bool,
        progress: Callable[[str], None],
    ) -> tuple[torch.Tensor, SpatialVideoMetadata]:
        progress("decode")
        reader = FrameReader(video, known)
        if not options["do_sample_frames"] or (reader.in_memory and not explicit and self._fits(reader, options)):
            indices = list(range(reader.num_frames))
            frames, used = reader.read(indices)
            return frames, reader.metadata(used, "all")
        num_frames = _num_frames(options, reader)
        if options["frame_sampling"] == "uniform":
            frames, used = reader.read(uniform_indices(reader.num_frames, num_frames))
            return frames, reader.metadata(used, "uniform")
        return self._choose_space_aware(reader, num_frames, options, progress)

    @staticmethod
    def _fits(reader: FrameReader, options: dict[str, Any]) -> bool:
        return options["fps"] is None and reader.num_frames <= options["num_frames"]

    def _choose_space_aware(
        self,
        reader: FrameReader,
        num_frames: int,
        options: dict[str, Any],
        progress: Callable[[str], None],
    ) -> tuple[torch.Tensor, SpatialVideoMetadata]:
        candidates, scene = self._look_around(reader, num_frames, options, progress)
        selection = select_frames(scene.points, scene.confidence, num_frames)
        return _chosen(reader, candidates, selection)

    def _look_around(
        self,
        reader: FrameReader,
        num_frames: int,
        options: dict[str, Any],
        progress: Callable[[str], None],
        **geometry_options: Any,
    ) -> tuple[CandidateFrames, Any]:
        """The candidates and what geometry says of them; frames are decoded while others are being encoded."""
        self._geometry.require()
        num_candidates = min(reader.num_frames, max(options["num_candidate_frames"], num_frames))
        indices = uniform_indices(reader.num_frames, num_candidates)
        candidates = CandidateFrames(reader, indices, options["candidate_size"], options["patch_size"])
        if options["geometry_source"] != "points":
            geometry_options["source"] = options["geometry_source"]
        chunks = _announced(candidates.chunks(), progress)
        return candidates, self._geometry.predict(chunks, **geometry_options)

    def _check_frame_size(self, frames: torch.Tensor) -> None:
        height, width = frames.shape[-2:]
        if min(height, width) < self.patch_size:
            raise ValueError(
                f"videos: frames of {width}x{height} pixels are smaller than one patch of "
                f"{self.patch_size}x{self.patch_size}."
            )


def _chosen(
    reader: FrameReader, candidates: CandidateFrames, selection: FrameSelection
) -> tuple[torch.Tensor, SpatialVideoMetadata]:
    """The chosen candidates in their own size, and what is known of them."""
    metadata = reader.metadata([candidates.indices[position] for position in selection.indices], "space_aware")
    metadata.covered_voxels, metadata.total_voxels = selection.covered, selection.total_voxels
    return candidates.large(selection.indices), metadata


def _announced(chunks: Iterator[torch.Tensor], progress: Callable[[str], None]) -> Iterator[torch.Tensor]:
    """The same chunks; says that geometry alone is left when the last has been decoded."""
    yield from chunks
    progress("geometry")


def _silent(stage: str) -> None:
    """Nobody watches the progress."""


def _check_options(options: dict[str, Any]) -> None:
    num_frames, patch = options["num_frames"], options["patch_size"]
    for name in ("num_frames", "num_candidate_frames", "candidate_size"):
        if not isinstance(options[name], int):
            raise ValueError(f"{name} must be a whole number, got {options[name]!r}.")
    if not 0 < options["second_per_grid"] < math.inf:
        raise ValueError(f"second_per_grid must be a positive number of seconds, got {options['second_per_grid']}.")
    if options["fps"] is None and (num_frames < 2 or num_frames % 2):
        raise ValueError(
            f"num_frames must be a positive even number (the model merges frames in pairs), got {num_frames}."
        )
    if options["fps"] is not None and options["fps"] <= 0:
        raise ValueError(f"fps must be positive, got {options['fps']}.")
    if options["frame_sampling"] not in ("uniform", "space_aware"):
        raise ValueError(f"frame_sampling must be 'uniform' or 'space_aware', got {options['frame_sampling']!r}.")
    if options["geometry_source"] not in ("points", "depth"):
        raise ValueError(f"geometry_source must be 'points' or 'depth', got {options['geometry_source']!r}.")
    if options["num_candidate_frames"] < 1:
        raise ValueError(f"num_candidate_frames must be positive, got {options['num_candidate_frames']}.")
    if options["candidate_size"] < patch:
        raise ValueError(
            f"candidate_size must be at least one patch of {patch} pixels, got {options['candidate_size']}."
        )
    longest, smallest = dict(options["size"]).get("longest_edge"), (patch * options["merge_size"]) ** 2
    if longest is not None and longest < smallest:
        raise ValueError(
            f"size: longest_edge={longest} pixels a frame are below one merged patch of {smallest} pixels."
        )


def _num_frames(options: dict[str, Any], reader: FrameReader) -> int:
    """Frames to choose: `num_frames`, or an even number of frames by `fps`."""
    if options["fps"] is None:
        return options["num_frames"]
    if reader.fps is None:
        raise ValueError(
            f"fps={options['fps']} needs the rate of the video, which frames handed over do not tell: pass "
            "video_metadata=[{'fps': ..., 'total_num_frames': ...}] or num_frames."
        )
    pairs = math.floor(reader.num_frames / reader.fps * options["fps"] / 2)
    return 2 * max(1, min(pairs, options["max_frames"] // 2, reader.num_frames // 2))


def _load_one(video: Any, do_rescale: bool, caller: str) -> Video:
    loaded = _load(video, do_rescale)
    if len(loaded) != 1:
        raise ValueError(f"{caller} takes one video, got {len(loaded)}.")
    return loaded[0]


def _load(videos: Any, do_rescale: bool) -> list[Video]:
    """Videos in one form; frames are brought to 8 bits where the processor is going to divide by 255."""
    loaded = load_videos(videos)
    if not do_rescale:
        return loaded
    return [_to_levels(video) if isinstance(video, torch.Tensor) else video for video in loaded]


def _to_levels(frames: torch.Tensor) -> torch.Tensor:
    if frames.dtype == torch.uint8:
        return frames
    levels = frames if has_levels(frames) else frames * 255
    return levels.round().clamp(0, 255).to(torch.uint8)


def _given_metadata(video_metadata: Any, num_videos: int) -> list[dict[str, Any]]:
    """What the caller knows about the videos, one dictionary each."""
    if video_metadata is None:
        return [{}] * num_videos
    if isinstance(video_metadata, (dict, VideoMetadata)):
        video_metadata = [video_metadata]
    flat = [entry for item in video_metadata for entry in (item if isinstance(item, list) else [item])]
    if len(flat) != num_videos:
        raise ValueError(f"video_metadata has {len(flat)} entries for {num_videos} videos; pass one for each.")
    return [dict(entry) for entry in flat]


__all__ = ["SceneSample", "SpatialMLLMVideoProcessor", "SpatialMLLMVideosKwargs", "SpatialVideoMetadata"]
