"""Image messages to and from arrays: the accepted encodings and their byte layouts.

Works on any object with the fields of sensor_msgs/Image or CompressedImage, whether it came from
rclpy or out of a bag. Leaves intrinsics and rectification to others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.messages.types import byte_field, message_with_bytes, rclpy_type


class ImageError(ValueError):
    """An image message that cannot be used."""


class UnsupportedEncoding(ImageError):
    """The message is whole, but its encoding is not one of those accepted."""

    def __init__(self, encoding: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"encoding {encoding!r} is not supported; allowed: {', '.join(allowed)}")
        self.encoding = encoding
        self.allowed = allowed


class MalformedImage(ImageError):
    """The sizes in the message contradict each other, or its content cannot be decoded."""


class OversizedImage(MalformedImage):
    """The image is, or claims to be, larger than allowed; nothing of it was decoded."""


@dataclass(frozen=True)
class RgbImage:
    """Colour pixels, (H, W, 3) uint8; `reduced_from_16_bit` tells that low bits were dropped."""

    rgb: np.ndarray
    reduced_from_16_bit: bool = False


@dataclass(frozen=True)
class _Encoding:
    """How one encoding lies in memory and how it becomes RGB."""

    bytes_per_pixel: int
    dtype: str  # little-endian; one letter and size as in numpy
    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]
    even_width: bool = False


def _with(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(pixels, code)


def _bgr(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


_UYVY = _Encoding(2, "u1", 2, _with(cv2.COLOR_YUV2RGB_UYVY), even_width=True)
_YUYV = _Encoding(2, "u1", 2, _with(cv2.COLOR_YUV2RGB_YUY2), even_width=True)
_GRAY = _with(cv2.COLOR_GRAY2RGB)

# ROS names a Bayer pattern by its first two rows, OpenCV by the second and third pixel of the
# second row and third: rggb is BayerBG there.
_PACKED: dict[str, _Encoding] = {
    "rgb8": _Encoding(3, "u1", 3, lambda pixels: pixels),
    "bgr8": _Encoding(3, "u1", 3, _bgr),
    "rgba8": _Encoding(4, "u1", 4, _with(cv2.COLOR_RGBA2RGB)),
    "bgra8": _Encoding(4, "u1", 4, _with(cv2.COLOR_BGRA2RGB)),
    "mono8": _Encoding(1, "u1", 1, _GRAY),
    "mono16": _Encoding(2, "u2", 1, _GRAY),
    "rgb16": _Encoding(6, "u2", 3, lambda pixels: pixels),
    "bgr16": _Encoding(6, "u2", 3, _bgr),
    "bayer_rggb8": _Encoding(1, "u1", 1, _with(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": _Encoding(1, "u1", 1, _with(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": _Encoding(1, "u1", 1, _with(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": _Encoding(1, "u1", 1, _with(cv2.COLOR_BayerGB2RGB)),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
}
COLOUR_ENCODINGS: tuple[str, ...] = (*_PACKED, "nv12")
ImageEncoding = Literal["rgb8", "32FC1", "mono8"]  # of the images that are published
OUTPUT_ENCODINGS: tuple[str, ...] = get_args(ImageEncoding)
COMPRESSED_CONTENTS: tuple[str, ...] = ("JPEG", "PNG")
JPEG_QUALITY = 90
MAX_PIXELS = 100_000_000  # a few bytes can claim an image that fills the memory
MAX_SIDE_PX = 32_766  # OpenCV's remap counts in 16 bits


# Converts an image message to RGB in another library, or returns None to leave it to this one.
ImageBridge = Callable[[Any], np.ndarray | None]


def rgb_from_message(
    message: Any, bridge: ImageBridge | None = None, max_pixels: int = MAX_PIXELS
) -> RgbImage:
    """Return the colours of a sensor_msgs/Image or CompressedImage, whichever it is.

    `bridge` is that of rgb_from_image. Raises UnsupportedEncoding or MalformedImage, and
    OversizedImage before anything is decoded.
    """
    if hasattr(message, "format"):
        return rgb_from_compressed(message, max_pixels)
    return rgb_from_image(message, bridge, max_pixels)


def _require_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE_PX:
        raise OversizedImage(
            f"image claims {width} x {height} pixels; at most {max_pixels} pixels, and "
            f"{MAX_SIDE_PX} a side, are taken"
        )


def rgb_from_image(
    message: Any, bridge: ImageBridge | None = None, max_pixels: int = MAX_PIXELS
) -> RgbImage:
    """Return the colours of a sensor_msgs/Image; the pixels may share memory with the message.

    Honours `step`, row padding and `is_bigendian`, drops alpha, and takes the upper eight bits of
    16-bit colour. `bridge` is asked first for 8-bit images whose sizes agree and whose rows are not
    padded. Raises UnsupportedEncoding, MalformedImage or OversizedImage.
    """
    _require_size(message.width, message.height, max_pixels)
    if message.encoding == "nv12":
        return RgbImage(_rgb_from_nv12(message))
    if message.encoding not in _PACKED:
        raise UnsupportedEncoding(message.encoding, COLOUR_ENCODINGS)
    encoding = _PACKED[message.encoding]
    if encoding.even_width and message.width % 2:
        raise MalformedImage(f"{message.encoding} needs an even width, given {message.width}")
    pixels = packed_pixels(message, encoding.bytes_per_pixel, encoding.dtype, encoding.channels)
    if encoding.dtype == "u2":
        return RgbImage(encoding.to_rgb((pixels >> 8).astype(np.uint8)), reduced_from_16_bit=True)
    if bridge is not None and message.step == message.width * encoding.bytes_per_pixel:
        converted = bridge(message)
        if converted is not None:
            return RgbImage(converted)
    return RgbImage(encoding.to_rgb(pixels))


def message_bytes(message: Any) -> np.ndarray:
    """Return the `data` of a message as (N,) uint8, without a copy."""
    data = message.data
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)


def _rows(message: Any, row_bytes: int, num_rows: int) -> np.ndarray:
    """The bytes of the message as (num_rows, step), after all sizes were found to agree."""
    if message.width <= 0 or message.height <= 0:
        raise MalformedImage(f"image of {message.width} x {message.height} pixels")
    if message.step < row_bytes:
        raise MalformedImage(
            f"step {message.step} is less than the {row_bytes} bytes of a row of "
            f"{message.width} {message.encoding} pixels"
        )
    if len(message.data) != message.step * num_rows:
        raise MalformedImage(
            f"{len(message.data)} bytes of data, but {num_rows} rows of step {message.step} "
            f"are {message.step * num_rows}"
        )
    return message_bytes(message).reshape(num_rows, message.step)


def packed_pixels(message: Any, bytes_per_pixel: int, dtype: str, channels: int) -> np.ndarray:
    """Return the pixels without padding, in native byte order: (H, W) or (H, W, channels).

    Raises MalformedImage where the sizes of the message contradict each other.
    """
    row_bytes = message.width * bytes_per_pixel
    rows = _rows(message, row_bytes, message.height)
    order = ">" if message.is_bigendian else "<"
    pixels = np.ascontiguousarray(rows[:, :row_bytes]).view(order + dtype)
    pixels = pixels.astype(dtype, copy=False)
    shape = (message.height, message.width, channels)[: 2 if channels == 1 else 3]
    return pixels.reshape(shape)


def mono8_from_image(message: Any) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 values of a mono8 sensor_msgs/Image, such as provenance labels.

    Raises UnsupportedEncoding or MalformedImage.
    """
    if message.encoding != "mono8":
        raise UnsupportedEncoding(message.encoding, ("mono8",))
    return packed_pixels(message, 1, "u1", 1)


