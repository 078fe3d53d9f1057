"""The distribution's sensor_msgs_py as a reader of clouds."""

import sys
from typing import Any

import numpy as np

from gld_ros.messages.clouds import MalformedCloud, points_from_cloud

try:
    from sensor_msgs_py.point_cloud2 import read_points
except ImportError:  # ROS 2 from PyPI
    read_points = None


def read_cloud(message: Any) -> np.ndarray:
    """Return what `points_from_cloud` does, read by sensor_msgs_py where it can.

    It overlooks row padding and changes a big-endian message, so those are read here; it would
    shape an organised cloud by width and height instead of height and width. Raises MalformedCloud.
    """
    packed = message.row_step == message.width * message.point_step
    swapped = message.is_bigendian != (sys.byteorder == "big")
    if read_points is None or not packed or swapped:
        return points_from_cloud(message)
    try:
        points = read_points(message)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise MalformedCloud(f"cloud cannot be read: {error}") from error
    # rgb is declared FLOAT32 by convention and holds four bytes.
    fields = points.dtype.fields or {}
    bits = {
        name: (np.dtype("<u4") if name in ("rgb", "rgba") and kind == "<f4" else kind, offset)
        for name, (kind, offset, *_) in fields.items()
    }
    points = points.view(
        np.dtype(
            {
                "names": list(bits),
                "formats": [kind for kind, _ in bits.values()],
                "offsets": [offset for _, offset in bits.values()],
                "itemsize": points.dtype.itemsize,
            }
        )
    )
    return points.reshape(message.height, message.width) if message.height > 1 else points
