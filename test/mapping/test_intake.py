"""Images on their way to keyframes: time jumps, intrinsics that come late, pixels on demand."""

import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.epochs import EpochMonitor
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.intake import Intake
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.pending import PendingImages
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.ros.parameters.snapshot import make_snapshot
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters

S = 10**9
HW = (28, 42)
K_PX = np.array([[30.0, 0, 20.5], [0, 30.0, 13.5], [0, 0, 1]])


def session_parameters(**changes):
    rows = (*TABLE, *per_camera_parameters(["camera"]))
    return make_snapshot({row.name: row.default for row in rows} | changes).session


class Drive:
    """Transforms of a camera that moves 1 m/s along x; `before` is called at every lookup."""

    def __init__(self):
        self.before = lambda: None
        self.cleared = 0

    def lookup(self, target_frame, source_frame, stamp_ns=None):
        self.before()
        T = np.eye(4)
        T[0, 3] = stamp_ns / S
        return T

    def frames(self):
        return ["camera_optical", "odom"]

    def clear(self):
        self.cleared += 1


class Rig:
    """An intake with one camera that drives."""

    def __init__(self, family, on_placed=None, **parameters):
        self.family, self.parameters = family, session_parameters(**parameters)
        self.camera = CameraState("camera", "/camera/image", False)
        self.store, self.epochs, self.drive = KeyframeStore(), EpochMonitor(), Drive()
        self.gate = KeyframeGate()
        self.faults = FaultLog(lambda level, text: None)
        self.intake = Intake(
            {"camera": self.camera},
            self.gate,
            self.store,
            PendingImages(),
            self.epochs,
            self.faults,
            self.drive,
            on_placed,
        )

    def info(self, stamp_ns, hw=HW, K_px=K_PX):
        header = self.family.header("optical", stamp_ns)
        message = camera_info_message(K_px, hw, header, self.family.type)
        self.intake.camera_info("camera", message, self.parameters, stamp_ns, 0)

    def image(self, stamp_ns, hw=HW, **changes):
        pixels = np.full((*hw, 3), 90, np.uint8)
        kind = self.family.type("sensor_msgs/msg/Image")
        message = image_message(pixels, "rgb8", self.family.header("optical", stamp_ns), kind)
        for name, value in changes.items():
            setattr(message, name, value)
        return self.intake.image("camera", message, self.parameters, stamp_ns, 0)

    def place(self, now_ns=0):
        return [k.stamp_ns // S for k in self.intake.place(self.parameters, now_ns, 0)]


def test_an_image_placed_while_time_jumps_is_forgotten_with_its_epoch(family):
    rig = Rig(family)
    rig.info(S)
    rig.image(100 * S)
    assert rig.image(50 * S - S // 5) is None  # one late image may be anybody's
    jumps = []
    jumping = threading.Thread(target=lambda: jumps.append(rig.image(50 * S)))

    def jump_once():
        rig.drive.before = lambda: None
        jumping.start()
        while rig.epochs.epoch == 0:
            jumping.join(0.001)

    rig.drive.before = jump_once
    assert rig.place(100 * S) == []
    jumping.join()
    assert [jump.epoch for jump in jumps] == [1]
    assert rig.drive.cleared == 1
    assert len(rig.store) == 0
    assert rig.place(50 * S) == [50]
    assert [(k.stamp_ns, k.epoch) for k in rig.store.snapshot()] == [(50 * S, 1)]


def test_images_wait_for_the_info_of_their_own_stamp(family):
    rig = Rig(family, **{"camera_info.pairing": "exact"})
    for second in (1, 2, 3):
        rig.image(second * S)
    rig.info(1 * S)
    assert rig.place() == [1]
    rig.info(3 * S)  # that of 2 s was lost
    assert rig.place() == [3]
    assert rig.camera.dropped["no_info"] == 0
    rig.intake.end_of_input()
    assert rig.camera.dropped["no_info"] == 1


def test_only_the_newest_image_waits_for_the_first_info(family):
    rig = Rig(family)
    for second in (1, 2, 3):
        rig.image(second * S)
    assert rig.camera.dropped["no_info"] == 2
    rig.info(4 * S)
    assert rig.place() == [3]


def test_every_placed_image_is_handed_on_before_it_is_decoded(family):
    placed = []
    rig = Rig(family, placed.append, **{"keyframes.min_interval": 0.25})
    rig.info(S)
    for tenth in range(10, 16):
        rig.image(tenth * S // 10)
    assert rig.place() == [1, 1]  # at 1.0 and 1.3 s
    assert [p.stamp_ns for p in placed] == [tenth * S // 10 for tenth in range(10, 16)]
    assert [round(p.T_fixed_cam[0, 3], 3) for p in placed] == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    keyframes = {k.stamp_ns: k for k in rig.store.snapshot()}
    for image in placed:
        frame = image.frame()
        assert frame is image.frame()
        assert frame.image.shape == (*HW, 3)
        if image.stamp_ns in keyframes:
            assert np.shares_memory(frame.image, keyframes[image.stamp_ns].image)


def test_an_image_that_nobody_decodes_costs_nothing_and_a_bad_one_counts_once(family):
    placed = []
    rig = Rig(family, placed.append)
    rig.info(S)
    rig.image(S)
    rig.image(S + S // 10, encoding="weird8")
    assert rig.place() == [1]
    assert not rig.camera.dropped
    assert placed[1].frame() is None
    assert placed[1].frame() is None
    assert rig.camera.dropped["encoding"] == 1


@pytest.mark.parametrize(("side_px", "kept_hw"), [(1280, (600, 800)), (400, (300, 400))])
def test_keyframes_keep_the_cameras_image_up_to_a_bound(family, side_px, kept_hw):
    rig = Rig(family, **{"keyframes.max_image_side": side_px})
    rig.info(S, hw=(600, 800))
    rig.image(S, hw=(600, 800))
    assert rig.place() == [1]
    (keyframe,) = rig.store.snapshot()
    assert keyframe.image_hw == kept_hw
    K_px, hw = keyframe.source_camera()
    assert hw == (600, 800)
    np.testing.assert_allclose(K_px, K_PX, atol=1e-9)


def test_parameters_are_plain_groups():
    parameters = session_parameters(**{"frame_id_override.camera": "left_optical"})
    assert parameters.cameras.frame_ids == {"camera": "left_optical"}
    shorter = replace(parameters, tf=replace(parameters.tf, timeout_s=0.0))
    assert (shorter.tf.timeout_s, parameters.tf.timeout_s) == (0.0, 0.5)


def test_an_image_from_the_future_leaves_the_order_of_stamps_alone(family):
    rig = Rig(family)
    rig.info(S)
    rig.image(10 * S)
    kind = rig.family.type("sensor_msgs/msg/Image")
    pixels = np.full((*HW, 3), 90, np.uint8)
    year_ahead = 365 * 86400 * S
    message = image_message(pixels, "rgb8", rig.family.header("optical", year_ahead), kind)
    rig.intake.image("camera", message, rig.parameters, 10 * S, 0)
    assert rig.camera.dropped == {"stamp_future": 1}
    rig.image(11 * S)
    assert rig.place(11 * S) == [10, 11]
    assert rig.epochs.epoch == 0


def test_digits_of_a_calibration_that_mean_nothing_keep_the_keyframes(family):
    rig = Rig(family)
    for second in range(1, 6):
        header = rig.family.header("optical", second * S)
        K_px = K_PX * (1 + 1e-9 * second)
        K_px[2, 2] = 1.0
        message = camera_info_message(K_px, HW, header, rig.family.type)
        name = "r" if hasattr(message, "r") else "R"
        setattr(message, name, np.full(9, np.nan))
        rig.intake.camera_info("camera", message, rig.parameters, second * S, 0)
        rig.image(second * S)
        assert rig.place(second * S) == [second]
    assert len(rig.store) == 5
    assert not rig.camera.noticed
    header = rig.family.header("optical", 6 * S)
    changed = camera_info_message(K_PX * [[1.01], [1.01], [1]], HW, header, rig.family.type)
    rig.intake.camera_info("camera", changed, rig.parameters, 6 * S, 0)
    assert rig.camera.noticed == {"intrinsics changed": 1}
    assert len(rig.store) == 0


@pytest.mark.parametrize("hw", [(1, 32_767), (200, 600)])
def test_an_image_above_the_limit_is_dropped_before_it_is_decoded(family, hw):
    rig = Rig(family, **{"cameras.max_pixels": 100_000})
    rig.info(S, hw)
    rig.image(S, hw)
    assert rig.place(S) == []
    assert rig.camera.dropped == {"size": 1}
    rig.info(2 * S)
    rig.image(2 * S)
    assert rig.place(2 * S) == [2]


def test_a_calibration_that_changes_with_every_image_fills_no_memory(family):
    rig = Rig(family)
    for second in range(1, 60):
        rig.info(second * S, K_px=K_PX * [[1 + 0.01 * second], [1.0], [1.0]])
        rig.image(second * S)
        assert rig.place(second * S) == [second]
    assert len(rig.faults.lines) < 5
    assert rig.camera.noticed["intrinsics changed"] == 58


# -- depth cameras --------------------------------------------------------------------------------


def depth_message(family, stamp_ns, hw=HW, frame_id="optical", depth_m=2.0):
    pixels = np.full(hw, depth_m, np.float32)
    header = family.header(frame_id, stamp_ns)
    return image_message(pixels, "32FC1", header, family.type("sensor_msgs/msg/Image"))


def test_depth_of_another_size_looks_along_the_rays_of_its_image(family):
    rig = Rig(family)
    rig.info(S)
    half = depth_message(family, S, (14, 21))
    rig.intake.depth_image("camera", half)
    rig.image(S)
    assert rig.place(S) == [1]
    (keyframe,) = rig.store.snapshot()
    assert keyframe.sensor_depth.depth_m.shape == (14, 21)
    half_K_px = [[15, 0, 10], [0, 15, 6.5], [0, 0, 1]]  # (20.5 + 0.5) / 2 - 0.5
    np.testing.assert_allclose(keyframe.sensor_depth.K_px, half_K_px)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"frame_id": "depth_optical"}, "depth_frame"),
        ({"frame_id": ""}, "depth_frame"),
        ({"hw": (28, 32)}, "depth_aspect"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_depth_that_is_not_registered_is_dropped_and_counted(family, changes, cause, early):
    rig = Rig(family)
    for second in (1, 2, 3):
        if early:  # before the first image, whose frame is not known yet
            rig.intake.depth_image("camera", depth_message(family, second * S, **changes))
        rig.info(second * S)
        rig.image(second * S)
        if not early:
            rig.intake.depth_image("camera", depth_message(family, second * S, **changes))
        assert rig.place(second * S) == [second]
    assert rig.camera.dropped == {cause: 3}
    assert all(keyframe.sensor_depth is None for keyframe in rig.store.snapshot())
    assert rig.faults.lines[f"camera: {cause}"] == 1
    assert rig.camera.depth_rejection
    rig.intake.depth_image("camera", depth_message(family, 4 * S))
    assert not rig.camera.depth_rejection


@pytest.mark.parametrize("frame_id", ["/optical", "renamed", ""])
def test_depth_may_name_the_frame_as_its_images_do(family, frame_id):
    rig = Rig(family, **{"frame_id_override.camera": "renamed"})
    rig.info(S)
    rig.intake.depth_image("camera", depth_message(family, S, frame_id=frame_id))
    rig.image(S)
    assert rig.place(S) == [1]
    assert rig.store.snapshot()[0].sensor_depth is not None


def test_depth_of_a_distorted_camera_is_rectified_as_its_images(family):
    rig = Rig(family)
    header = family.header("optical", S)
    info = camera_info_message(K_PX, HW, header, family.type)
    info.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
    rig.intake.camera_info("camera", info, rig.parameters, S, 0)
    message = depth_message(family, S)
    rig.intake.depth_image("camera", message)
    rig.image(S)
    assert rig.place(S) == [1]
    (keyframe,) = rig.store.snapshot()
    assert keyframe.K_px[0, 0] != K_PX[0, 0]
    np.testing.assert_array_equal(keyframe.sensor_depth.K_px, keyframe.K_px)


def test_an_image_waits_for_the_depth_of_its_own_stamp_and_not_for_ever(family):
    rig = Rig(family, **{"keyframes.min_interval": 0.0})
    now, frame = 10 * S, S // 30

    def sends(i, depth):
        rig.info(now + i * frame)
        rig.image(now + i * frame)
        if depth:
            message = depth_message(family, now + i * frame, depth_m=1.0 + i)
            rig.intake.depth_image("camera", message)

    def placed(at_ns):
        keyframes = rig.intake.place(rig.parameters, at_ns, 0)
        sensors = [k.sensor_depth for k in keyframes]
        return [None if s is None else float(s.depth_m[0, 0]) for s in sensors]

    sends(0, depth=True)
    assert placed(now) == [1.0]
    sends(6, depth=False)  # its depth comes later than TF; the depth before is not its own
    assert placed(now + 7 * frame) == []
    rig.intake.depth_image("camera", depth_message(family, now + 6 * frame, depth_m=7.0))
    assert placed(now + 7 * frame) == [7.0]
    sends(12, depth=False)  # that of this one is lost
    assert placed(now + 13 * frame) == []
    assert placed(now + 19 * frame) == [None]
    message = depth_message(family, now + 20 * frame - 3_000_000, depth_m=9.0)
    rig.intake.depth_image("camera", message)  # of a camera that stamps a little earlier
    sends(20, depth=False)
    assert placed(now + 20 * frame) == [9.0]
    sends(60, depth=False)  # the depth camera has stopped
    assert placed(now + 60 * frame) == [None]


def test_damaged_depth_is_counted_when_it_is_wanted_and_its_image_is_used(family):
    rig = Rig(family)
    rig.info(S)
    eight_bits = cv2.imencode(".png", np.full(HW, 200, np.uint8))[1].tobytes()
    message = family.type("sensor_msgs/msg/CompressedImage")(
        header=family.header("optical", S),
        format="16UC1; compressedDepth png",
        data=np.frombuffer(bytes(12) + eight_bits, np.uint8),
    )
    rig.intake.depth_image("camera", message)
    rig.image(S)
    assert rig.camera.dropped == {}  # its size, frame and form are right
    assert rig.place(S) == [1]
    assert rig.camera.dropped == {"depth": 1}
    assert "one 16-bit channel" in rig.camera.depth_rejection
    assert rig.store.snapshot()[0].sensor_depth is None
