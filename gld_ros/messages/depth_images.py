"""Depth image messages as metres: raw and compressed, whatever camera published them.

Covers REP-118 (32FC1 metres, 16UC1 millimetres) and the `compressedDepth` transport. Leaves which
topic belongs to which camera to `gld_ros.bags.cameras`.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.messages.images import (
    MAX_PIXELS,
    MalformedImage,
    UnsupportedEncoding,
    message_bytes,
    packed_pixels,
    png_size,
)

DEPTH_ENCODINGS: tuple[str, ...] = ("32FC1", "16UC1", "mono16")
COMPRESSED_DEPTH_FORMATS = ("16UC1; compressedDepth", "32FC1; compressedDepth")
_HEADER_BYTES = 12  # int32 kind of quantisation, float32 A and B, before the PNG


def is_compressed_depth(message: Any) -> bool:
    """Whether a sensor_msgs/CompressedImage comes from the `compressedDepth` transport."""
    return "compresseddepth" in message.format.lower()


def depth_hw_from_message(message: Any) -> tuple[int, int]:
    """Return the size (H, W) of a depth image, without decoding it.

    Raises as depth_m_from_message does, but for what shows only in the pixels of a PNG.
    """
    if hasattr(message, "format"):
        _, png = _encoding_and_png(message)
        width, height = _png_size(png)
        return height, width
    pixels = _packed(message)
    return pixels.shape[0], pixels.shape[1]


def depth_m_from_message(message: Any) -> NDArray[np.float32]:
    """Return z-depth (H, W) float32 in metres of a depth Image or compressedDepth CompressedImage.

    NaN where nothing was measured; 32FC1 images keep their own NaN and infinities (REP-117).
    Raises UnsupportedEncoding or MalformedImage.
    """
    if hasattr(message, "format"):
        return _depth_m_from_compressed(message)
    pixels = _packed(message)
    return pixels.astype(np.float32) if pixels.dtype.kind == "f" else _metres(pixels)


def _packed(message: Any) -> NDArray[Any]:
    """The pixels (H, W) of a raw image: metres as floats, or millimetres as integers."""
    if message.encoding == "32FC1":
        return packed_pixels(message, 4, "f4", 1)
    if message.encoding in DEPTH_ENCODINGS:
        return packed_pixels(message, 2, "u2", 1)
    raise UnsupportedEncoding(message.encoding, DEPTH_ENCODINGS)


def _metres(millimetres: NDArray[np.uint16]) -> NDArray[np.float32]:
    depth_m = millimetres.astype(np.float32) * np.float32(1e-3)
    depth_m[millimetres == 0] = np.nan
    return depth_m


def _encoding_and_png(message: Any) -> tuple[str, bytes]:
    """What the PNG behind the transport's header holds, and the PNG, which is whole."""
    encoding, _, transport = message.format.partition(";")
    content = message_bytes(message).tobytes()
    if not is_compressed_depth(message) or "rvl" in transport or encoding not in ("16UC1", "32FC1"):
        raise UnsupportedEncoding(message.format, COMPRESSED_DEPTH_FORMATS)
    png = content[_HEADER_BYTES:]
    if png_size(png) is None or b"IEND" not in png[-64:]:
        raise MalformedImage(
            f"compressedDepth image of {len(content)} bytes contains no complete PNG"
        )
    return encoding, png


def _png_size(png: bytes) -> tuple[int, int]:
    """Width and height, which must be those of an image."""
    size = png_size(png) or (0, 0)
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise MalformedImage(f"compressedDepth image claims {size[0]} x {size[1]} pixels")
    return size


def _depth_m_from_compressed(message: Any) -> NDArray[np.float32]:
    """The PNG behind the transport's header: millimetres, or v with depth A / (v - B)."""
    encoding, png = _encoding_and_png(message)
    _png_size(png)
    stored = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise MalformedImage("compressedDepth image contains no PNG with one 16-bit channel")
    if encoding == "16UC1":
        return _metres(stored)
    a, b = np.frombuffer(message_bytes(message).tobytes()[4:_HEADER_BYTES], "<f4")
    with np.errstate(divide="ignore", invalid="ignore"):
        depth_m = (a / (stored.astype(np.float32) - b)).astype(np.float32)
    depth_m[(stored == 0) | ~np.isfinite(depth_m) | (depth_m <= 0)] = np.nan
    return depth_m
