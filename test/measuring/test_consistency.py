"""Agreement between measured images of one scene."""

import numpy as np
import pytest
from textured_planes import HW, K_PX, camera_at, plane_depth, plane_image

from gld_ros.measuring.consistency import MeasuredImage, consistent
from gld_ros.measuring.depth_camera import depth_camera
from gld_ros.measuring.frames import MeasuredDepth

IMAGE = np.full((1440, 1440), 128.0)


def measured_at(
    x_m: float, depth_m: float, error: float = 0.0, confidence: float = 1.0
) -> MeasuredImage:
    """A plane at `depth_m`, measured with a relative error."""
    T = camera_at(x_m)
    depth = (plane_depth(T, depth_m) * (1 + error)).astype(np.float32)
    return MeasuredImage(
        plane_image(T, depth_m, IMAGE),
        MeasuredDepth(depth, np.full_like(depth, confidence), "stereo"),
    )


def test_what_two_others_confirm_stays_and_is_averaged() -> None:
    joined = consistent(measured_at(0, 2, 0.02), [measured_at(0.1, 2, -0.01), measured_at(-0.1, 2)])
    assert joined.coverage > 0.8
    # Mean of 2.04, 1.98 and 2.00 m.
    assert np.nanmedian(joined.depth_m) == pytest.approx(2.0067, abs=1e-3)


def test_what_one_confirms_and_one_looks_through_is_dropped() -> None:
    others = [measured_at(0.1, 2.0), measured_at(-0.1, 2.0, 0.3)]
    joined = consistent(measured_at(0, 2.0), others)
    assert np.isnan(joined.depth_m[:, 10:-10]).all()  # where both look


def test_confidence_grows_with_the_images_that_agree_and_falls_with_those_that_do_not() -> None:
    def confidence(*others: MeasuredImage) -> float:
        joined = consistent(measured_at(0, 2.0, confidence=0.7), others)
        return float(joined.confidence[HW[0] // 2, HW[1] // 2])

    agree = [measured_at(x, 2.0) for x in (0.05, -0.05, 0.1)]
    through = measured_at(-0.1, 4.0)
    assert confidence(*agree[:1]) > confidence()
    assert confidence(*agree) > confidence(*agree[:1])
    assert 0 < confidence(*agree, through) < confidence(*agree)


def test_what_others_look_through_is_dropped() -> None:
    agreeing = [measured_at(x, 2.0) for x in (0.05, -0.05)]
    through = [measured_at(x, 4.0) for x in (0.1, -0.1)]
    assert consistent(measured_at(0, 2.0), agreeing).coverage > 0.8
    assert consistent(measured_at(0, 2.0), agreeing + through).coverage < 0.2


def test_depth_camera_is_seen_from_the_colour_camera() -> None:
    colour = plane_image(camera_at(), 2.0, IMAGE)
    half = np.array([[55.0, 0, 31.5], [0, 55.0, 23.5], [0, 0, 1]])
    depth_m = np.full((HW[0] // 2, HW[1] // 2), 1.9)
    depth_m[:4] = 0.0
    T_colour_depth = np.eye(4)
    T_colour_depth[2, 3] = 0.1  # the depth camera stands before the colour camera
    measured = depth_camera(colour, depth_m, half, T_colour_depth)
    assert measured.source == "camera"
    np.testing.assert_allclose(np.nanmedian(measured.depth_m), 2.0, rtol=1e-6)
    assert measured.coverage > 0.8
    assert np.isnan(measured.depth_m[0]).all()
    assert not measured.confidence[np.isnan(measured.depth_m)].any()


def test_nearest_surface_of_a_depth_camera_wins() -> None:
    colour = plane_image(camera_at(), 2.0, IMAGE)
    depth_m = np.full(HW, 3.0)
    depth_m[:, :64] = 1.0
    T_colour_depth = np.eye(4)
    T_colour_depth[0, 3] = 0.2  # near points move further right than far ones
    measured = depth_camera(colour, depth_m, K_PX, T_colour_depth)
    assert np.nanmin(measured.depth_m[20]) == pytest.approx(1.0)
    assert measured.depth_m[20, 80] == pytest.approx(1.0)
