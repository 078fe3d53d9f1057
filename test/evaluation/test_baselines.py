"""Baselines on scenes whose warps are known: a textured wall, an object before it."""

import pytest
import torch

from gld_ros.evaluation.baselines import (
    forward_warp,
    mean_colour,
    mean_depth_image,
    nearest_reference,
    take_references,
    typical_depth,
)

HW, FOCAL, WALL_M = (12, 16), 20.0, 2.0


def _camera(x=0.0, yaw_rad=0.0):
    T = torch.eye(4)
    angle = torch.tensor(yaw_rad)
    T[0, 0] = T[2, 2] = angle.cos()
    T[0, 2], T[2, 0] = angle.sin(), -angle.sin()
    T[0, 3] = x
    return T


K = torch.tensor([[FOCAL, 0, 7.5], [0, FOCAL, 5.5], [0, 0, 1]])[None, None]
STEP_M = WALL_M / FOCAL  # moves the wall by one pixel


def _wall():
    return torch.rand(1, 1, 3, *HW, generator=torch.Generator().manual_seed(0))


def _warp(images, depth_m, target):
    poses = torch.eye(4)[None, None].expand(1, images.shape[1], 4, 4)
    return forward_warp(
        images, depth_m, K.expand(1, images.shape[1], 3, 3), poses, K, target[None, None]
    )


def test_a_wall_moves_by_whole_pixels_and_its_border_is_repeated():
    images, depth = _wall(), torch.full((1, 1, *HW), WALL_M)
    warp = _warp(images, depth, _camera(x=3 * STEP_M))
    assert torch.allclose(warp.rgb[0, 0, :, :, :-3], images[0, 0, :, :, 3:], atol=1e-4)
    assert warp.covered[0, 0, :, :-3].all()
    assert not warp.covered[0, 0, :, -3:].any()
    last = images[0, 0, :, :, -1:].expand(3, HW[0], 3)
    assert torch.allclose(warp.rgb[0, 0, :, :, -3:], last, atol=1e-4)
    assert torch.allclose(warp.depth_m, torch.full_like(warp.depth_m, WALL_M), atol=1e-4)


def test_an_approached_wall_has_no_cracks():
    images, depth = _wall(), torch.full((1, 1, *HW), WALL_M)
    target = torch.eye(4)
    target[2, 3] = 0.4 * WALL_M
    assert _warp(images, depth, target).covered.all()


def test_the_nearer_surface_hides_the_farther():
    images, depth = torch.zeros(1, 1, 3, *HW), torch.full((1, 1, *HW), WALL_M)
    images[..., 4:8, 4:8], depth[..., 4:8, 4:8] = 1.0, WALL_M / 2
    warp = _warp(images, depth, _camera(x=2 * STEP_M))  # wall by 2 pixels, object by 4
    assert warp.rgb[0, 0, :, 4:8, 0:4].min() > 0.999
    assert warp.depth_m[0, 0, 4:8, 0:4].max() < WALL_M
    hole = warp.covered[0, 0, 4:8, 4:6]
    assert not hole.any()  # what the object had hidden


def test_pixels_of_unknown_depth_are_not_warped():
    images, depth = _wall(), torch.full((1, 1, *HW), WALL_M)
    depth[..., :6] = 0.0
    warp = _warp(images, depth, _camera())
    assert not warp.covered[..., :6].any()
    assert warp.covered[..., 6:].all()
    nothing = _warp(images, torch.zeros_like(depth), _camera())
    assert not nothing.covered.any()
    assert nothing.rgb.unique().tolist() == [0.5]


def test_the_nearest_reference_weighs_turning_by_the_scenes_depth():
    poses = torch.stack([_camera(x=1.0), _camera(yaw_rad=0.4), _camera()])[None]
    assert nearest_reference(poses, 2, torch.tensor([1.0])).tolist() == [[1]]
    assert nearest_reference(poses, 2, torch.tensor([10.0])).tolist() == [[0]]


def test_copies_are_the_images_of_the_chosen_references():
    images = torch.arange(6.0).reshape(2, 3, 1, 1, 1).expand(2, 3, 3, 2, 2)
    copied = take_references(images, torch.tensor([[2, 0], [1, 1]]))
    assert copied[:, :, 0, 0, 0].tolist() == [[2, 0], [4, 4]]


def test_the_lever_is_the_median_depth_or_the_longest_baseline():
    poses = torch.stack([_camera(), _camera(x=3.0)])[None]
    depth = torch.tensor([0.0, 1.0, 2.0, 9.0]).reshape(1, 1, 2, 2)
    assert typical_depth(poses, depth).item() == 2.0
    assert typical_depth(poses, None).item() == pytest.approx(3.0)
    assert typical_depth(poses, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(3.0)


def test_mean_colour_is_flat():
    images = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 0.6)])[None]
    assert torch.allclose(mean_colour(images, 3), torch.full((1, 3, 3, 4, 4), 0.4))


def test_the_mean_depth_of_rooms_is_near_below_and_far_ahead():
    image = mean_depth_image("narrow", (12, 16), 1, 2)
    assert image.shape == (12, 16)
    assert image[-1].mean() < image[4].mean()
    with pytest.raises(ValueError, match="narrow"):
        mean_depth_image("castle", (12, 16), 1, 2)
