"""Our TF buffer and the one on the distribution's tf2 do the same, whatever comes in."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gld_ros.messages.frame_tree import InvalidTransform, TransformUnavailable
from gld_ros.messages.transforms import TransformBuffer

pytestmark = pytest.mark.ros

S = 10**9
CACHE_S = 5.0
EDGES = (("map", "odom"), ("odom", "base"), ("base", "camera"), ("map", "base"), ("camera", "map"))
FRAMES = ("map", "odom", "base", "camera", "/camera", "nowhere")

coordinate = st.floats(-10, 10)
angle = st.floats(-3, 3)
poses = st.tuples(coordinate, coordinate, angle, angle)
# Quarters of a second from the beginning of simulated time; a few of them far ahead or impossible.
quarters = st.integers(0, 40) | st.sampled_from([-1, 100, 4 * 3600, 2**33])
inserts = st.tuples(
    st.just("insert"),
    st.sampled_from(EDGES),
    poses,
    quarters,
    st.sampled_from([False] * 7 + [True]),
)
times = (
    st.none() | st.integers(0, 80).map(lambda eighth: eighth * S // 8) | st.sampled_from([-1, 1])
)
# The odometry of a drive: what random inserts rarely make.
drives = st.tuples(st.just("drive"), st.sampled_from(EDGES), st.integers(0, 30), st.integers(2, 12))
steps = st.one_of(drives, drives, drives, inserts, inserts, inserts, st.just(("clear",)))


def quaternion_xyzw(yaw, pitch):
    cy, sy, cp, sp = (f(a / 2) for a in (yaw, pitch) for f in (math.cos, math.sin))
    return (-sy * sp, cy * sp, sy * cp, cy * cp)


def outcome(do, *arguments, **options):
    """What a call gives, or the kind of its error."""
    try:
        return do(*arguments, **options)
    except (InvalidTransform, TransformUnavailable) as error:
        return type(error)


def run(buffer, step):
    """What comes of a step."""
    kind, *rest = step
    if kind == "clear":
        return buffer.clear()
    if kind == "drive":
        edge, first, count = rest
        return [
            outcome(buffer.insert, *edge, (0.1 * n, 0, 0), quaternion_xyzw(0.1 * n, 0), n * S // 4)
            for n in range(first, first + count)
        ]
    edge, (x, y, yaw, pitch), quarter, static = rest
    turn = quaternion_xyzw(yaw, pitch)
    return outcome(buffer.insert, *edge, (x, y, 0.5), turn, quarter * S // 4, static=static)


@pytest.fixture(scope="module")
def tf2_buffer():
    pytest.importorskip("tf2_ros", reason="only a ROS distribution has tf2_ros")
    from gld_ros.ros.tf_buffer import Tf2Buffer

    return Tf2Buffer


@settings(max_examples=300)
@given(st.lists(steps, min_size=2, max_size=12), st.lists(times, min_size=1, max_size=5))
def test_whatever_comes_in_both_answer_alike(tf2_buffer, log, asked):
    ours, on_tf2 = TransformBuffer(CACHE_S), tf2_buffer(CACHE_S)
    for step in log:
        assert run(ours, step) == run(on_tf2, step), step
    for target, source, stamp_ns in itertools.product(FRAMES, FRAMES, asked):
        mine = outcome(ours.lookup, target, source, stamp_ns)
        theirs = outcome(on_tf2.lookup, target, source, stamp_ns)
        if isinstance(mine, np.ndarray):
            assert isinstance(theirs, np.ndarray), (target, source, stamp_ns, theirs)
            np.testing.assert_allclose(theirs, mine, atol=1e-9)
        else:
            assert mine == theirs, (target, source, stamp_ns)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(poses, poses), min_size=2, max_size=12),
    poses,
    st.sampled_from(FRAMES[:4]),
    st.sampled_from(FRAMES[:4]),
    st.none() | st.integers(0, 22),
)
def test_a_drive_has_the_poses_of_tf2_alone(drive, mount, target, source, quarter):
    """The rules of the tree take nothing away where tf2 has an answer within a second of data."""
    tf2_ros = pytest.importorskip("tf2_ros", reason="only a ROS distribution has tf2_ros")
    from geometry_msgs.msg import TransformStamped
    from rclpy.duration import Duration
    from rclpy.time import Time

    from gld_ros.geometry.poses import pose_from_quaternion

    begin_ns = 1_700_000_000 * S
    ours, tf2 = TransformBuffer(30.0), tf2_ros.Buffer(cache_time=Duration(seconds=30.0))

    def insert(parent, child, pose, stamp_ns, static):
        x, y, yaw, pitch = pose
        turn = quaternion_xyzw(yaw, pitch)
        ours.insert(parent, child, (x, y, 0.5), turn, stamp_ns, static=static)
        message = TransformStamped(child_frame_id=child)
        message.header.frame_id = parent
        message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        move, rotation = message.transform.translation, message.transform.rotation
        move.x, move.y, move.z = x, y, 0.5
        rotation.x, rotation.y, rotation.z, rotation.w = turn
        (tf2.set_transform_static if static else tf2.set_transform)(message, "test")

    for step, both in enumerate(drive):
        for edge, pose in zip((("map", "odom"), ("odom", "base")), both, strict=True):
            insert(*edge, pose, begin_ns + step * S // 2, False)
    insert("base", "camera", mount, 0, True)
    stamp_ns = None if quarter is None else begin_ns + quarter * S // 4
    try:
        found = tf2.lookup_transform(target, source, Time(nanoseconds=stamp_ns or 0)).transform
    except tf2_ros.TransformException:
        with pytest.raises(TransformUnavailable):
            ours.lookup(target, source, stamp_ns)
        return
    p, q = found.translation, found.rotation
    theirs = pose_from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
    np.testing.assert_allclose(ours.lookup(target, source, stamp_ns), theirs, atol=1e-9)
