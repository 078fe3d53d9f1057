"""Every accepted encoding means the right colours, and nothing else gets through."""

import cv2
import numpy as np
import pytest
from rosbags.image import message_to_cvimage

from gld_ros.messages import images
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.images import (
    COLOUR_ENCODINGS,
    MalformedImage,
    UnsupportedEncoding,
    compressed_message,
    image_message,
    mono8_from_image,
    rgb_from_compressed,
    rgb_from_image,
)
from gld_ros.messages.types import byte_field

RANDOM = np.random.default_rng(3)
H, W = 6, 8
BYTES_PER_PIXEL = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "mono16": 2,
    "rgb16": 6,
    "bgr16": 6,
    "bayer_rggb8": 1,
    "bayer_bggr8": 1,
    "bayer_gbrg8": 1,
    "bayer_grbg8": 1,
    "yuv422": 2,
    "uyvy": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}


def make_image(family, encoding, rows, width, height=None, big_endian=0):
    """An Image of rows (bytes of each row, padding included)."""
    image_type = family.type("sensor_msgs/msg/Image")
    return image_type(
        header=family.header(),
        height=len(rows) if height is None else height,
        width=width,
        encoding=encoding,
        is_bigendian=big_endian,
        step=rows.shape[1],
        data=byte_field(image_type, rows),
    )


def random_rows(encoding, padding=0):
    return RANDOM.integers(0, 256, (H, W * BYTES_PER_PIXEL[encoding] + padding), dtype=np.uint8)


# The colours of one pixel in each encoding that keeps them exactly.
@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", [10, 20, 30]),
        ("bgr8", [30, 20, 10]),
        ("rgba8", [10, 20, 30, 99]),
        ("bgra8", [30, 20, 10, 99]),
        ("rgb16", [7, 10, 8, 20, 9, 30]),
        ("bgr16", [7, 30, 8, 20, 9, 10]),
    ],
)
def test_channel_order(family, encoding, pixel):
    rows = np.tile(np.array(pixel, np.uint8), (H, W))
    rgb = rgb_from_image(make_image(family, encoding, rows, W)).rgb
    assert rgb.shape == (H, W, 3)
    assert rgb.dtype == np.uint8
    assert (rgb == [10, 20, 30]).all()


@pytest.mark.parametrize("encoding", sorted(BYTES_PER_PIXEL))
def test_equals_an_independent_reader(family, encoding):
    message = make_image(family, encoding, random_rows(encoding), W)
    names = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}
    oracle = make_image(family, names.get(encoding, encoding), random_rows(encoding), W)
    oracle.data = message.data
    wide = encoding in ("mono16", "rgb16", "bgr16")
    theirs = message_to_cvimage(oracle, None if wide else "rgb8")
    if wide:
        theirs = (theirs >> 8).astype(np.uint8)
        if encoding == "bgr16":
            theirs = theirs[..., ::-1]
        if encoding == "mono16":
            theirs = np.repeat(theirs[..., None], 3, axis=2)
    np.testing.assert_array_equal(rgb_from_image(message).rgb, theirs)


@pytest.mark.parametrize("encoding", sorted(BYTES_PER_PIXEL))
def test_row_padding_changes_nothing(family, encoding):
    padded = random_rows(encoding, padding=5)
    plain = np.ascontiguousarray(padded[:, :-5])
    np.testing.assert_array_equal(
        rgb_from_image(make_image(family, encoding, padded, W)).rgb,
        rgb_from_image(make_image(family, encoding, plain, W)).rgb,
    )


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bgr16"])
def test_big_endian_and_sixteen_bits(family, encoding):
    rows = random_rows(encoding)
    swapped = np.ascontiguousarray(rows.view("<u2").byteswap()).view(np.uint8)
    little = rgb_from_image(make_image(family, encoding, rows, W))
    big = rgb_from_image(make_image(family, encoding, swapped, W, big_endian=1))
    np.testing.assert_array_equal(little.rgb, big.rgb)
    assert little.reduced_from_16_bit
    assert big.reduced_from_16_bit