def _rgb_from_nv12(message: Any) -> np.ndarray:
    """Full-resolution luma rows, then half as many rows of interleaved U and V."""
    if message.width % 2 or message.height % 2:
        raise MalformedImage(
            f"nv12 needs an even width and height, given {message.width} x {message.height}"
        )
    rows = _rows(message, message.width, message.height * 3 // 2)
    planes = np.ascontiguousarray(rows[:, : message.width])
    return cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_NV12)


def rgb_from_compressed(message: Any, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """Return the colours of a sensor_msgs/CompressedImage holding JPEG or PNG.

    The content decides, not the `format` text. An image that was cut off is rejected rather than
    filled with grey; an EXIF orientation is ignored, since intrinsics refer to the stored rows.
    Raises UnsupportedEncoding, MalformedImage or OversizedImage.
    """
    data = message_bytes(message)
    content = data.tobytes()
    if content.startswith(b"\xff\xd8\xff"):
        (width, height), whole = _jpeg_size_and_end(content)
        reduced = False
    elif (size := png_size(content)) is not None:
        width, height = size
        whole, reduced = b"IEND" in content[-64:], content[24:25] == b"\x10"
    else:
        given = f"{message.format} (content starts with {content[:8].hex() or 'nothing'})"
        raise UnsupportedEncoding(given, COMPRESSED_CONTENTS)
    if not whole:
        raise MalformedImage(f"compressed image of {len(content)} bytes is cut off")
    _require_size(width, height, max_pixels)
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise MalformedImage(f"compressed image cannot be decoded: {error}") from error
    if bgr is None:
        raise MalformedImage(f"compressed image of {len(content)} bytes cannot be decoded")
    return RgbImage(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), reduced_from_16_bit=reduced)


