"""Scenes of ScanNet, from its own files to the annotation that questions are made of (section 4 of the paper).

As VLM-3R's scannet_metadata.py and, as far as its answers tell, VSI-Bench: the mesh is turned along its walls; an
object's box is the smallest around its vertices; the room's size is an alpha shape's area, its centre that of the
smallest box around the mesh. Structures and ambiguous classes are left out (`scannet_files.read_label_map`). When a
category is first seen comes from ScanNet's instance masks.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .alpha_shapes import room_area
from .minimal_boxes import minimal_box
from .optional_libraries import check_installed
from .oriented_boxes import Array, OrientedBox
from .scannet_files import (
    ScanNetObject,
    read_axis_alignment,
    read_instance_masks,
    read_objects,
    read_vertices,
)
from .scene_annotations import SceneAnnotation

DATASET = "scannet"
SCAN_NAME = re.compile(r"scene\d{4}_\d{2}")
FEWEST_VERTICES = 4  # of an object with a box: fewer lie in a plane whatever the object is
FRAMES_PER_SECOND = 24.0  # of the videos, which hold each frame of a scan (section 4)
FRAME_STEP = 24  # looks once a second; times must differ by more than one second to be asked about
# An object is seen once its category covers a thousandth of a colour frame (1296 x 968, as the masks are). The paper
# has a threshold and does not say which; VLM-3R takes one pixel.
FEWEST_PIXELS = 1255


def read_scannet_scene(
    folder: Path, label_map: Mapping[str, str | None], masks: bool = False, min_pixels: int = FEWEST_PIXELS
) -> SceneAnnotation:
    """One scan.

    Args:
        folder: the scan's folder, of its name.
        label_map: categories of the annotators' labels, from `read_label_map`.
        masks: whether to read from the instance masks when each category is first seen.
        min_pixels: as in `first_seen_from_masks`.

    Raises:
        ValueError, OSError: if a file is missing or damaged, or does not fit the others.
    """
    name = folder.name
    vertices = read_vertices(folder / f"{name}_vh_clean_2.ply")
    alignment = read_axis_alignment(folder / f"{name}.txt")
    segments = folder / f"{name}_vh_clean_2.0.010000.segs.json"
    objects = read_objects(folder / f"{name}.aggregation.json", segments, len(vertices))
    unknown = sorted({found.label for found in objects} - label_map.keys())
    if unknown:
        raise ValueError(
            f"the table of labels lacks {', '.join(map(repr, unknown))}; is it of this release of ScanNet?"
        )
    vertices = vertices @ alignment[:3, :3].T + alignment[:3, 3]
    named = [(found, category) for found in objects if (category := label_map[found.label]) is not None]
    first_seen = {}
    if masks:
        times = ((frame / FRAMES_PER_SECOND, mask) for frame, mask in read_instance_masks(folder, FRAME_STEP))
        values = {found.object_id + 1: category for found, category in named}
        first_seen = first_seen_from_masks(times, values, min_pixels)
    center = minimal_box(vertices).centroid
    return SceneAnnotation(
        name=name,
        dataset=DATASET,
        boxes=_boxes(named, vertices),
        object_counts=dict(Counter(category for _, category in named)),
        room_size=room_area(vertices),
        room_center=(float(center[0]), float(center[1]), float(center[2])),
        first_seen=first_seen,
    )


def find_scans(root: Path, names: Collection[str] | None = None, exclude: Collection[str] = ()) -> list[str]:
    """The names of the scans to read, in order.

    Args:
        root: the folder of scans, `scans` in ScanNet's release.
        names: only these, such as a split's, whether there or not; None takes all that are there.
        exclude: not these, such as the scenes of VSI-Bench.

    Raises:
        ValueError: if no scan is left.
    """
    if names is None:
        names = [path.name for path in root.iterdir() if SCAN_NAME.fullmatch(path.name)]
    found = sorted(set(names) - set(exclude))
    if not found:
        raise ValueError(
            f"{root}: no scan to read; expected folders sceneNNNN_NN, as in `scans` of ScanNet's release, of which not "
            "all are excluded."
        )
    return found


def read_scannet_scenes(
    root: Path,
    names: Iterable[str],
    label_map: Mapping[str, str | None],
    masks: bool = False,
    min_pixels: int = FEWEST_PIXELS,
) -> Iterator[SceneAnnotation | ValueError]:
    """Scans of a folder, one after the other; one that cannot be read comes as the error that says why.

    Arguments are those of `find_scans`, whose result `names` is, and `read_scannet_scene`.

    Raises:
        ValueError: without scipy or trimesh.
    """
    check_installed("scipy", "trimesh")
    for name in names:
        try:
            yield read_scannet_scene(root / name, label_map, masks, min_pixels)
        except (ValueError, OSError) as error:
            yield ValueError(f"Scene {name}: {error}")


def _boxes(named: Iterable[tuple[ScanNetObject, str]], vertices: Array) -> dict[str, tuple[OrientedBox, ...]]:
    boxes = defaultdict(list)
    for found, category in named:
        if len(found.vertices) >= FEWEST_VERTICES:
            boxes[category].append(minimal_box(vertices[found.vertices]))
    return {category: tuple(of_category) for category, of_category in boxes.items()}


def first_seen_from_masks(
    masks: Iterable[tuple[float, NDArray[np.integer]]], categories: Mapping[int, str], min_pixels: int
) -> dict[str, float]:
    """The time at which each category is first seen; without those that never are.

    Args:
        masks: seconds and `[H, W]` values, in order of time.
        categories: of the values in the masks.
        min_pixels: a category is seen in a mask that shows at least so many pixels of it, of all its objects together.
    """
    first_seen: dict[str, float] = {}
    wanted = set(categories.values())
    for seconds, mask in masks:
        pixels: Counter[str] = Counter()
        for value, count in zip(*np.unique(mask, return_counts=True)):
            if int(value) in categories:
                pixels[categories[int(value)]] += int(count)
        for category, count in pixels.items():
            if count >= min_pixels:
                first_seen.setdefault(category, seconds)
        if first_seen.keys() == wanted:
            break
    return first_seen
