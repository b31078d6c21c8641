"""Draws what space-aware sampling sees of a walk through a furnished room, by the room's own exact geometry.

The walk lingers where it begins and ends, as people do: frames at even steps in time show that corner again and again.

python examples/sampling_picture.py [OUT.png]
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spatial_mllm_hf import SpatialMLLMVideoProcessor
from spatial_mllm_hf.cli.sampling_figure import draw_sampling
from spatial_mllm_hf.data.synthetic_rendering import RenderedFrames, render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.modeling.vggt_geometry import SceneGeometry, unproject_depth
from spatial_mllm_hf.processing.frame_sampling_spatial_mllm import uniform_indices

NUM_FRAMES, FPS, SIZE = 48, 8, (224, 168)  # whole patches of 14 pixels, so that candidates are the frames themselves
STEPS, PACE = 480, 0.85  # of the whole round; how much slower than on average it begins and ends
NUM_CHOSEN, SEED, DPI = 8, 7, 140
DEFAULT_PATH = Path(__file__).parents[1] / "docs" / "sampling_room.png"


class RoomGeometry:
    """Stands in for VGGT where frames were rendered: tells exactly where each pixel lies, in metres.

    Takes cameras as the room has them (`extrinsics` `[T, 3, 4]`, `intrinsics` `[T, 3, 3]`) and answers as VGGT does:
    the world is the first camera, and the first pixel's coordinates are (0, 0).
    """

    def __init__(self, frames: RenderedFrames, extrinsics: np.ndarray, intrinsics: np.ndarray) -> None:
        self._depth = torch.from_numpy(frames.depth).double()
        whole = np.concatenate([extrinsics, np.tile([[[0.0, 0.0, 0.0, 1.0]]], (len(extrinsics), 1, 1))], axis=1)
        self._extrinsics = torch.from_numpy((whole @ np.linalg.inv(whole[0]))[:, :3])
        self._intrinsics = torch.from_numpy(intrinsics).clone()
        self._intrinsics[:, :2, 2] -= 0.5

    def predict_geometry(self, frames: torch.Tensor, return_cameras: bool = False) -> Any:
        """Geometry of `[S, 3, H, W]` frames at even steps through the walk, in the size in which it was rendered."""
        if frames.shape[-2:] != self._depth.shape[-2:]:
            raise ValueError(f"frames are {list(frames.shape[-2:])}, rendered ones {list(self._depth.shape[-2:])}.")
        places = uniform_indices(len(self._depth), len(frames))
        depth, extrinsics, intrinsics = (values[places] for values in (self._depth, self._extrinsics, self._intrinsics))
        points = unproject_depth(depth, extrinsics, intrinsics).float()
        return SceneGeometry(points, torch.ones_like(points[..., 0]), extrinsics.float(), intrinsics.float())


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PATH
    room = make_room(SEED)
    time = np.linspace(0, 1, NUM_FRAMES, endpoint=False)
    places = ((time - PACE * np.sin(2 * np.pi * time) / (2 * np.pi)) * STEPS).round().astype(int)
    extrinsics, intrinsics = (cameras[places] for cameras in camera_path(room, STEPS, SIZE))
    frames = render(room, extrinsics, intrinsics, SIZE)
    processor = SpatialMLLMVideoProcessor(candidate_size=max(SIZE))
    processor.bind_geometry(RoomGeometry(frames, extrinsics, intrinsics))
    with tempfile.TemporaryDirectory() as folder:
        write_clip(frames.rgb, Path(folder) / "room.mp4", FPS)
        sample = processor.sample_scene(str(Path(folder) / "room.mp4"), num_frames=NUM_CHOSEN)
    drawn = io.BytesIO()
    draw_sampling(sample, title="A walk through a furnished room", unit="m").savefig(drawn, dpi=DPI)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=8).save(path, optimize=True)
    print(
        f"Wrote {path}: {NUM_CHOSEN} of {NUM_FRAMES} frames see {sample.selection.covered} of "
        f"{sample.selection.total_voxels} voxels."
    )


if __name__ == "__main__":
    main()
