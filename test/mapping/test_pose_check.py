"""Images, TF and depth cameras that stop belonging together while a session measures."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from gld_ros.mapping.frames import Keyframe, SensorDepth
from gld_ros.mapping.measurements import Measurements
from gld_ros.mapping.placed_frame import PlacedFrame
from gld_ros.mapping.pose_check import RECENT, PoseCheck
from gld_ros.measuring.agreement import Agreement

HW = (96, 128)
K_PX = np.array([[110.0, 0, 63.5], [0, 110.0, 47.5], [0, 0, 1]])
DISAGREES = Agreement(5, 500, 4.0, 0.06, 0.4)


def pose(time_s):
    """T_fixed_cam of a camera that rises and swings."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", 0.14 * np.sin(6.0 * time_s)).as_matrix()
    T[1, 3] = -0.4 * time_s
    return T


def keyframes(tf_late_s, *, textured=True, sensor_scale=None):
    """Twelve images of a leaning wall at 10 Hz with the poses that TF gives for them."""
    rng = np.random.default_rng(3)
    noise = sum(s * gaussian_filter(rng.standard_normal((500, 500)), s) for s in (1.5, 4.0, 10.0))
    texture = np.clip(128 + 40 * noise / noise.std(), 0, 255)
    v, u = np.mgrid[0 : HW[0], 0 : HW[1]].astype(float)
    made = []
    for i in range(12):
        T = pose(0.1 * i)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_PX).T @ T[:3, :3].T
        along = (2.0 - 0.5 * T[1, 3]) / (rays[..., 2] + 0.5 * rays[..., 1])
        at = ((T[:3, 3] + rays * along[..., None])[..., 1::-1]) * 50.0 + 250.0
        grey = map_coordinates(texture, [at[..., 0], at[..., 1]], order=1, mode="reflect")
        image = np.repeat(np.round(grey)[..., None], 3, axis=2).astype(np.uint8)
        image = image if textured else np.full_like(image, 90)
        T_fixed_cam = pose(0.1 * i - tf_late_s)
        sensor = None
        if sensor_scale is not None:
            sensor = SensorDepth((sensor_scale * along).astype(np.float32), K_PX)
        stamp_ns = 10**8 * (i + 1)
        made.append(
            Keyframe("front", stamp_ns, "optical", image, K_PX, T_fixed_cam, 0, sensor_depth=sensor)
        )
    return made


def facts_after(frames, source="stereo"):
    measurements = Measurements(source)
    for frame in frames:
        measurements.note(
            PlacedFrame("front", frame.stamp_ns, frame.T_fixed_cam, 0, lambda frame=frame: frame)
        )
        measurements.add(frame)
        measurements.work_off()
    return measurements.facts()


def test_late_transforms_are_reported_with_their_offset():
    found = facts_after(keyframes(0.06)).disagreements["front"]
    assert found.disagrees
    assert found.time_offset_s == pytest.approx(0.06, abs=0.02)
    assert "check extrinsics, time offset, rectification" in found.describe()


@pytest.mark.parametrize("frames", [{"tf_late_s": 0.0}, {"tf_late_s": 0.06, "textured": False}])
def test_images_that_fit_or_show_nothing_are_not_blamed(frames):
    assert facts_after(keyframes(**frames)).disagreements == {}


@pytest.mark.parametrize(("scale", "cameras"), [(1.0, []), (1.1, ["front"]), (0.9, ["front"])])
def test_a_depth_camera_of_another_scale_than_parallax_is_reported(scale, cameras):
    found = facts_after(keyframes(0.0, sensor_scale=scale), "auto").depth_cameras
    assert list(found) == cameras
    for agreement in found.values():
        assert agreement.scale == pytest.approx(scale, abs=0.03)


SEVERAL = [False] * (RECENT - 1) + [True]


@pytest.mark.parametrize(("coverage", "error_px"), [(0.05, 0.2), (0.05, np.nan), (0.6, 3.0)])
def test_it_is_asked_only_after_several_keyframes_that_give_reason(coverage, error_px):
    check = PoseCheck()
    assert [check.due("front", coverage, error_px) for _ in range(RECENT)] == SEVERAL
    assert not check.due("front", coverage, error_px)  # not again at once


@pytest.mark.parametrize("error_px", [0.4, np.nan])
def test_it_is_not_asked_while_much_is_measured_and_corners_fit(error_px):
    check = PoseCheck()
    assert not any(check.due("front", 0.6, error_px) for _ in range(3 * RECENT))


def test_an_answer_is_kept_until_keyframes_give_no_reason_any_more():
    check = PoseCheck()
    check.found("front", DISAGREES)
    assert check.disagreements() == {"front": DISAGREES}
    for _ in range(RECENT):
        check.due("front", 0.6, 0.4)
    assert check.disagreements() == {}
