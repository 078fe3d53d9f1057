import cv2
import numpy as np
import pytest

from gld_ros.geometry.poses import rigid_transform, rotation_z
from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.triangulation import find_corners, triangulate

HW = (120, 160)
K_PX = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
BASELINE_M = 0.4
# A wall 2 m away above one that is 4 m away: their images shift by 20 and 10 pixels.
WORLD = rigid_transform(rotation_z(0.7), [3, -2, 1])


def walls(shift_px=(0, 0), seed=0):
    """What a camera sees that moved so far to the right that the walls shift by so many pixels."""
    noise = np.random.default_rng(seed).uniform(0, 255, (120, 220)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    halves = [texture[r : r + 60, s : s + 160] for r, s in zip((0, 60), shift_px, strict=True)]
    return np.repeat(np.concatenate(halves)[..., None], 3, axis=2).astype(np.uint8)


def keyframe(image, x_m=0.0, T_fixed_cam=None):
    T = WORLD @ rigid_transform(np.eye(3), [x_m, 0, 0]) if T_fixed_cam is None else T_fixed_cam
    return Keyframe("camera", 0, "optical", image, K_PX, T, 0)


@pytest.fixture(scope="module")
def pair():
    return keyframe(walls()), keyframe(walls((20, 10)), BASELINE_M)


def test_shared_corners_have_their_metric_depth_in_both_cameras(pair):
    in_first_m, in_second_m = (
        triangulate(*(find_corners(frame) for frame in order)) for order in (pair, pair[::-1])
    )
    for points_m in (in_first_m, in_second_m):
        assert len(points_m) > 40
        true = np.where(points_m[:, 1] < 0, 2.0, 4.0)
        assert np.median(np.abs(points_m[:, 2] / true - 1)) < 0.02
    moved = in_first_m[:, None] - in_second_m - [BASELINE_M, 0, 0]
    nearest = np.linalg.norm(moved, axis=2).min(1)  # the same point, seen from the other camera
    assert np.median(nearest) < 0.02


@pytest.mark.parametrize(
    "second",
    [
        keyframe(walls(), 0.0),  # no parallax
        keyframe(walls((20, 10)), -BASELINE_M),  # the other way: points would lie behind
        keyframe(walls((20, 10)), T_fixed_cam=WORLD @ rigid_transform(np.eye(3), [0, 0.4, 0])),
        keyframe(walls((20, 10), seed=1), BASELINE_M),  # another place
        keyframe(np.full((*HW, 3), 90, np.uint8), BASELINE_M),  # nothing to see
    ],
    ids=["same place", "behind", "off the epipolar plane", "other scene", "plain"],
)
def test_what_the_cameras_do_not_allow_is_no_point(pair, second):
    assert len(triangulate(find_corners(pair[0]), find_corners(second))) <= 2