def png_size(content: bytes) -> tuple[int, int] | None:
    """Return (width, height) that a PNG claims, None for other content."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _jpeg_size_and_end(content: bytes) -> tuple[tuple[int, int], bool]:
    """(width, height), and whether an end marker follows the start of scan (ITU T.81, B.1).

    Segments are skipped by their lengths, so that the end of an embedded preview does not count.
    """
    size, position = (0, 0), 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xDA:
            return size, content.find(b"\xff\xd9", position) >= 0
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = (
                int.from_bytes(content[i : i + 2], "big") for i in (position + 5, position + 7)
            )
            size = (width, height)
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return size, False


def image_message(
    pixels: np.ndarray,
    encoding: ImageEncoding,
    header: Any,
    message_type: Any = None,
) -> Any:
    """Return a sensor_msgs/Image of (H, W, 3) uint8, (H, W) float32 or (H, W) uint8 pixels.

    `message_type` defaults to rclpy's class; the header must be of the same family.
    Raises UnsupportedEncoding for other encodings, MalformedImage for pixels that do not fit.
    """
    expected = {"rgb8": (np.uint8, 3), "32FC1": (np.float32, 2), "mono8": (np.uint8, 2)}
    if encoding not in expected:
        raise UnsupportedEncoding(encoding, OUTPUT_ENCODINGS)
    dtype, dimensions = expected[encoding]
    right = pixels.dtype == dtype and pixels.ndim == dimensions
    if not right or (dimensions == 3 and pixels.shape[2] != 3):
        _reject_pixels(pixels, encoding)
    message_type = message_type or rclpy_type("sensor_msgs/msg/Image")
    height, width = pixels.shape[:2]
    data = byte_field(message_type, pixels.astype(pixels.dtype.newbyteorder("<"), copy=False))
    return message_with_bytes(
        message_type,
        data,
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * pixels.itemsize * (3 if dimensions == 3 else 1),
    )


def compressed_message(rgb: np.ndarray, header: Any, message_type: Any = None) -> Any:
    """Return a sensor_msgs/CompressedImage of (H, W, 3) uint8 colours. Raises MalformedImage."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        _reject_pixels(rgb, "jpeg")
    message_type = message_type or rclpy_type("sensor_msgs/msg/CompressedImage")
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpeg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise MalformedImage(f"jpeg cannot hold an image of shape {rgb.shape}")
    words = "rgb8; jpeg compressed bgr8"  # the form that image_transport uses
    data = byte_field(message_type, encoded)
    return message_with_bytes(message_type, data, header=header, format=words)


def _reject_pixels(pixels: np.ndarray, encoding: str) -> NoReturn:
    raise MalformedImage(
        f"{encoding} cannot be made from {pixels.dtype} of shape {pixels.shape}; allowed are "
        "uint8 (H, W, 3) for colours, float32 (H, W) for 32FC1 and uint8 (H, W) for mono8"
    )
