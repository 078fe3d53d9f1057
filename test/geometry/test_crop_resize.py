"""Images on the model grid and back: the official crop, and the pipeline's exact windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gld_ros.geometry.crop_resize import (
    choose_model_hw,
    gld_crop_resize,
    model_intrinsics_around,
    model_intrinsics_inside,
    resample_confidence,
    resample_depth,
    resample_image,
    rescale_intrinsics,
)


def _K(fx, fy, cx, cy):
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def test_official_crop_refuses_a_principal_point_outside_the_image():
    with pytest.raises(ValueError, match="outside"):
        gld_crop_resize(np.zeros((40, 50, 3), np.uint8), _K(30, 30, 60, 20), (28, 28))


_sizes = st.integers(14, 700)
_fractions = st.floats(-0.3, 1.3)
_multiples = st.integers(1, 40).map(lambda n: 14 * n)


@settings(max_examples=200)
@given(_sizes, _sizes, _fractions, _fractions, st.floats(0.3, 3), _multiples, _multiples)
def test_model_grid_lies_inside_references_and_around_targets(h, w, px, py, focal, mh, mw):
    K = _K(focal * w, 1.1 * focal * w, px * w - 0.5, py * h - 0.5)
    inside = model_intrinsics_inside(K, (h, w), (mh, mw))
    around = model_intrinsics_around(K, (h, w), (mh, mw))
    for axis, (size, model) in enumerate(((w, mw), (h, mh))):
        for K_model, sign in ((inside, 1), (around, -1)):
            scale = K[axis, axis] / K_model[axis, axis]
            low = scale * (-0.5 - K_model[axis, 2]) + K[axis, 2]
            high = scale * (model - 0.5 - K_model[axis, 2]) + K[axis, 2]
            tolerance = 1e-6 * max(h, w)
            assert sign * (low + 0.5) >= -tolerance
            assert sign * (size - 0.5 - high) >= -tolerance
    # One scale for both axes: nothing is stretched.
    for K_model in (inside, around):
        np.testing.assert_allclose(K_model[0, 0] / K[0, 0], K_model[1, 1] / K[1, 1])


def test_image_of_the_model_size_is_left_alone():
    K = _K(60, 61, 42.3, 27.1)
    for place in (model_intrinsics_inside, model_intrinsics_around):
        np.testing.assert_allclose(place(K, (56, 84), (56, 84)), K, atol=1e-12)
    image = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        resample_image(image, K, K, (56, 84)), image.astype(np.float32) / 255
    )


def test_references_are_centred_on_a_principal_point_off_the_middle():
    K = model_intrinsics_inside(_K(100, 100, 60, 49.5), (100, 160), (56, 84))
    assert K[0, 2] == pytest.approx(41.5)
    assert K[1, 2] == pytest.approx(27.5)


def _plane_depth(K, hw):
    """z-depth of a slanted plane n.X = 2."""
    y, x = np.indices(hw)
    directions = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(hw)], -1)
    return 2 / (directions @ np.array([0.3, -0.2, 1.0]))


@pytest.mark.parametrize("hw", [(100, 160), (37, 31), (300, 200)])
def test_plane_stays_the_same_plane_on_every_grid(hw):
    K = _K(0.8 * hw[1], 0.9 * hw[1], 0.53 * hw[1], 0.45 * hw[0])
    K_model = model_intrinsics_around(K, hw, (56, 84))
    depth = resample_depth(_plane_depth(K_model, (56, 84)), K_model, K, hw)
    inner = (slice(4, -4), slice(4, -4))  # beyond the outermost model pixels' centres it is flat
    np.testing.assert_allclose(depth[inner], _plane_depth(K, hw)[inner], rtol=1e-5)


def test_linear_colours_stay_where_the_camera_sees_them():
    """An image that is linear in direction stays so through model grid and back."""
    hw, model_hw = (90, 140), (56, 84)
    K = _K(100, 105, 76, 41)
    K_model = model_intrinsics_inside(K, hw, model_hw)

    def shading(K, hw):
        y, x = np.indices(hw)
        return np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]], -1)

    on_model = resample_image(shading(K, hw), K, K_model, model_hw)
    inner = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(on_model[inner], shading(K_model, model_hw)[inner], atol=4e-4)
    back = resample_image(on_model, K_model, K, hw)
    seen = np.isfinite(back).all(-1)
    # Cut at the sides by recentring, cut above and below by the aspect: more than half remains.
    assert 0.6 < seen.mean() < 1
    rows, columns = np.where(seen)
    core = (slice(rows.min() + 6, rows.max() - 5), slice(columns.min() + 6, columns.max() - 5))
    np.testing.assert_allclose(back[core], shading(K, hw)[core], atol=1e-3)


def test_what_the_model_does_not_cover_is_nan_and_without_confidence():
    K_model, K = _K(50, 50, 13.5, 13.5), _K(50, 50, 20, 13.5)
    depth = resample_depth(np.ones((28, 28)), K_model, K, (28, 40))
    colour = resample_image(np.ones((28, 28, 3), np.float32), K_model, K, (28, 40))
    confidence = resample_confidence(np.ones((28, 28)), K_model, K, (28, 40))
    seen = np.isfinite(depth)
    np.testing.assert_array_equal(seen, np.isfinite(colour).all(-1))
    np.testing.assert_array_equal(seen, confidence == 1)
    assert np.flatnonzero(seen[0]).tolist() == list(range(7, 34))


def test_views_that_do_not_overlap_are_all_nan():
    K_model, K = _K(50, 50, 13.5, 13.5), _K(50, 50, 500, 13.5)
    assert np.isnan(resample_depth(np.ones((28, 28)), K_model, K, (28, 40))).all()
    assert np.isnan(resample_image(np.ones((28, 28, 1)), K_model, K, (28, 40))).all()
    assert not resample_confidence(np.ones((28, 28)), K_model, K, (28, 40)).any()


def test_no_depth_appears_between_object_and_background():
    K = _K(50, 50, 13.5, 13.5)
    depth = np.where(np.arange(28) < 14, 1.0, 4.0) * np.ones((28, 1))
    K_big = _K(160, 160, 44.7, 44.7)
    out = resample_depth(depth, K, K_big, (90, 90))
    assert set(np.unique(out[np.isfinite(out)])) == {1.0, 4.0}


def test_difference_in_skew_is_refused():
    skewed = _K(50, 50, 13.5, 13.5)
    skewed[0, 1] = 3
    with pytest.raises(ValueError, match="skew"):
        resample_depth(np.ones((28, 28)), skewed, _K(50, 50, 13.5, 13.5), (28, 28))


@given(st.floats(0.2, 5), st.floats(-30, 30), st.floats(-30, 30))
def test_intrinsics_follow_the_grid(scale, dx, dy):
    K_a = _K(50, 60, 13.5, 10)
    K_b = _K(50 * scale, 60 * scale, 13.5 + dx, 10 + dy)
    np.testing.assert_allclose(rescale_intrinsics(K_a, K_a, K_b), K_b, atol=1e-9)
    estimate = _K(48, 63, 14.5, 9)
    there_and_back = rescale_intrinsics(rescale_intrinsics(estimate, K_a, K_b), K_b, K_a)
    np.testing.assert_allclose(there_and_back, estimate, atol=1e-9)


def test_model_size_follows_the_aspect_and_prefers_the_first():
    wide = [(_K(500, 500, 319.5, 179.5), (360, 640))]
    tall = [(_K(500, 500, 179.5, 319.5), (640, 360))]
    candidates = [(84, 112), (280, 504), (504, 280), (140, 252)]
    assert choose_model_hw(candidates, wide, wide) == (280, 504)
    assert choose_model_hw(candidates, tall, tall) == (504, 280)
    assert choose_model_hw(candidates[:1], wide, tall) == (84, 112)
