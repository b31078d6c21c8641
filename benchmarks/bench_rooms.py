"""Synthetic rooms: what frames cost, against the plain way to find what a ray meets, every ray against every box.

    python benchmarks/bench_rooms.py

The plain way finds depth and object alone, by numpy's float64; `render` draws the colours too.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from measuring import compare

from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import Room, box_from_world, camera_path, make_room
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings, make_scene

SEED, SIZE, FRAMES = 7, (224, 168), 4
SCENES = (SceneSettings(100, (224, 168)), SceneSettings(32, (112, 84)), SceneSettings(16, (56, 42)))


def main() -> None:
    room = make_room(SEED)
    extrinsics, intrinsics = camera_path(room, FRAMES, SIZE)
    depth, owner = cast_rays(room, extrinsics, intrinsics)
    frames = render(room, extrinsics, intrinsics, SIZE)
    same, parts = frames.object_index == owner, sum(len(obj.parts) for obj in room.objects)
    error = np.abs(frames.depth - depth)[same] / depth[same]
    print(f"The same object in {same.mean():.4%} of pixels; there, depth differs by {error.max():.1e} at most.")
    compare(
        "frames of a room",
        f"{FRAMES} of {SIZE[0]}x{SIZE[1]}, {parts} boxes, textures included",
        lambda: cast_rays(room, extrinsics, intrinsics),
        lambda: render(room, extrinsics, intrinsics, SIZE),
    )
    for settings in SCENES:
        width, height = settings.size
        seconds = min(processor_seconds(partial(make_scene, seed, settings)) for seed in range(SEED, SEED + 5))
        print(f"A scene of {settings.num_frames} frames of {width}x{height}: {seconds:.2f} s of one core.")


def processor_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def cast_rays(room: Room, extrinsics: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and object `[S, H, W]` at the pixels' centres."""
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3)
    depths, owners = [], []
    for camera, pinhole in zip(extrinsics, intrinsics):
        rays, eye = pixels @ np.linalg.inv(pinhole).T @ camera[:, :3], -camera[:, :3].T @ camera[:, 3]
        depth = ((np.where(rays > 0, room.size, 0.0) - eye) / rays).min(-1)
        owner = np.full(len(rays), -1)
        for number, obj in enumerate(room.objects):
            for part in obj.parts:
                turn, half = box_from_world(part.yaw), np.array(part.size) / 2
                start, directions = turn @ (eye - part.center), rays @ turn.T
                low, high = (-half - start) / directions, (half - start) / directions
                near, far = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
                hit = (near < far) & (near > 0) & (near < depth)
                depth, owner = np.where(hit, near, depth), np.where(hit, number, owner)
        depths.append(depth.reshape(SIZE[::-1]))
        owners.append(owner.reshape(SIZE[::-1]))
    return np.stack(depths), np.stack(owners)


if __name__ == "__main__":
    main()
