"""The area of a set of points in the plane, which VSI-Bench takes for the size of a room.

VSI-Bench and VLM-3R call `alphashape.alphashape(points, 5).area` on 10,000 vertices of the mesh, seen from above. That
package keeps the Delaunay triangles whose circumscribed circle has a radius below 1/alpha (0.2 m) and makes polygons of
the borders of what is left; it makes them of the borders of holes, too, so that a hole is filled. Here the same area is
summed from scipy's triangulation: all triangles, but for those dropped ones from which the outside can be reached
across dropped ones. The package itself has had no release since 2021 and wants shapely, networkx and rtree.

Shapes: N points, T triangles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .optional_libraries import needs
from .oriented_boxes import Array

ALPHA = 5.0  # VLM-3R, calculate_room_area; 1/m
SAMPLED_VERTICES = 10_000  # the same; drawn with repetition, as there


def room_area(vertices: Array, seed: int = 0) -> float:
    """Square metres of floor that a mesh covers: vertices `[N, 3]`, z up."""
    sample = np.random.default_rng(seed).choice(len(vertices), SAMPLED_VERTICES)
    return alpha_shape_area(vertices[sample, :2], ALPHA)


def alpha_shape_area(points: Array, alpha: float) -> float:
    """The area within the outer borders of an alpha shape.

    Args:
        points: `[N, 2]`; repetitions do not matter.
        alpha: triangles are kept up to a radius of 1/alpha.

    Raises:
        ValueError: for points that span no area, or without scipy.
    """
    with needs("scipy"):
        from scipy.spatial import Delaunay, QhullError
    try:
        triangulation = Delaunay(points)
    except QhullError as error:
        raise ValueError(f"points must span an area; {len(points)} were given that lie on a line.") from error
    triangles = points[triangulation.simplices]  # [T, 3, 2]
    sides = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2)  # [T, 3]
    (ax, ay), (bx, by) = (triangles[:, 1] - triangles[:, 0]).T, (triangles[:, 2] - triangles[:, 0]).T
    areas = np.abs(ax * by - ay * bx) / 2
    kept = sides.prod(1) * alpha < 4 * areas  # the radius is the product of the sides over 4 areas
    return float(areas[~_is_outside(kept, triangulation.neighbors)].sum())


def _is_outside(kept: NDArray[np.bool_], neighbours: NDArray[np.int32]) -> NDArray[np.bool_]:
    """`[T]`: which dropped triangles are connected with the outside through sides of dropped ones.

    `neighbours` `[T, 3]` are the triangles across each side, -1 for the outside, which is dropped too.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(kept)
    is_open = np.append(~kept, True)  # the outside is the last, where -1 points
    start, end = np.repeat(np.arange(count), 3), neighbours.reshape(-1)
    joined = is_open[start] & is_open[end]
    start, end = start[joined], end[joined] % (count + 1)
    graph = coo_array((np.ones(len(start)), (start, end)), shape=(count + 1, count + 1))
    _, labels = connected_components(graph, directed=False)
    return ~kept & (labels[:-1] == labels[-1])
