"""A bag gives a data set the images, intrinsics and poses that it gives the node."""

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
from gld_ros.bags.reader import (
    CAMERA_INFO_TYPE,
    COMPRESSED_IMAGE_TYPE,
    IMAGE_TYPE,
    TF_TYPE,
    BagReader,
)
from gld_ros.bags.writer import BagWriter
from gld_ros.geometry.poses import pose_from_quaternion
from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.epochs import EpochMonitor
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.intake import Intake
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.pending import PendingImages
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import COLOUR_ENCODINGS
from gld_ros.messages.stamps import make_header
from gld_ros.messages.transforms import transform_message
from gld_ros.ros.parameters.snapshot import make_snapshot
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters
from gld_ros.scenes.bags import open_bag

S = 10**9
HW = (12, 16)
BYTES_PER_PIXEL = {
    **dict.fromkeys(("rgb8", "bgr8"), 3),
    **dict.fromkeys(("rgba8", "bgra8"), 4),
    **dict.fromkeys(("rgb16", "bgr16"), 6),
    **dict.fromkeys(("mono16", "yuv422", "uyvy", "yuv422_yuy2", "yuyv"), 2),
}  # 1 for all others
ORIENTED = (
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # turned by 90
)


def raw_image(types, header, encoding, padding, big_endian, rng):
    step = HW[1] * BYTES_PER_PIXEL.get(encoding, 1) + padding
    rows = HW[0] * 3 // 2 if encoding == "nv12" else HW[0]
    return types(IMAGE_TYPE)(
        header=header,
        height=HW[0],
        width=HW[1],
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=step,
        data=rng.integers(0, 256, step * rows, dtype=np.uint8),
    )


def compressed_image(types, header, content, rng):
    pixels = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    data = cv2.imencode(".png" if content == "png" else ".jpg", pixels)[1].tobytes()
    if content == "jpeg with orientation":
        length = (len(ORIENTED) + 2).to_bytes(2, "big")
        data = data[:2] + b"\xff\xe1" + length + ORIENTED + data[2:]
    return types(COMPRESSED_IMAGE_TYPE)(
        header=header, format=content, data=np.frombuffer(data, np.uint8)
    )


def write_bag(path, encoding, padding, big_endian, distortion, seed):
    """Three images of a moving camera whose base changes its parent after the first."""
    rng = np.random.default_rng(seed)
    compressed = encoding not in COLOUR_ENCODINGS
    topic = "/camera/image_raw/compressed" if compressed else "/camera/image_raw"
    K_px = np.array([[20.0, 0, 7.0], [0, 21.0, 6.0], [0, 0, 1]])
    with BagWriter(path) as bag:
        types = bag.types.__getitem__
        bag.add_topic(topic, COMPRESSED_IMAGE_TYPE if compressed else IMAGE_TYPE)
        bag.add_topic("/camera/camera_info", CAMERA_INFO_TYPE)
        bag.add_topic("/tf_static", TF_TYPE, latched=True)
        bag.add_topic("/tf", TF_TYPE)

        def write_tf(topic, stamp_ns, parent, child, T):
            message = transform_message(T, parent, child, stamp_ns, types)
            bag.write(topic, stamp_ns, types(TF_TYPE)(transforms=[message]))

        def random_pose():
            quaternion = rng.normal(size=4)
            return pose_from_quaternion(
                rng.uniform(-0.2, 0.2, 3), quaternion / np.linalg.norm(quaternion)
            )

        write_tf("/tf_static", S, "base", "optical", random_pose())
        write_tf("/tf_static", S, "map", "odom", random_pose())
        for tenth in range(40):
            parent = "odom" if tenth < 15 else "map"
            write_tf("/tf", S + tenth * S // 10, parent, "base", random_pose())
        for stamp_ns in (2 * S + S // 30, 3 * S + S // 30, 4 * S + S // 30):
            header = make_header(stamp_ns, "optical", types)
            info = camera_info_message(K_px, HW, header, types)
            info.d = np.array([distortion, 0.0, 0.0, 0.0, 0.0])
            bag.write("/camera/camera_info", stamp_ns, info)
            image = (
                compressed_image(types, header, encoding, rng)
                if compressed
                else raw_image(types, header, encoding, padding, big_endian, rng)
            )
            bag.write(topic, stamp_ns, image)
    return path


def keyframes_of_the_node(path):
    rows = (*TABLE, *per_camera_parameters(["camera"]))
    defaults = {row.name: row.default for row in rows}
    with BagReader(path) as reader:
        (camera,) = bag_cameras(reader)
        buffer, _ = reader.transforms()
        fixed = bag_fixed_frame(reader, "map")
        parameters = make_snapshot(defaults | {"fixed_frame": fixed}).session
        intake = Intake(
            {"camera": CameraState("camera", camera.image_topic, camera.compressed)},
            KeyframeGate(),
            KeyframeStore(),
            PendingImages(),
            EpochMonitor(),
            FaultLog(lambda level, text: None),
            buffer,
        )
        keyframes = []
        for message in reader.messages([camera.info_topic, camera.image_topic]):
            is_info = message.topic == camera.info_topic
            at_ns = message.stamp_ns
            take = intake.camera_info if is_info else intake.image
            take("camera", message.content, parameters, at_ns, at_ns)
            keyframes += intake.place(parameters, at_ns, at_ns)
        return keyframes


@given(
    encoding=st.sampled_from([*COLOUR_ENCODINGS, "jpeg", "png", "jpeg with orientation"]),
    padding=st.integers(0, 9),
    big_endian=st.booleans(),
    distortion=st.sampled_from([0.0, -0.05]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_data_set_sees_what_the_node_sees(
    tmp_path_factory, encoding, padding, big_endian, distortion, seed
):
    path = tmp_path_factory.mktemp("bag") / "bag"
    write_bag(path, encoding, padding, big_endian, distortion, seed)
    (recording,) = open_bag(path)
    keyframes = keyframes_of_the_node(path)
    assert len(recording) == len(keyframes) == 3
    assert recording.dropped == {}
    for i, keyframe in enumerate(keyframes):
        frame = recording.load(i)
        assert frame.stamp_ns == keyframe.stamp_ns
        np.testing.assert_array_equal(frame.rgb, keyframe.image)
        np.testing.assert_array_equal(frame.K_px, keyframe.K_px)
        np.testing.assert_array_equal(frame.T_world_cam, keyframe.T_fixed_cam)


@pytest.mark.parametrize("encoding", COLOUR_ENCODINGS)
def test_every_encoding_of_the_node_is_one_of_data_sets(tmp_path, encoding):
    path = write_bag(tmp_path / "bag", encoding, 3, False, 0.0, seed=1)
    (recording,) = open_bag(path)
    assert recording.load(0).rgb.shape == (*HW, 3)


def test_an_exif_orientation_turns_no_image(tmp_path):
    (recording,) = open_bag(
        write_bag(tmp_path / "bag", "jpeg with orientation", 0, False, 0.0, seed=1)
    )
    assert recording.load(0).rgb.shape == (*HW, 3)
