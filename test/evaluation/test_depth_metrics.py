"""Depth errors against closed forms; no truth is no figure."""

import pytest
import torch

from gld_ros.evaluation.depth_metrics import depth_errors, median_scale, ordinal_accuracy


def _depth():
    return 1 + 4 * torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0))


def test_a_factor_is_abs_rel_and_delta1_and_vanishes_with_the_median():
    true = _depth()
    errors = depth_errors(1.2 * true, true)
    assert errors["abs_rel"].item() == pytest.approx(0.2, abs=1e-5)
    assert errors["delta1"].item() == 1.0
    assert depth_errors(1.3 * true, true)["delta1"].item() == 0.0
    assert median_scale(1.3 * true, true).item() == pytest.approx(1 / 1.3, abs=1e-5)


def test_rmse_of_an_offset_is_the_offset():
    true = _depth()
    assert depth_errors(true + 0.5, true)["rmse"].item() == pytest.approx(0.5, abs=1e-5)


def test_unknown_pixels_do_not_count():
    true = _depth()
    predicted = true.clone()
    predicted[0, :5] = 100.0
    true[0, :5] = 0.0
    predicted[0, 5] = torch.nan
    assert depth_errors(predicted, true)["abs_rel"].item() == pytest.approx(0.0, abs=1e-6)


def test_without_truth_every_figure_is_nan_and_never_zero():
    nothing = torch.zeros(1, 20, 20)
    assert all(v.isnan().all() for v in depth_errors(_depth(), nothing).values())
    assert ordinal_accuracy(_depth(), nothing).isnan().all()
    assert median_scale(_depth(), nothing).isnan().all()


def test_order_is_kept_by_monotonic_maps_and_reversed_by_negative_ones():
    true = _depth()
    assert ordinal_accuracy(true.sqrt() + 3, true).item() == 1.0
    assert ordinal_accuracy(1 / true, true).item() == 0.0
    assert ordinal_accuracy(torch.ones_like(true), true).item() == 0.0


def test_order_in_a_mask_is_that_of_its_pixels():
    true = _depth()
    predicted = true.clone()
    predicted[0, 10:] = 1 / true[0, 10:]
    mask = torch.zeros_like(true, dtype=torch.bool)
    mask[0, :10] = True
    assert ordinal_accuracy(predicted, true, mask).item() == 1.0
    assert ordinal_accuracy(predicted, true, ~mask).item() == 0.0


def test_a_flat_wall_has_no_order():
    assert ordinal_accuracy(_depth(), torch.full((1, 20, 20), 2.0)).isnan().all()
