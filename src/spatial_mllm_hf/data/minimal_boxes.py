"""The smallest oriented box around points, as Open3D's `get_minimal_oriented_bounding_box` finds it.

That function, up to Open3D 0.19, made the boxes of VSI-Bench's and VLM-3R's ScanNet scenes: one face of the box lies on
a triangle of the convex hull, and one of its axes along the first edge of that triangle. A box with an axis along
another edge may be smaller, and its longest side, which questions ask for, other by centimetres; so the rule is kept.
With the same Qhull (scipy has it) and the same order of points, the boxes are Open3D's up to rounding.

Open3D itself would install 300 MB for this one function, which since 0.20 follows another rule;
`trimesh.bounds.oriented_bounds` follows a third. Open3D fails where all points lie in a plane; windows and mirrors do,
and get the smallest rectangle here.

Shapes: N points, V corners of the hull, F triangles or edges of the hull.
"""

from __future__ import annotations

import numpy as np

from .optional_libraries import needs
from .oriented_boxes import Array, OrientedBox

FLAT = 1e-4  # metres; points within such a distance of a plane, or of a line, are taken to lie in it
_NUMBERS_AT_ONCE = 2**22  # that the search holds in memory


def minimal_box(points: Array) -> OrientedBox:
    """The box; metres, axes right-handed. That of points in a plane or on a line is flat.

    Args:
        points: `[N, 3]`, at least one.

    Raises:
        ValueError: for another shape, numbers that are not finite, or without scipy.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite coordinates of shape [N, 3], N at least 1, got {list(points.shape)}.")
    with needs("scipy"):
        from scipy.spatial import ConvexHull

    principal, extents = _principal_axes(points)
    if extents[1] <= FLAT:
        return _smallest(principal[None], points, dimensions=1)
    if extents[2] <= FLAT:
        local = (points - points.mean(0)) @ principal[:2].T
        hull = ConvexHull(local)
        return _smallest(_frames_of_edges(local[hull.simplices]) @ principal, points[hull.vertices], dimensions=2)
    hull = ConvexHull(points)
    return _smallest(_frames_of_triangles(points[hull.simplices]), points[hull.vertices], dimensions=3)


def _principal_axes(points: Array) -> tuple[Array, Array]:
    """Right-handed axes of the points' spread, an axis a row, the longest first; and the extents along them."""
    centred = points - points.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1].T[::-1]
    axes[2] = np.cross(axes[0], axes[1])
    return axes, np.ptp(centred @ axes.T, axis=0)


def _frames_of_edges(edges: Array) -> Array:
    """`[F, 3, 3]` frames of edges `[F, 2, 2]` in a plane, an axis a row, the plane's normal last."""
    along = edges[:, 1] - edges[:, 0]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    frames = np.zeros((len(along), 3, 3))
    frames[:, 0, :2] = along
    frames[:, 1, 0], frames[:, 1, 1] = -along[:, 1], along[:, 0]
    frames[:, 2, 2] = 1
    return frames


def _frames_of_triangles(triangles: Array) -> Array:
    """`[F, 3, 3]` frames of triangles `[F, 3, 3]`: first edge, its perpendicular, normal; without those of no area."""
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    normals = np.cross(first, second)
    frames = np.stack([first, np.cross(normals, first), normals], axis=1)
    lengths = np.linalg.norm(frames, axis=2, keepdims=True)
    has_area = (lengths > 0).all((1, 2))
    return frames[has_area] / lengths[has_area]


def _smallest(frames: Array, corners: Array, dimensions: int) -> OrientedBox:
    """The box of `[V, 3]` corners in the frame where the product of the first `dimensions` lengths is least."""
    at_once = max(1, _NUMBERS_AT_ONCE // (3 * len(corners)))
    best_size, best = np.inf, frames[0]
    for start in range(0, len(frames), at_once):
        some = frames[start : start + at_once]
        sizes = np.ptp(some @ corners.T, axis=2)[:, :dimensions].prod(1)
        if sizes.min() < best_size:
            best_size, best = sizes.min(), some[sizes.argmin()]
    coordinates = corners @ best.T
    low, high = coordinates.min(0), coordinates.max(0)
    return OrientedBox(centroid=(low + high) / 2 @ best, lengths=high - low, axes=best)
