from dataclasses import replace

import numpy as np
import pytest
import torch

from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.interface import GeometryBackbone


def random_images(views, hw=(28, 42), scenes=1):
    return torch.rand(scenes, views, 3, *hw, generator=torch.Generator().manual_seed(1))


def cameras(views, hw=(28, 42), scenes=1):
    T = torch.eye(4).repeat(scenes, views, 1, 1)
    T[:, :, 0, 3] = torch.arange(views)
    K = torch.tensor([[40.0, 0, hw[1] / 2], [0, 40, hw[0] / 2], [0, 0, 1]])
    return T, K.repeat(scenes, views, 1, 1)


def photos(views, hw=(40, 60)):
    return list(np.random.default_rng(0).integers(0, 256, (views, *hw, 3), dtype=np.uint8))


def test_it_is_a_geometry_backbone(micro):
    assert isinstance(micro, GeometryBackbone)
    assert (micro.patch_size, micro.channels, micro.diffused_special_tokens) == (14, 32, 0)


@pytest.mark.parametrize("views", [1, 2, 4])
def test_prediction_shapes_and_rigid_cameras(micro, views):
    prediction = micro(random_images(views, scenes=2))
    assert prediction.depth.shape == (2, views, 28, 42)
    assert prediction.ray.shape == (2, views, 16, 24, 6)
    R = prediction.T_cam_world[..., :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), rtol=0, atol=1e-5)
    assert prediction.K_px.shape == (2, views, 3, 3)


def test_source_views_can_come_in_any_order(micro):
    images, order = random_images(4), [0, 2, 3, 1]
    depth = micro(images, reference_strategy="first").depth
    permuted = micro(images[:, order], reference_strategy="first").depth
    torch.testing.assert_close(permuted, depth[:, order], rtol=1e-4, atol=1e-5)


def test_known_cameras_matter(micro):
    images, (T, K) = random_images(2), cameras(2)
    moved = T.clone()
    moved[:, 1, :2, 3] = torch.tensor([-3.0, 2.0])
    unposed, posed, elsewhere = (
        micro(images, *given).depth_confidence for given in ((), (T, K), (moved, K))
    )
    assert (posed - unposed).abs().max() > 1e-4
    assert (elsewhere - posed).abs().max() > 1e-5


def test_every_parameter_learns_from_posed_and_unposed_scenes(micro):
    images, (T, K) = random_images(2), cameras(2)
    loss = torch.zeros(())
    for prediction in (micro(images), micro(images, T, K)):
        for name in ("depth", "depth_confidence", "ray", "ray_confidence", "T_cam_world", "K_px"):
            loss = loss + getattr(prediction, name).square().mean().log()
    loss.backward()
    unused = {name for name, p in micro.named_parameters() if p.grad is None}
    coarse_ray_outputs = {n for n in unused if n.startswith("head.scratch.output_conv")}
    assert unused == coarse_ray_outputs
    assert all(torch.isfinite(p.grad).all() for p in micro.parameters() if p.grad is not None)


def test_a_random_model_trains(micro_config):
    torch.manual_seed(0)
    model = DepthAnything3(replace(micro_config, head_output_scale=2))
    images, (T, K) = random_images(2), cameras(2)
    target = 1 + images.mean(2) * 3
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        prediction = model(images, T, K)
        loss = (prediction.depth.log() - target.log()).square().mean()
        loss = loss + (prediction.T_cam_world - T).square().mean()
        loss = loss + (prediction.K_px - K).square().mean() / 1000
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.5 * losses[0]


def test_autocast_stays_near_full_precision(micro):
    images, (T, K) = random_images(3), cameras(3)
    exact = micro(images, T, K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = micro(images, T, K)
    assert rough.depth.dtype == rough.T_cam_world.dtype == torch.float32
    assert (rough.depth.log() - exact.depth.log()).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 3, 28, 28), r"\(B, V, 3, H, W\), got \(2, 3, 28, 28\)"),
        (torch.rand(1, 2, 28, 28, 3), r"\(B, V, 3, H, W\)"),
        (torch.rand(1, 0, 3, 28, 28), "no view"),
        (torch.rand(1, 1, 3, 28, 30), "multiples of 14, got 28x30"),
        (torch.rand(1, 1, 3, 0, 28), "multiples of 14, got 0x28"),
        (torch.rand(1, 1, 3, 7, 28), "multiples of 14, got 7x28"),
        (torch.full((1, 1, 3, 14, 14), float("nan")), "NaN"),
        (torch.full((1, 1, 3, 14, 14), float("inf")), "NaN or infinite"),
        (255 * torch.rand(1, 1, 3, 14, 14), r"in \[0, 1\], got values from"),
        (torch.zeros(1, 1, 3, 14, 14, dtype=torch.uint8), "floating point"),
    ],
)
def test_wrong_images_are_refused(micro, images, message):
    with pytest.raises(ValueError, match=message):
        micro(images)
    with pytest.raises(ValueError, match=message):
        micro.encode_levels(images, [0])


