"""PSNR, SSIM and the perceptual substitute against closed forms."""

import math

import pytest
import torch

from gld_ros.evaluation.image_metrics import (
    SUBSTITUTE_NAME,
    perceptual_distance,
    psnr,
    ssim,
    structure_and_gradient,
)


def _images(count=2, hw=(16, 20)):
    return torch.rand(count, 3, *hw, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2


def test_psnr_of_a_constant_offset_is_its_square_in_decibel():
    true = _images()
    assert psnr(true + 0.1, true).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)


def test_equal_images_have_a_finite_psnr():
    assert psnr(_images(), _images()).tolist() == pytest.approx([100.0, 100.0])


def test_psnr_clips_the_prediction():
    assert psnr(torch.full((1, 3, 12, 12), 5.0), torch.full((1, 3, 12, 12), 0.9)).item() == (
        pytest.approx(20.0, abs=1e-3)
    )


def test_psnr_of_a_mask_sees_nothing_else_and_needs_some_pixels():
    true = _images(1)
    predicted = true.clone()
    predicted[..., :10] += 0.1
    predicted[..., 10:] = 0.0
    mask = torch.zeros(1, 16, 20, dtype=torch.bool)
    mask[..., :10] = True
    assert psnr(predicted, true, mask).item() == pytest.approx(20.0, abs=1e-3)
    mask[...] = False
    mask[0, 0, :3] = True
    assert math.isnan(psnr(predicted, true, mask).item())


def test_ssim_is_one_for_equal_images_and_follows_its_formula_for_flat_ones():
    true = _images()
    assert ssim(true, true).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    a, b = 0.3, 0.6
    flat = [torch.full((1, 3, 12, 12), v) for v in (a, b)]
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(*flat).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.rand(1, 3, 8, 20), torch.rand(1, 3, 8, 20))


def test_the_substitute_carries_its_own_name_and_orders_images(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    measure = perceptual_distance(torch.device("cpu"))
    assert measure.name == SUBSTITUTE_NAME
    assert "VGG" in measure.why_substitute
    true = _images(1, (32, 32))
    noisy = true + 0.05 * torch.randn_like(true)
    very_noisy = true + 0.3 * torch.randn_like(true)
    distances = [structure_and_gradient(p, true).item() for p in (true, noisy, very_noisy)]
    assert distances[0] == pytest.approx(0.0, abs=1e-5)
    assert distances[0] < distances[1] < distances[2]
