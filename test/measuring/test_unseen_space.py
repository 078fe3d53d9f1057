"""A cabinet in front of a wall: what is measured past it is not seen through it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gld_ros.measuring.confidence import POSSIBLE
from gld_ros.measuring.rendering import render_surfaces
from gld_ros.measuring.surfaces import Surface
from gld_ros.measuring.unseen_space import behind_unseen_space

HW = (60, 80)
K_PX = np.array([[60.0, 0.0, 39.5], [0.0, 60.0, 29.5], [0.0, 0.0, 1.0]])
WALL_Z_M = 5.0
# The cabinet from x_m to x_m, from its front to its back; higher and lower than any image.
CABINET_M = ((-0.5, 0.5), (2.0, 3.2))


def camera_at(x_m: float, z_m: float = 0.0, yaw_rad: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    T[:3, 3] = x_m, 0.0, z_m
    return T


def true_depth(T: np.ndarray) -> np.ndarray:
    """z-depth (H, W) in metres of the cabinet and the wall; NaN where a camera sees neither."""
    rows, columns = np.indices(HW)
    rays = np.stack([columns, rows, np.ones(HW)], -1) @ np.linalg.inv(K_PX).T @ T[:3, :3].T
    x, z = T[0, 3], T[2, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        wall = np.where(rays[..., 2] > 0, (WALL_Z_M - z) / rays[..., 2], np.inf)
        # Where a line of sight enters and leaves the cabinet, per axis.
        ends = np.array(
            [
                [(end - start) / rays[..., axis] for end in side]
                for axis, start, side in ((0, x, CABINET_M[0]), (2, z, CABINET_M[1]))
            ]
        )
    enters, leaves = ends.min(1).max(0), ends.max(1).min(0)
    cabinet = np.where((enters < leaves) & (enters > 0), enters, np.inf)
    nearest = np.minimum(wall, cabinet)  # rays have z-depth 1 in the camera
    return np.where(np.isfinite(nearest), nearest, np.nan).astype(np.float32)


def surface_at(T: np.ndarray) -> Surface:
    depth_m = true_depth(T)
    confidence = np.where(np.isfinite(depth_m), np.float32(1.0), np.float32(0.0))
    return Surface(np.full((*HW, 3), 128, np.uint8), K_PX, T, depth_m, confidence)


def share_seen_through(cameras: Sequence[np.ndarray], T: np.ndarray) -> tuple[float, float]:
    """Shares of the target: measured pixels that are farther than the truth, and right ones."""
    view = render_surfaces([surface_at(camera) for camera in cameras], K_PX, T, HW)
    true_m = true_depth(T)
    measured = view.measured & np.isfinite(true_m)
    farther = measured & (view.depth_m > 1.1 * true_m)
    return float(farther.mean()), float((measured & ~farther).mean())


BESIDE = camera_at(2.0, 1.6, -0.6)  # looks at the cabinet's right side, and at the wall behind it
IN_FRONT = [camera_at(x) for x in (-0.3, 0.0, 0.3)]


def test_the_wall_is_not_measured_through_a_side_that_no_camera_has_seen() -> None:
    view = render_surfaces([surface_at(T) for T in IN_FRONT], K_PX, BESIDE, HW, through_unseen=True)
    farther = view.measured & (view.depth_m > 1.1 * true_depth(BESIDE))
    assert farther.mean() > 0.1  # what would be told
    wrong, right = share_seen_through(IN_FRONT, BESIDE)
    assert wrong < 0.01
    assert right > 0.2


def test_what_a_camera_has_looked_into_is_seen_again() -> None:
    behind = camera_at(2.0, 3.6, -1.2)  # looks along the back of the cabinet
    wrong, right = share_seen_through([*IN_FRONT, BESIDE, behind], BESIDE)
    assert wrong < 0.02
    assert right > 0.9


def test_space_that_no_image_shows_is_taken_to_be_empty() -> None:
    wall_alone = surface_at(camera_at(6.0, 2.0))
    away = camera_at(6.0, -3.0)
    view = render_surfaces([wall_alone], K_PX, away, HW)
    assert view.covered.any()
    full = render_surfaces([wall_alone], K_PX, away, HW, through_unseen=True)
    np.testing.assert_array_equal(view.covered, full.covered)


def test_doubtful_depth_hides_nothing() -> None:
    wall_m = np.full(HW, 5.0, np.float32)
    surface = surface_at(IN_FRONT[1])
    assert behind_unseen_space([surface], [], wall_m, K_PX, BESIDE).any()
    doubtful = replace(surface, confidence=np.full(HW, POSSIBLE / 2, np.float32))
    assert not behind_unseen_space([doubtful], [], wall_m, K_PX, BESIDE).any()


@settings(deadline=None, max_examples=40)
@given(
    cameras=st.lists(
        st.tuples(st.floats(-3, 3), st.floats(-1, 1.5), st.floats(-0.7, 0.7)),
        max_size=5,
    ),
    target=st.tuples(st.floats(-3, 3), st.floats(-1, 1.0), st.floats(-0.8, 0.8)),
)
def test_no_further_cameras_make_one_see_through_the_cabinet(
    cameras: list[tuple[float, float, float]], target: tuple[float, float, float]
) -> None:
    around = [IN_FRONT[1], *(camera_at(*c) for c in cameras)]
    wrong, _ = share_seen_through(around, camera_at(*target))
    assert wrong < 0.06  # a near cabinet has cracks between its points
