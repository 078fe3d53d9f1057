import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.mapping.keyframes import (
    GateParameters,
    KeyframeGate,
    KeyframeStore,
    Rejection,
    sharpness,
    usable_keyframes,
)

S = 1_000_000_000
DEFAULT = GateParameters()


class Robot:
    """Feeds a gate the way the node does."""

    def __init__(self, camera_at, parameters=DEFAULT):
        self.gate, self.camera_at, self.parameters = KeyframeGate(), camera_at, parameters

    def sees(self, stamp_s, x, yaw=0.0, camera="front"):
        """The verdict, or None if the rate limit took the image."""
        stamp_ns = round(stamp_s * S)
        if self.gate.too_soon(camera, stamp_ns, self.parameters):
            return None
        T_fixed_cam = self.camera_at(x, 0.0, yaw=yaw)
        verdict = self.gate.judge(camera, stamp_ns, T_fixed_cam, self.parameters)
        if verdict.accepted:
            self.gate.accept(camera, stamp_ns, T_fixed_cam)
        return verdict


@pytest.fixture
def robot(camera_at):
    return Robot(camera_at)


def test_the_first_image_becomes_a_keyframe(robot):
    assert robot.sees(1.0, 0.0).accepted


def test_distance_or_turn_makes_a_keyframe(robot):
    robot.sees(1.0, 0.0)
    assert robot.sees(1.5, 0.10).rejection is Rejection.MOTION
    assert robot.sees(2.0, 0.151).accepted
    assert robot.sees(2.5, 0.151, yaw=0.1).rejection is Rejection.MOTION
    assert robot.sees(3.0, 0.151, yaw=0.18).accepted


def test_the_rate_limit_comes_first(robot):
    robot.sees(1.0, 0.0)
    assert robot.sees(1.1, 5.0) is None
    assert robot.gate.rejected[Rejection.RATE] == 1


def test_time_alone_makes_a_keyframe_only_while_moving(robot):
    robot.sees(1.0, 0.0)
    assert robot.sees(5.9, 0.05).rejection is Rejection.MOTION
    assert robot.sees(6.1, 0.06).accepted  # slow, but moving
    for stamp in np.arange(7.0, 30.0):
        assert robot.sees(stamp, 0.06).rejection is Rejection.MOTION


def test_spinning_is_rejected(robot):
    robot.sees(1.0, 0.0)
    assert robot.sees(1.3, 0.0, yaw=0.5).rejection is Rejection.SPIN
    assert robot.sees(2.3, 0.0, yaw=0.9).accepted


def test_images_out_of_order_are_rejected(robot):
    robot.sees(2.0, 0.0)
    assert robot.sees(1.0, 1.0).rejection is Rejection.ORDER


def test_a_pose_jump_starts_a_segment(robot):
    assert robot.sees(1.0, 0.0).segment == 0
    verdict = robot.sees(1.3, 50.0)
    assert verdict.accepted
    assert verdict.segment == 1
    assert "50 m" in verdict.jump
    assert robot.sees(1.6, 50.2).segment == 1
    assert robot.gate.pose_jumps == 1


def test_one_jump_of_the_frame_is_one_segment_for_all_cameras(robot):
    for camera, stamp in (("a", 1.0), ("b", 1.1), ("a", 1.4), ("b", 1.5)):
        robot.sees(stamp, 0.0, camera=camera)
    # The frame jumps between 1.9 and 2.0.
    assert robot.sees(1.9, 0.2, camera="b").segment == 0
    assert robot.sees(2.0, 30.4, camera="a").segment == 1
    assert robot.sees(2.3, 30.4, camera="b").segment == 1
    assert robot.sees(2.4, 30.8, camera="a").segment == 1
    assert robot.gate.pose_jumps == 1


