"""Cameras and points: the conventions of VGGT's outputs, and how to go between them.

World: the first frame's camera, OpenCV axes (x right, y down, z forward), in units of the scene as VGGT scales it.
Extrinsics `[..., 3, 4]` = [R | t] take the world to the camera: `x_camera = R x_world + t` ("camera from world").
Intrinsics `[..., 3, 3]` are in pixels of the frame, principal point in its middle; pixel (u, v) is column u, row v,
and the first pixel's coordinates are (0, 0).
Follows vggt/utils/pose_enc.py, rotation.py and geometry.py of the public code.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

Method = TypeVar("Method", bound=Callable)


def takes_chunks(method: Method) -> Method:
    """Marks a `predict_geometry` that takes its frames in chunks too, as they are decoded."""
    method.takes_chunks = True  # type: ignore[attr-defined]
    return method


class PointMap(NamedTuple):
    """Where each pixel of S frames lies in the world: points `[S, H, W, 3]`, confidence `[S, H, W]`, both float32."""

    points: torch.Tensor
    confidence: torch.Tensor


class SceneGeometry(NamedTuple):
    """A `PointMap` with the cameras of its S frames, all float32.

    Attributes:
        points: `[S, H, W, 3]` in the world.
        confidence: `[S, H, W]`.
        extrinsics: `[S, 3, 4]`, camera from world.
        intrinsics: `[S, 3, 3]` in pixels.
    """

    points: torch.Tensor
    confidence: torch.Tensor
    extrinsics: torch.Tensor
    intrinsics: torch.Tensor


def decode_pose(pose_enc: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pose encodings `[..., 9]` → extrinsics `[..., 3, 4]` (camera from world) and intrinsics `[..., 3, 3]` (pixels).

    An encoding is translation (3), quaternion x, y, z, w (4, of any length), vertical and horizontal field of view
    in radians.
    """
    rotation = rotation_from_quaternion(pose_enc[..., 3:7])
    extrinsics = torch.cat([rotation, pose_enc[..., :3, None]], dim=-1)
    fov_height, fov_width = pose_enc[..., 7], pose_enc[..., 8]
    intrinsics = pose_enc.new_zeros(*pose_enc.shape[:-1], 3, 3)
    intrinsics[..., 0, 0] = width / 2 / torch.tan(fov_width / 2)
    intrinsics[..., 1, 1] = height / 2 / torch.tan(fov_height / 2)
    intrinsics[..., 0, 2] = width / 2
    intrinsics[..., 1, 2] = height / 2
    intrinsics[..., 2, 2] = 1.0
    return extrinsics, intrinsics


def rotation_from_quaternion(quaternion: torch.Tensor) -> torch.Tensor:
    """Quaternions `[..., 4]` as x, y, z, w (any length but 0) → rotation matrices `[..., 3, 3]`."""
    x, y, z, w = quaternion.unbind(-1)
    scale = 2.0 / quaternion.square().sum(-1)
    rows = (
        (1 - scale * (y * y + z * z), scale * (x * y - z * w), scale * (x * z + y * w)),
        (scale * (x * y + z * w), 1 - scale * (x * x + z * z), scale * (y * z - x * w)),
        (scale * (x * z - y * w), scale * (y * z + x * w), 1 - scale * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def unproject_depth(depth: torch.Tensor, extrinsics: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Depth along the camera's axis `[..., H, W]`, with cameras `[..., 3, 4]` and `[..., 3, 3]` → `[..., H, W, 3]`."""
    H, W = depth.shape[-2:]
    v, u = torch.meshgrid(
        torch.arange(H, dtype=depth.dtype, device=depth.device),
        torch.arange(W, dtype=depth.dtype, device=depth.device),
        indexing="ij",
    )
    focal_x, focal_y = intrinsics[..., 0, 0, None, None], intrinsics[..., 1, 1, None, None]
    centre_x, centre_y = intrinsics[..., 0, 2, None, None], intrinsics[..., 1, 2, None, None]
    in_camera = torch.stack([(u - centre_x) * depth / focal_x, (v - centre_y) * depth / focal_y, depth], dim=-1)
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3]
    # x_world = R^T (x_camera - t), with points as rows
    return (in_camera - translation[..., None, None, :]) @ rotation[..., None, :, :]