def test_wrong_cameras_are_refused(micro):
    images, (T, K) = random_images(2), cameras(2)
    with pytest.raises(ValueError, match="give both or neither"):
        micro(images, T)
    with pytest.raises(ValueError, match=r"T_cam_world must have shape \(1, 2, 4, 4\)"):
        micro(images, T[:, :1], K)
    with pytest.raises(ValueError, match=r"K_px must have shape \(1, 2, 3, 3\)"):
        micro(images, T, K[:, :1])
    with pytest.raises(ValueError, match="not a rigid transform"):
        micro(images, 2 * T, K)
    with pytest.raises(ValueError, match="singular"):
        micro(images, T, torch.zeros_like(K))
    with pytest.raises(ValueError, match="not finite"):
        micro(images, T, K * float("nan"))


def test_wrong_levels_and_tokens_are_refused(micro):
    images = random_images(2)
    with pytest.raises(ValueError, match=r"some of 0\.\.3, got \[4\]"):
        micro.encode_levels(images, [4])
    with pytest.raises(ValueError, match=r"some of 0\.\.3, got \[\]"):
        micro.encode_levels(images, [])
    with pytest.raises(ValueError, match=r"camera_tokens must have shape \(1, 2, 16\)"):
        micro.encode_levels(images, [0], camera_tokens=torch.rand(1, 1, 16))
    tokens = micro.encode_levels(images, [1])[1]
    with pytest.raises(ValueError, match="6 patches per view do not fill a grid of 3x3"):
        micro.propagate(tokens, 1, (3, 3))
    with pytest.raises(ValueError, match="level must be one of"):
        micro.propagate(tokens, 5, (2, 3))


def test_infer_without_cameras(micro):
    result = micro.infer(photos(3), process_res=42)
    assert result.images.shape == (3, 28, 42, 3)
    assert result.images.dtype == np.uint8
    assert result.depth.shape == result.depth_confidence.shape == (3, 28, 42)
    assert result.T_cam_world.shape == (3, 4, 4)
    assert result.depth_scale is None


def test_infer_runs_small_models_at_their_own_size(micro):
    assert micro.infer(photos(1)).images.shape == (1, 28, 42, 3)


def test_infer_with_cameras_answers_in_their_units(micro):
    T, K = cameras(4, hw=(40, 60))
    T[0, :, 1, 3] = torch.tensor([0.0, 1, 0, 2])
    one = micro.infer(photos(4), T[0].numpy(), K[0].numpy())
    np.testing.assert_allclose(one.T_cam_world, T[0])
    np.testing.assert_allclose(
        one.K_px[0, :2], np.diag([42 / 60, 28 / 40]) @ K[0, 0, :2].numpy(), rtol=1e-6
    )
    T[..., :3, 3] *= 10
    ten = micro.infer(photos(4), T[0].numpy(), K[0].numpy())
    np.testing.assert_allclose(ten.depth, 10 * one.depth, rtol=1e-3)
    assert ten.depth_scale == pytest.approx(10 * one.depth_scale, rel=1e-3)


def test_infer_from_cameras_at_one_place_knows_no_scale(micro):
    T, K = cameras(2, hw=(40, 60))
    T[..., :3, 3] = 0
    result = micro.infer(photos(2), T[0, :, :3].numpy(), K[0].numpy())
    assert result.depth_scale is None
    assert np.isfinite(result.depth).all()


def test_infer_refuses_half_a_camera(micro):
    T, K = cameras(2, hw=(40, 60))
    with pytest.raises(ValueError, match="give both or neither"):
        micro.infer(photos(2), T[0].numpy())
    with pytest.raises(ValueError, match="2 images came with 1 poses"):
        micro.infer(photos(2), T[0, :1].numpy(), K[0].numpy())
    with pytest.raises(ValueError, match=r"T_cam_world\[0\] must be \(4, 4\) or \(3, 4\)"):
        micro.infer(photos(2), np.zeros((2, 3, 3)), K[0].numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "embed_dim 16 must give"),
        ({"camera_heads": 3}, "multiple of camera_heads 3"),
        ({"image_size": 40}, "image_size 40"),
        ({"alt_start": 0}, r"alt_start 0 must lie in 1\.\.5"),
        ({"tap_layers": (2, 3, 3, 5)}, "increasing"),
        ({"tap_layers": (1, 3, 4, 5)}, r"must lie in 2\.\.5"),
        ({"tap_layers": (2, 3, 4, 6)}, r"must lie in 2\.\.5"),
        ({"head_out_channels": (4, 8, 8)}, "4 multiples of 4"),
        ({"head_features": 12}, "head_features 12"),
        ({"head_output_scale": 3}, "must be 1 or 2"),
        ({"ffn": "relu"}, "'relu'"),
    ],
)
def test_impossible_configs_are_refused(micro_config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(micro_config, **change)


def test_a_config_read_from_lists_equals_the_original(micro_config):
    lists = replace(micro_config, tap_layers=[2, 3, 4, 5], head_out_channels=[4, 8, 8, 12])
    assert lists == micro_config
    assert hash(lists) == hash(micro_config)
