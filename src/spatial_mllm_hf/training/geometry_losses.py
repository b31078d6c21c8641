"""What VGGT is trained on: cameras, depth and points of a scene, the losses between them and its output, the errors.

Follows section 3.4 of VGGT's paper (arXiv 2503.11651): a Huber loss on the pose encodings; for depth and for points
the error and that of their differences between neighbouring pixels, weighted by the predicted confidence, whose
logarithm is rewarded. Targets are in the first camera's frame, in units of the mean distance of the scene's points
from it, and the predictions are not normalised: the network learns to. What the paper leaves open is as in the public
code (training/loss.py and its configuration).

Choices: of the two quaternions of a rotation, the camera loss takes the one that is nearer to the prediction (the
public code takes the one with a positive w), since walks turn past half a circle. Differences of neighbours are taken
at the finest scale alone.

Conventions are those of `vggt_geometry`: camera from world, OpenCV axes, the world is the first frame's camera. A pixel
is what its centre shows, so a point lies half a pixel away from where `unproject_depth` puts column c and row r.

Shapes: B clips, S frames, H x W pixels, D channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..modeling.modeling_vggt import VGGTOutput
from ..modeling.vggt_geometry import decode_pose, unproject_depth

CONFIDENCE_REWARD = 0.2  # alpha in the public code's configuration; the paper gives no value
HUBER_THRESHOLD = 0.1  # from which the camera loss grows in proportion to the error; the paper gives no value
FIELD_OF_VIEW_WEIGHT = 0.5  # beside translation and rotation, as in the public code
_NEAREST = 1e-3  # metres; a scene's unit is at least this


class SceneTargets(NamedTuple):
    """What VGGT should say of B clips, in the first camera's frame and in the scene's unit.

    Attributes:
        pose_enc: `[B, S, 9]`, see `vggt_geometry.decode_pose`.
        depth: `[B, S, H, W]` along the camera's axis.
        points: `[B, S, H, W, 3]`.
        unit: `[B]`, metres that are 1.
    """

    pose_enc: torch.Tensor
    depth: torch.Tensor
    points: torch.Tensor
    unit: torch.Tensor


def scene_targets(
    depth: torch.Tensor, extrinsics: torch.Tensor, intrinsics: torch.Tensor, unit: float | None = None
) -> SceneTargets:
    """Targets out of exact depth and cameras in any world.

    Args:
        depth: `[B, S, H, W]`, metres along the camera's axis, above 0 everywhere.
        extrinsics: `[B, S, 3, 4]`, camera from world.
        intrinsics: `[B, S, 3, 3]` in pixels, principal point in the picture's middle.
        unit: metres that are 1, for all scenes; by default each scene's mean distance of points from the first camera,
            as in the paper.

    Raises:
        ValueError: shapes that do not fit together, or a unit that is not above 0.
    """
    B, S, H, W = depth.shape
    if extrinsics.shape != (B, S, 3, 4) or intrinsics.shape != (B, S, 3, 3):
        raise ValueError(
            f"extrinsics and intrinsics must be [{B}, {S}, 3, 4] and [{B}, {S}, 3, 3] for depth {list(depth.shape)}, "
            f"got {list(extrinsics.shape)} and {list(intrinsics.shape)}"
        )
    if unit is not None and unit <= 0:
        raise ValueError(f"unit must be above 0 metres, got {unit}; leave it out for a unit of each scene's own")
    extrinsics = in_first_camera(extrinsics)
    at_centres = intrinsics.clone()
    at_centres[..., :2, 2] -= 0.5
    points = unproject_depth(depth, extrinsics, at_centres)
    units = points.norm(dim=-1).mean((1, 2, 3)) if unit is None else depth.new_full((B,), unit)
    units = units.clamp(min=_NEAREST)
    scaled = torch.cat([extrinsics[..., :3], extrinsics[..., 3:] / units[:, None, None, None]], dim=-1)
    return SceneTargets(
        encode_pose(scaled, intrinsics, H, W),
        depth / units[:, None, None, None],
        points / units[:, None, None, None, None],
        units,
    )


def in_first_camera(extrinsics: torch.Tensor) -> torch.Tensor:
    """The same cameras `[..., S, 3, 4]` with the first one's frame as the world."""
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3:]
    relative = rotation @ rotation[..., :1, :, :].transpose(-1, -2)
    return torch.cat([relative, translation - relative @ translation[..., :1, :, :]], dim=-1)


