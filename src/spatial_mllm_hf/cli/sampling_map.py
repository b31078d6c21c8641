"""The map of a sampled scene: its voxels and cameras from above, drawn for `sampling_figure`.

"Up" is estimated: it is -y of the mean camera. The map is the plane perpendicular to it, the first camera's x to the
right, so that the first camera looks up the page. World and cameras are VGGT's: OpenCV axes (x right, y down,
z forward), extrinsics are camera from world.

Shapes: S candidates, V voxels, C distinct candidates chosen.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .point_cloud import camera_centres, frustum_corners

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..processing.video_processing_spatial_mllm import SceneSample

CHOSEN, CHOSEN_DARK, INK, FAINT = "#D55E00", "#A84300", "#1F2937", "#9CA3AF"
SEEN, UNSEEN = ("#CFE1F2", "#0B3C73"), ("#F1F1F0", "#CFCDCA")  # colours of one voxel, and of a high stack
FULL_TONE = 0.95  # share of the map that is lighter than the darkest tone
PARTS = 4  # of a voxel's side, for the cells of the map that it covers in part
MOST_CELLS = 800  # along the map's longer side
WEDGE_STYLE: dict[str, Any] = {"facecolor": (0.84, 0.37, 0.0, 0.16), "edgecolor": CHOSEN, "linewidth": 0.6}
WEDGE, LABEL_GAP, BORDER, LONGEST_SCALE = 0.3, 0.19, 0.3, 1.1  # inches
MOST_LABELS = 48
LABEL_REACHES = (0.17, 0.27, 0.37, 0.5, 0.65)  # inches between a camera and its label


def map_axes(extrinsics: np.ndarray) -> np.ndarray:
    """The map's axes in the world, `[2, 3]`: right and up the page; from cameras `[S, 3, 4]`.

    Where the first camera's x points along "up" itself, its z is taken to the right instead.
    """
    up = -extrinsics[:, 1, :3].mean(axis=0)  # row 1 of a rotation is the camera's y in the world
    length = np.linalg.norm(up)
    up = up / length if length > 1e-6 else -extrinsics[0, 1, :3]
    flat = extrinsics[0, [0, 2], :3] - np.outer(extrinsics[0, [0, 2], :3] @ up, up)
    right = flat[0] if np.linalg.norm(flat[0]) > 1e-3 else flat[1]
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(up, right)])


def draw_map(axes: "Axes", sample: "SceneSample", labels: dict[int, str], size: tuple[float, float], unit: str) -> None:
    """Draws the scene from above, to scale, into axes of `size` inches.

    Args:
        labels: what to write beside each candidate that was chosen; left out where there are more than `MOST_LABELS`.
        unit: of the world's coordinates, for the scale bar.
    """
    extrinsics = sample.extrinsics.detach().cpu().numpy().astype(np.float64)
    plane = map_axes(extrinsics)
    centres = camera_centres(sample) @ plane.T
    sightings = sample.sightings
    voxels = (sightings.origin + (sightings.cells + 0.5) * sightings.voxel_size).reshape(-1, 3)
    inches_per_unit = _set_limits(axes, np.concatenate([voxels @ plane.T, centres]), size, sightings.voxel_size)
    seen = np.zeros(len(voxels), dtype=bool)
    for position in labels:
        seen[sightings.seen_by(position)] = True
    if len(voxels):
        _draw_voxels(axes, voxels, seen, plane, sightings.voxel_size)
    _draw_cameras(axes, sample, labels, plane, inches_per_unit)
    _draw_scale(axes, inches_per_unit, unit)
    _draw_legend(axes, bool(len(voxels)), bool((~seen).any()))


def _set_limits(axes: "Axes", places: np.ndarray, size: tuple[float, float], margin: float) -> float:
    """Limits that show all places `[N, 2]` in equal scales on both axes; returns inches per unit of the world."""
    low, high = places.min(axis=0) - margin, places.max(axis=0) + margin
    room = np.array(size) - 2 * np.array((BORDER, BORDER))
    units_per_inch = float(((high - low) / room).max()) or 1.0
    half = np.array(size) / 2 * units_per_inch
    middle = (low + high) / 2
    axes.set(xlim=(middle[0] - half[0], middle[0] + half[0]), ylim=(middle[1] - half[1], middle[1] + half[1]))
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return 1 / units_per_inch


def _draw_voxels(axes: "Axes", voxels: np.ndarray, seen: np.ndarray, plane: np.ndarray, side: float) -> None:
    """Voxels `[V, 3]` as a picture: darker where more are stacked, pale where the chosen frames see none of them."""
    from matplotlib.colors import to_rgb

    stacked, stacked_seen, extent = stack_voxels(voxels @ plane.T, seen, plane, side)
    high = max(1.0, float(np.quantile(stacked[stacked > 0], FULL_TONE)))
    tone = np.minimum(stacked / high, 1)[..., None]
    share = np.divide(stacked_seen, stacked, out=np.zeros_like(stacked), where=stacked > 0)[..., None]
    ramps = [(1 - tone) * to_rgb(light) + tone * to_rgb(dark) for light, dark in (SEEN, UNSEEN)]
    picture = np.where(stacked[..., None] > 0, share * ramps[0] + (1 - share) * ramps[1], 1.0)
    axes.imshow(picture, origin="lower", extent=extent, interpolation="nearest", aspect="equal", gid="map_voxels")


def stack_voxels(
    places: np.ndarray, seen: np.ndarray, plane: np.ndarray, side: float
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
    """How many voxels lie above each other on each cell of the map, a cell being half a voxel wide or coarser.

    Args:
        places: middles of the voxels on the map, `[V, 2]`.
        seen: which of them count for the second answer, `[V]`.
        plane: the map's axes in the world; the voxels lie along the world's own.

    Returns:
        All voxels and those seen, `[rows, columns]` from the bottom left, and the map's left, right, bottom, top.
    """
    low, high = places.min(axis=0) - 1.5 * side, places.max(axis=0) + 1.5 * side
    cell = max(side / 2, float((high - low).max()) / MOST_CELLS)
    columns, rows = ((high - low) / cell).astype(int) + 1
    all_voxels, seen_voxels = np.zeros(rows * columns), np.zeros(rows * columns)
    steps = (np.arange(PARTS) + 0.5) / PARTS - 0.5
    for part in np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3) * side:
        column, row = ((places + plane @ part - low) / cell).astype(int).T
        all_voxels += np.bincount(row * columns + column, minlength=rows * columns)
        seen_voxels += np.bincount((row * columns + column)[seen], minlength=rows * columns)
    share = (side / cell) ** 2 / PARTS**3  # of a cell's face that a part of a voxel stands for
    extent = (low[0], low[0] + columns * cell, low[1], low[1] + rows * cell)
    return share * all_voxels.reshape(rows, columns), share * seen_voxels.reshape(rows, columns), extent


def _draw_cameras(
    axes: "Axes", sample: "SceneSample", labels: dict[int, str], plane: np.ndarray, inches_per_unit: float
) -> None:
    """All cameras and their path; of the chosen ones what they look at, and their labels."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patheffects import withStroke

    centres = camera_centres(sample) @ plane.T
    axes.plot(
        *centres.T, color=INK, linewidth=0.7, alpha=0.6, marker="o", markersize=2.2, markeredgewidth=0, gid="map_path"
    )
    chosen = list(labels)
    corners = frustum_corners(sample, WEDGE / inches_per_unit)[chosen] @ plane.T  # [C, 5, 2]
    middles = (corners[:, [1, 2]] + corners[:, [4, 3]]) / 2  # of the picture's left and right sides
    wedges = np.concatenate([corners[:, :1], middles], axis=1)
    axes.add_collection(PolyCollection(list(wedges), gid="map_wedges", **WEDGE_STYLE, zorder=3))
    axes.plot(*centres[chosen].T, "o", color=CHOSEN, markersize=4, markeredgecolor="white", zorder=4, gid="map_chosen")
    if len(chosen) > MOST_LABELS:
        return
    backwards = centres[chosen] - middles.mean(axis=1)
    places = _place_labels(centres[chosen] * inches_per_unit, backwards, centres * inches_per_unit) / inches_per_unit
    for position, place in zip(chosen, places):
        axes.plot(*np.stack([centres[position], place]).T, color=CHOSEN, linewidth=0.5, zorder=3.5)
        text = axes.text(
            place[0], place[1], labels[position], color=CHOSEN_DARK, fontsize=8, fontweight="bold", zorder=5
        )
        text.set(ha="center", va="center", path_effects=[withStroke(linewidth=2.2, foreground="white")])


