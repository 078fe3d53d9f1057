"""Bags as recordings: images, intrinsics, depth and interpolated poses; faults are counted."""

import math

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gld_ros.scenes.bags import open_bag
from gld_ros.scenes.recording import RecordingError

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
        "sensor_msgs/Image",
        header=header(stamp_ns, frame),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )


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
        "sensor_msgs/CameraInfo",
        header=header(stamp_ns, frame),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.array(d),
        k=k,
        r=np.eye(3).reshape(-1),
        p=np.insert(k, [3, 6, 9], 0.0),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


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


def drive(num_frames=4, hw=(12, 16), image_of=None, info=True, tf=True, d=(0.0,) * 5):
    """Images at every step, TF half a step off, so that every pose is interpolated."""
    height, width = hw
    stream = []
    for i in range(num_frames):
        stamp = (i + 1) * STEP_NS
        rgb = np.full((height, width, 3), (10 * i, 100, 200), dtype=np.uint8)
        made = image(stamp, rgb, "rgb8") if image_of is None else image_of(stamp, rgb)
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


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_poses_are_interpolated_to_the_stamps_of_the_images(tmp_path, storage):
    (recording,) = open_bag(write_bag(tmp_path / "bag", drive(), storage))
    assert len(recording) == 4
    assert recording.dropped == {}
    for i in range(4):
        frame = recording.load(i)
        assert frame.stamp_ns == (i + 1) * STEP_NS
        np.testing.assert_allclose(frame.T_world_cam[:3, 3], [0.1 * (i + 1), 0, 1], atol=1e-9)
        assert frame.rgb[0, 0].tolist() == [10 * i, 100, 200]
        assert frame.K_px[0, 0] == 20.0


def test_rotation_is_interpolated_along_the_arc(tmp_path):
    stream = [entry for entry in drive(num_frames=1) if entry[0] != "/tf"]
    half = math.pi / 4  # 90 degrees about z, asked for at two thirds
    for stamp, xyzw in ((0, (0, 0, 0, 1)), (150_000_000, (0, 0, math.sin(half), math.cos(half)))):
        stream.append(("/tf", stamp, transform(stamp, "map", "base", xyzw=xyzw)))
    (recording,) = open_bag(write_bag(tmp_path / "bag", stream))
    R = recording.T_world_cam[0, :3, :3]
    assert math.degrees(math.atan2(R[1, 0], R[0, 0])) == pytest.approx(60.0, abs=1e-6)


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "bgra8", "mono8"])
def test_other_encodings_and_row_padding_become_rgb(tmp_path, encoding):
    def image_of(stamp, rgb):
        alpha = np.full_like(rgb[..., :1], 7)
        pixels = {
            "bgr8": rgb[..., ::-1],
            "rgba8": np.concatenate((rgb, alpha), -1),
            "bgra8": np.concatenate((rgb[..., ::-1], alpha), -1),
            "mono8": rgb[..., :1],
        }[encoding]
        return image(stamp, pixels, encoding, padding=5)

    (recording,) = open_bag(write_bag(tmp_path / "bag", drive(image_of=image_of)))
    expected = [20, 20, 20] if encoding == "mono8" else [20, 100, 200]
    assert recording.load(2).rgb[3, 5].tolist() == expected


def test_compressed_images_are_read(tmp_path):
    (recording,) = open_bag(write_bag(tmp_path / "bag", drive(image_of=jpeg)))
    assert recording.load(1).rgb[0, 0].tolist() == [10, 100, 200]


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_of_the_same_stamp_comes_along_in_metres(tmp_path, encoding):
    stream = drive()
    for i in range(3):  # the last image has none
        depth = np.full((12, 16), 1.5 + i, dtype=np.float32)
        depth[0, 0] = 0 if encoding == "16UC1" else np.nan
        pixels = (depth * 1000).astype(np.uint16) if encoding == "16UC1" else depth
        stamp = (i + 1) * STEP_NS
        stream.append(("/camera/depth/image_raw", stamp, image(stamp, pixels, encoding)))
    (recording,) = open_bag(write_bag(tmp_path / "bag", sorted(stream, key=lambda e: e[1])))
    depth = recording.load(2).depth_m
    assert depth[0, 0] == 0
    assert depth[5, 5] == pytest.approx(3.5)
    assert recording.load(3).depth_m is None


