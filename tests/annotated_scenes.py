"""Small annotated scenes for tests: boxes by hand, and the furniture of synthetic rooms."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from spatial_mllm_hf.data.oriented_boxes import OrientedBox
from spatial_mllm_hf.data.scene_annotations import SceneAnnotation
from spatial_mllm_hf.data.synthetic_rooms import make_room

Vector = tuple[float, float, float]


def make_box(center: Vector, size: Vector = (0.2, 0.2, 0.2), yaw: float = 0.0) -> OrientedBox:
    """A box on the scene's axes, or turned by `yaw` radians counter-clockwise."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    axes = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return OrientedBox(np.array(center, dtype=np.float64), np.array(size, dtype=np.float64), axes)


def make_scene(
    boxes: Mapping[str, OrientedBox | Sequence[OrientedBox]], name: str = "scene0000_00", **others: Any
) -> SceneAnnotation:
    """A scene of these boxes, counted, unless `object_counts` says otherwise."""
    listed = {category: (box,) if isinstance(box, OrientedBox) else tuple(box) for category, box in boxes.items()}
    counts = {category: len(found) for category, found in listed.items()}
    return SceneAnnotation(**{"name": name, "dataset": "scannet", "boxes": listed, "object_counts": counts, **others})


@lru_cache
def furnished_scene(seed: int, name: str | None = None) -> SceneAnnotation:
    """A synthetic room as a scene, with its size and with times at which its categories come into sight."""
    room = make_room(seed)
    boxes: dict[str, list[OrientedBox]] = {}
    for piece in room.objects:
        boxes.setdefault(piece.name, []).append(make_box(piece.center, piece.size, piece.yaw))
    rng = np.random.default_rng(seed)
    first_seen = {category: float(seconds) for category, seconds in zip(boxes, rng.uniform(0, 40, len(boxes)))}
    area = room.size[0] * room.size[1]
    return make_scene(boxes, name or f"room{seed:04}", room_size=area, first_seen=first_seen)


def random_box(rng: np.random.Generator, reach: float = 2.0) -> OrientedBox:
    """A box turned any way, with sides from 1 to 150 cm."""
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return OrientedBox(rng.uniform(-reach, reach, 3), rng.uniform(0.01, 1.5, 3), axes)


def reference_grid(box: OrientedBox, step: float = 0.05) -> np.ndarray:
    """`[N, 3]`: the points of a box's grid, one by one, in plain numbers."""
    sides, axes, centre = box.lengths.tolist(), box.axes.tolist(), box.centroid.tolist()
    layers = [np.linspace(-side / 2, side / 2, int(np.ceil(side / step))).tolist() for side in sides]
    points = []
    for local in product(*layers):
        if all(abs(value) <= side / 4 for value, side in zip(local, sides)):
            continue
        point = [local[0] * axes[0][k] + local[1] * axes[1][k] + local[2] * axes[2][k] + centre[k] for k in range(3)]
        back = [value - middle for value, middle in zip(point, centre)]
        again = [back[0] * axis[0] + back[1] * axis[1] + back[2] * axis[2] for axis in axes]
        if all(abs(value) <= side / 2 for value, side in zip(again, sides)):
            points.append(point)
    return np.array(points) if points else reference_grid(box, step / 2)


def reference_distance(a: OrientedBox, b: OrientedBox) -> float:
    """Metres between the closest points of two grids, by all pairs."""
    others = reference_grid(b)
    return min(float(np.linalg.norm(others - point, axis=1).min()) for point in reference_grid(a))