def _place_labels(anchors: np.ndarray, directions: np.ndarray, dots: np.ndarray) -> np.ndarray:
    """Places `[C, 2]` for labels near their anchors, off each other and off the dots; all in inches.

    Each goes in its direction from its anchor if there is room, else a little further or to the side.
    """
    options = [(reach, turn) for reach in LABEL_REACHES for turn in np.radians(np.arange(-165, 181, 15))]
    reaches, turns = np.array(sorted(options, key=lambda option: option[0] + 0.2 * abs(option[1]))).T
    placed = np.zeros((0, 2))
    for anchor, direction in zip(anchors, directions):
        angles = np.arctan2(direction[1], direction[0]) + turns
        places = anchor + reaches[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        spare = _distance_to_nearest(places, dots) - 0.6 * LABEL_GAP
        if len(placed):
            spare = np.minimum(spare, _distance_to_nearest(places, placed) - LABEL_GAP)
        best = np.argmax(spare >= 0) if (spare >= 0).any() else np.argmax(spare)
        placed = np.append(placed, places[[best]], axis=0)
    return placed


def _distance_to_nearest(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places[:, None] - others, axis=-1).min(axis=1)


def _draw_scale(axes: "Axes", inches_per_unit: float, unit: str) -> None:
    """A bar of a round length below the map."""
    longest = LONGEST_SCALE / inches_per_unit
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0] - 0.3 / inches_per_unit
    (bar,) = axes.plot([left, left + length], [bottom, bottom], color=INK, linewidth=2, solid_capstyle="butt")
    bar.set(clip_on=False, gid="map_scale")
    axes.text(left, bottom + 0.06 / inches_per_unit, f"{length:g} {unit}", color=INK, fontsize=8, va="bottom")


def _draw_legend(axes: "Axes", has_voxels: bool, has_unseen: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    if has_voxels:
        handles.append(Patch(color=SEEN[1], label="voxels that chosen frames see; dark: stacked high"))
    if has_unseen:
        handles.append(Patch(color=UNSEEN[1], label="voxels that only others see"))
    handles.append(Line2D([], [], color=INK, linewidth=0.7, marker="o", markersize=2.5, label="path of the camera"))
    handles.append(Patch(**WEDGE_STYLE, label="chosen, and where they look"))
    legend = axes.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, -0.02), ncols=2, fontsize=8)
    legend.set_frame_on(False)
