"""The node in mode depth: every image, the newest first, with metres or plainly without."""

import threading

import numpy as np
import pytest

from gld_ros.mapping.jobs import ErrorCode
from gld_ros.view_request import NovelViews, Progress, View

pytestmark = pytest.mark.ros

RELATIVE, DEPTH = "/gld/observed/relative_depth/image", "/gld/observed/depth/image"


class SlantedWall:
    """A depth model that sees a wall whose rows recede; it can be held up between two steps."""

    def __init__(self):
        self.go_on = threading.Event()
        self.go_on.set()
        self.started = 0

    def run(self, request):
        self.started += 1
        (image,) = request.images
        height, width = image.shape[:2]
        depth = np.tile(np.linspace(1.0, 3.0, height, dtype=np.float32)[:, None], (1, width))
        yield Progress("encoding", 1, 1)
        assert self.go_on.wait(60)
        yield Progress("decoding", 1, 1)
        confidence = np.full(depth.shape, 0.9, np.float32)
        rgb = image.astype(np.float32) / 255
        view = View(rgb, depth, confidence, request.K_px[0], np.eye(4), None, None, None)
        return NovelViews((view,), (), 0, {})


@pytest.fixture
def depth_rig(make_rig):
    def make(**parameters):
        from gld_ros.mapping.model import LoadedModel
        from gld_ros.mapping.model_fault import fault_of

        wall = SlantedWall()
        model = LoadedModel(wall, {"mode": "depth"}, None, fault_of, mode="depth")
        rig = make_rig(None, parameters, model_factory=lambda given: model)
        rig.wall = wall
        for topic in (RELATIVE, DEPTH):
            rig.listen(topic, "sensor_msgs/msg/Image")
        rig.watch()
        rig.activate()
        return rig

    return make


def wait_for(rig, topic, stamp_ns):
    from gld_ros.messages.stamps import stamp_to_ns

    def found():
        return [m for m in rig.received[topic] if stamp_to_ns(m.header.stamp) == stamp_ns]

    rig.graph.wait_for(lambda: bool(found()), f"{topic} of an image")
    return found()[0]


def test_a_camera_without_tf_gets_relative_depth_and_a_reason(depth_rig):
    rig = depth_rig()
    for x_m in (0.0, 0.2, 0.4):
        stamp_ns = rig.send_frame(x_m, tf=False)
        message = wait_for(rig, RELATIVE, stamp_ns)
    depth = np.frombuffer(message.data, np.float32)
    assert message.header.frame_id == "camera_optical"
    assert np.median(depth) == pytest.approx(1.0, abs=0.02)
    assert not rig.received[DEPTH]
    rig.wait_level("gld: depth", 1, says="without metres")
    rig.send_frame(0.6, tf=False)  # warned about in the period in which it comes, and no longer
    rig.wait_level("gld: tf", 1, says="images without a pose")


def test_metres_are_published_for_every_image_where_their_scale_is_known(depth_rig):
    rig = depth_rig(**{"scale.mode": "fixed", "scale.fixed_value": 2.0})
    for x_m in (0.0, 0.001, 0.002):  # the camera hardly moves: no keyframes, depth all the same
        stamp_ns = rig.send_frame(x_m)
        message = wait_for(rig, DEPTH, stamp_ns)
    depth_m = np.frombuffer(message.data, np.float32)
    assert (depth_m.min(), depth_m.max()) == pytest.approx((2.0, 6.0))
    assert len(rig.node.session.store) == 1


def test_the_newest_image_wins_and_every_other_one_is_counted(depth_rig):
    rig = depth_rig(**{"scale.mode": "fixed"})
    rig.wall.go_on.clear()
    first = rig.send_frame(0.0)
    rig.graph.wait_for(lambda: rig.wall.started == 1, "the first image is looked at")
    for x_m in (0.1, 0.2):
        rig.send_frame(x_m)
    stream, last = rig.node.session.depth_stream, rig.send_frame(0.3)
    rig.graph.wait_for(lambda: stream.skipped["camera"] == 2, "two images are passed over")
    rig.wall.go_on.set()
    wait_for(rig, DEPTH, first)
    wait_for(rig, DEPTH, last)
    assert rig.wall.started == 2
    assert len(rig.received[DEPTH]) == 2


def test_a_rate_that_is_set_at_run_time_holds_from_the_next_image_on(depth_rig):
    from rclpy.parameter import Parameter

    rig = depth_rig(**{"scale.mode": "fixed"})
    wait_for(rig, DEPTH, rig.send_frame(0.0))
    assert rig.node.set_parameters([Parameter("depth.rate", value=0.001)])[0].successful
    wait_for(rig, DEPTH, rig.send_frame(0.1))
    rig.send_frame(0.2)
    stream = rig.node.session.depth_stream
    rig.graph.wait_for(lambda: stream.thinned["camera"] == 1, "an image is left out")
    assert len(rig.received[DEPTH]) == 2


def test_a_goal_for_views_is_told_that_there_are_none(depth_rig):
    rig = depth_rig()
    _, result = rig.finished_goal([rig.T_fixed_cam(0.3)])
    assert result.error_code == ErrorCode.INVALID_GOAL
    assert "mode depth, which imagines no views" in result.error_msg


def test_no_topic_of_views_is_offered(depth_rig):
    rig = depth_rig()
    topics = {publisher.topic for publisher in rig.node.publishers}
    assert "~/observed/points" in topics
    assert not [topic for topic in topics if "predicted" in topic or "views" in topic]


def test_a_bundle_that_is_a_backbone_alone_gives_every_image_its_depth(make_rig, backbone_alone):
    """The weights of a real bundle, loaded as the node loads them, in the mode that is theirs."""
    from gld_ros.mapping.model import load_model

    values = {"model.bundle": str(backbone_alone.folder), "device": "cpu", "scale.mode": "fixed"}
    rig = make_rig(None, values | {"depth.min_confidence": 0.0}, model_factory=load_model)
    images = (RELATIVE, DEPTH, "/gld/observed/confidence/image", "/gld/observed/provenance/image")
    for topic in images:
        rig.listen(topic, "sensor_msgs/msg/Image")
    rig.listen("/gld/observed/points", "sensor_msgs/msg/PointCloud2")
    rig.activate()
    assert rig.node.session.mode == "depth"
    rng = np.random.default_rng(0)
    for x_m in (0.0, 0.1):
        rgb = rng.integers(0, 256, (*rig.HW, 3), dtype=np.uint8)
        stamp_ns = rig.send_frame(x_m, rgb=rgb)
        for topic in (*images, "/gld/observed/points"):
            message = wait_for(rig, topic, stamp_ns)
            assert message.header.frame_id == "camera_optical"
    relative = rig.received[RELATIVE][-1]
    depth = np.frombuffer(relative.data, np.float32)
    assert np.nanmedian(depth) == pytest.approx(1.0, abs=0.05)
    assert (relative.height, relative.width) == (message.height, message.width)
    assert not [own.topic for own in rig.node.publishers if "/predicted/" in own.topic]
