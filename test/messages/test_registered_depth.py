"""Depth measures a colour camera only in that camera's own frame and view."""

from dataclasses import replace

import pytest

from gld_ros.messages.camera_info import CameraInfoValues
from gld_ros.messages.registered_depth import DepthFault, UnregisteredDepth, require_registered

INFO = CameraInfoValues(width=1280, height=720)


@pytest.mark.parametrize(
    "depth_hw", [(720, 1280), (360, 640), (256, 448), (1440, 2560), (480, 848)]
)
def test_any_size_with_the_aspect_ratio_of_the_images_is_taken(depth_hw):
    require_registered(depth_hw, "optical", ["optical"], INFO)


def test_region_of_interest_and_binning_count():
    info = replace(INFO, roi_width=720, roi_height=720, roi_x_offset=100, binning_x=2, binning_y=2)
    require_registered((360, 360), "optical", ["optical"], info)
    with pytest.raises(UnregisteredDepth, match="describes 360x360"):
        require_registered((720, 1280), "optical", ["optical"], info)


@pytest.mark.parametrize("depth_hw", [(576, 640), (480, 640), (720, 1240)])
def test_another_aspect_ratio_is_refused(depth_hw):
    with pytest.raises(UnregisteredDepth, match="1280x720, another aspect ratio") as caught:
        require_registered(depth_hw, "optical", ["optical"], INFO)
    assert caught.value.fault is DepthFault.ASPECT


@pytest.mark.parametrize(
    ("depth", "image"), [("/optical", "optical"), ("optical", "/optical"), ("", "")]
)
def test_leading_slashes_do_not_count(depth, image):
    require_registered((720, 1280), depth, [image], INFO)


@pytest.mark.parametrize(
    ("depth", "told"), [("sensor", "in frame 'sensor'"), ("", "an empty frame_id")]
)
def test_another_frame_or_none_is_refused_with_what_to_do(depth, told):
    with pytest.raises(UnregisteredDepth, match=rf"{told}.*'optical'.*align_depth") as caught:
        require_registered((720, 1280), depth, ["optical"], INFO)
    assert caught.value.fault is DepthFault.FRAME
