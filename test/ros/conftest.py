"""Both families of message classes, so that every adapter is tested on each."""

from functools import cache

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from gld_ros.ros.images import image_message

IMAGE = "sensor_msgs/msg/Image"


@cache
def bag_types():
    return get_typestore(Stores.ROS2_KILTED).types


class MessageFamily:
    """Builds headers and looks up classes by full name."""

    def __init__(self, name, lookup):
        self.name = name
        self.type = lookup

    def header(self, frame_id="camera", stamp_ns=1_500_000_000):
        stamp = self.type("builtin_interfaces/msg/Time")(
            sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
        )
        return self.type("std_msgs/msg/Header")(stamp=stamp, frame_id=frame_id)


@pytest.fixture
def rclpy_family():
    from gld_ros.ros.messages import rclpy_type

    return MessageFamily("rclpy", rclpy_type)


@pytest.fixture(params=["rosbags", pytest.param("rclpy", marks=pytest.mark.ros)])
def family(request):
    if request.param == "rosbags":
        return MessageFamily("rosbags", bag_types().__getitem__)
    return request.getfixturevalue("rclpy_family")


@pytest.fixture
def small_bag(tmp_path):
    """Two seconds of one camera: tiny raw images, CameraInfo, moving and static TF."""
    from gld_ros.ros.bag_writer import BagWriter

    path = tmp_path / "small"
    with BagWriter(path) as bag:
        write_small_bag(bag)
    return path


def write_small_bag(bag, start_ns=1_700_000_000 * 10**9, num_frames=20):
    types = bag.types
    vector, quaternion = types["geometry_msgs/msg/Vector3"], types["geometry_msgs/msg/Quaternion"]

    def header(frame_id, stamp_ns):
        time_type = types["builtin_interfaces/msg/Time"]
        stamp = time_type(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def transforms(parent, child, x, stamp_ns):
        pose = types["geometry_msgs/msg/Transform"](
            translation=vector(x=float(x), y=0.0, z=0.0),
            rotation=quaternion(x=0.0, y=0.0, z=0.0, w=1.0),
        )
        stamped = types["geometry_msgs/msg/TransformStamped"](
            header=header(parent, stamp_ns), child_frame_id=child, transform=pose
        )
        return types["tf2_msgs/msg/TFMessage"](transforms=[stamped])

    bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
    bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
    bag.add_topic("/camera/camera_info", "sensor_msgs/msg/CameraInfo", reliable=False)
    bag.add_topic("/camera/image", "sensor_msgs/msg/Image")
    bag.write("/tf_static", start_ns, transforms("base_link", "camera", 0.5, start_ns))
    for frame in range(num_frames):
        stamp_ns = start_ns + frame * 10**8
        bag.write("/tf", stamp_ns, transforms("odom", "base_link", frame, stamp_ns))
        info = types["sensor_msgs/msg/CameraInfo"](
            header=header("camera", stamp_ns),
            height=3,
            width=4,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=np.array([4.0, 0, 2, 0, 4, 1.5, 0, 0, 1]),
            r=np.eye(3).reshape(-1),
            p=np.array([4.0, 0, 2, 0, 0, 4, 1.5, 0, 0, 0, 1, 0]),
            binning_x=0,
            binning_y=0,
            roi=types["sensor_msgs/msg/RegionOfInterest"](
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )
        bag.write("/camera/camera_info", stamp_ns, info)
        pixels = np.full((3, 4, 3), frame, np.uint8)
        image = image_message(pixels, "rgb8", header("camera", stamp_ns), types[IMAGE])
        bag.write("/camera/image", stamp_ns, image)
