"""PointCloud2 messages to and from arrays. Owns the layout of a point.

Leaves to the caller which points leave at all (validity, provenance, stride, voxels).
"""

from typing import Any

import numpy as np

from gld_ros.messages.types import byte_field, message_with_bytes, rclpy_type

# One point, little-endian, 24 bytes. `rgb` is 0x00RRGGBB, which messages declare as FLOAT32; it
# never passes through a float, or bits that are a signalling NaN would change.
CLOUD_DTYPE = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "confidence", "provenance", "view"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<f4", "u1", "u1"],
        "offsets": [0, 4, 8, 12, 16, 20, 21],
        "itemsize": 24,
    }
)

# sensor_msgs/PointField: datatype numbers and what they are in numpy.
_FIELD_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_UINT8, _FLOAT32 = 2, 7


class MalformedCloud(ValueError):
    """A cloud whose sizes contradict each other, or points that do not fit the layout."""


def cloud_message(points: np.ndarray, header: Any, types: Any = rclpy_type) -> Any:
    """Return a sensor_msgs/PointCloud2 of CLOUD_DTYPE points in the header's frame, without a copy.

    (N,) makes an unorganised, dense cloud of finite points, (H, W) an organised one where NaN means
    "no point here". `types` maps full message names to classes. Raises MalformedCloud.
    """
    if points.dtype.itemsize != CLOUD_DTYPE.itemsize or points.dtype.names != CLOUD_DTYPE.names:
        raise MalformedCloud(f"points have layout {points.dtype}; allowed is {CLOUD_DTYPE}")
    organised = points.ndim == 2
    height, width = points.shape if organised else (1, len(points))
    message_type, field_type = (
        types("sensor_msgs/msg/PointCloud2"),
        types("sensor_msgs/msg/PointField"),
    )
    return message_with_bytes(
        message_type,
        byte_field(message_type, points),
        header=header,
        height=height,
        width=width,
        fields=[
            field_type(
                name=name,
                offset=offset,
                datatype=_UINT8 if element.itemsize == 1 else _FLOAT32,
                count=1,
            )
            for name, (element, offset) in _layout()
        ],
        is_bigendian=False,
        point_step=CLOUD_DTYPE.itemsize,
        row_step=CLOUD_DTYPE.itemsize * width,
        is_dense=not organised,
    )


def _layout() -> Any:
    assert CLOUD_DTYPE.fields is not None  # it is a structure
    return ((name, CLOUD_DTYPE.fields[name][:2]) for name in CLOUD_DTYPE.names or ())


def points_from_cloud(message: Any) -> np.ndarray:
    """Return the points of any PointCloud2 as a structured array, (N,) or (H, W) by its height.

    Follows the message's own field table, byte order and row padding; the array shares memory with
    the message where rows are not padded. A field `rgb` or `rgba` declared FLOAT32 is given as
    uint32, its true content. Raises MalformedCloud.
    """
    order = ">" if message.is_bigendian else "<"
    names: list[str] = []
    formats: list[Any] = []
    offsets: list[int] = []
    for field in message.fields:
        if field.datatype not in _FIELD_DTYPES:
            raise MalformedCloud(f"field {field.name!r} has unknown datatype {field.datatype}")
        kind = _FIELD_DTYPES[field.datatype]
        if field.name in ("rgb", "rgba") and kind == "f4":
            kind = "u4"
        element = np.dtype(order + kind)
        if field.offset + element.itemsize * max(field.count, 1) > message.point_step:
            raise MalformedCloud(f"field {field.name!r} ends behind point_step")
        names.append(field.name)
        formats.append(element if field.count <= 1 else (element, (field.count,)))
        offsets.append(field.offset)
    if len(set(names)) != len(names):
        raise MalformedCloud(f"field names are not distinct: {names}")
    layout = np.dtype(
        {
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "itemsize": message.point_step,
        }
    )
    row_bytes = message.width * message.point_step
    if message.row_step < row_bytes or len(message.data) != message.row_step * message.height:
        raise MalformedCloud(
            f"{len(message.data)} bytes for {message.height} rows of row_step {message.row_step}, "
            f"{message.width} points of {message.point_step} bytes each"
        )
    octets = np.frombuffer(message.data, np.uint8).reshape(message.height, message.row_step)
    points = np.ascontiguousarray(octets[:, :row_bytes]).reshape(-1).view(layout)
    return points.reshape(message.height, message.width) if message.height > 1 else points
