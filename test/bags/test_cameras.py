"""A camera is its colour images, its CameraInfo and its registered depth, and no other depth."""

import numpy as np
import pytest

from gld_ros.bags.cameras import (
    bag_cameras,
    bag_fixed_frame,
    camera_info_topic,
    colour_topics,
    depth_companion,
    is_depth_topic,
)
from gld_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPE, BagError, BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header

# driver: colour topic, its depth, other image topics of the same device
DRIVERS = {
    "realsense": (
        "/camera/camera/color/image_raw",
        "/camera/camera/aligned_depth_to_color/image_raw",
        ["/camera/camera/depth/image_rect_raw", "/camera/camera/infra1/image_rect_raw"],
    ),
    "zed": (
        "/zed/zed_node/rgb/image_rect_color",
        "/zed/zed_node/depth/depth_registered",
        ["/zed/zed_node/right/image_rect_color", "/zed/zed_node/left/image_rect_color"],
    ),
    "zed 5": (
        "/zed/zed_node/rgb/color/rect/image",
        "/zed/zed_node/depth/depth_registered",
        ["/zed/zed_node/right/color/rect/image"],
    ),
    "oak": ("/oak/rgb/image_raw", "/oak/stereo/depth", ["/oak/left/image_raw"]),
    "azure kinect": (
        "/rgb/image_raw",
        "/depth_to_rgb/image_raw",
        ["/depth/image_raw", "/ir/image_raw", "/rgb_to_depth/image_raw"],
    ),
    "below the camera": ("/camera/image_raw", "/camera/depth/image_raw", []),
    "gazebo": ("/depth_camera/image", "/depth_camera/depth_image", []),
}


@pytest.mark.parametrize("transports", [("", ""), ("/compressed", "/compressedDepth")])
@pytest.mark.parametrize("driver", DRIVERS)
def test_depth_of_known_drivers_is_found(driver, transports):
    colour, depth, others = DRIVERS[driver]
    colour, depth = colour + transports[0], depth + transports[1]
    topics = [*others, depth, colour]
    assert depth_companion(colour, topics) == depth
    assert depth not in colour_topics(topics)
    assert colour in colour_topics(topics)
    assert depth_companion(colour, [*others, colour]) is None


def test_depth_in_a_frame_of_its_own_is_not_registered():
    topics = ["/cam/color/image_raw", "/cam/depth/image_rect_raw"]
    assert depth_companion(topics[0], topics) is None
    assert is_depth_topic(topics[1])


def test_the_right_camera_of_a_pair_does_not_take_the_depth_of_the_left():
    topics = ["/zed/zed_node/right/image_rect_color", "/zed/zed_node/depth/depth_registered"]
    assert depth_companion(topics[0], topics) is None


def test_a_raw_topic_hides_its_compressed_twin():
    assert colour_topics(["/a/image/compressed", "/a/image", "/b/image/compressed"]) == [
        "/a/image",
        "/b/image/compressed",
    ]


def test_camera_info_is_beside_the_image_whatever_the_transport():
    for topic in ("/cam/image", "/cam/image/compressed", "/cam/image/compressedDepth"):
        assert camera_info_topic(topic) == "/cam/camera_info"


def write_bag(path, images):
    """Bag with one image per topic: {topic: (pixels, encoding, frame_id)}, each with CameraInfo."""
    with BagWriter(path) as bag:
        types = bag.types.__getitem__
        for topic, (pixels, encoding, frame_id) in images.items():
            kind = {np.uint16: "mono8"}.get(pixels.dtype.type, encoding)
            stored = pixels.view(np.uint8) if kind == "mono8" else pixels
            header = make_header(10**9, frame_id, types)
            message = image_message(stored, kind, header, types(IMAGE_TYPE))
            message.encoding, message.width = encoding, pixels.shape[1]
            info = camera_info_message(np.eye(3), pixels.shape[:2], header, types)
            bag.add_topic(topic, IMAGE_TYPE)
            bag.write(topic, 10**9, message)
            bag.add_topic(camera_info_topic(topic), CAMERA_INFO_TYPE)
            bag.write(camera_info_topic(topic), 10**9, info)
    return path


RGB = np.zeros((4, 6, 3), np.uint8)
MILLIMETRES = np.ones((4, 6), np.uint16)


def test_depth_under_an_unusual_name_is_known_by_its_encoding_and_frame(tmp_path):
    images = {
        "/front/image": (RGB, "rgb8", "front_optical"),
        "/ranges/image": (MILLIMETRES, "16UC1", "front_optical"),
        "/other/image": (MILLIMETRES, "16UC1", "other_optical"),
    }
    with BagReader(write_bag(tmp_path / "bag", images)) as reader:
        (camera,) = bag_cameras(reader)
    assert (camera.name, camera.image_topic) == ("front", "/front/image")
    assert (camera.info_topic, camera.depth_topic) == ("/front/camera_info", "/ranges/image")


@pytest.mark.parametrize(
    ("frames", "chosen"),
    [
        (("sensor", "/front"), "/registered/image"),
        (("front", "front"), "/front/depth/image_raw"),
        (("sensor", "sensor"), "/front/depth/image_raw"),  # refused with a reason
    ],
)
def test_depth_in_the_frame_of_the_images_comes_first_then_its_name(tmp_path, frames, chosen):
    images = {
        "/front/image": (RGB, "rgb8", "front"),
        "/front/depth/image_raw": (MILLIMETRES, "16UC1", frames[0]),
        "/registered/image": (MILLIMETRES, "16UC1", frames[1]),
    }
    with BagReader(write_bag(tmp_path / "bag", images)) as reader:
        (camera,) = bag_cameras(reader)
    assert camera.depth_topic == chosen


def test_sixteen_bit_grey_is_colour_unless_its_name_says_depth(tmp_path):
    images = {
        "/front/image": (MILLIMETRES, "mono16", "front"),
        "/front/depth/image": (MILLIMETRES, "mono16", "front"),
    }
    with BagReader(write_bag(tmp_path / "bag", images)) as reader:
        (camera,) = bag_cameras(reader)
    assert (camera.image_topic, camera.depth_topic) == ("/front/image", "/front/depth/image")


def test_a_bag_without_colour_images_names_its_topics(tmp_path):
    images = {"/front/depth/image": (MILLIMETRES, "16UC1", "front")}
    with (
        BagReader(write_bag(tmp_path / "bag", images)) as reader,
        pytest.raises(BagError, match=r"no colour images.*/front/depth/image"),
    ):
        bag_cameras(reader)


def test_a_named_fixed_frame_is_taken_as_it_is_and_must_exist(small_bag):
    with BagReader(small_bag) as reader:
        assert bag_fixed_frame(reader, "base_link") == "base_link"
        with pytest.raises(BagError, match="no frame 'odmo'; its frames are: base_link, camera, "):
            bag_fixed_frame(reader, "odmo")


def test_without_a_name_the_fixed_frame_is_found_above_the_cameras(small_bag):
    with BagReader(small_bag) as reader:
        assert bag_fixed_frame(reader) == "odom"
