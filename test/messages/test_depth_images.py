"""Depth of every kind of message arrives as metres, with NaN where nothing was measured."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gld_ros.messages.depth_images import depth_hw_from_message, depth_m_from_message
from gld_ros.messages.images import MalformedImage, UnsupportedEncoding

millimetre_images = arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 7)))


def compressed(text, stored, a=0.0, b=0.0):
    png = cv2.imencode(".png", stored)[1].tobytes()
    return SimpleNamespace(format=text, data=struct.pack("<iff", 0, a, b) + png)


@given(millimetre_images)
def test_raw_and_compressed_millimetres_are_the_same_metres(stored):
    raw = SimpleNamespace(
        encoding="16UC1",
        height=stored.shape[0],
        width=stored.shape[1],
        step=2 * stored.shape[1],
        is_bigendian=0,
        data=stored.astype("<u2").tobytes(),
    )
    depth_m = depth_m_from_message(raw)
    assert depth_hw_from_message(raw) == stored.shape
    assert depth_hw_from_message(compressed("16UC1; compressedDepth", stored)) == stored.shape
    np.testing.assert_array_equal(np.isnan(depth_m), stored == 0)
    np.testing.assert_allclose(depth_m[stored > 0], stored[stored > 0] / 1000, rtol=1e-6)
    for text in ("16UC1; compressedDepth", "16UC1; compressedDepth png"):
        np.testing.assert_array_equal(depth_m_from_message(compressed(text, stored)), depth_m)


def test_quantised_inverse_depth_is_restored():
    """The rule of compressed_depth_image_transport: stored = A / depth + B, 0 for no depth."""
    depth_quantisation, depth_max = 100.0, 10.0
    a = depth_quantisation * (depth_quantisation + 1)
    b = 1 - a / depth_max
    depth_m = np.array([[0.5, 1.0, 2.5], [5.0, 9.0, np.nan]], np.float32)
    stored = np.nan_to_num(a / depth_m + b).astype(np.uint16)
    restored = depth_m_from_message(compressed("32FC1; compressedDepth", stored, a, b))
    np.testing.assert_allclose(restored, depth_m, rtol=0.01)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (compressed("16UC1; compressedDepth rvl", np.ones((2, 2), np.uint16)), UnsupportedEncoding),
        (compressed("16UC1; png compressed", np.ones((2, 2), np.uint16)), UnsupportedEncoding),
        (compressed("8UC1; compressedDepth", np.ones((2, 2), np.uint16)), UnsupportedEncoding),
        (compressed("16UC1; compressedDepth", np.ones((2, 2), np.uint8)), MalformedImage),
        (SimpleNamespace(format="16UC1; compressedDepth", data=b"12 bytes"), MalformedImage),
        (SimpleNamespace(format="16UC1; compressedDepth", data=b""), MalformedImage),
    ],
    ids=["rvl", "colour", "encoding", "eight bits", "no image", "nothing"],
)
def test_other_contents_are_rejected(message, error):
    with pytest.raises(error):
        depth_m_from_message(message)


def test_a_cut_off_image_is_rejected():
    message = compressed("16UC1; compressedDepth", np.arange(600, dtype=np.uint16).reshape(20, 30))
    message.data = message.data[:-20]
    for read in (depth_m_from_message, depth_hw_from_message):
        with pytest.raises(MalformedImage, match="no complete PNG"):
            read(message)
