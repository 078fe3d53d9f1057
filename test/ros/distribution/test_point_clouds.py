"""sensor_msgs_py reads what we pack, packs what we read, and both read alike."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.ros


def points(shape, seed):
    from gld_ros.messages.clouds import CLOUD_DTYPE

    random = np.random.default_rng(seed)
    made = np.zeros(shape, CLOUD_DTYPE)
    for axis in "xyz":
        made[axis] = random.normal(size=shape)
    made["rgb"] = random.integers(0, 1 << 24, shape)
    made["confidence"] = random.random(shape)
    made["provenance"] = random.integers(0, 4, shape)
    made["view"] = random.integers(0, 8, shape)
    return made


def header():
    from std_msgs.msg import Header

    return Header(frame_id="odom")


def packed(shape, seed):
    from gld_ros.messages.clouds import cloud_message

    return cloud_message(points(shape, seed), header())


@settings(max_examples=60)
@given(st.integers(0, 50), st.integers(0, 10_000))
def test_sensor_msgs_py_reads_our_packing_as_we_do(count, seed):
    pytest.importorskip("sensor_msgs_py", reason="only a ROS distribution has sensor_msgs_py")
    from gld_ros.messages.clouds import points_from_cloud
    from gld_ros.ros.distribution.point_clouds import read_cloud

    message = packed(count, seed)
    ours, theirs = points_from_cloud(message), read_cloud(message)
    assert theirs.dtype.names == ours.dtype.names
    for name in ours.dtype.names:
        np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(0, 10_000))
def test_sensor_msgs_py_packs_the_same_bytes(count, seed):
    point_cloud2 = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="only a ROS distribution has sensor_msgs_py"
    )
    ours = packed(count, seed)
    theirs = point_cloud2.create_cloud(
        ours.header, ours.fields, point_cloud2.read_points(ours), ours.point_step
    )
    assert (theirs.point_step, theirs.row_step) == (ours.point_step, ours.row_step)
    assert theirs.fields == ours.fields
    given_ = points(count, seed)
    again = point_cloud2.read_points(theirs)
    for name in ("x", "y", "z", "confidence", "provenance", "view"):
        np.testing.assert_array_equal(again[name], given_[name])


@pytest.mark.parametrize("padded", [False, True])
def test_organised_and_padded_clouds(padded):
    from gld_ros.ros.distribution.point_clouds import read_cloud

    given_ = points((4, 5), 1)
    message = packed((4, 5), 1)
    if padded:
        rows = np.frombuffer(message.data, np.uint8).reshape(4, -1)
        message.data = np.pad(rows, ((0, 0), (0, 8))).tobytes()
        message.row_step += 8
    read = read_cloud(message)
    assert read.shape == (4, 5)
    for name in ("x", "rgb"):
        np.testing.assert_array_equal(read[name], given_[name])


def test_a_cloud_that_contradicts_itself_is_malformed():
    from gld_ros.messages.clouds import MalformedCloud
    from gld_ros.ros.distribution.point_clouds import read_cloud

    message = packed(7, 3)
    message.data = message.data[:-5]
    with pytest.raises(MalformedCloud):
        read_cloud(message)


def test_big_endian_clouds_are_left_as_they_are():
    from gld_ros.messages.clouds import points_from_cloud
    from gld_ros.ros.distribution.point_clouds import read_cloud

    message = packed(5, 2)
    message.is_bigendian = sys.byteorder == "little"
    before = bytes(message.data)
    np.testing.assert_array_equal(read_cloud(message)["x"], points_from_cloud(message)["x"])
    assert bytes(message.data) == before
