"""Pinhole intrinsics: round trips, grids, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.geometry.intrinsics import require_intrinsics, unproject

from .conftest import pinhole_px

_focal = st.floats(5, 5000)
_centre = st.floats(-500, 2500)
_scale = st.floats(0.05, 20)


@given(_focal, _focal, _centre, _centre, _scale, _scale)
def test_resize_and_back_is_identity(fx, fy, cx, cy, sx, sy):
    K = pinhole_px(fx, fy, cx, cy).numpy()
    back = resized_intrinsics(resized_intrinsics(K, sx, sy), 1 / sx, 1 / sy)
    np.testing.assert_allclose(back, K, atol=1e-8, rtol=1e-10)


@given(_focal, _focal, st.floats(0, 6), st.floats(0, 4), st.floats(0.1, 50))
def test_projecting_unprojected_pixels_gives_the_pixels(fx, fy, cx, cy, z):
    K = pinhole_px(fx, fy, cx, cy)
    points = unproject(torch.full((5, 7), z, dtype=torch.float64), K)
    homogeneous = points.flatten(0, 1) @ K.mT
    pixels, depth = homogeneous[:, :2] / homogeneous[:, 2:], homogeneous[:, 2]
    columns = torch.arange(7).repeat(5).double()
    rows = torch.arange(5).repeat_interleave(7).double()
    torch.testing.assert_close(pixels, torch.stack([columns, rows], -1), atol=1e-8, rtol=0)
    torch.testing.assert_close(depth, torch.full((35,), z, dtype=torch.float64))


def test_resizing_keeps_the_edges_of_the_image():
    K = resized_intrinsics(pinhole_px(10, 10, -0.5, 9.5).numpy(), 4, 0.5)
    assert (K[0, 2], K[1, 2]) == (-0.5, 4.5)


@pytest.mark.parametrize(
    ("K", "text"),
    [
        (torch.zeros(3, 3), "singular"),
        (pinhole_px(-100, 100, 1, 1), "singular"),
        (pinhole_px(100, math.nan, 1, 1), "not finite"),
        (pinhole_px(100, 100, 1, 1) * 2, "must be"),
        (pinhole_px(100, 100, 1, 1).T.contiguous(), "must be"),
        (torch.eye(4), "shape"),
    ],
)
def test_unusable_intrinsics_are_refused(K, text):
    with pytest.raises(ValueError, match=text):
        require_intrinsics(K)


def test_refusal_names_the_view():
    with pytest.raises(ValueError, match=r"K_px_ref\[1\]"):
        require_intrinsics(torch.stack([torch.eye(3), torch.zeros(3, 3)]), "K_px_ref")