def test_tf_jitter_within_milliseconds_is_no_jump(camera_at):
    gate = KeyframeGate()
    gate.judge("a", 1 * S, camera_at(0.0, 0.0), DEFAULT)
    assert not gate.judge("a", 1 * S + S // 1000, camera_at(0.03, 0.0), DEFAULT).jump


def test_a_flush_forgets_segments_and_poses(robot):
    robot.sees(1.0, 0.0)
    robot.sees(1.3, 50.0)
    robot.gate.flush()
    assert robot.sees(0.5, 0.0).segment == 0
    assert robot.gate.pose_jumps == 1


def test_blur_is_measured_at_quarter_size():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    sharp = np.asarray(cv2.resize(noise, (320, 240), interpolation=cv2.INTER_NEAREST))
    blurred = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 12))
    limit = GateParameters(min_sharpness=(sharpness(sharp) * sharpness(blurred)) ** 0.5)
    gate = KeyframeGate()
    assert not gate.too_blurred(sharp, limit)
    assert gate.too_blurred(blurred, limit)
    assert not gate.too_blurred(blurred, DEFAULT)  # off by default
    assert gate.rejected[Rejection.BLUR] == 1


def test_keyframes_age_only_while_the_camera_moves(robot, keyframe_of, camera_at):
    robot.sees(1.0, 0.0)
    keyframe = keyframe_of(camera_at(0.0, 0.0), 1.0)
    for stamp in np.arange(2.0, 60.0):
        robot.sees(stamp, 0.0)
    now = 60 * S
    assert usable_keyframes((keyframe,), robot.gate, now, 20.0) == (keyframe,)
    robot.sees(60.0, 0.5)
    assert usable_keyframes((keyframe,), robot.gate, now, 20.0) == ()
    assert usable_keyframes((keyframe,), robot.gate, 20 * S, 20.0) == (keyframe,)


def test_a_silent_camera_is_not_taken_for_still(robot, keyframe_of, camera_at):
    robot.sees(1.0, 0.0)
    robot.sees(2.0, 0.0)
    assert robot.gate.still_since_ns("front", 3 * S) == 1 * S
    assert robot.gate.still_since_ns("front", 30 * S) is None
    assert robot.gate.still_since_ns("unheard", 3 * S) is None


@given(st.lists(st.floats(0.05, 2.0), min_size=2, max_size=30), st.integers(0, 2**31))
def test_keyframes_keep_their_distances(camera_at, gaps, seed):
    """Whatever the robot does, accepted keyframes obey the rate and the motion rule."""
    rng = np.random.default_rng(seed)
    robot = Robot(camera_at)
    stamp, x, accepted = 0.0, 0.0, []
    for gap in gaps:
        stamp, x = stamp + gap, x + rng.uniform(0, 0.3)
        verdict = robot.sees(stamp, x)
        if verdict and verdict.accepted:
            accepted.append((stamp, x))
    for (t0, x0), (t1, x1) in itertools.pairwise(accepted):
        assert t1 - t0 >= DEFAULT.min_interval_s - 1e-9
        assert x1 - x0 >= DEFAULT.min_translation_m - 1e-9 or t1 - t0 >= DEFAULT.max_interval_s


def test_the_store_keeps_the_newest_in_order(keyframe_of, camera_at):
    store = KeyframeStore(capacity=3)
    frames = {s: keyframe_of(camera_at(0, 0), s, hw=(4, 4)) for s in (4.0, 1.0, 3.0, 2.0)}
    for frame in frames.values():
        store.add(frame)
    assert store.snapshot() == (frames[2.0], frames[3.0], frames[4.0])
    store.resize(1)
    assert store.snapshot() == (frames[4.0],)


def test_the_store_flushes_one_camera_or_all(keyframe_of, camera_at):
    store = KeyframeStore()
    for camera in ("a", "b", "a"):
        store.add(keyframe_of(camera_at(0, 0), len(store) + 1.0, camera=camera, hw=(4, 4)))
    assert store.flush("a") == 2
    assert [k.camera for k in store.snapshot()] == ["b"]
    assert store.flush() == 1
    with pytest.raises(ValueError, match="capacity is 0"):
        KeyframeStore(0)
