"""`spatial-mllm sample --ply` and `--glb`: the points that the sampler used and the cameras, for a viewer of 3D files.

A camera is a small frustum: its tip is the camera's centre, its base the picture. Conventions are VGGT's: world = first
camera, OpenCV axes (x right, y down, z forward), extrinsics are camera from world.

Shapes: S candidates of h x w pixels, N points, C cameras.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..processing.frame_sampling_spatial_mllm import LOWEST_CONFIDENCE, uniform_indices

if TYPE_CHECKING:
    from ..processing.video_processing_spatial_mllm import SceneSample

CHOSEN_COLOUR, CANDIDATE_COLOUR = (213, 94, 0), (130, 130, 130)  # rgb as a screen takes it
FRUSTUM_SHARE = 0.03  # depth of a frustum as a share of the scene's diagonal
POINTS_PER_EDGE = 40
EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))  # of a frustum: its tip is corner 0


class PointCloud(NamedTuple):
    """Points float32 `[N, 3]` in the world and their colours uint8 `[N, 3]`."""

    points: np.ndarray
    colours: np.ndarray


def used_points(sample: "SceneSample", max_points: int) -> PointCloud:
    """The points that the sampler voxelised, at even steps through frames and pixels down to `max_points`.

    They are those that are finite, with a confidence above 0.1 and at or above the median of all that are finite.
    """
    points, confidence = _to_numpy(sample.points), _to_numpy(sample.confidence)
    finite = np.isfinite(points).all(-1) & np.isfinite(confidence)
    if not finite.any():
        return PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
    kept = finite & (confidence > LOWEST_CONFIDENCE) & (confidence >= np.median(confidence[finite]))
    places = np.flatnonzero(kept)
    if len(places) > max_points:
        places = places[uniform_indices(len(places), max_points)]
    frame, row, column = np.unravel_index(places, kept.shape)
    colours = _to_numpy(sample.candidates)[frame, :, row, column]
    return PointCloud(points[frame, row, column].astype(np.float32), (colours * 255).round().astype(np.uint8))


def camera_centres(sample: "SceneSample") -> np.ndarray:
    """Where the candidates' cameras are in the world, `[S, 3]`: -R^T t."""
    extrinsics = _to_numpy(sample.extrinsics).astype(np.float64)
    return -np.einsum("sij,si->sj", extrinsics[..., :3], extrinsics[..., 3])


def frustum_corners(sample: "SceneSample", depth: float) -> np.ndarray:
    """Corners of each camera's frustum in the world, `[S, 5, 3]`: its centre, then the picture's corners at `depth`.

    The picture's corners go round from the top left one, as one looks through the camera.
    """
    extrinsics, intrinsics = (_to_numpy(values).astype(np.float64) for values in (sample.extrinsics, sample.intrinsics))
    height, width = sample.candidates.shape[-2:]
    pixels = np.array([(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)])
    in_camera = np.einsum("sij,cj->sci", np.linalg.inv(intrinsics), pixels) * depth  # [S, 4, 3]
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3]
    in_world = (in_camera - translation[:, None]) @ rotation  # R^T (x - t), with points as rows
    return np.concatenate([camera_centres(sample)[:, None], in_world], axis=1)


def write_ply(sample: "SceneSample", path: Path, max_points: int) -> None:
    """Writes points and cameras as the vertices of a binary PLY, in the world's own axes.

    The frusta follow the points as dots along their edges, chosen ones in orange, the others in grey: PLY's "edge"
    elements are shown by MeshLab but passed over by CloudCompare and by Open3D's `read_point_cloud`, dots are shown by
    all. They are not counted in `max_points`.
    """
    from trimesh import PointCloud as TrimeshCloud

    cloud = used_points(sample, max_points)
    chosen, others = _frusta(sample, cloud)
    lines = [(chosen, CHOSEN_COLOUR), (others, CANDIDATE_COLOUR)]
    dots = [_along_edges(corners) for corners, _ in lines]
    colours = [np.tile(np.array(colour, np.uint8), (len(of_line), 1)) for of_line, (_, colour) in zip(dots, lines)]
    vertices = np.concatenate([cloud.points, *dots])
    _write(TrimeshCloud(vertices, colors=np.concatenate([cloud.colours, *colours])), path)


def write_glb(sample: "SceneSample", path: Path, max_points: int) -> None:
    """Writes points and cameras as a binary glTF with the nodes "points", "cameras_chosen" and "cameras_candidates".

    The last holds the candidates that were not chosen; a node that would be empty is left out. Everything is turned by
    180 degrees about x, from (x right, y down, z forward) to glTF's (x right, y up, z backward), and colours are in
    linear light, as glTF has them.
    """
    from trimesh import PointCloud as TrimeshCloud
    from trimesh import Scene

    cloud = used_points(sample, max_points)
    scene = Scene()
    if len(cloud.points):
        points = TrimeshCloud(_to_gltf(cloud.points), colors=_to_linear(cloud.colours))
        scene.add_geometry(points, node_name="points", geom_name="points")
    chosen, others = _frusta(sample, cloud)
    for name, corners, colour in (
        ("cameras_chosen", chosen, CHOSEN_COLOUR),
        ("cameras_candidates", others, CANDIDATE_COLOUR),
    ):
        if len(corners):
            scene.add_geometry(_wireframe(_to_gltf(corners), colour), node_name=name, geom_name=name)
    _write(scene, path)


def _frusta(sample: "SceneSample", cloud: PointCloud) -> tuple[np.ndarray, np.ndarray]:
    """Frusta `[C, 5, 3]` of the chosen cameras and of the others, in a size that suits the scene."""
    centres = camera_centres(sample)
    inner = np.quantile(cloud.points, (0.05, 0.95), axis=0) if len(cloud.points) else centres[:1]
    diagonal = float(np.linalg.norm(np.ptp(np.concatenate([inner, centres]), axis=0)))
    corners = frustum_corners(sample, FRUSTUM_SHARE * (diagonal or 1.0))
    is_chosen = np.isin(np.arange(len(corners)), sample.selection.indices)
    return corners[is_chosen], corners[~is_chosen]


def _along_edges(corners: np.ndarray) -> np.ndarray:
    """Frusta `[C, 5, 3]` → points along their edges `[C * 8 * POINTS_PER_EDGE, 3]`."""
    start, end = corners[:, [edge[0] for edge in EDGES], None], corners[:, [edge[1] for edge in EDGES], None]
    steps = np.linspace(0, 1, POINTS_PER_EDGE)[:, None]
    return (start + steps * (end - start)).reshape(-1, 3).astype(np.float32)


def _wireframe(corners: np.ndarray, colour: tuple[int, int, int]) -> Any:
    """Frusta `[C, 5, 3]` as lines in one colour."""
    from trimesh.path import Path3D
    from trimesh.path.entities import Line

    lines = [Line([5 * camera + start, 5 * camera + end]) for camera in range(len(corners)) for start, end in EDGES]
    wireframe = Path3D(entities=lines, vertices=corners.reshape(-1, 3), process=False)
    wireframe.colors = np.tile(np.append(_to_linear(np.array(colour)), np.uint8(255)), (len(lines), 1))
    return wireframe


def _to_gltf(points: np.ndarray) -> np.ndarray:
    return points * np.array((1, -1, -1), points.dtype)


def _to_linear(colours: np.ndarray) -> np.ndarray:
    """sRGB of 0..255 → linear light of 0..255, both uint8."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return (linear * 255).round().astype(np.uint8)


def _to_numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy()


def _write(geometry: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(geometry.export(file_type=path.suffix.lower().removeprefix(".")))
