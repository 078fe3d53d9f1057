"""The same bag, played to a node over DDS and run offline, gives the same products."""

import importlib.util

import numpy as np
import pytest

from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.geometry.poses import quaternion_xyzw
from gld_ros.mapping.job_planner import JobOptions
from gld_ros.mapping.jobs import StageTimes
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.offline import OfflineRun, written_products, written_topics
from gld_ros.mapping.product_messages import TOPICS, job_messages, views_message
from gld_ros.mapping.stereo_partners import LATER_PARTNERS
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.mapping.targets import poses_as_targets
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.clouds import points_from_cloud
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header, stamp_to_ns
from gld_ros.messages.transforms import pose_message, transform_message
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.parameters.files import load_snapshot

WRITTEN_TOPICS = written_topics("views")
pytestmark = pytest.mark.ros

HW = (84, 112)
K_PX = np.array([[80.0, 0.0, 55.5], [0.0, 80.0, 41.5], [0.0, 0.0, 1.0]])
CAMERA, INFO, TF = "/camera/image", "/camera/camera_info", "/tf"
PARAMETERS = {
    "keyframes.min_interval": 0.0,
    "keyframes.max_angular_velocity": 100.0,
    "keyframes.min_translation": 0.05,
    "depth.min_confidence": 0.0,
    "policy.type": "none",
    "sampler.seed": 3,
    "cloud.publish_merged": True,
    "use_sim_time": True,
    "tf.timeout": 10.0,
    "product.max_age": 0.0,
}
TARGET_X_M = 0.35
# tf2 and tf_transformations, which only a distribution has, round poses differently.
ROUNDED_DIFFERENTLY = importlib.util.find_spec("tf2_ros") is not None
OF_ALL_PIXELS = ("mean_confidence", "_fraction")  # fields of a view


def pose(x_m):
    T = np.eye(4)
    T[:3, :3] = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    T[:3, 3] = (x_m, 0.0, 1.2)
    return T


def checkered(T_world_cam, K_px, hw):
    """A wall with squares, 3 m ahead along y."""
    v, u = np.mgrid[0 : hw[0], 0 : hw[1]]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_px).T @ T_world_cam[:3, :3].T
    depth = 3.0 / np.maximum(rays[..., 1], 1e-3)
    at = T_world_cam[:3, 3] + rays * depth[..., None]
    dark = (np.floor(at[..., 0] * 4) + np.floor(at[..., 2] * 4)) % 2
    grey = (60 + 120 * dark).astype(np.uint8)
    return np.stack([grey, grey, 255 - grey], -1), depth.astype(np.float32)


@pytest.fixture
def drive(tmp_path):
    """A bag of five images of the wall, with TF and CameraInfo of the same stamps."""
    path = tmp_path / "drive"
    with BagWriter(path) as bag:
        types = bag.types.__getitem__
        bag.add_topic(TF, "tf2_msgs/msg/TFMessage")
        bag.add_topic(INFO, "sensor_msgs/msg/CameraInfo")
        bag.add_topic(CAMERA, "sensor_msgs/msg/Image")
        for i in range(5):
            stamp_ns = 1_000 * 10**9 + i * 10**8
            T = pose(0.2 * i)
            header = make_header(stamp_ns, "camera_optical", types)
            rgb, _ = checkered(T, K_PX, HW)
            transform = transform_message(T, "odom", "camera_optical", stamp_ns, types)
            bag.write(TF, stamp_ns, types("tf2_msgs/msg/TFMessage")(transforms=[transform]))
            bag.write(INFO, stamp_ns, camera_info_message(K_PX, HW, header, types))
            image = image_message(rgb, "rgb8", header, types("sensor_msgs/msg/Image"))
            bag.write(CAMERA, stamp_ns, image)
    return path


def offline_products(drive):
    from rclpy.serialization import deserialize_message, serialize_message

    from gld_ros.mapping.policy_topics import plain_poses

    overrides = [f"{name}={value}" for name, value in PARAMETERS.items() if name != "use_sim_time"]
    parameters = load_snapshot(None, [o.replace("True", "true") for o in overrides]).session
    model = LoadedModel(OracleSynthesizer(checkered), {}, HW, fault_of)
    with BagReader(drive) as reader:
        run = OfflineRun(reader, model, parameters, wanted=written_products(merged=True))
        assert list(run.jobs()) == []
    assert run.summary.keyframes == 5
    # Through a quaternion, as a goal comes: that rounds.
    target = poses_as_targets(
        np.eye(4), plain_poses([pose_message(pose(TARGET_X_M), rclpy_type)]), "optical"
    )
    result = run.run(run.session.plan_goal(target, JobOptions()))
    frames = run.session.parameters.frames
    messages = dict(job_messages(result, frames, rclpy_type, WRITTEN_TOPICS))
    messages["views"] = views_message(result, StageTimes(), frames, rclpy_type)
    # As they arrive: float32 fields lose what they cannot hold.
    return {k: deserialize_message(serialize_message(m), type(m)) for k, m in messages.items()}


