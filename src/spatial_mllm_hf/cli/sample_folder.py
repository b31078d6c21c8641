"""`spatial-mllm sample FOLDER`, where the folder holds videos: a line of JSON for each as it is done."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..evaluation.evaluation_items import VIDEO_SUFFIXES
from . import common
from .sample import describe_choice, write_frames


def videos_in(folder: str) -> list[Path]:
    """The video files of a folder, sorted; none if it is no folder."""
    path = Path(folder)
    files = path.iterdir() if path.is_dir() else ()
    return sorted(file for file in files if file.suffix.lower() in VIDEO_SUFFIXES and not file.is_dir())


def sample_videos(
    videos: list[Path],
    load: Callable[[], Any],
    options: dict[str, Any],
    out: Path | None,
    engine: Callable[..., Iterator[dict[str, Any]]],
) -> None:
    """Prints which frames of each video are chosen, as the work on it ends.

    Args:
        load: gives the video processor, with its geometry.
        options: of `choose_frames`.
        out: a folder that gets a folder of PNG files for each video.
        engine: `run_here` or `run_on_ray`.

    Raises:
        ValueError: if not a single video could be read.
    """
    failed = 0
    with common.Counter("videos") as counter:
        for done, line in enumerate(engine(videos, partial(VideoSampler, load, options, out)), start=1):
            failed += "problem" in line
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()
            counter.show(done, len(videos))
    if failed == len(videos):
        raise ValueError(f"None of the {failed} videos could be read; the lines above say why.")


class VideoSampler:
    """Chooses the frames of one video after another; lives where the engine puts it."""

    def __init__(self, load: Callable[[], Any], options: dict[str, Any], out: Path | None) -> None:
        self.processor = load()
        self.options = options
        self.out = out

    def __call__(self, video: Path) -> Iterator[dict[str, Any]]:
        """The choice as `sample --json` prints it, with the video's path; a problem if it cannot be read."""
        from ..pipelines.pipeline_spatial_mllm import describe_frames
        from ..processing.video_source_spatial_mllm import VideoDecodeError

        try:
            pixels, metadata = self.processor.choose_frames(str(video), **self.options)
        except VideoDecodeError as error:
            yield {"video": str(video), "problem": str(error)}
            return
        frames = describe_frames(pixels, metadata)
        if self.out is not None:
            write_frames(frames, self.out / video.name)
        yield {"video": str(video), **describe_choice(frames, metadata)}
