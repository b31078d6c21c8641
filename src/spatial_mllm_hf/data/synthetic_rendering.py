"""Pictures of synthetic rooms: rgb, depth and the object behind each pixel, by numpy alone.

Choices: a sample at the centre of each pixel and one at each of its corners, all found in one go by
`synthetic_visibility`; a sample's colour is a look-up in `synthetic_textures`; a pixel is half its centre and an eighth
of each of its corners ("quincunx": as smooth along edges as four samples, at the cost of two).

Conventions are those of `synthetic_rooms`: metres, z up; camera from world, OpenCV axes; pixel (column c,
row r) has its centre at (c + 0.5, r + 0.5).

Shapes: S frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .synthetic_rooms import Array, Room, as_vector, box_distance, checked_size
from .synthetic_textures import FINEST_TEXEL, LEVELS, Textures
from .synthetic_visibility import RayGrid, Solids, View

_TEXELS_A_PIXEL = 1.5  # about as many of a texture lie in a pixel before the next smaller one is taken
_SHARP_FROM = 1.5  # metres; where the finest texels are about as large as pixels


@dataclass(frozen=True)
class RenderedFrames:
    """`rgb` uint8 [S, H, W, 3]; `depth` float32 [S, H, W], metres along the camera's z; `object_index` int16 [S, H, W],
    the place in `Room.objects`, or -1 for the room itself. Depth and index are those of the pixel's centre."""

    rgb: Array
    depth: Array
    object_index: Array


def render(room: Room, extrinsics: Array, intrinsics: Array, size: tuple[int, int] = (224, 168)) -> RenderedFrames:
    """Draw the room.

    Args:
        extrinsics: [S, 3, 4] or [S, 4, 4], camera from world.
        intrinsics: [S, 3, 3], pinhole without skew, in pixels of a picture of `size` (width, height).

    Raises:
        ValueError: shapes that do not fit, a size below 2 pixels, or a camera outside the room or inside furniture.
    """
    width, height = checked_size(size)
    origins, num_frames = _checked_cameras(room, extrinsics, intrinsics), len(extrinsics)
    solids = Solids(room)
    steps = np.log2(_SHARP_FROM / intrinsics[:, 0, 0].max(initial=1.0) / FINEST_TEXEL)  # in which texels double
    texel = FINEST_TEXEL * 2.0 ** max(0, round(steps))
    textures = Textures(room, solids, texel)
    out = RenderedFrames(
        np.empty((num_frames, height, width, 3), np.uint8),
        np.empty((num_frames, height, width), np.float32),
        np.empty((num_frames, height, width), np.int16),
    )
    for frame in range(num_frames):
        rotation, origin = extrinsics[frame, :3, :3], origins[frame]
        grid = _samples(intrinsics[frame], width, height)
        view = solids.look(rotation, origin, grid)
        surface = view.surface[1::2, :width]  # at the pixels' centres
        a, b, c = (view.planes[:, k].take(surface) for k in range(3))  # in full precision, unlike view.inverse_depth
        out.depth[frame] = 1 / (a * (grid.x[:width] + grid.shift[1]) + b * grid.y[1::2, None] + c)
        out.object_index[frame] = solids.owner.take(surface)
        maps = textures.maps(view.planes, rotation, origin)
        out.rgb[frame] = _pixels(_colours(textures, maps, view, grid, texel * intrinsics[frame, 0, 0]))
    return out


def _samples(intrinsics: Array, width: int, height: int) -> RayGrid:
    """Rows [2 H + 1] of samples, W + 1 in each: corners of pixels, then centres shifted by half a pixel, in turns."""
    fx, fy, cx, cy = intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
    rows = np.arange(2 * height + 1)
    return RayGrid((np.arange(width + 1) - cx) / fx, (rows / 2 - cy) / fy, rows % 2 * 0.5 / fx)


def _colours(textures: Textures, maps: Array, view: View, grid: RayGrid, sharp: float) -> Array:
    """Colours uint8 [2 H + 1, W + 1, 4] of the samples.

    Args:
        maps: [6, T], as `Textures.maps` gives them; sharp: the depth in metres where the finest texels are pixels.
    """
    depth, first = 1 / view.inverse_depth, len(view.planes) - 6
    levels = sum((depth > _TEXELS_A_PIXEL * sharp * 2**level) for level in range(LEVELS - 1))
    texture = view.surface + 6 * levels * (view.surface >= first)
    x, y = (grid.x + grid.shift[:, None]).astype(np.float32), grid.y.astype(np.float32)[:, None]
    a, b, c, d, e, f = (line.take(texture) for line in maps)
    column, row = (a * x + b * y + c) * depth, (d * x + e * y + f) * depth
    texel = textures.start.take(texture) + row.astype(np.int32) * textures.width.take(texture) + column.astype(np.int32)
    colours: Array = textures.colours.take(texel, mode="clip").view(np.uint8)
    return colours.reshape(*depth.shape, 4)


def _pixels(samples: Array) -> Array:
    """Pixels [H, W, 3] out of samples uint8 [2 H + 1, W + 1, 4]."""
    corners, centres = samples[::2].astype(np.uint16), samples[1::2, :-1].astype(np.uint16)
    pairs = corners[:-1] + corners[1:]
    return ((4 * centres + pairs[:, :-1] + pairs[:, 1:] + 4) >> 3)[..., :3]


def _checked_cameras(room: Room, extrinsics: Array, intrinsics: Array) -> Array:
    """World positions [S, 3] of the cameras."""
    if extrinsics.shape[1:] not in ((3, 4), (4, 4)) or intrinsics.shape != (len(extrinsics), 3, 3):
        raise ValueError(
            "extrinsics must be [S, 3, 4] or [S, 4, 4] and intrinsics [S, 3, 3],"
            f" got {list(extrinsics.shape)} and {list(intrinsics.shape)}"
        )
    origins: Array = -np.einsum("sij,si->sj", extrinsics[:, :3, :3], extrinsics[:, :3, 3])
    for frame in np.flatnonzero(((origins <= 0) | (origins >= room.size)).any(1)):
        place = f"at {as_vector(origins[frame].round(2))}, expected inside the room of {room.size} metres"
        raise ValueError(f"extrinsics[{frame}] has its camera {place}")
    for name, part in ((obj.name, part) for obj in room.objects for part in obj.parts):
        for frame in np.flatnonzero(box_distance(origins, part) == 0):
            raise ValueError(f"extrinsics[{frame}] has its camera inside a {name}, expected in free space")
    return origins
