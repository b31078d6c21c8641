"""Conventions of cameras and points, checked against geometry itself."""

import math

import pytest
import torch

from spatial_mllm_hf.modeling.vggt_geometry import decode_pose, rotation_from_quaternion, unproject_depth


def test_quaternion_is_scalar_last_and_right_handed() -> None:
    half = math.sqrt(0.5)
    about_z = rotation_from_quaternion(torch.tensor([0.0, 0.0, half, half]))  # a quarter turn
    torch.testing.assert_close(about_z @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


def test_rotations_are_orthonormal_whatever_the_quaternions_length() -> None:
    torch.manual_seed(0)
    quaternions = torch.randn(20, 4, dtype=torch.float64)
    rotations = rotation_from_quaternion(quaternions)
    identity = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    torch.testing.assert_close(rotations @ rotations.transpose(-1, -2), identity)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(rotation_from_quaternion(3 * quaternions), rotations)


def test_field_of_view_becomes_a_focal_length_in_pixels() -> None:
    pose = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, math.radians(60), math.radians(90)])
    extrinsics, intrinsics = decode_pose(pose, height=100, width=200)
    torch.testing.assert_close(extrinsics, torch.eye(4)[:3])
    assert intrinsics[0, 0].item() == pytest.approx(100.0)  # half the width at 90 degrees
    assert intrinsics[1, 1].item() == pytest.approx(50 * math.sqrt(3))
    assert intrinsics[:2, 2].tolist() == [100.0, 50.0]


def test_unprojected_points_project_back_onto_their_pixels() -> None:
    torch.manual_seed(0)
    S, H, W = 3, 6, 8
    pose = torch.cat([torch.randn(S, 7), torch.full((S, 2), 1.0)], dim=-1).double()
    extrinsics, intrinsics = decode_pose(pose, H, W)
    depth = torch.rand(S, H, W, dtype=torch.float64) + 1
    points = unproject_depth(depth, extrinsics, intrinsics)
    in_camera = points @ extrinsics[:, None, :, :3].transpose(-1, -2) + extrinsics[:, None, None, :, 3]
    torch.testing.assert_close(in_camera[..., 2], depth)
    pixels = in_camera @ intrinsics[:, None].transpose(-1, -2)
    pixels = pixels[..., :2] / pixels[..., 2:]
    v, u = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([u, v], dim=-1).double().expand(S, H, W, 2))
