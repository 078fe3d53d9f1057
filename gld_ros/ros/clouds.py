"""PointCloud2 messages to and from arrays: their fields, packing, reading back.

The layout of a point is that of `gld_ros.mapping.products`, which makes the points. Leaves to the
caller which points leave at all (validity, provenance, stride, voxels).
"""

import struct
from typing import Any

import cv2
import numpy as np

from gld_ros.mapping.products import CLOUD_DTYPE
from gld_ros.messages.types import (
    byte_field,
    message_with_bytes,
    rclpy_type,
    writable_byte_field,
)

# sensor_msgs/PointField: datatype numbers and what they are in numpy.
_FIELD_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_UINT8, _FLOAT32 = 2, 7
_FIELDS = (
    ("x", 0, _FLOAT32),
    ("y", 4, _FLOAT32),
    ("z", 8, _FLOAT32),
    ("rgb", 12, _FLOAT32),
    ("confidence", 16, _FLOAT32),
    ("provenance", 20, _UINT8),
    ("view", 21, _UINT8),
)


class MalformedCloud(ValueError):
    """A cloud whose sizes contradict each other, or points that do not fit the layout."""


def pack_points(
    out: np.ndarray,
    xyz_m: np.ndarray,
    rgb: np.ndarray,
    confidence: np.ndarray,
    provenance: np.ndarray,
    view: np.ndarray | int,
) -> None:
    """Write N points in the layout of CLOUD_DTYPE into `out`, N * 24 bytes of uint8.

    Shapes: xyz_m (N, 3) float32, rgb (N, 3) uint8, confidence (N,) float32, provenance (N,) uint8,
    view (N,) uint8 or one slot for all. The fast path; pack_points_reference says the same plainly.
    """
    count = len(xyz_m)
    if count == 0:
        return
    colour = cv2.cvtColor(rgb.reshape(1, count, 3), cv2.COLOR_RGB2BGRA).reshape(-1).view("<u4")
    colour &= 0x00FFFFFF
    labels = np.asarray(view, np.uint8).astype("<u4") << np.uint32(8) | provenance
    # One pass interleaves six channels of four bytes; it copies bits, whatever they stand for.
    words = (xyz_m, colour, np.ascontiguousarray(confidence, "<f4"), labels)
    channels = [word.view("<f4").reshape(1, count, -1) for word in words]
    points = out.view("<f4").reshape(1, count, 6)
    cv2.mixChannels(channels, [points], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])


def pack_points_reference(
    out: np.ndarray,
    xyz_m: np.ndarray,
    rgb: np.ndarray,
    confidence: np.ndarray,
    provenance: np.ndarray,
    view: np.ndarray | int,
) -> None:
    """Do what pack_points does one point at a time: the layout as a reader would check it."""
    views = np.broadcast_to(view, len(xyz_m))
    for i in range(len(xyz_m)):
        red, green, blue = (int(value) for value in rgb[i])
        point = struct.pack(
            "<fffIfBBxx",
            *(float(value) for value in xyz_m[i]),
            red << 16 | green << 8 | blue,
            float(confidence[i]),
            int(provenance[i]),
            int(views[i]),
        )
        out[24 * i : 24 * (i + 1)] = np.frombuffer(point, np.uint8)


def cloud_message(
    xyz_m: np.ndarray,
    rgb: np.ndarray,
    confidence: np.ndarray,
    provenance: np.ndarray,
    view: np.ndarray | int,
    header: Any,
    message_type: Any = None,
    field_type: Any = None,
) -> Any:
    """Return a sensor_msgs/PointCloud2 of points in metres in the header's frame.

    xyz_m (N, 3) makes an unorganised, dense cloud: every point must be finite. xyz_m (H, W, 3)
    makes an organised one, where NaN means "no point here" and `is_dense` is false. The other
    arrays have the same leading shape: rgb (..., 3) uint8, confidence (...) float32 in [0, 1],
    provenance (...) uint8, view (...) uint8 or one slot. Types default to rclpy's classes.
    Raises MalformedCloud.
    """
    leading = xyz_m.shape[:-1]
    if xyz_m.ndim not in (2, 3) or xyz_m.shape[-1] != 3:
        raise MalformedCloud(f"points of shape {xyz_m.shape}; allowed are (N, 3) and (H, W, 3)")
    given = {"rgb": rgb.shape, "confidence": confidence.shape, "provenance": provenance.shape}
    given["view"] = np.shape(view) or leading
    expected = {name: (*leading, 3) if name == "rgb" else leading for name in given}
    if given != expected:
        raise MalformedCloud(f"shapes {given} do not fit points of shape {xyz_m.shape}")
    if rgb.dtype != np.uint8 or provenance.dtype != np.uint8:
        raise MalformedCloud(
            f"rgb and provenance are {rgb.dtype} and {provenance.dtype}; allowed is uint8"
        )
    organised = xyz_m.ndim == 3
    if not organised and not np.isfinite(xyz_m).all():
        raise MalformedCloud("an unorganised cloud holds finite points only; select them first")
    message_type = message_type or rclpy_type("sensor_msgs/msg/PointCloud2")
    field_type = field_type or rclpy_type("sensor_msgs/msg/PointField")
    height, width = leading if organised else (1, leading[0])
    data, out = writable_byte_field(message_type, 24 * height * width)
    slots = view if np.ndim(view) == 0 else np.asarray(view).reshape(-1)
    pack_points(
        out,
        np.ascontiguousarray(xyz_m, "<f4").reshape(-1, 3),
        np.ascontiguousarray(rgb).reshape(-1, 3),
        confidence.reshape(-1),
        provenance.reshape(-1),
        slots,
    )
    return _cloud(message_type, field_type, data, header, height, width, organised)


def structured_cloud_message(points: np.ndarray, header: Any, types: Any = rclpy_type) -> Any:
    """Return a PointCloud2 of points that are laid out as CLOUD_DTYPE already, without a copy.

    (N,) makes an unorganised, dense cloud of finite points, (H, W) an organised one where NaN means
    "no point here". `types` maps full message names to classes. Raises MalformedCloud.
    """
    if points.dtype.itemsize != 24 or points.dtype.names != CLOUD_DTYPE.names:
        raise MalformedCloud(f"points have layout {points.dtype}; allowed is {CLOUD_DTYPE}")
    organised = points.ndim == 2
    height, width = points.shape if organised else (1, len(points))
    message_type = types("sensor_msgs/msg/PointCloud2")
    field_type = types("sensor_msgs/msg/PointField")
    data = byte_field(message_type, points)
    return _cloud(message_type, field_type, data, header, height, width, organised)


def _cloud(
    message_type: Any,
    field_type: Any,
    data: Any,
    header: Any,
    height: int,
    width: int,
    organised: bool,
) -> Any:
    """Return the message around packed points; the one place that describes their layout."""
    return message_with_bytes(
        message_type,
        data,
        header=header,
        height=height,
        width=width,
        fields=[
            field_type(name=name, offset=offset, datatype=datatype, count=1)
            for name, offset, datatype in _FIELDS
        ],
        is_bigendian=False,
        point_step=24,
        row_step=24 * width,
        is_dense=not organised,
    )


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
