"""Plücker maps and cameras recovered from rays, against geometry."""

import pytest
import torch

from gld_ros.geometry.intrinsics import pixel_grid
from gld_ros.geometry.rays import cameras_from_rays, plucker_map
from gld_ros.geometry.rigid import matrix_from_quaternion_xyzw, rigid_transform

from .conftest import pinhole_px


def _cameras(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(count, 4, dtype=torch.float64, generator=generator) * 0.1
    q[:, 3] = 1
    q[0, :3] = 0
    t = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return rigid_transform(matrix_from_quaternion_xyzw(q), t)


def test_rays_through_pixel_centres_meet_the_camera_axis():
    K = pinhole_px(10, 10, 2, 1)
    T = _cameras(2)[1]
    map_ = plucker_map(T, K, (3, 5), "centred")
    torch.testing.assert_close(map_[:3, 1, 2], T[:3, 2])
    torch.testing.assert_close(map_[3:, 1, 2], torch.linalg.cross(T[:3, 3], T[:3, 2]))


def test_official_grid_shifts_columns_and_rows_in_opposite_directions():
    K = pinhole_px(10, 10, 1.5, 1.5)
    map_ = plucker_map(torch.eye(4, dtype=torch.float64), K, (3, 5), "official")
    torch.testing.assert_close(map_[:3, 1, 2], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def test_unknown_grid_is_refused():
    with pytest.raises(ValueError, match="centred"):
        plucker_map(torch.eye(4), torch.eye(3), (2, 2), "centered")


def test_cameras_are_recovered_from_exact_rays():
    T = _cameras(3).expand(2, 3, 4, 4)
    K = pinhole_px(77.0, 77.0, 41.5, 27.5)
    grid = pixel_grid((32, 48), dtype=torch.float64)
    scaled = grid * torch.tensor([84 / 48, 56 / 32, 1.0])
    d = scaled @ torch.linalg.inv(K).T
    d = torch.einsum("bvij,hwj->bvhwi", T[..., :3, :3], d) * 0.7
    o = T[..., None, None, :3, 3].expand_as(d)
    weight = 1 + torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    found = cameras_from_rays(torch.cat([d, o], -1), weight, (56, 84))
    torch.testing.assert_close(found.T_model_cam, T, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.K_px, K.expand(2, 3, 3), atol=1e-8, rtol=0)
    torch.testing.assert_close(found.K_px_per_view, K.expand(2, 3, 3, 3), atol=1e-8, rtol=0)


def test_rays_that_carry_no_camera_are_refused():
    flat = torch.zeros(1, 1, 8, 8, 6)
    flat[..., 2] = 1
    with pytest.raises(ValueError, match="one plane"):
        cameras_from_rays(flat, torch.ones(1, 1, 8, 8), (14, 14))
    with pytest.raises(ValueError, match="not finite"):
        cameras_from_rays(flat * torch.nan, torch.ones(1, 1, 8, 8), (14, 14))
