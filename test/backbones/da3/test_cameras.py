import pytest
import torch

from gld_ros.backbones.da3.camera import CameraEncoder, cameras_from_pose_encoding, pose_encoding
from gld_ros.backbones.da3.pose_alignment import normalise_poses, scale_between_trajectories
from gld_ros.backbones.da3.ray_cameras import cameras_from_ray_map
from gld_ros.geometry.poses import rotation_angles_rad
from gld_ros.geometry.rigid import (
    invert_rigid,
    matrix_from_quaternion_xyzw,
    rigid_transform,
)

IMAGE_HW = (56, 84)


def random_poses(views, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    quaternions = torch.randn(views, 4, generator=generator, dtype=torch.float64)
    centres = spread * torch.randn(views, 3, generator=generator, dtype=torch.float64)
    return rigid_transform(matrix_from_quaternion_xyzw(quaternions), centres)


def centred_K(focal_px=(60.0, 55.0)):
    K = torch.eye(3, dtype=torch.float64)
    K[0, 0], K[1, 1], K[0, 2], K[1, 2] = *focal_px, IMAGE_HW[1] / 2, IMAGE_HW[0] / 2
    return K


def test_pose_encoding_round_trip():
    T_world_cam, K = random_poses(20), centred_K().expand(20, 3, 3)
    encoding = pose_encoding(invert_rigid(T_world_cam), K, IMAGE_HW)
    assert (encoding[:, 6] >= 0).all()
    T_back, K_back = cameras_from_pose_encoding(encoding, IMAGE_HW)
    torch.testing.assert_close(T_back, T_world_cam)
    torch.testing.assert_close(K_back, K)


def test_the_field_of_view_is_stored_vertical_first():
    encoding = pose_encoding(torch.eye(4, dtype=torch.float64), centred_K((84.0, 28.0)), IMAGE_HW)
    torch.testing.assert_close(
        encoding[7:], 2 * torch.atan(torch.tensor([28 / 28.0, 42 / 84.0], dtype=torch.float64))
    )


def test_camera_encoder_treats_views_alike():
    torch.manual_seed(0)
    encoder = CameraEncoder(16, num_heads=2, depth=2, layer_scale_init=1.0)
    T, K = random_poses(4)[None], centred_K().expand(1, 4, 3, 3)
    tokens = encoder(T, K, IMAGE_HW)
    assert tokens.shape == (1, 4, 16)
    permuted = encoder(T[:, [2, 0, 3, 1]], K, IMAGE_HW)
    torch.testing.assert_close(permuted, tokens[:, [2, 0, 3, 1]], rtol=1e-4, atol=1e-5)


def test_normalised_poses_start_at_the_first_view_and_have_unit_size():
    normalised, scale = normalise_poses(random_poses(5))
    torch.testing.assert_close(normalised[0], torch.eye(4, dtype=torch.float64))
    centres = invert_rigid(normalised)[:, :3, 3].norm(dim=-1)
    assert centres.median().item() == pytest.approx(1)
    _, doubled = normalise_poses(scaled(random_poses(5), 2))
    torch.testing.assert_close(doubled, 2 * scale)
    batch = torch.stack([random_poses(5), scaled(random_poses(5), 2)])
    torch.testing.assert_close(normalise_poses(batch)[0], normalised.expand(2, -1, -1, -1))


def test_poses_that_coincide_are_not_divided_by_zero():
    normalised, scale = normalise_poses(torch.eye(4).repeat(3, 1, 1))
    assert scale.item() == pytest.approx(0.1)
    assert torch.isfinite(normalised).all()


def scaled(T_cam_world, factor):
    T = T_cam_world.clone()
    T[:, :3, 3] *= factor
    return T


@pytest.mark.parametrize("views", [2, 4, 12])
def test_scale_between_paths_ignores_the_frames(views):
    T_cam_world = random_poses(views)
    moved = scaled(T_cam_world, 2.5) @ random_poses(1, seed=3)[0]
    assert scale_between_trajectories(T_cam_world, moved) == pytest.approx(2.5)


def test_scale_of_a_straight_drive():
    T_cam_world = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
    T_cam_world[:, 2, 3] = -torch.arange(12.0, dtype=torch.float64)
    moved = scaled(T_cam_world, 0.3) @ random_poses(1, seed=3)[0]
    assert scale_between_trajectories(T_cam_world, moved) == pytest.approx(0.3)


def test_scale_survives_outliers():
    T_cam_world = random_poses(12)
    predicted = scaled(T_cam_world, 2.0)
    predicted[[3, 8], :3, 3] += 40
    assert scale_between_trajectories(T_cam_world, predicted) == pytest.approx(2.0, rel=1e-6)


def test_there_is_no_scale_without_motion():
    still = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    assert scale_between_trajectories(still, random_poses(3)) is None
    assert scale_between_trajectories(random_poses(1), random_poses(1, seed=1)) is None


def synthetic_rays(T_world_cam, K_px, rows=32, columns=48):
    height, width = IMAGE_HW
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) * width / columns
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) * height / rows
    pixels = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1)
    pixels = torch.cat([pixels, torch.ones(rows, columns, 1, dtype=torch.float64)], dim=-1)
    directions = pixels @ torch.linalg.inv(K_px).mT @ T_world_cam[:3, :3].mT
    return torch.cat([directions, T_world_cam[:3, 3].expand_as(directions)], dim=-1)


