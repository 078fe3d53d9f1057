"""Camera inputs: what the map holds, scale rules, camera drop, refused cameras."""

import math

import pytest
import torch
from micro_scenes import IMAGE_HW, conditions_of, intrinsics, random_poses

from gld_ros.diffusion.conditioning import (
    CoincidentCamerasError,
    camera_conditions,
    unconditional,
)


def test_last_view_is_the_origin_and_largest_coordinate_is_one():
    camera_map, viewmats, scale = camera_conditions(random_poses(), intrinsics(), IMAGE_HW, 2)
    centres = torch.linalg.inv(viewmats)[..., :3, 3]
    torch.testing.assert_close(viewmats[:, -1], torch.eye(4)[None], atol=1e-6, rtol=0)
    assert centres.abs().max().item() == pytest.approx(1.0, abs=1e-5)
    assert camera_map.shape == (1, 4, 7, *IMAGE_HW)
    assert scale.shape == (1,)


def test_map_holds_mask_unit_direction_and_moment():
    camera_map, viewmats, _ = camera_conditions(random_poses(), intrinsics(), IMAGE_HW, 3)
    assert torch.equal(camera_map[0, :, 0].amax((1, 2)), torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert torch.equal(camera_map[0, :, 0].amin((1, 2)), torch.tensor([0.0, 0.0, 0.0, 1.0]))
    direction, moment = camera_map[:, :, 1:4], camera_map[:, :, 4:]
    torch.testing.assert_close(direction.norm(dim=2), torch.ones(1, 4, *IMAGE_HW))
    centres = torch.linalg.inv(viewmats)[..., :3, 3, None, None].expand_as(direction)
    torch.testing.assert_close(
        moment, torch.linalg.cross(centres, direction, dim=2), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(("grid", "offset"), [("official", (-0.5, 0.5)), ("centred", (0.0, 0.0))])
def test_rays_pass_where_the_grid_says(grid, offset):
    camera_map, _, _ = camera_conditions(random_poses(), intrinsics(), IMAGE_HW, 2, ray_grid=grid)
    row, column = 5, 17
    x, y, z = camera_map[0, -1, 1:4, row, column]
    K = intrinsics()[0, 0]
    assert (K[0, 0] * x / z + K[0, 2]).item() == pytest.approx(column + offset[0], abs=1e-3)
    assert (K[1, 1] * y / z + K[1, 2]).item() == pytest.approx(row + offset[1], abs=1e-3)


def test_far_world_origin_costs_no_precision_in_float64():
    near = random_poses().double()
    far = near.clone()
    far[..., :3, 3] += torch.tensor([4.5e5, 5.4e6, 120.0], dtype=torch.float64)
    maps = [camera_conditions(p, intrinsics(), IMAGE_HW, 2)[0] for p in (near, far)]
    torch.testing.assert_close(*maps, atol=1e-6, rtol=1e-6)


def turn_in_place(views=3):
    T_world_cam = torch.eye(4).repeat(1, views, 1, 1)
    for view in range(views):
        c, s = math.cos(0.3 * view), math.sin(0.3 * view)
        T_world_cam[0, view, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    T_world_cam[..., :3, 3] = torch.tensor([2.0, 0.5, -1.0])
    return T_world_cam


@pytest.mark.parametrize("poses", [turn_in_place(), random_poses(views=1)], ids=["turn", "single"])
def test_cameras_at_one_place_need_metric_scale(poses):
    K_px = intrinsics(views=poses.shape[1])
    with pytest.raises(CoincidentCamerasError, match="pose_scale='metric'"):
        camera_conditions(poses, K_px, IMAGE_HW, 1)
    camera_map, viewmats, scale = camera_conditions(poses, K_px, IMAGE_HW, 1, pose_scale="metric")
    assert camera_map.isfinite().all()
    assert viewmats[..., :3, 3].abs().max() < 1e-6
    assert scale.item() == 1.0


def test_metric_scale_keeps_metres():
    poses = random_poses()
    _, viewmats, _ = camera_conditions(poses, intrinsics(), IMAGE_HW, 2, pose_scale="metric")
    expected = (poses[0, 0, :3, 3] - poses[0, 1, :3, 3]).norm()
    centres = torch.linalg.inv(viewmats)[0, :, :3, 3]
    torch.testing.assert_close((centres[0] - centres[1]).norm(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda T, K: (T[0], K), r"T_world_cam has shape \(4, 4, 4\)"),
        (lambda T, K: (T, K[:, :3]), "K_px has shape"),
        (lambda T, K: (T * math.nan, K), "not finite"),
        (lambda T, K: (T, K * math.nan), "not finite"),
        (lambda T, K: (T * torch.tensor([-1.0, 1, 1, 1]), K), "not a rigid transform"),
        (lambda T, K: (T * 1.1, K), "not a rigid transform"),
        (lambda T, K: (T, K * torch.tensor([0.0, 1, 1])), "singular"),
    ],
    ids=["pose shape", "K shape", "NaN pose", "NaN K", "mirrored", "scaled", "fx = 0"],
)
def test_bad_cameras_are_refused(change, message):
    T_world_cam, K_px = change(random_poses(), intrinsics())
    with pytest.raises(ValueError, match=message):
        camera_conditions(T_world_cam, K_px, IMAGE_HW, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_references": 0}, "num_references is 0; expected 1 to 4"),
        ({"num_references": 5}, "num_references is 5; expected 1 to 4"),
        ({"image_hw": (0, 42)}, r"image_hw is \(0, 42\)"),
        ({"pose_scale": "mean"}, "pose_scale is 'mean'; use 'max' or 'metric'"),
        ({"ray_grid": "corner"}, "ray_grid must be one of"),
    ],
)
def test_bad_options_are_refused(options, message):
    arguments = {"image_hw": IMAGE_HW, "num_references": 2} | options
    with pytest.raises(ValueError, match=message):
        camera_conditions(random_poses(), intrinsics(), **arguments)


def test_unconditional_keeps_mask_and_latents_only():
    conditions = conditions_of(random_poses())
    free = unconditional(conditions)
    assert torch.equal(free.camera_map[:, :, 0], conditions.camera_map[:, :, 0])
    assert torch.count_nonzero(free.camera_map[:, :, 1:]) == 0
    assert torch.equal(free.viewmats, torch.eye(4).expand(1, 4, 4, 4))
    assert torch.equal(free.K_px, torch.eye(3).expand(1, 4, 3, 3))
    assert free.reference_latent is conditions.reference_latent
    assert conditions.viewmats[0, 0].ne(torch.eye(4)).any(), "the given conditions changed"


def test_unconditional_can_keep_intrinsics_and_rays():
    conditions = conditions_of(random_poses())
    free = unconditional(conditions, intrinsics="kept", camera_map="kept")
    assert torch.equal(free.K_px, conditions.K_px)
    assert torch.equal(free.camera_map, conditions.camera_map)
    assert torch.equal(free.viewmats, torch.eye(4).expand(1, 4, 4, 4))


def test_camera_drop_touches_chosen_scenes_only():
    conditions = conditions_of(random_poses(batch=3))
    mixed = unconditional(conditions, scenes=torch.tensor([False, True, False]))
    everything = unconditional(conditions)
    for name in ("camera_map", "viewmats", "K_px"):
        value = getattr(mixed, name)
        assert torch.equal(value[[0, 2]], getattr(conditions, name)[[0, 2]])
        assert torch.equal(value[1], getattr(everything, name)[1])


@pytest.mark.parametrize("scenes", [torch.tensor([True]), torch.tensor([1, 0])])
def test_camera_drop_refuses_a_mask_that_does_not_fit(scenes):
    with pytest.raises(ValueError, match=r"expected \(2,\) torch.bool"):
        unconditional(conditions_of(random_poses(batch=2)), scenes=scenes)
