import pytest
import torch

from gld_ros.backbones.da3.dual_dpt import DualDptHead
from gld_ros.backbones.dpt import coordinate_embedding


def random_levels(views, channels=8, patches=6, scenes=1):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(scenes, views, patches, channels, generator=generator) for _ in range(4)]


def build(output_scale=1):
    torch.manual_seed(0)
    return DualDptHead(8, 8, (4, 8, 8, 12), output_scale=output_scale)


@pytest.mark.parametrize(("output_scale", "ray_hw"), [(1, (16, 24)), (2, (8, 12))])
def test_shapes_and_ranges(output_scale, ray_hw):
    geometry = build(output_scale)(random_levels(3, scenes=2), (28, 42))
    assert geometry.depth.shape == geometry.depth_confidence.shape == (2, 3, 28, 42)
    assert geometry.ray.shape == (2, 3, *ray_hw, 6)
    assert geometry.ray_confidence.shape == (2, 3, *ray_hw)
    assert geometry.depth.min() > 0
    assert geometry.depth_confidence.min() >= 1
    assert geometry.ray_confidence.min() >= 1


def test_slices_of_views_do_not_touch_each_other():
    head, levels = build(), random_levels(11)
    whole = head(levels, (28, 42))
    with torch.no_grad():
        sliced = head(levels, (28, 42))
        last = head([level[:, 10:] for level in levels], (28, 42))
    torch.testing.assert_close(sliced.depth, whole.depth)
    torch.testing.assert_close(sliced.ray, whole.ray)
    torch.testing.assert_close(sliced.depth[:, 10:], last.depth)


def test_only_the_finest_ray_stack_is_computed():
    head = build()
    geometry = head(random_levels(1), (28, 42))
    (
        geometry.depth.sum()
        + geometry.depth_confidence.sum()
        + geometry.ray.sum()
        + geometry.ray_confidence.sum()
    ).backward()
    unused = {name for name, p in head.named_parameters() if p.grad is None}
    coarse = {
        name
        for name, _ in head.named_parameters()
        if any(f"_aux.{i}." in name for i in range(3)) and "output_conv" in name
    }
    assert unused == coarse
    assert len(coarse) == 3 * (10 + 6)


def test_output_is_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        levels = [level.bfloat16() for level in random_levels(1)]
        geometry = build()(levels, (28, 42))
    assert geometry.depth.dtype == geometry.ray.dtype == torch.float32


def test_coordinates_are_symmetric_and_know_the_aspect():
    device = torch.device("cpu")
    wide = coordinate_embedding(8, 4, 6, 1.5, device)
    # Sines are odd and cosines even about the centre; x fills the first half of the channels.
    torch.testing.assert_close(wide[:, :2], -wide[:, :2].flip(-1))
    torch.testing.assert_close(wide[:, 2:4], wide[:, 2:4].flip(-1))
    torch.testing.assert_close(wide[:, 4:6], -wide[:, 4:6].flip(-2))
    tall = coordinate_embedding(8, 6, 4, 1 / 1.5, device)
    torch.testing.assert_close(wide[:, :4], tall[:, 4:].mT)


def test_wrong_inputs_are_refused():
    head = build()
    with pytest.raises(ValueError, match="4 levels, got 3"):
        head(random_levels(1)[:3], (28, 42))
    with pytest.raises(ValueError, match="6 patches per view do not make an image of 28x28"):
        head(random_levels(1), (28, 28))


def test_untrained_rays_start_near_one_origin():
    torch.manual_seed(0)
    head = DualDptHead(32, 16, (8, 16, 16, 16), output_scale=2)
    levels = [torch.randn(1, 2, 24, 32) for _ in range(4)]
    ray = head(levels, (56, 84)).ray
    assert ray[..., 3:].std() < 0.2 * ray[..., :3].std()
    assert ray[..., 3:].std() > 0