def small_rotations(views):
    axis = torch.randn(views, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    quaternions = torch.cat([0.1 * axis, torch.ones(views, 1, dtype=torch.float64)], dim=-1)
    return rigid_transform(matrix_from_quaternion_xyzw(quaternions), axis)


@pytest.mark.parametrize("seed", [0, 7])
def test_ray_cameras_survive_outliers(seed):
    T_world_cam = small_rotations(3)
    ray = torch.stack([synthetic_rays(T, centred_K()) for T in T_world_cam])[None]
    confidence = torch.ones(ray.shape[:-1], dtype=torch.float64)
    outlier = torch.rand(ray.shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.15
    noise = torch.randn((*ray.shape[:-1], 3), generator=torch.Generator().manual_seed(2))
    ray[..., :3] = torch.where(outlier[..., None], 3 * noise.double(), ray[..., :3])
    cameras = cameras_from_ray_map(ray, confidence, IMAGE_HW, seed=seed)
    R_error = cameras.T_world_cam[0, :, :3, :3].mT @ T_world_cam[:, :3, :3]
    assert rotation_angles_rad(R_error.numpy()).max() < 0.02
    torch.testing.assert_close(cameras.T_world_cam[0, :, :3, 3], T_world_cam[:, :3, 3])
    torch.testing.assert_close(cameras.K_px[0], centred_K().expand(3, 3, 3), rtol=0.03, atol=1.0)
    assert (cameras.inlier_fraction > 0.8).all()


def test_unusable_rays_are_left_out():
    T_world_cam = small_rotations(1)
    ray = synthetic_rays(T_world_cam[0], centred_K())[None, None]
    ray[0, 0, :4, :, 2] = 0
    ray[0, 0, 4:6, :, 0] = float("nan")
    cameras = cameras_from_ray_map(ray, torch.ones(ray.shape[:-1]), IMAGE_HW)
    torch.testing.assert_close(cameras.T_world_cam[0], T_world_cam)


def test_impossible_ray_maps_are_refused():
    ray = torch.rand(1, 1, 4, 4, 6)
    with pytest.raises(ValueError, match="4x4 is too small"):
        cameras_from_ray_map(ray, torch.ones(1, 1, 4, 4), IMAGE_HW)
    with pytest.raises(ValueError, match="expected ray"):
        cameras_from_ray_map(ray[..., :3], torch.ones(1, 1, 4, 4), IMAGE_HW)
    flat = torch.rand(1, 1, 8, 8, 6)
    flat[..., 2] = 0
    with pytest.raises(ValueError, match="fewer than 8 rays"):
        cameras_from_ray_map(flat, torch.ones(1, 1, 8, 8), IMAGE_HW)
    constant = torch.ones(1, 1, 8, 8, 6)
    with pytest.raises(ValueError, match=r"no camera fits .*\(0, 0\)"):
        cameras_from_ray_map(constant, torch.ones(1, 1, 8, 8), IMAGE_HW)


def test_untrained_tokens_tell_the_views_of_one_scene_apart():
    torch.manual_seed(0)
    encoder = CameraEncoder(64, num_heads=2, depth=1, layer_scale_init=0.5)
    T_cam_world = torch.eye(4).repeat(1, 4, 1, 1)
    T_cam_world[0, :, 0, 3] = torch.tensor([0.0, 0.06, 0.12, 0.18])  # a path of half a metre
    K_px = torch.tensor([[60.0, 0, 42], [0, 60, 28], [0, 0, 1]]).expand(1, 4, 3, 3)
    tokens = encoder(T_cam_world, K_px, (56, 84))
    within = (tokens - tokens.mean(1, keepdim=True)).std()
    assert within > 0.1 * tokens.std()
