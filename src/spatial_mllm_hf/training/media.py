"""How the videos and images of training are found and prepared for the model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.evaluation_items import find_video


@dataclass(frozen=True)
class MediaSettings:
    """Frames and sizes of a run. Frames are taken evenly over a video.

    Attributes:
        num_frames: of each video, even.
        min_pixels, max_pixels: of a frame or image; both sides become multiples of a merged patch within them.
        second_per_grid: what the model is told of the time between two frame pairs.
    """

    num_frames: int = 16
    min_pixels: int = 293216
    max_pixels: int = 324576
    second_per_grid: float = 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of range."""
        if self.num_frames < 2 or self.num_frames % 2:
            raise ValueError(f"num_frames must be a positive even number, got {self.num_frames}.")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels must be positive and at most max_pixels, got {self.min_pixels} and {self.max_pixels}."
            )
        if not self.second_per_grid > 0:
            raise ValueError(f"second_per_grid must be a positive number of seconds, got {self.second_per_grid}.")

    def processor_kwargs(self) -> dict[str, Any]:
        """Options of a call of the processor."""
        size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        video = {"size": size, "num_frames": self.num_frames, "frame_sampling": "uniform"}
        return {
            "images_kwargs": {"size": size},
            "videos_kwargs": {**video, "second_per_grid": self.second_per_grid},
        }


def locate_video(folder: Path, path: str) -> str:
    """A video of a row: a URL as it is, else the file in the folder of media.

    Raises:
        FileNotFoundError: if there is none.
    """
    return path if path.startswith(("http://", "https://")) else _existing(find_video(folder, path))


def locate_image(folder: Path, path: str) -> str:
    """The same of an image."""
    return path if path.startswith(("http://", "https://")) else _existing(folder / path)


def _existing(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    return str(path)
