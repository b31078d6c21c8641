"""`sample --ply` and `--glb`: the points that the sampler used, and the cameras."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from spatial_mllm_hf.cli.point_cloud import (
    CANDIDATE_COLOUR,
    CHOSEN_COLOUR,
    POINTS_PER_EDGE,
    camera_centres,
    frustum_corners,
    used_points,
    write_glb,
    write_ply,
)
from spatial_mllm_hf.data.synthetic_rooms import Box, Room, box_from_world

from .conftest import Command, Walk
from .scenes import HEIGHT, WIDTH, make_sample, scatter_points

ALL = 10**9


def to_room(walk: Walk, points: np.ndarray) -> np.ndarray:
    """World points `[N, 3]` (first camera) in the room's metres, z up."""
    return points @ walk.from_world[:3, :3].T + walk.from_world[:3, 3]


def distance_to_surfaces(points: np.ndarray, room: Room) -> np.ndarray:
    """Metres from points `[N, 3]` to the nearest wall, floor, ceiling or side of a piece of furniture."""
    middle = tuple(length / 2 for length in room.size)
    boxes = [Box(middle, room.size, 0.0), *(part for furniture in room.objects for part in furniture.parts)]
    return np.min([distance_to_sides(points, box) for box in boxes], axis=0)


def distance_to_sides(points: np.ndarray, box: Box) -> np.ndarray:
    beyond = np.abs((points - box.center) @ box_from_world(box.yaw).T) - np.array(box.size) / 2
    return np.abs(np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0))


