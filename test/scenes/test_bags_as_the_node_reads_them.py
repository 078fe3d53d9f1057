"""A bag gives a data set the images, intrinsics and poses that it gives the node."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gld_ros.bags.cameras import bag_cameras
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


CAMERAS = dict(enumerate((*COLOUR_ENCODINGS, "jpeg", "png", "jpeg with orientation")))


def write_bag(path, padding, big_endian, distortion, seed):
    """One camera per encoding on a moving base, which changes its parent after the first images."""
    rng = np.random.default_rng(seed)
    K_px = np.array([[20.0, 0, 7.0], [0, 21.0, 6.0], [0, 0, 1]])
    with BagWriter(path) as bag:
        types = bag.types.__getitem__
        bag.add_topic("/tf_static", TF_TYPE, latched=True)
        bag.add_topic("/tf", TF_TYPE)

        def write_tf(topic, stamp_ns, parent, child):
            quaternion = np.array([0.0, 0.0, 0.0, 1.0]) + rng.uniform(-0.02, 0.02, 4)
            forward_m = 0.5 * (stamp_ns - S) / S
            T = pose_from_quaternion(
                rng.uniform(-0.02, 0.02, 3) + np.array([forward_m, 0, 0]),
                quaternion / np.linalg.norm(quaternion),
            )
            message = transform_message(T, parent, child, stamp_ns, types)
            bag.write(topic, stamp_ns, types(TF_TYPE)(transforms=[message]))

        write_tf("/tf_static", S, "base", "optical")
        write_tf("/tf_static", S, "map", "odom")
        for tenth in range(30):
            write_tf("/tf", S + tenth * S // 10, "odom" if tenth < 15 else "map", "base")
        for number, encoding in CAMERAS.items():
            compressed = encoding not in COLOUR_ENCODINGS
            topic = image_topic(number, compressed)
            bag.add_topic(topic, COMPRESSED_IMAGE_TYPE if compressed else IMAGE_TYPE)
            bag.add_topic(f"/camera{number}/camera_info", CAMERA_INFO_TYPE)
            for stamp_ns in (2 * S + S // 30, 3 * S + S // 30):
                header = make_header(stamp_ns, "optical", types)
                info = camera_info_message(K_px, HW, header, types)
                info.d = np.array([distortion, 0.0, 0.0, 0.0, 0.0])
                bag.write(f"/camera{number}/camera_info", stamp_ns, info)
                image = (
                    compressed_image(types, header, encoding, rng)
                    if compressed
                    else raw_image(types, header, encoding, padding, big_endian, rng)
                )
                bag.write(topic, stamp_ns, image)
    return path


def image_topic(number, compressed):
    return f"/camera{number}/image_raw" + ("/compressed" if compressed else "")


def keyframes_of_the_node(path):
    """Keyframes by camera, of the node's intake."""
    with BagReader(path) as reader:
        cameras = bag_cameras(reader)
        names = [camera.name for camera in cameras]
        buffer, _ = reader.transforms()
        rows = (*TABLE, *per_camera_parameters(names))
        values = {row.name: row.default for row in rows} | {"fixed_frame": "map"}
        parameters = make_snapshot(values).session
        store = KeyframeStore(100)
        intake = Intake(
            {c.name: CameraState(c.name, c.image_topic, c.compressed) for c in cameras},
            KeyframeGate(),
            store,
            PendingImages(),
            EpochMonitor(),
            FaultLog(lambda level, text: None),
            buffer,
        )
        infos = {camera.info_topic: camera.name for camera in cameras}
        images = {camera.image_topic: camera.name for camera in cameras}
        for message in reader.messages([*infos, *images]):
            at_ns, content = message.stamp_ns, message.content
            if message.topic in infos:
                intake.camera_info(infos[message.topic], content, parameters, at_ns, at_ns)
            else:
                intake.image(images[message.topic], content, parameters, at_ns, at_ns)
            intake.place(parameters, at_ns, at_ns)
        found = {name: [] for name in names}
        for keyframe in store.snapshot():
            found[keyframe.camera].append(keyframe)
        return found


@given(
    padding=st.integers(0, 9),
    big_endian=st.booleans(),
    distortion=st.sampled_from([0.0, -0.05]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=2)
def test_a_data_set_sees_what_the_node_sees(
    tmp_path_factory, padding, big_endian, distortion, seed
):
    path = tmp_path_factory.mktemp("bag") / "bag"
    write_bag(path, padding, big_endian, distortion, seed)
    recordings = {r.scene_id.split("/")[1]: r for r in open_bag(path)}
    keyframes = keyframes_of_the_node(path)
    assert recordings.keys() == keyframes.keys() == {f"camera{number}" for number in CAMERAS}
    for name, recording in recordings.items():
        assert recording.dropped == {}
        by_stamp = {keyframe.stamp_ns: keyframe for keyframe in keyframes[name]}
        assert sorted(by_stamp) == recording.stamps_ns.tolist()
        for i in range(len(recording)):
            frame = recording.load(i)
            keyframe = by_stamp[frame.stamp_ns]
            assert frame.rgb.shape == (*HW, 3)
            np.testing.assert_array_equal(frame.rgb, keyframe.image)
            np.testing.assert_array_equal(frame.K_px, keyframe.K_px)
            np.testing.assert_array_equal(frame.T_world_cam, keyframe.T_fixed_cam)