def live_products(drive, make_rig):
    rig = make_rig(OracleSynthesizer(checkered), PARAMETERS)
    for topic in WRITTEN_TOPICS:
        rig.listen(f"/gld/{topic}", TOPICS[topic][0])
    rig.activate()
    measurements = rig.node.session.measurements
    placed = 0
    with BagReader(drive) as reader:
        for message in reader.raw_messages():
            if rig.now_ns() != message.stamp_ns:
                rig.set_clock(message.stamp_ns)
            camera = rig.node.session.cameras["camera"]
            before = camera.received, camera.infos_received
            publisher = rig.publisher(message.topic, message.type, 100)
            publisher.publish(message.cdr)
            if message.topic == CAMERA:
                rig.graph.wait_for(lambda b=before, c=camera: c.received > b[0], "the image")
                # A robot that is too slow to measure leaves keyframes out; a bag waits for them.
                placed += 1
                rig.graph.wait_for(
                    lambda n=placed - LATER_PARTNERS: measurements.facts().measured >= n,
                    "measuring",
                )
            elif message.topic == INFO:
                rig.graph.wait_for(lambda b=before, c=camera: c.infos_received > b[1], "the info")
    rig.graph.wait_for(lambda: len(rig.node.session.store) == 5, "all keyframes")
    while measurements.facts().measured < 5:
        measurements.await_results(120.0)  # longer than a job waits: a busy machine
    _, answer = rig.finished_goal([pose(TARGET_X_M)], publish=True)
    assert answer.error_code == 0
    rig.graph.wait_for(lambda: rig.received["/gld/views"], "the set to be complete")
    for topic in WRITTEN_TOPICS:
        rig.graph.wait_for(lambda t=topic: rig.received[f"/gld/{t}"], topic)
    return {topic: rig.received[f"/gld/{topic}"][0] for topic in WRITTEN_TOPICS}


def assert_same(live, offline, where):
    """All fields are equal; poses, and what is computed from them, may be rounded another way.

    tf2 and tf_transformations of a distribution do so. A pixel whose depth is at a threshold may
    then be published on one side only: at most one in a thousand, and none without them.
    """
    if hasattr(live, "get_fields_and_field_types"):
        if hasattr(live, "data") and hasattr(live, "is_bigendian"):
            if hasattr(live, "fields"):
                assert_same_points(live, offline, where)
            else:
                assert_same_pixels(live, offline, where)
            live.data = offline.data
        for name in live.get_fields_and_field_types():
            assert_same(getattr(live, name), getattr(offline, name), f"{where}.{name}")
    elif isinstance(live, list):
        assert len(live) == len(offline), where
        for i, pair in enumerate(zip(live, offline, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(live, float):
        of_pixels = ROUNDED_DIFFERENTLY and where.endswith(OF_ALL_PIXELS)
        assert live == pytest.approx(offline, abs=1e-3 if of_pixels else 1e-12, nan_ok=True), where
    else:
        assert np.array_equal(live, offline), where


def most_flips(values):
    """How many of the values may be there on one side only."""
    return len(values) // 1000 if ROUNDED_DIFFERENTLY else 0


def assert_same_pixels(live, offline, where):
    dtype = np.float32 if live.encoding == "32FC1" else np.uint8
    values, others = (np.frombuffer(image.data, dtype) for image in (live, offline))
    assert len(values) == len(others), where
    differ = ~np.isclose(values, others, rtol=0, atol=1e-5, equal_nan=True)
    assert differ.sum() <= most_flips(values), where


def assert_same_points(live, offline, where):
    ours, theirs = (points_from_cloud(cloud).ravel() for cloud in (live, offline))
    assert ours.dtype.names == theirs.dtype.names, where
    assert abs(len(ours) - len(theirs)) <= most_flips(theirs), where
    if len(ours) == len(theirs):
        for name in ours.dtype.names:
            differ = ~np.isclose(ours[name], theirs[name], rtol=0, atol=1e-5, equal_nan=True)
            assert differ.sum() <= most_flips(theirs), f"{where}.{name}"
    else:
        live.width, live.height, live.row_step = offline.width, offline.height, offline.row_step


def test_a_bag_and_a_robot_give_the_same_products(drive, make_rig):
    offline, live = offline_products(drive), live_products(drive, make_rig)
    assert set(offline) == set(live) == WRITTEN_TOPICS
    live["views"].times = offline["views"].times  # wall clock
    for topic in sorted(WRITTEN_TOPICS):
        assert_same(live[topic], offline[topic], topic)
    target = live["views"].views[0].pose
    assert stamp_to_ns(target.header.stamp) == 1_000 * 10**9 + 4 * 10**8
    q = target.pose.orientation
    expected = quaternion_xyzw(pose(TARGET_X_M)[:3, :3])
    np.testing.assert_allclose([q.x, q.y, q.z, q.w], expected, atol=1e-9)
