"""The alignment of a model's depth to measurements."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gld_ros.measuring.scale_field import MIN_PIXELS, aligned_depth, common_scale

HW = (48, 64)


def slope() -> np.ndarray:
    rows, columns = np.indices(HW)
    return (2.0 + 0.02 * rows + 0.01 * columns).astype(np.float32)


def measured_at(share: float, depth_m: np.ndarray, seed: int = 0) -> np.ndarray:
    chosen = np.random.default_rng(seed).random(HW) < share
    return np.where(chosen, depth_m, np.nan).astype(np.float32)


@settings(deadline=None, max_examples=20)
@given(unit=st.floats(0.05, 20.0), share=st.floats(0.15, 1.0), outliers=st.floats(0.0, 0.2))
def test_one_scale_is_recovered_at_any_unit_and_with_outliers(
    unit: float, share: float, outliers: float
) -> None:
    truth = slope()
    measured = measured_at(share, truth)
    wrong = np.random.default_rng(1).random(HW) < outliers
    measured[wrong] *= 3.0
    found = common_scale([truth / unit], [measured])
    assert found.scale == pytest.approx(unit, rel=0.01)
    assert found.fault == ""


def test_too_few_measurements_are_no_scale() -> None:
    truth = slope()
    measured = np.full(HW, np.nan, np.float32)
    measured.flat[: MIN_PIXELS - 1] = truth.flat[: MIN_PIXELS - 1]
    found = common_scale([truth], [measured])
    assert np.isnan(found.scale)
    assert f"{MIN_PIXELS - 1} pixels" in found.fault
    assert np.isnan(common_scale([], []).scale)


def test_a_bent_model_is_straightened_where_it_is_measured() -> None:
    truth = slope()
    columns = np.arange(HW[1])
    model = truth * np.exp(0.3 * np.sin(columns / 10.0)).astype(np.float32)
    measured = measured_at(0.4, truth)
    common = common_scale([model], [measured])
    aligned = aligned_depth(
        model, measured, np.ones(HW, np.float32), common.scale, common.dispersion
    )
    error = np.abs(aligned.depth_m / truth - 1)
    assert np.median(error) < 0.01
    assert error.max() < 0.06
    assert np.abs(model * common.scale / truth - 1).max() > 0.2  # which one scale leaves
    assert aligned.influence.min() > 0.8


@pytest.mark.parametrize("hw", [HW, (48, 48), (3, 64)])
def test_an_upright_view_is_aligned_as_the_same_view_on_its_side(hw: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    model = (1.0 + generator.random(hw)).astype(np.float32)
    model[:, : hw[1] // 3] += 2.0
    measured = np.where(generator.random(hw) < 0.6, 1.7 * model, np.nan).astype(np.float32)
    measured[:, hw[1] // 2 :] *= 1.2
    weight = generator.random(hw).astype(np.float32)
    one = aligned_depth(model, measured, weight, 1.7, 0.1)
    other = aligned_depth(model.T, measured.T, weight.T, 1.7, 0.1)
    for name in ("depth_m", "relative_error", "influence"):
        np.testing.assert_allclose(getattr(other, name).T, getattr(one, name), rtol=1e-4, atol=1e-5)
    assert np.ptp(one.depth_m / model) > 0.1  # there was a field to fit


def test_the_field_follows_the_models_depth_edges() -> None:
    model = np.ones(HW, np.float32)
    model[:, 32:] = 2.0
    truth = model.copy()
    truth[:, 32:] = 3.0  # the far part is wrong by half
    measured = measured_at(0.5, truth)
    measured[:, 26:32] = np.nan  # nothing measured on the near side of the edge
    aligned = aligned_depth(model, measured, np.ones(HW, np.float32), 1.0, 0.2)
    assert np.abs(aligned.depth_m[:, 27:30] - 1.0).max() < 0.1


def test_away_from_measurements_the_one_scale_is_left_and_its_scatter_expected() -> None:
    truth = slope()
    measured = np.full(HW, np.nan, np.float32)
    measured[:, :8] = truth[:, :8] * 1.3
    aligned = aligned_depth(truth, measured, np.ones(HW, np.float32), 1.0, 0.3)
    assert np.abs(aligned.depth_m[:, :6] / truth[:, :6] / 1.3 - 1).max() < 0.03
    assert abs(aligned.depth_m[24, 63] / truth[24, 63] - 1) < 0.1
    assert aligned.relative_error[:, :6].max() < 0.06
    assert aligned.relative_error[:, 60:].min() > 0.2
    falling = aligned.influence[24]
    assert falling[0] > 0.9
    assert falling[63] < 0.3


def test_without_measurements_a_view_keeps_the_one_scale() -> None:
    truth = slope()
    nothing = np.full(HW, np.nan, np.float32)
    aligned = aligned_depth(truth / 2, nothing, np.ones(HW, np.float32), 2.0, 0.07)
    np.testing.assert_allclose(aligned.depth_m, truth, rtol=1e-5)
    np.testing.assert_allclose(aligned.relative_error, 0.07, rtol=1e-5)
    assert aligned.influence.max() == 0.0


def test_unknown_model_depth_stays_unknown() -> None:
    model = slope()
    model[:10] = np.nan
    aligned = aligned_depth(model, slope(), np.ones(HW, np.float32), 1.0, 0.0)
    assert np.isnan(aligned.depth_m[:10]).all()
    assert np.isfinite(aligned.depth_m[10:]).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_an_error(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        aligned_depth(slope(), slope(), np.ones(HW, np.float32), scale, 0.0)


def test_a_model_of_another_shape_is_not_trusted_beside_measurements() -> None:
    truth = slope()
    measured = np.where(np.arange(HW[1]) < 40, truth, np.nan).astype(np.float32)
    rng = np.random.default_rng(0)
    blobs = np.kron(rng.uniform(1.0, 6.0, (6, 8)), np.ones((8, 8))).astype(np.float32)
    good = aligned_depth(truth / 3, measured, np.ones(HW, np.float32), 3.0, 0.02)
    bad = aligned_depth(blobs, measured, np.ones(HW, np.float32), 1.0, 0.02)
    assert good.relative_error.max() < 0.05
    assert bad.relative_error.min() > 0.1


def test_depth_beside_a_jump_that_the_model_does_not_show_is_not_trusted() -> None:
    model = np.full(HW, 3.0, np.float32)
    truth = model.copy()
    truth[:, 40:] = 1.5
    measured = measured_at(0.5, truth)
    aligned = aligned_depth(model, measured, np.ones(HW, np.float32), 1.0, 0.01)
    error = np.abs(aligned.depth_m / truth - 1)
    wrong = (error > 0.2) & ~np.isfinite(measured)
    assert wrong.any()
    assert (aligned.relative_error[wrong] > 0.1).all()
    assert (aligned.relative_error[:, :30] < 0.05).all()
