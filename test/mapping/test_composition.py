"""Which pixel of a view takes its depth and colour from where."""

import math

import numpy as np

from gld_ros.mapping.composition import completed_view, composed_view
from gld_ros.mapping.scale import ScaleState
from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.rendering import render_surfaces
from gld_ros.measuring.surfaces import Surface
from gld_ros.view_request import View

HW = (24, 32)
K_PX = np.array([[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]])
NO_MODEL_SCALE = ScaleState("measured", True, math.nan, math.nan, 0, 0.0, "")


def a_view() -> View:
    """A grey view whose model depth has no metric scale."""
    ones = np.ones(HW, np.float32)
    grey = np.full((*HW, 3), 0.5, np.float32)
    return View(grey, ones, ones, K_PX, np.eye(4), None, None, None)


def a_wall(left: float, right: float) -> Surface:
    """A red wall at 2 m, measured with one confidence on its left and another on its right half."""
    confidence = np.full(HW, left, np.float32)
    confidence[:, HW[1] // 2 :] = right
    red = np.zeros((*HW, 3), np.uint8)
    red[..., 0] = 200
    return Surface(red, K_PX, np.eye(4), np.full(HW, 2.0, np.float32), confidence)


def test_only_pixels_that_are_sure_are_published_as_measured_depth() -> None:
    completed = completed_view(a_view(), a_wall(SURE + 0.1, SURE - 0.1), NO_MODEL_SCALE, 0.3)
    assert completed.measured[:, :16].all()
    assert not completed.measured[:, 16:].any()
    assert np.isnan(completed.depth_m[:, 16:]).all()


def test_less_sure_pixels_give_a_target_view_colour_and_no_depth() -> None:
    rendered = render_surfaces([a_wall(SURE + 0.1, SURE - 0.1)], K_PX, np.eye(4), HW)
    composed = composed_view(a_view(), rendered, NO_MODEL_SCALE, 0.3)
    inner = (slice(3, -3), slice(3, -3))
    assert (composed.color[inner][..., 0] > 150).all()
    np.testing.assert_allclose(composed.depth_m[3:-3, 3:13], 2.0, rtol=1e-5)
    assert np.isnan(composed.depth_m[3:-3, 19:-3]).all()
    np.testing.assert_allclose(composed.confidence[3:-3, 3:13], SURE + 0.1, rtol=1e-5)
