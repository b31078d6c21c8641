"""Synthetic rooms as annotated scenes: a walk, its frames, what each frame shows, and what questions are made of.

    scene = make_scene(seed=0, settings=SceneSettings(num_frames=32, size=(112, 84)))
    scene.frames.rgb, scene.annotation

An object is seen in a frame where it covers a share of the picture (`SEEN_SHARE` by default); one that no frame shows
so is not in the annotation, as nobody could count it. Boxes, sizes and the room's area are exact.

Shapes: S frames, H height, W width, K objects of a room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .oriented_boxes import OrientedBox
from .scene_annotations import SceneAnnotation
from .synthetic_rendering import RenderedFrames, render
from .synthetic_rooms import Array, Box, Room, box_from_world, checked_size, make_room
from .synthetic_walks import draw_camera_path

DATASET = "synthetic_rooms"
SEEN_SHARE = 1e-3  # of a picture's pixels, as for scenes of ScanNet (`scannet_scenes.FEWEST_PIXELS`)
COMPASS_JITTER = 0.25  # radians
WALK_SECONDS = 20.0  # slow enough for categories to come into sight seconds apart, which the order of appearance needs


@dataclass(frozen=True)
class SceneSettings:
    """How rooms are filmed.

    Attributes:
        num_frames: of a walk.
        size: width and height in pixels, even, as clips need it.
        fps: frames a second; by default, as many as make the walk take `WALK_SECONDS`.
        compass: the walls have the same four colours in every room, and walks start within `COMPASS_JITTER` of facing
            the yellow one (the world's +y): small models can then learn where a camera looks.
        seen_share: of a frame's pixels, from which an object counts as seen.
        most_objects: of sparse rooms (`make_room`); None: full ones.
    """

    num_frames: int = 100
    size: tuple[int, int] = (224, 168)
    fps: float | None = None
    compass: bool = False
    seen_share: float = SEEN_SHARE
    most_objects: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no clip can have."""
        width, height = checked_size(self.size)
        if width % 2 or height % 2:
            raise ValueError(f"size must be even, as H.264 clips are, got {width}x{height}")
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}")
        if not 0 < self.seen_share <= 1:
            raise ValueError(f"seen_share must be above 0 and at most 1, got {self.seen_share}")
        if not 0 < self.frame_rate <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000, got {self.frame_rate}")

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.num_frames / WALK_SECONDS if self.fps is None else self.fps


@dataclass(frozen=True)
class SyntheticScene:
    """A room that was filmed, with its ground truth.

    Attributes:
        extrinsics, intrinsics: [S, 3, 4], camera from world, and [S, 3, 3]; as of `camera_path`.
        seen_pixels: int64 [S, K], pixels of each object of the room in each frame.
    """

    room: Room
    frames: RenderedFrames
    extrinsics: Array
    intrinsics: Array
    seen_pixels: Array
    annotation: SceneAnnotation


def make_scene(seed: int, settings: SceneSettings) -> SyntheticScene:
    """The room and the walk of a seed; the same arguments give the same scene.

    Raises:
        ValueError: a negative seed, or a room that nobody can walk in.
    """
    room = make_room(seed, compass=settings.compass, most_objects=settings.most_objects)
    start = None
    if settings.compass:
        start = np.pi / 2 + float(np.random.default_rng([seed, 1]).uniform(-COMPASS_JITTER, COMPASS_JITTER))
    extrinsics, intrinsics = draw_camera_path(room, settings.num_frames, settings.size, start_heading=start)
    frames = render(room, extrinsics, intrinsics, settings.size)
    seen = count_seen_pixels(frames.object_index, len(room.objects))
    annotation = room_annotation(
        room,
        seen / (settings.size[0] * settings.size[1]),
        settings.frame_rate,
        scene_name(seed),
        min_share=settings.seen_share,
    )
    return SyntheticScene(room, frames, extrinsics, intrinsics, seen, annotation)


def scene_name(seed: int) -> str:
    return f"room_{seed:06d}"


def scene_seed(name: str) -> int:
    """The seed of a scene of that name."""
    return int(name.removeprefix("room_"))


def count_seen_pixels(object_index: Array, num_objects: int) -> Array:
    """Pixels int64 [S, K] of each object in each frame, out of indices [S, H, W] as `render` gives them."""
    frames = np.arange(len(object_index))[:, None, None] * (num_objects + 1)
    counts = np.bincount((frames + object_index + 1).ravel(), minlength=len(object_index) * (num_objects + 1))
    return counts.reshape(len(object_index), num_objects + 1)[:, 1:]


def room_annotation(
    room: Room, seen_shares: Array, fps: float, name: str, video: str | None = None, min_share: float = SEEN_SHARE
) -> SceneAnnotation:
    """What a walk through a room shows, in the form that questions are made of.

    Args:
        seen_shares: [S, K], the share of each frame that each of the room's objects covers.
        fps: frames a second, for the times when categories are first seen.
        video: path of the clip, relative to the folder of videos; `name`.mp4 by default.
        min_share: of a picture, from which an object is seen.
    """
    if seen_shares.ndim != 2 or seen_shares.shape[1] != len(room.objects):
        raise ValueError(
            f"seen_shares must be [S, {len(room.objects)}], a column for each object, got {list(seen_shares.shape)}"
        )
    seen = seen_shares >= min_share
    boxes: dict[str, list[OrientedBox]] = {}
    first_seen: dict[str, float] = {}
    for obj, frames in zip(room.objects, seen.T, strict=True):
        if frames.any():
            boxes.setdefault(obj.name, []).append(oriented_box(obj))
            seconds = int(frames.argmax()) / fps
            first_seen[obj.name] = min(seconds, first_seen.get(obj.name, seconds))
    x, y, z = room.size
    return SceneAnnotation(
        name=name,
        dataset=DATASET,
        boxes={category: tuple(found) for category, found in boxes.items()},
        object_counts={category: len(found) for category, found in boxes.items()},
        room_size=x * y,
        room_center=(x / 2, y / 2, z / 2),
        first_seen=first_seen,
        video=f"{name}.mp4" if video is None else video,
    )


def oriented_box(box: Box) -> OrientedBox:
    """A box of a room in the form of annotations."""
    return OrientedBox(np.array(box.center), np.array(box.size), box_from_world(box.yaw))
