"""Our TF buffer gives the poses that the distribution's tf2 gives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gld_ros.messages.transforms import TransformBuffer

pytestmark = pytest.mark.ros

pytest.importorskip("tf2_ros", reason="only a ROS distribution has tf2_ros")

S = 10**9
T0 = 1_700_000_000 * S
FRAMES = ("map", "odom", "base", "camera")

coordinate = st.floats(-10, 10)
angles = st.floats(-3, 3)
poses = st.tuples(coordinate, coordinate, angles, angles)
# Half a second between samples, as both interpolate there; a chain of two moving edges.
drives = st.lists(st.tuples(poses, poses), min_size=2, max_size=12)
quarters = st.integers(0, 22)


def quaternion_xyzw(yaw, pitch):
    cy, sy, cp, sp = (f(a / 2) for a in (yaw, pitch) for f in (math.cos, math.sin))
    return (-sy * sp, cy * sp, sy * cp, cy * cp)


class Tf2:
    """tf2_ros.Buffer with the calls of TransformBuffer."""

    def __init__(self):
        import tf2_ros
        from rclpy.duration import Duration

        self.error = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=30.0))

    def insert(self, parent, child, p, q, stamp_ns, static=False):
        from geometry_msgs.msg import TransformStamped
        from rclpy.time import Time

        message = TransformStamped(child_frame_id=child)
        message.header.frame_id = parent
        message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        move, turn = message.transform.translation, message.transform.rotation
        move.x, move.y, move.z = p
        turn.x, turn.y, turn.z, turn.w = q
        put = self._buffer.set_transform_static if static else self._buffer.set_transform
        put(message, "test")

    def lookup(self, target, source, stamp_ns):
        from rclpy.time import Time

        found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns or 0))
        p, q = found.transform.translation, found.transform.rotation
        x, y, z, w = q.x, q.y, q.z, q.w
        T = np.eye(4)
        T[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        T[:3, 3] = (p.x, p.y, p.z)
        return T


@settings(max_examples=100)
@given(
    drives,
    poses,
    st.sampled_from(FRAMES),
    st.sampled_from(FRAMES),
    st.none() | quarters,
)
def test_a_drive_has_the_poses_of_tf2(drive, mount, target, source, quarter):
    ours, tf2 = TransformBuffer(30.0), Tf2()
    for buffer in (ours, tf2):
        for edge, (parent, child) in enumerate((("map", "odom"), ("odom", "base"))):
            for step, both in enumerate(drive):
                x, y, yaw, pitch = both[edge]
                stamp_ns = T0 + step * S // 2
                buffer.insert(parent, child, (x, y, 0.5), quaternion_xyzw(yaw, pitch), stamp_ns)
        x, y, yaw, pitch = mount
        turn = quaternion_xyzw(yaw, pitch)
        buffer.insert("base", "camera", (x, y, 1.0), turn, 0, static=True)
    stamp_ns = None if quarter is None else T0 + quarter * S // 4
    try:
        theirs = tf2.lookup(target, source, stamp_ns)
    except tf2.error:  # not known at this time
        with pytest.raises(LookupError):
            ours.lookup(target, source, stamp_ns)
        return
    np.testing.assert_allclose(ours.lookup(target, source, stamp_ns), theirs, atol=1e-9)
