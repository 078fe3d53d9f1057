"""Clouds carry exactly the bytes that consumers expect, and read back."""

import numpy as np
import pytest

from gld_ros.mapping.products import CLOUD_DTYPE
from gld_ros.messages.types import byte_field
from gld_ros.ros.clouds import (
    MalformedCloud,
    cloud_message,
    pack_points,
    pack_points_reference,
    points_from_cloud,
)

RANDOM = np.random.default_rng(5)
CLOUD, FIELD = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/PointField"


def random_points(*leading):
    return (
        RANDOM.normal(size=(*leading, 3)).astype(np.float32),
        RANDOM.integers(0, 256, (*leading, 3), dtype=np.uint8),
        RANDOM.random(leading, dtype=np.float32),
        RANDOM.integers(0, 5, leading, dtype=np.uint8),
    )


def make_cloud(family, *points, view=2):
    return cloud_message(
        *points, view, family.header("odom"), family.type(CLOUD), family.type(FIELD)
    )


@pytest.mark.parametrize("view", [3, "per point"])
def test_fast_packing_equals_the_reference(view):
    points = random_points(257)
    points[0][::7] = np.nan
    slots = RANDOM.integers(0, 256, 257, dtype=np.uint8) if view == "per point" else view
    fast, plain = np.full((2, 257 * 24), 0xAB, np.uint8)
    pack_points(fast, *points, slots)
    pack_points_reference(plain, *points, slots)
    np.testing.assert_array_equal(fast, plain)


def test_colours_that_would_be_signalling_nans_keep_their_bits():
    # As a float, 0x007FFFFF is a subnormal; bits must not pass through arithmetic.
    rgb = np.array([[0x7F, 0xFF, 0xFF], [0, 0, 1], [255, 255, 255]], np.uint8)
    out = np.zeros(3 * 24, np.uint8)
    pack_points(out, np.zeros((3, 3), "f4"), rgb, np.zeros(3, "f4"), np.zeros(3, np.uint8), 0)
    assert out.view(CLOUD_DTYPE)["rgb"].tolist() == [0x7FFFFF, 1, 0xFFFFFF]


def test_layout_of_the_message(family):
    message = make_cloud(family, *random_points(10))
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
    xyz, rgb, confidence, provenance = random_points(33)
    points = points_from_cloud(make_cloud(family, xyz, rgb, confidence, provenance))
    assert points.shape == (33,)
    np.testing.assert_array_equal(np.stack([points[n] for n in "xyz"], axis=-1), xyz)
    packed = rgb.astype(np.uint32)
    expected = packed[:, 0] << 16 | packed[:, 1] << 8 | packed[:, 2]
    np.testing.assert_array_equal(points["rgb"], expected)
    np.testing.assert_array_equal(points["confidence"], confidence)
    np.testing.assert_array_equal(points["provenance"], provenance)
    assert (points["view"] == 2).all()


def test_organised_points_keep_their_grid_and_their_holes(family):
    xyz, *rest = random_points(4, 6)
    xyz[1, 2] = np.nan
    message = make_cloud(family, xyz, *rest)
    assert (message.height, message.width, message.row_step) == (4, 6, 144)
    assert not message.is_dense
    points = points_from_cloud(message)
    assert points.shape == (4, 6)
    np.testing.assert_array_equal(points["z"], xyz[..., 2])


def test_empty_cloud(family):
    message = make_cloud(family, *random_points(0))
    assert (message.height, message.width, len(message.data)) == (1, 0, 0)
    assert len(points_from_cloud(message)) == 0


def test_strided_input_is_packed_rightly(family):
    xyz, rgb, confidence, provenance = random_points(20)
    halves = (xyz[::2], rgb[::2], confidence[::2], provenance[::2])
    points = points_from_cloud(make_cloud(family, *halves))
    np.testing.assert_array_equal(points["x"], xyz[::2, 0])
    np.testing.assert_array_equal(points["confidence"], confidence[::2])


def test_a_dense_cloud_refuses_points_that_are_not_finite(family):
    xyz, *rest = random_points(5)
    xyz[3, 1] = np.inf
    with pytest.raises(MalformedCloud, match="finite"):
        make_cloud(family, xyz, *rest)


@pytest.mark.parametrize("wrong", [0, 1, 2, 3])
def test_arrays_of_other_sizes_are_refused(family, wrong):
    points = list(random_points(5))
    points[wrong] = points[wrong][:4] if wrong else points[wrong][:, :2]
    with pytest.raises(MalformedCloud, match="shape"):
        make_cloud(family, *points)


def test_colours_of_another_type_are_refused(family):
    xyz, rgb, *rest = random_points(5)
    with pytest.raises(MalformedCloud, match="uint8"):
        make_cloud(family, xyz, rgb.astype(np.float32), *rest)


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

    message = cloud_message(*random_points(50), 1, Header(frame_id="odom"))
    assert deserialize_message(serialize_message(message), PointCloud2) == message