def test_eight_bit_colours_are_not_flagged_as_reduced(family):
    message = make_image(family, "rgb8", random_rows("rgb8"), W)
    assert not rgb_from_image(message).reduced_from_16_bit


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_the_colour_they_are_named_after(family, pattern):
    # A uniformly coloured surface as each sensor would sample it.
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([[colour[c] for c in pattern[:2]], [colour[c] for c in pattern[2:]]], np.uint8)
    rows = np.tile(tile, (H // 2, W // 2))
    rgb = rgb_from_image(make_image(family, f"bayer_{pattern}8", rows, W)).rgb
    assert (rgb == [200, 120, 40]).all()


@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv")]
)
def test_yuv_order_of_bytes(family, encoding, order):
    # BT.601 of pure red: Y 82, U 90, V 240.
    values = iter([82, 82])
    pair = [{"u": 90, "v": 240}.get(c) or next(values) for c in order]
    rows = np.tile(np.array(pair, np.uint8), (H, W // 2))
    rgb = rgb_from_image(make_image(family, encoding, rows, W)).rgb.astype(int)
    assert np.abs(rgb - [255, 0, 0]).max() <= 3


def test_nv12_has_half_as_many_chroma_rows(family):
    rows = np.full((H * 3 // 2, W + 4), 77, np.uint8)  # with padding
    rows[:H, :W] = 82
    rows[H:, :W] = np.tile([90, 240], W // 2)
    message = make_image(family, "nv12", rows, W, height=H)
    rgb = rgb_from_image(message).rgb.astype(int)
    assert rgb.shape == (H, W, 3)
    assert np.abs(rgb - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("encoding", ["8UC3", "32FC1", "16UC1", "", "RGB8", "jpeg"])
def test_unknown_encoding_names_what_is_allowed(family, encoding):
    with pytest.raises(UnsupportedEncoding, match="bayer_rggb8") as raised:
        rgb_from_image(make_image(family, encoding, random_rows("rgb8"), W))
    assert raised.value.encoding == encoding
    assert raised.value.allowed == COLOUR_ENCODINGS


@pytest.mark.parametrize("encoding", [*sorted(BYTES_PER_PIXEL), "nv12"])
def test_wrong_sizes_are_malformed(family, encoding):
    if encoding == "nv12":
        rows, height = np.zeros((H * 3 // 2, W), np.uint8), H
    else:
        rows, height = random_rows(encoding), H
    for field, value in [("height", 0), ("width", 0), ("height", H + 2), ("width", W + 2)]:
        message = make_image(family, encoding, rows, W, height=height)
        setattr(message, field, value)
        with pytest.raises(MalformedImage):
            rgb_from_image(message)
    message = make_image(family, encoding, rows, W, height=height)
    message.data = message.data[:-1]
    with pytest.raises(MalformedImage):
        rgb_from_image(message)


@pytest.mark.parametrize("encoding", ["yuv422", "yuyv", "nv12"])
def test_subsampled_colours_need_even_sizes(family, encoding):
    rows = np.zeros((3, 20), np.uint8)
    with pytest.raises(MalformedImage, match="even"):
        rgb_from_image(make_image(family, encoding, rows, 5, height=2))


def test_labels_are_the_values_of_mono8_without_padding(family):
    rows = random_rows("mono8", padding=5)
    labels = mono8_from_image(make_image(family, "mono8", rows, W))
    np.testing.assert_array_equal(labels, rows[:, :W])
    with pytest.raises(UnsupportedEncoding, match="'rgb8' is not supported; allowed: mono8"):
        mono8_from_image(make_image(family, "rgb8", random_rows("rgb8"), W))


def test_depth_in_metres_and_in_millimetres(family):
    metres = np.array([[0.5, np.nan], [np.inf, 2.25]], np.float32)
    seen = depth_m_from_message(make_image(family, "32FC1", metres.view(np.uint8), 2))
    np.testing.assert_array_equal(seen, metres)
    millimetres = np.array([[500, 0], [65535, 2250]], np.uint16)
    for encoding in ("16UC1", "mono16"):
        seen = depth_m_from_message(make_image(family, encoding, millimetres.view(np.uint8), 2))
        expected = np.array([[0.5, np.nan], [65.535, 2.25]], np.float32)
        np.testing.assert_allclose(seen, expected, rtol=1e-6)
    with pytest.raises(UnsupportedEncoding, match="32FC1"):
        depth_m_from_message(make_image(family, "rgb8", random_rows("rgb8"), W))


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RANDOM.integers(0, 256, (H, W, 3), dtype=np.uint8)),
        ("mono8", RANDOM.integers(0, 256, (H, W), dtype=np.uint8)),
        ("32FC1", RANDOM.normal(size=(H, W)).astype(np.float32)),
        ("rgb8", RANDOM.integers(0, 256, (H, W, 6), dtype=np.uint8)[:, :, ::2]),  # strided
    ],
)
def test_written_images_read_back(family, encoding, pixels):
    message = image_message(
        pixels, encoding, family.header("view", 7), family.type("sensor_msgs/msg/Image")
    )
    assert message.step * message.height == len(message.data)
    assert message.header.frame_id == "view"
    if encoding == "32FC1":
        np.testing.assert_array_equal(depth_m_from_message(message), pixels)
    else:
        seen = rgb_from_image(message).rgb
        np.testing.assert_array_equal(seen if pixels.ndim == 3 else seen[..., 0], pixels)


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", np.zeros((4, 4), np.uint8)),
        ("rgb8", np.zeros((4, 4, 4), np.uint8)),
        ("rgb8", np.zeros((4, 4, 3), np.float32)),
        ("32FC1", np.zeros((4, 4), np.float64)),
        ("mono8", np.zeros((4, 4, 1), np.uint8)),
    ],
)
def test_pixels_that_do_not_fit_the_encoding_are_refused(family, encoding, pixels):
    with pytest.raises(MalformedImage, match=encoding):
        image_message(pixels, encoding, family.header(), family.type("sensor_msgs/msg/Image"))


@pytest.mark.ros
def test_written_image_holds_its_array_and_not_a_copy_made_element_by_element():
    import array

    from std_msgs.msg import Header

    message = image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", Header())
    assert isinstance(message.data, array.array)
    assert message.data.typecode == "B"


def smooth_image():
    x, y = np.meshgrid(np.linspace(0, 255, 32), np.linspace(0, 255, 24))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("content", "tolerance"), [("jpeg", 12), ("png", 0)])
def test_compressed_images_read_back(family, content, tolerance):
    rgb = smooth_image()
    if content == "jpeg":
        compressed_type = family.type("sensor_msgs/msg/CompressedImage")
        message = compressed_message(rgb, family.header(), compressed_type)
        message.format = "something else"  # the content decides
    else:
        message = compressed(family, encoded(".png", rgb[..., ::-1]), "something else")
    seen = rgb_from_compressed(message)
    assert np.abs(seen.rgb.astype(int) - rgb).max() <= tolerance
    assert not seen.reduced_from_16_bit


def compressed(family, content, words="jpeg"):
    compressed_type = family.type("sensor_msgs/msg/CompressedImage")
    data = byte_field(compressed_type, np.frombuffer(content, np.uint8))
    return compressed_type(header=family.header(), format=words, data=data)


def encoded(extension, pixels):
    return cv2.imencode(extension, pixels)[1].tobytes()


def test_grey_transparent_and_sixteen_bit_images(family):
    grey = smooth_image()[..., 0]
    seen = rgb_from_compressed(compressed(family, encoded(".png", grey)))
    np.testing.assert_array_equal(seen.rgb, np.repeat(grey[..., None], 3, axis=2))
    bgra = np.dstack([smooth_image()[..., ::-1], np.full((24, 32), 5, np.uint8)])
    seen = rgb_from_compressed(compressed(family, encoded(".png", bgra)))
    np.testing.assert_array_equal(seen.rgb, smooth_image())
    wide = smooth_image().astype(np.uint16) * 256 + 200
    seen = rgb_from_compressed(compressed(family, encoded(".png", wide[..., ::-1])))
    assert seen.reduced_from_16_bit
    assert np.abs(seen.rgb.astype(int) - smooth_image()).max() <= 1


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_cut_off_images_are_refused(family, extension, kept):
    noise = RANDOM.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    content = encoded(extension, noise)
    with pytest.raises(MalformedImage):
        rgb_from_compressed(compressed(family, content[: int(len(content) * kept)]))


def test_bytes_behind_a_whole_jpeg_do_no_harm(family):
    content = encoded(".jpg", smooth_image()) + b"\0" * 500
    assert rgb_from_compressed(compressed(family, content)).rgb.shape == (24, 32, 3)


def test_end_marker_of_an_embedded_preview_does_not_count(family):
    content = encoded(".jpg", smooth_image())
    preview = b"\xff\xe1" + (2 + 6).to_bytes(2, "big") + b"xx\xff\xd9xx"
    with_preview = content[:2] + preview + content[2:]
    assert rgb_from_compressed(compressed(family, with_preview)).rgb.shape == (24, 32, 3)
    with pytest.raises(MalformedImage, match="cut off"):
        rgb_from_compressed(compressed(family, with_preview[:-40]))


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_small_file_cannot_claim_a_huge_image(family, extension):
    content = encoded(extension, smooth_image())
    if extension == ".png":
        content = content[:16] + (30_000).to_bytes(4, "big") * 2 + content[24:]
    else:
        place = content.index(b"\xff\xc0") + 5
        content = content[:place] + (60_000).to_bytes(2, "big") * 2 + content[place + 4 :]
    with pytest.raises(MalformedImage, match="claims"):
        rgb_from_compressed(compressed(family, content))


@pytest.mark.parametrize("content", [b"", b"\xff", b"GIF89a" + b"\0" * 50, b"\0" * 100])
def test_other_contents_are_named(family, content):
    with pytest.raises(UnsupportedEncoding, match="JPEG, PNG"):
        rgb_from_compressed(compressed(family, content))


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_flipped_bytes_never_raise_anything_undeclared(family, extension):
    content = bytearray(encoded(extension, smooth_image()))
    for _ in range(60):
        damaged = bytearray(content)
        for place in RANDOM.integers(0, len(content), 4):
            damaged[place] = RANDOM.integers(0, 256)
        try:
            rgb = rgb_from_compressed(compressed(family, bytes(damaged))).rgb
        except images.ImageError:
            continue
        assert rgb.ndim == 3