def encode_pose(extrinsics: torch.Tensor, intrinsics: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `decode_pose`: `[..., 3, 4]` and `[..., 3, 3]` → `[..., 9]`, with a quaternion of length 1."""
    fov_height = 2 * torch.atan(height / 2 / intrinsics[..., 1, 1])
    fov_width = 2 * torch.atan(width / 2 / intrinsics[..., 0, 0])
    quaternion = quaternion_from_rotation(extrinsics[..., :3])
    return torch.cat([extrinsics[..., 3], quaternion, fov_height[..., None], fov_width[..., None]], dim=-1)


def quaternion_from_rotation(rotation: torch.Tensor) -> torch.Tensor:
    """Rotation matrices `[..., 3, 3]` → quaternions `[..., 4]` as x, y, z, w of length 1, w at least 0.

    4 q qᵀ is linear in the matrix; each of its rows is a multiple of q, and that of q's largest component is taken.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotation.unbind(-2))
    rows = (
        (1 + xx - yy - zz, xy + yx, xz + zx, zy - yz),
        (xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx),
        (xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy),
        (zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz),
    )
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # [..., 4, 4]
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*rotation.shape[:-2], 1, 4)
    quaternion = F.normalize(products.gather(-2, largest)[..., 0, :], dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def geometry_losses(output: VGGTOutput, targets: SceneTargets) -> dict[str, torch.Tensor]:
    """The losses of the heads that ran, by name: camera, depth, points."""
    losses = {}
    if output.pose_enc is not None:
        losses["camera"] = camera_loss(output.pose_enc, targets.pose_enc)
    if output.depth is not None and output.depth_conf is not None:
        losses["depth"] = confident_loss(output.depth, targets.depth[..., None], output.depth_conf)
    if output.world_points is not None and output.world_points_conf is not None:
        losses["points"] = confident_loss(output.world_points, targets.points, output.world_points_conf)
    return losses


def camera_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Huber loss, of slope 1 beyond `HUBER_THRESHOLD`, between pose encodings `[..., 9]`."""
    translation, rotation, field_of_view = predicted.split((3, 4, 2), dim=-1)
    wanted = target.split((3, 4, 2), dim=-1)
    sides = torch.stack([_huber(rotation, sign * wanted[1]).mean(-1) for sign in (1, -1)])
    losses = _huber(translation, wanted[0]).mean(-1) + sides.amin(0)
    return (losses + FIELD_OF_VIEW_WEIGHT * _huber(field_of_view, wanted[2]).mean(-1)).mean()


def confident_loss(predicted: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """confidence * (error + error of the differences to the next pixels) - alpha * log(confidence), on average.

    For an error e the best confidence is alpha / e.

    Args:
        predicted, target: `[B, S, H, W, D]`.
        confidence: `[B, S, H, W]`, above 0.
    """
    error = predicted - target
    loss = (confidence * error.norm(dim=-1)).mean() - CONFIDENCE_REWARD * confidence.log().mean()
    for axis in (2, 3):
        length = error.shape[axis] - 1
        if length:
            steps = error.diff(dim=axis).norm(dim=-1)
            loss = loss + (confidence.narrow(axis, 0, length) * steps).mean()
    return loss


def geometry_errors(output: VGGTOutput, targets: SceneTargets) -> dict[str, torch.Tensor]:
    """Mean errors of the heads that ran, without any alignment.

    Returns:
        "depth_relative": |depth - true| / true. "point_metres": distance of points. "rotation_degrees" and
        "position_metres": of cameras but the first, which sets the world. Metres are those of the targets' unit.
    """
    errors = {}
    unit = targets.unit[:, None]
    if output.depth is not None:
        errors["depth_relative"] = ((output.depth[..., 0] - targets.depth).abs() / targets.depth).mean()
    if output.world_points is not None:
        errors["point_metres"] = ((output.world_points - targets.points).norm(dim=-1).mean((2, 3)) * unit).mean()
    if output.pose_enc is not None and output.pose_enc.shape[1] > 1:
        H, W = targets.depth.shape[-2:]
        found, wanted = (decode_pose(pose[:, 1:], H, W)[0] for pose in (output.pose_enc, targets.pose_enc))
        errors["rotation_degrees"] = rotation_angle(found[..., :3], wanted[..., :3]).rad2deg().mean()
        errors["position_metres"] = ((_centres(found) - _centres(wanted)).norm(dim=-1) * unit).mean()
    return errors


def constant_output(targets: SceneTargets) -> VGGTOutput:
    """What a predictor says that never looks: no camera moves, and all is as far away as targets are on average."""
    pose = torch.zeros_like(targets.pose_enc)
    pose[..., 6] = 1
    pose[..., 7:] = targets.pose_enc[..., 7:]
    depth = targets.depth.mean().expand_as(targets.depth)
    extrinsics, intrinsics = decode_pose(pose, *depth.shape[-2:])
    ones = torch.ones_like(depth)
    points = unproject_depth(depth, extrinsics, intrinsics)
    return VGGTOutput(
        pose_enc=pose, depth=depth[..., None], depth_conf=ones, world_points=points, world_points_conf=ones
    )


def rotation_angle(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Radians `[...]` between rotations `[..., 3, 3]`."""
    apart = quaternion_from_rotation(first @ second.transpose(-1, -2))
    return 2 * torch.atan2(apart[..., :3].norm(dim=-1), apart[..., 3])


def _centres(extrinsics: torch.Tensor) -> torch.Tensor:
    return -(extrinsics[..., :3].transpose(-1, -2) @ extrinsics[..., 3:])[..., 0]


def _huber(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.smooth_l1_loss(predicted, target, reduction="none", beta=HUBER_THRESHOLD)


__all__ = [
    "SceneTargets",
    "camera_loss",
    "confident_loss",
    "constant_output",
    "encode_pose",
    "geometry_errors",
    "geometry_losses",
    "in_first_camera",
    "quaternion_from_rotation",
    "rotation_angle",
    "scene_targets",
]
