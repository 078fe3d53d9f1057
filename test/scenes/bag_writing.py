"""Small bags for tests: one camera that moves along x of `map`, with whatever fault is wanted."""

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STEP_NS = 100_000_000
STORE = get_typestore(Stores.LATEST)


def message(kind, **values):
    return STORE.types[kind.replace("/", "/msg/")](**values)


def header(stamp_ns, frame):
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = message("builtin_interfaces/Time", sec=sec, nanosec=nanosec)
    return message("std_msgs/Header", stamp=stamp, frame_id=frame)


def transform(stamp_ns, parent, child, xyz=(0, 0, 0), xyzw=(0, 0, 0, 1)):
    x, y, z = map(float, xyz)
    qx, qy, qz, qw = map(float, xyzw)
    return message(
        "tf2_msgs/TFMessage",
        transforms=[
            message(
                "geometry_msgs/TransformStamped",
                header=header(stamp_ns, parent),
                child_frame_id=child,
                transform=message(
                    "geometry_msgs/Transform",
                    translation=message("geometry_msgs/Vector3", x=x, y=y, z=z),
                    rotation=message("geometry_msgs/Quaternion", x=qx, y=qy, z=qz, w=qw),
                ),
            )
        ],
    )


def image(stamp_ns, pixels, encoding, frame="camera", padding=0):
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.concatenate((rows, np.full((height, padding), 255, np.uint8)), axis=1)
    return message(
        "sensor_msgs/Image", header=header(stamp_ns, frame), height=height, width=width,
        encoding=encoding, is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip


def jpeg(stamp_ns, rgb, frame="camera"):
    data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].reshape(-1)
    return message(
        "sensor_msgs/CompressedImage", header=header(stamp_ns, frame), format="png", data=data
    )


def camera_info(stamp_ns, hw, frame="camera", d=(0.0,) * 5, focal=20.0):
    height, width = hw
    k = np.array([focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1.0])
    roi = message(
        "sensor_msgs/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    return message(
        "sensor_msgs/CameraInfo", header=header(stamp_ns, frame), height=height, width=width,
        distortion_model="plumb_bob", d=np.array(d), k=k, r=np.eye(3).reshape(-1),
        p=np.insert(k, [3, 6, 9], 0.0), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def write_bag(path, stream, storage=StoragePlugin.MCAP):
    """Write (topic, stamp_ns, message) triples."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, stamp_ns, content in stream:
            if topic not in connections:
                kind = content.__msgtype__
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            kind = connections[topic].msgtype
            writer.write(connections[topic], stamp_ns, STORE.serialize_cdr(content, kind))
    return path


def drive(num_frames=4, hw=(12, 16), picture=None, info=True, tf=True, d=(0.0,) * 5):
    """Pictures at every step, TF half a step off, so that every pose is interpolated."""
    height, width = hw
    stream = []
    for i in range(num_frames):
        stamp = (i + 1) * STEP_NS
        rgb = np.full((height, width, 3), (10 * i, 100, 200), dtype=np.uint8)
        made = image(stamp, rgb, "rgb8") if picture is None else picture(stamp, rgb)
        suffix = "/compressed" if hasattr(made, "format") else ""
        stream.append((f"/camera/image_raw{suffix}", stamp, made))
        if info:
            stream.append(("/camera/camera_info", stamp, camera_info(stamp, hw, d=d)))
    if tf:
        stream.append(("/tf_static", STEP_NS, transform(STEP_NS, "base", "camera", (0, 0, 1))))
        for i in range(num_frames + 1):
            stamp = i * STEP_NS + STEP_NS // 2
            stream.append(("/tf", stamp, transform(stamp, "map", "base", (stamp / 1e9, 0, 0))))
    return sorted(stream, key=lambda entry: entry[1])