def test_depth_of_distorted_images_is_rectified_with_them_and_not_blurred(tmp_path):
    stream = drive(hw=(48, 64), d=(-0.1, 0.01, 0.0, 0.0, 0.0))
    depth = np.where(np.arange(64) < 32, 1.0, 4.0).astype(np.float32) * np.ones((48, 1), np.float32)
    stream.append(("/camera/depth/image_raw", STEP_NS, image(STEP_NS, depth, "32FC1")))
    (recording,) = open_bag(write_bag(tmp_path / "bag", stream))
    frame = recording.load(0)
    assert frame.K_px[0, 0] != 20.0
    assert set(np.unique(frame.depth_m)) == {1.0, 4.0}
    assert abs((frame.depth_m == 1.0).mean() - 0.5) < 0.02  # the edge is at the optical axis


@pytest.mark.parametrize(("apart_ns", "found"), [(4_000_000, True), (6_000_000, False)])
def test_depth_may_be_stamped_a_few_milliseconds_apart(tmp_path, apart_ns, found):
    stream = drive()
    at_ns = STEP_NS + apart_ns
    picture = image(at_ns, np.ones((12, 16), np.float32), "32FC1")
    stream.append(("/camera/depth/image_raw", at_ns, picture))
    (recording,) = open_bag(write_bag(tmp_path / "bag", sorted(stream, key=lambda e: e[1])))
    assert (recording.load(0).depth_m is not None) is found
    assert recording.load(1).depth_m is None


def test_smaller_depth_lies_on_the_pixels_of_the_image(tmp_path):
    stream = drive()
    half = np.repeat(np.array([[1.0, 1, 1, 4, 4, 4, 4, 4]], np.float32), 6, axis=0)
    stream.append(("/camera/depth/image_raw", STEP_NS, image(STEP_NS, half, "32FC1")))
    (recording,) = open_bag(write_bag(tmp_path / "bag", stream))
    depth = recording.load(0).depth_m
    assert depth.shape == (12, 16)
    np.testing.assert_array_equal(depth[3], [1.0] * 6 + [4.0] * 10)


@pytest.mark.parametrize(
    ("changes", "why"), [({"frame": "depth_sensor"}, "frame 'depth_sensor'"), ({}, "aspect ratio")]
)
def test_depth_that_is_not_registered_is_left_out_with_the_reason(tmp_path, caplog, changes, why):
    hw = (12, 16) if changes else (12, 12)
    stream = drive()
    for stamp in (STEP_NS, 2 * STEP_NS):
        picture = image(stamp, np.ones(hw, np.float32), "32FC1", **changes)
        stream.append(("/camera/depth/image_raw", stamp, picture))
    (recording,) = open_bag(write_bag(tmp_path / "bag", sorted(stream, key=lambda e: e[1])))
    assert recording.load(0).depth_m is None
    assert recording.load(1).depth_m is None
    assert caplog.text.count(why) == 1


def test_two_cameras_are_two_recordings(tmp_path):
    stream = drive()
    for i in range(4):
        stamp = (i + 1) * STEP_NS
        pixels = np.zeros((12, 16, 3), np.uint8)
        stream.append(("/rear/image_raw", stamp, image(stamp, pixels, "rgb8")))
        stream.append(("/rear/camera_info", stamp, camera_info(stamp, (12, 16))))
    recordings = open_bag(write_bag(tmp_path / "bag", stream))
    assert [r.scene_id for r in recordings] == ["bag/camera/image_raw", "bag/rear/image_raw"]


def test_images_outside_the_transforms_are_left_out_and_counted(tmp_path):
    stream = [e for e in drive(num_frames=6) if e[0] != "/tf" or e[1] < 4 * STEP_NS]
    (recording,) = open_bag(write_bag(tmp_path / "bag", stream))
    assert len(recording) == 3
    assert recording.dropped == {"no transform at the stamp (future)": 3}


