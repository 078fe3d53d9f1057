"""Measured and imagined parts in one view."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import spsolve

from gld_ros.measuring.joining import (
    detail_share,
    inpainted_view,
    join_view,
    joined_colour,
    membrane,
)
from gld_ros.measuring.rendering import RenderedView
from gld_ros.measuring.scale_field import AlignedDepth

HW = (40, 56)


def rendered(covered: np.ndarray, color: np.ndarray, depth_m: float = 2.0) -> RenderedView:
    return RenderedView(
        np.where(covered[..., None], color, 0).astype(np.uint8),
        np.where(covered, depth_m, np.nan).astype(np.float32),
        covered.astype(np.float32),
    )


def model_view(seed: int) -> tuple[np.ndarray, AlignedDepth]:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 4, HW).astype(np.float32)
    error = np.full(HW, 0.1, np.float32)
    return rng.random((*HW, 3)).astype(np.float32), AlignedDepth(depth, error, error)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_with_nothing_measured_the_models_view_is_unchanged(seed: int) -> None:
    rgb, aligned = model_view(seed)
    nothing = rendered(np.zeros(HW, bool), np.zeros((*HW, 3)))
    joined = join_view(nothing, rgb, aligned)
    expected = np.clip(rgb * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(joined.color, expected)
    np.testing.assert_array_equal(joined.depth_m, aligned.depth_m)
    assert not joined.measured.any()


def test_continued_surfaces_give_colour_and_leave_depth_to_the_model() -> None:
    rng = np.random.default_rng(3)
    color = rng.integers(0, 256, (*HW, 3))
    view = rendered(np.ones(HW, bool), color)
    view.weight[:, :20] = 0.2
    rgb, aligned = model_view(3)
    joined = join_view(view, rgb, aligned)
    np.testing.assert_array_equal(joined.color, color)
    np.testing.assert_array_equal(joined.depth_m[:, :20], aligned.depth_m[:, :20])
    np.testing.assert_array_equal(joined.measured, view.weight > 0.5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 1.0))
def test_measured_pixels_are_never_changed(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    covered = rng.random(HW) < share
    color = rng.integers(0, 256, (*HW, 3))
    view = rendered(covered, color)
    joined = join_view(view, *model_view(seed))
    np.testing.assert_array_equal(joined.color[covered], view.color[covered])
    np.testing.assert_array_equal(joined.depth_m[covered], view.depth_m[covered])
    np.testing.assert_array_equal(joined.measured, covered)


def test_a_model_of_other_exposure_leaves_no_seam() -> None:
    rows, columns = np.indices(HW)
    true = np.stack([80 + 2 * columns, 60 + 2 * rows, 90 + columns + rows], -1).astype(np.float32)
    covered = columns < 30
    darker = (true * 0.7 - 10) / 255
    joined = joined_colour(rendered(covered, true), darker.astype(np.float32)).astype(float)
    step = np.abs(joined[:, 30] - joined[:, 29] - (true[:, 30] - true[:, 29]))
    assert step.max() <= 4.0
    assert np.abs(joined - true)[:, 30:].mean() < 0.5 * np.abs(darker * 255 - true)[:, 30:].mean()


@pytest.mark.parametrize("reach_px", [5.0, math.inf])
def test_a_membrane_keeps_what_is_known_and_stays_within_its_range(reach_px: float) -> None:
    rng = np.random.default_rng(0)
    known = rng.random(HW) < 0.1
    values = rng.normal(size=(*HW, 3)).astype(np.float32)
    far = np.zeros(3)
    continued = membrane(values, known, far, reach_px)
    np.testing.assert_array_equal(continued[known], values[known])
    assert continued.max() <= values[known].max() + 1e-4
    assert continued.min() >= values[known].min() - 1e-4
    constant = membrane(np.full((*HW, 3), 7.0, np.float32), known, np.full(3, 7.0), reach_px)
    np.testing.assert_allclose(constant, 7.0, rtol=1e-5)
    nothing = membrane(values, np.zeros(HW, bool), np.full(3, 2.0), reach_px)
    np.testing.assert_allclose(nothing, 2.0, rtol=1e-5)


@pytest.mark.parametrize("reach_px", [5.0, 14.0])
def test_a_membrane_solves_its_equation_nearly(reach_px: float) -> None:
    known = np.zeros(HW, bool)
    known[:6, :6] = True
    continued = membrane(np.full((*HW, 3), 90.0, np.float32), known, np.zeros(3), reach_px)
    number = np.arange(known.size).reshape(HW)
    matrix, right = sparse.lil_matrix((known.size, known.size)), np.zeros(known.size)
    for row, column in np.ndindex(HW):
        here = number[row, column]
        if known[row, column]:
            matrix[here, here], right[here] = 1.0, 90.0
            continue
        around = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        around = [(r, c) for r, c in around if 0 <= r < HW[0] and 0 <= c < HW[1]]
        matrix[here, here] = len(around) + 1 / reach_px**2
        for place in around:
            matrix[here, number[place]] = -1.0
    expected = spsolve(matrix.tocsr(), right).reshape(HW)
    np.testing.assert_allclose(continued[..., 0], expected, atol=4.0)


def test_a_coloured_thing_in_a_corner_does_not_tint_the_whole_view() -> None:
    """What made a demonstration's walls green: a purple ball, and a model without its purple."""
    grey = np.full((*HW, 3), 0.6, np.float32)
    covered = np.zeros(HW, bool)
    covered[-8:, -10:] = True
    purple = np.broadcast_to(np.array([160, 20, 200]), (*HW, 3))
    color = joined_colour(rendered(covered, purple), grey).astype(float)
    far = color[: HW[0] // 2, : HW[1] // 2]
    assert np.abs(far - 153.0).max() < 12.0


def test_far_from_measured_pixels_a_model_without_true_detail_is_overruled_and_a_true_one_kept():
    rng = np.random.default_rng(0)
    detail = cv2.resize(rng.normal(0, 30, (14, 20, 3)), HW[::-1], interpolation=cv2.INTER_CUBIC)
    truth = 120 + detail + np.linspace(0, 60, HW[1])[None, :, None]
    covered = np.zeros(HW, bool)
    covered[:, : HW[1] // 2] = True
    view = rendered(covered, np.clip(truth, 0, 255))
    right = np.zeros(HW, bool)
    right[:, -8:] = True
    right_of = truth[:, HW[1] // 2 - 1].mean(0)  # what is measured where measuring ends
    other = cv2.resize(rng.normal(0, 30, (14, 20, 3)), HW[::-1], interpolation=cv2.INTER_CUBIC)
    wrong = joined_colour(view, ((60 + other) / 255).astype(np.float32)).astype(float)
    true = joined_colour(view, (truth / 255).astype(np.float32)).astype(float)
    assert np.abs(wrong[right].mean(0) - right_of).max() < 12
    assert np.abs(true - truth)[right].mean() < 3


def test_inpainting_needs_no_network_and_fills_everything() -> None:
    columns = np.indices(HW)[1]
    covered = (columns < 20) | (columns > 36)
    color, depth_m = inpainted_view(rendered(covered, np.full((*HW, 3), 120)))
    assert np.abs(color.astype(int) - 120).max() <= 6
    np.testing.assert_allclose(depth_m, 2.0, rtol=0.02)
    _, nothing = inpainted_view(rendered(np.zeros(HW, bool), np.zeros((*HW, 3))))
    assert np.isnan(nothing).all()


def test_only_detail_that_measured_pixels_bear_out_is_shown() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 255, (*HW, 3)).astype(np.float32)
    known = np.zeros(HW, bool)
    known[:, :30] = True
    noise = rng.uniform(0, 255, (*HW, 3)).astype(np.float32)
    assert detail_share(true, true, known) > 0.99
    assert detail_share(noise, true, known) < 0.1