def read_glb_colours(path: Path, node: str) -> np.ndarray:
    """Vertex colours of a node of a GLB, read from its bytes: trimesh loads none of lines."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    (mesh,) = [mesh for mesh in tree["meshes"] if mesh["name"] == node]
    accessor = tree["accessors"][mesh["primitives"][0]["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["type"], accessor["normalized"]) == (5121, "VEC4", True)
    view = tree["bufferViews"][accessor["bufferView"]]
    start = view["byteOffset"] + accessor.get("byteOffset", 0)
    return np.frombuffer(binary, np.uint8, 4 * accessor["count"], start).reshape(-1, 4)


# ---------------------------------------------------------------------------------------------- points


def test_points_lie_on_the_surfaces_of_the_room(walk: Walk) -> None:
    cloud = used_points(walk.sample, 10_000)
    assert distance_to_surfaces(to_room(walk, cloud.points), walk.room).max() < 1e-4
    moved = to_room(walk, cloud.points) + 0.05
    assert np.median(distance_to_surfaces(moved, walk.room)) > 0.03  # the measure can tell


def test_points_have_the_colours_of_their_pixels(walk: Walk) -> None:
    pixels = walk.sample.candidates.permute(0, 2, 3, 1).reshape(-1, 3)
    cloud = used_points(walk.sample, ALL)
    assert cloud.colours.dtype == np.uint8
    assert np.array_equal(cloud.colours, (pixels * 255).round().to(torch.uint8).numpy())
    assert np.array_equal(cloud.points, walk.sample.points.reshape(-1, 3).numpy())


def test_points_are_those_that_the_sampler_voxelised() -> None:
    points, confidence = scatter_points(4), torch.rand(4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    points[0, 0, 0], points[1, 2, 3, 1], confidence[2, 0] = 100.0, torch.nan, torch.inf
    confidence[0, 0, 0] = 0.0  # far away, and not to be believed
    sample = make_sample(points, confidence)
    cloud = used_points(sample, ALL)
    usable = confidence[points.isfinite().all(-1) & confidence.isfinite()]
    assert len(cloud.points) == (usable >= usable.quantile(0.5)).sum()
    sightings = sample.sightings
    cells = np.floor((cloud.points - sightings.origin) / np.float32(sightings.voxel_size)).astype(int)
    assert np.array_equal(np.unique(cells, axis=0), np.unique(sightings.cells, axis=0))


def test_low_confidence_everywhere_leaves_what_is_above_a_tenth() -> None:
    confidence = torch.full((2, HEIGHT, WIDTH), 0.05)
    confidence[0, :2] = 0.1
    confidence[1, :3] = 0.2
    cloud = used_points(make_sample(scatter_points(2), confidence), ALL)
    assert len(cloud.points) == 3 * WIDTH


def test_max_points_thins_evenly(walk: Walk) -> None:
    whole = used_points(walk.sample, ALL)
    thin = used_points(walk.sample, 1000)
    assert len(thin.points) == len(thin.colours) == 1000
    places = np.round(np.linspace(0, len(whole.points) - 1, 1000)).astype(int)
    assert np.array_equal(thin.points, whole.points[places])
    assert np.array_equal(thin.colours, whole.colours[places])
    assert len(used_points(walk.sample, len(whole.points)).points) == len(whole.points)


# ---------------------------------------------------------------------------------------------- cameras


def test_cameras_stand_where_the_walk_went(walk: Walk) -> None:
    expected = [-rotation.T @ translation for rotation, translation in zip(*split(walk.extrinsics))]
    assert np.allclose(to_room(walk, camera_centres(walk.sample)), expected, atol=1e-5)


def split(extrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return extrinsics[:, :, :3], extrinsics[:, :, 3]


def test_corners_of_a_frustum_are_seen_in_the_corners_of_the_picture(walk: Walk) -> None:
    corners = frustum_corners(walk.sample, depth=0.5)
    assert np.allclose(corners[:, 0], camera_centres(walk.sample))
    rotation, translation = split(walk.sample.extrinsics.double().numpy())
    in_camera = np.einsum("sij,scj->sci", rotation, corners[:, 1:]) + translation[:, None]
    assert np.allclose(in_camera[..., 2], 0.5, atol=1e-6)
    seen = np.einsum("sij,scj->sci", walk.sample.intrinsics.double().numpy(), in_camera)
    width, height = 112, 84
    assert np.allclose(seen[..., :2] / seen[..., 2:], [(0, 0), (width, 0), (width, height), (0, height)], atol=1e-3)


# ---------------------------------------------------------------------------------------------- files


def test_ply_holds_points_and_cameras_as_coloured_vertices(walk: Walk, tmp_path: Path) -> None:
    write_ply(walk.sample, tmp_path / "new" / "room.ply", max_points=5000)
    loaded = trimesh.load(tmp_path / "new" / "room.ply")
    cloud, vertices, colours = used_points(walk.sample, 5000), loaded.vertices, loaded.colors[:, :3]
    assert np.allclose(vertices[:5000], cloud.points, atol=1e-6)
    assert np.array_equal(colours[:5000], cloud.colours)
    assert len(vertices) == 5000 + 12 * 8 * POINTS_PER_EDGE
    chosen = np.unique(walk.sample.selection.indices)
    for places, colour in ((chosen, CHOSEN_COLOUR), (np.delete(np.arange(12), chosen), CANDIDATE_COLOUR)):
        dots = vertices[5000:][(colours[5000:] == colour).all(axis=1)]
        assert len(dots) == len(places) * 8 * POINTS_PER_EDGE
        centres = camera_centres(walk.sample)[places]
        nearest = np.linalg.norm(dots[:, None] - centres, axis=-1)
        assert nearest.min(axis=0).max() < 1e-6  # each camera's own frustum is there
        assert nearest.min(axis=1).max() < 0.5  # and small beside a room of several metres


def test_glb_comes_back_with_its_nodes_y_up(walk: Walk, tmp_path: Path) -> None:
    write_glb(walk.sample, tmp_path / "room.glb", max_points=ALL)
    scene = trimesh.load(tmp_path / "room.glb")
    assert set(scene.graph.nodes_geometry) == {"points", "cameras_chosen", "cameras_candidates"}
    vertices = scene.geometry["points"].vertices
    expected = walk.sample.points.reshape(-1, 3).numpy() * (1, -1, -1)
    assert np.allclose(vertices, expected, atol=1e-6)
    height = to_room(walk, expected * (1, -1, -1))[:, 2]
    floor, high = vertices[height < 0.01], vertices[height > 2.0]
    assert high[:, 1].min() > floor[:, 1].mean()
    chosen = np.unique(walk.sample.selection.indices)
    centres = camera_centres(walk.sample) * (1, -1, -1)
    for node, places in (("cameras_chosen", chosen), ("cameras_candidates", np.delete(np.arange(12), chosen))):
        lines = scene.geometry[node].vertices
        assert len(lines) == len(places) * 16  # two ends of eight edges
        assert np.linalg.norm(lines[:, None] - centres[places], axis=-1).min(axis=0).max() < 1e-6


def test_colours_in_a_glb_are_linear_light(walk: Walk, tmp_path: Path) -> None:
    """sRGB 0.5 is 0.214 of the light (IEC 61966-2-1); a viewer that encodes for the screen gets our colours back."""
    write_glb(walk.sample, tmp_path / "room.glb", max_points=ALL)
    linear = read_glb_colours(tmp_path / "room.glb", "points")[:, :3] / 255
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours = used_points(walk.sample, ALL).colours
    bright = colours > 60  # 8 bits of linear light are coarse in the dark
    assert np.abs(255 * encoded - colours)[bright].max() <= 2
    for node, expected in (("cameras_chosen", (170, 29, 0)), ("cameras_candidates", (57, 57, 57))):
        assert np.array_equal(np.unique(read_glb_colours(tmp_path / "room.glb", node), axis=0), [[*expected, 255]])


def test_without_points_the_cameras_remain(tmp_path: Path) -> None:
    sample = make_sample(scatter_points(2), torch.zeros(2, HEIGHT, WIDTH))
    write_ply(sample, tmp_path / "none.ply", ALL)
    write_glb(sample, tmp_path / "none.glb", ALL)
    assert len(trimesh.load(tmp_path / "none.ply").vertices) == 2 * 8 * POINTS_PER_EDGE
    assert set(trimesh.load(tmp_path / "none.glb").geometry) == {"cameras_chosen"}  # both were


def test_one_candidate_has_a_frustum_of_some_size(tmp_path: Path) -> None:
    sample = make_sample(torch.full((1, HEIGHT, WIDTH, 3), torch.nan))
    write_ply(sample, tmp_path / "one.ply", ALL)
    assert np.ptp(trimesh.load(tmp_path / "one.ply").vertices, axis=0).min() > 0.01


# ---------------------------------------------------------------------------------------------- the command


def test_sample_writes_the_files_and_prints_as_before(
    run: Command, tiny_checkpoint: Path, room_clip: Path, tmp_path: Path
) -> None:
    options = ("sample", room_clip, "--model", tiny_checkpoint, "-n", 4, "--json")
    files = {f"--{suffix}": tmp_path / f"room.{suffix}" for suffix in ("ply", "glb")}
    plain = run(*options)
    result = run(*options, *(word for option in files.items() for word in option), "--max-points", 50)
    assert result.code == 0, result.err
    assert result.out == plain.out
    assert len(trimesh.load(files["--glb"]).geometry["points"].vertices) == 50
    assert len(trimesh.load(files["--ply"]).vertices) == 50 + 24 * 8 * POINTS_PER_EDGE


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--ply", "room.obj"), "--ply room.obj: expected a name that ends in .ply, got .obj"),
        (("--glb", "room"), "--glb room: expected a name that ends in .glb, got no suffix"),
        (("--ply", "room.ply", "--frame-sampling", "uniform"), "--frame-sampling uniform looks at no geometry"),
        (("--glb", "room.glb", "--max-points", 0), "max-points"),
    ],
)
def test_a_mistake_is_named_before_a_model_is_looked_for(
    run: Command, room_clip: Path, options: tuple[Any, ...], says: str
) -> None:
    result = run("sample", room_clip, "--model", "no such folder", *options)
    assert result.code == 2
    assert says in result.err
    assert "no such folder" not in result.err


def test_without_trimesh_the_extra_is_named(run: Command, room_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    for option in ("--ply", "--glb"):
        result = run("sample", room_clip, "--model", "no such folder", option, f"room.{option[2:]}")
        assert result.code == 2
        assert (
            f'{option} needs trimesh, which is not installed: pip install "spatial-mllm-hf[pointcloud]"' in result.error
        )