def test_transforms_far_apart_are_not_interpolated_between(tmp_path):
    stream = [e for e in drive(num_frames=1) if e[0] != "/tf"]
    for stamp in (0, 1_500_000_000):
        stream.append(("/tf", stamp, transform(stamp, "map", "base")))
    with pytest.raises(RecordingError, match=r"no transform at the stamp \(future\): 1"):
        open_bag(write_bag(tmp_path / "bag", stream))


def test_unusable_transforms_are_no_transforms(tmp_path):
    stream = [e for e in drive(num_frames=1) if e[0] != "/tf"]
    for stamp, xyz, xyzw in (
        (0, (math.nan, 0, 0), (0, 0, 0, 1)),
        (2 * STEP_NS, (0, 0, 0), (0, 0, 0, 0)),
    ):
        stream.append(("/tf", stamp, transform(stamp, "map", "base", xyz, xyzw)))
    (recording,) = open_bag(write_bag(tmp_path / "bag", stream))
    # `base` is then the root of what remains.
    np.testing.assert_allclose(recording.T_world_cam[0, :3, 3], [0, 0, 1])


def test_a_fixed_frame_can_be_chosen_and_must_exist(tmp_path):
    bag = write_bag(tmp_path / "bag", drive())
    (recording,) = open_bag(bag, fixed_frame="base")
    np.testing.assert_allclose(recording.T_world_cam[2, :3, 3], [0, 0, 1])
    with pytest.raises(RecordingError, match=r"no transform at the stamp \(unknown_frame\): 4"):
        open_bag(bag, fixed_frame="odom")


def test_a_transform_that_closes_a_circle_is_rejected_and_named(tmp_path, caplog):
    stream = [e for e in drive(num_frames=1) if e[0] != "/tf"]
    stream.append(("/tf_static", STEP_NS, transform(STEP_NS, "camera", "base")))
    (recording,) = open_bag(write_bag(tmp_path / "bag", stream))
    np.testing.assert_allclose(recording.T_world_cam[0, :3, 3], [0, 0, 1])
    assert "transform camera <- base closes a loop" in caplog.text


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (drive(info=False), "no colour images with a camera_info next to them"),
        (drive(tf=False), r"no transform at the stamp \(unknown_frame\): 4"),
        (
            drive(image_of=lambda stamp, rgb: image(stamp, rgb, "nonsense8")),
            "encoding 'nonsense8' is not supported: 4",
        ),
        ([e for e in drive() if "image" not in e[0]], "has no colour images"),
    ],
    ids=["info", "tf", "encoding", "images"],
)
def test_a_bag_without_a_usable_image_says_why(tmp_path, stream, message):
    with pytest.raises(RecordingError, match=message):
        open_bag(write_bag(tmp_path / "bag", stream))


def test_broken_images_are_named_when_loaded(tmp_path):
    def short(stamp, rgb):
        made = image(stamp, rgb, "rgb8")
        made.data = made.data[:-1]
        return made

    (recording,) = open_bag(write_bag(tmp_path / "short", drive(image_of=short)))
    with pytest.raises(RecordingError, match=r"at 100000000 ns: .* bytes of data"):
        recording.load(0)

    def garbage(stamp, rgb):
        made = jpeg(stamp, rgb)
        made.data = np.arange(30, dtype=np.uint8)
        return made

    (recording,) = open_bag(write_bag(tmp_path / "garbage", drive(image_of=garbage)))
    with pytest.raises(RecordingError, match="at 100000000 ns: encoding 'png"):
        recording.load(0)


def test_uncalibrated_cameras_are_named_when_loaded(tmp_path):
    stream = drive()
    for _, _, content in stream:
        if hasattr(content, "k"):
            content.k = np.zeros(9)
    (recording,) = open_bag(write_bag(tmp_path / "bag", stream))
    with pytest.raises(RecordingError, match="at 100000000 ns"):
        recording.load(0)


def test_what_is_no_bag_is_named(tmp_path):
    with pytest.raises(RecordingError, match="does not exist"):
        open_bag(tmp_path / "absent")


def test_messages_of_other_kinds_do_not_matter(tmp_path):
    stream = drive()
    stream.append(("/chatter", STEP_NS, message("std_msgs/String", data="hello")))
    assert len(open_bag(write_bag(tmp_path / "bag", stream))[0]) == 4
