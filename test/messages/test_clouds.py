"""Clouds carry exactly the bytes that consumers expect, and read back."""

import numpy as np
import pytest

from gld_ros.messages.clouds import (
    CLOUD_DTYPE,
    MalformedCloud,
    cloud_message,
    points_from_cloud,
)
from gld_ros.messages.types import byte_field

RANDOM = np.random.default_rng(5)
CLOUD, FIELD = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/PointField"


def random_points(*shape):
    points = np.zeros(shape, CLOUD_DTYPE)
    for axis in "xyz":
        points[axis] = RANDOM.normal(size=shape)
    points["rgb"] = RANDOM.integers(0, 1 << 24, shape)
    points["confidence"] = RANDOM.random(shape)
    points["provenance"] = RANDOM.integers(0, 5, shape)
    points["view"] = 2
    return points


def make_cloud(family, points):
    return cloud_message(points, family.header("odom"), family.type)


def test_layout_of_the_message(family):
    message = make_cloud(family, random_points(10))
    fields = [(f.name, f.offset, f.datatype, f.count) for f in message.fields]
    assert fields == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("rgb", 12, 7, 1),
        ("confidence", 16, 7, 1),
        ("provenance", 20, 2, 1),
        ("view", 21, 2, 1),
    ]
    assert (message.point_step, message.row_step) == (24, 240)
    assert (message.height, message.width) == (1, 10)
    assert message.is_dense
    assert not message.is_bigendian
    assert message.header.frame_id == "odom"


def test_unorganised_points_read_back(family):
    sent = random_points(33)
    # As a float, 0x007FFFFF is a subnormal and 0x7FA00000 a signalling NaN; bits stay as they are.
    sent["rgb"][:2] = 0x007FFFFF, 0x7FA00000
    points = points_from_cloud(make_cloud(family, sent))
    assert points.shape == (33,)
    for name in CLOUD_DTYPE.names:
        np.testing.assert_array_equal(points[name], sent[name])


def test_organised_points_keep_their_grid_and_their_holes(family):
    sent = random_points(4, 6)
    sent["z"][1, 2] = np.nan
    message = make_cloud(family, sent)
    assert (message.height, message.width, message.row_step) == (4, 6, 144)
    assert not message.is_dense
    points = points_from_cloud(message)
    assert points.shape == (4, 6)
    np.testing.assert_array_equal(points["z"], sent["z"])


def test_empty_cloud(family):
    message = make_cloud(family, random_points(0))
    assert (message.height, message.width, len(message.data)) == (1, 0, 0)
    assert len(points_from_cloud(message)) == 0


def test_points_of_another_layout_are_rejected(family):
    with pytest.raises(MalformedCloud, match="layout"):
        make_cloud(family, np.zeros(5, [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]))


def foreign_cloud(family, **changes):
    """Two rows of two big-endian points in another layout, rows padded."""
    layout = np.dtype(
        {"names": ["z", "ring"], "formats": [">f8", ">u2"], "offsets": [2, 10], "itemsize": 14}
    )
    points = np.zeros((2, 2), layout)
    points["z"] = [[1, 2], [3, 4]]
    points["ring"] = [[5, 6], [7, 8]]
    rows = np.pad(points.view(np.uint8).reshape(2, 28), ((0, 0), (0, 3)))
    cloud_type, field_type = family.type(CLOUD), family.type(FIELD)
    content = {
        "header": family.header(),
        "height": 2,
        "width": 2,
        "fields": [
            field_type(name="z", offset=2, datatype=8, count=1),
            field_type(name="ring", offset=10, datatype=4, count=1),
        ],
        "is_bigendian": True,
        "point_step": 14,
        "row_step": 31,
        "data": byte_field(cloud_type, rows),
        "is_dense": True,
    }
    return cloud_type(**{**content, **changes})


def test_clouds_of_others_are_read_by_their_field_table(family):
    points = points_from_cloud(foreign_cloud(family))
    assert points["z"].tolist() == [[1, 2], [3, 4]]
    assert points["ring"].tolist() == [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("field", "value"), [("row_step", 27), ("height", 3), ("width", 3), ("point_step", 11)]
)
def test_clouds_with_contradicting_sizes_are_refused(family, field, value):
    with pytest.raises(MalformedCloud):
        points_from_cloud(foreign_cloud(family, **{field: value}))


def test_unknown_and_repeated_fields_are_refused(family):
    field_type = family.type(FIELD)
    unknown = [field_type(name="z", offset=2, datatype=99, count=1)]
    with pytest.raises(MalformedCloud, match="datatype 99"):
        points_from_cloud(foreign_cloud(family, fields=unknown))
    twice = [field_type(name="z", offset=o, datatype=8, count=1) for o in (0, 2)]
    with pytest.raises(MalformedCloud, match="distinct"):
        points_from_cloud(foreign_cloud(family, fields=twice))


@pytest.mark.ros
def test_the_message_survives_serialisation():
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import PointCloud2
    from std_msgs.msg import Header

    message = cloud_message(random_points(50), Header(frame_id="odom"))
    assert deserialize_message(serialize_message(message), PointCloud2) == message
