"""Over DDS: images, CameraInfo and TF in, imagined views and clouds out, goals answered."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros


def test_goal_returns_views_and_feedback(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    status, result = rig.finished_goal([rig.T_fixed_cam(0.3)], return_images=True)
    assert status == 4  # succeeded
    assert (result.error_code, result.error_msg) == (0, "")
    assert len(result.images) == len(result.depths) == len(result.views.views) == 1
    depth_m = np.frombuffer(result.depths[0].data, np.float32)
    np.testing.assert_allclose(depth_m[np.isfinite(depth_m)], 3.0, rtol=1e-3)
    assert result.views.views[0].anchor_stamp == result.images[0].header.stamp
    assert result.images[0].header.frame_id == "gld_view_0_optical"
    feedback = rig.received["feedback"]
    rig.graph.wait_for(lambda: {f.feedback.stage for f in feedback} >= {0, 2}, "its feedback")


def test_policy_publishes_families_with_the_anchors_stamp(make_rig, plain_oracle):
    rig = make_rig(
        plain_oracle,
        {
            "policy.type": "look_around",
            "policy.yaw_offsets": [0.2, -0.2],
            # The first job may see two keyframes only; their 0.2 m must do.
            "scale.min_baseline": 0.05,
        },
    )
    topics = {
        "/gld/predicted/color/image": "sensor_msgs/msg/Image",
        "/gld/predicted/color/camera_info": "sensor_msgs/msg/CameraInfo",
        "/gld/predicted/depth/image": "sensor_msgs/msg/Image",
        "/gld/predicted/points": "sensor_msgs/msg/PointCloud2",
        "/gld/observed/points": "sensor_msgs/msg/PointCloud2",
        "/gld/views": "gld_ros/msg/SynthesizedViewArray",
    }
    for topic, kind in topics.items():
        rig.listen(topic, kind)
    rig.activate()
    rig.drive()
    for topic in topics:
        rig.graph.wait_for(lambda t=topic: len(rig.received[t]) > 0, topic)
    views = rig.received["/gld/views"][0]
    assert [v.slot for v in views.views] == [0, 1]
    assert views.scale.metric
    assert views.times.publish > 0
    stamp = views.views[0].anchor_stamp
    image = rig.received["/gld/predicted/color/image"][0]
    info = rig.received["/gld/predicted/color/camera_info"][0]
    assert image.header == info.header
    assert (info.width, info.height) == (image.width, image.height)
    assert image.header.stamp == stamp
    cloud = rig.received["/gld/predicted/points"][0]
    assert cloud.header.frame_id == "odom"
    assert cloud.header.stamp == stamp
    observed = rig.received["/gld/observed/points"][0]
    assert observed.header.frame_id == "camera_optical"
    assert observed.height == rig.HW[0]


def test_no_work_without_subscribers(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"policy.type": "look_around"})
    rig.activate()
    rig.drive()
    waiting = "no product has a subscriber"
    rig.graph.wait_for(lambda: rig.node.session.waiting_for == waiting, waiting)
    assert rig.node.session.history.done == 0


def test_depth_is_withheld_while_the_scale_is_unknown(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"keyframes.min_rotation": 0.0, "keyframes.min_translation": 0.0})
    rig.activate()
    rig.drive((0.0, 0.001, 0.002))  # too short a baseline
    status, result = rig.finished_goal([rig.T_fixed_cam(0.1)], return_images=True)
    assert status == 4
    assert result.error_code == result.SCALE_UNRESOLVED
    assert len(result.images) == 1
    assert len(result.depths) == 0


def test_compressed_input_and_remapped_names(ros_graph, make_rig, plain_oracle):
    from gld_ros.messages.images import compressed_message
    from gld_ros.messages.stamps import make_header
    from gld_ros.messages.types import rclpy_type

    rig = make_rig(plain_oracle, {"image_transport": "compressed"})
    rig.activate()
    assert rig.node.session.cameras["camera"].topic == "/camera/image/compressed"
    store = rig.node.session.store
    for x_m in (0.0, 0.3):
        stamp_ns = rig.now_ns()
        rig.send_tf(rig.T_fixed_cam(x_m), stamp_ns)
        rig.send_info()
        rgb = np.full((*rig.HW, 3), 90, np.uint8)
        header = make_header(stamp_ns, "camera_optical", rclpy_type)
        rig.send_image(compressed_message(rgb, header))
        before = len(store)
        ros_graph.wait_for(lambda b=before: len(store) > b, "a keyframe")
    assert abs(int(store.snapshot()[0].image.mean()) - 90) <= 2


def test_two_cameras_share_one_store(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, camera_names=("front", "left"))
    rig.activate()
    rig.drive((0.0,), camera="front")
    rig.drive((0.3,), camera="left")
    assert {k.camera for k in rig.node.session.store.snapshot()} == {"front", "left"}


def test_late_tf_places_an_image_and_missing_tf_drops_it(make_rig, plain_oracle):
    from rclpy.parameter import Parameter

    rig = make_rig(plain_oracle, {"tf.timeout": 10.0})
    rig.activate()
    session = rig.node.session
    stamp_ns = rig.send_frame(0.0, tf=False)
    rig.graph.wait_for(lambda: len(session.pending) == 1, "the image waits")
    rig.send_tf(rig.T_fixed_cam(0.0), stamp_ns)
    rig.graph.wait_for(lambda: len(session.store) == 1, "late TF placed it")
    assert rig.node.set_parameters([Parameter("tf.timeout", value=0.3)])[0].successful
    rig.send_frame(0.3, tf=False)
    rig.graph.wait_for(lambda: sum(session.pending.dropped.values()) == 1, "it is dropped")
    assert len(session.store) == 1


def test_reset_forgets_and_pause_stops_automatic_jobs(make_rig, plain_oracle):
    from std_srvs.srv import SetBool, Trigger

    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    reset = rig.peer.create_client(Trigger, "/gld/reset")
    assert reset.wait_for_service(timeout_sec=60.0)
    future = reset.call_async(Trigger.Request())
    rig.graph.wait_for(future.done, "reset")
    assert future.result().success
    assert len(rig.node.session.store) == 0
    pause = rig.peer.create_client(SetBool, "/gld/pause")
    assert pause.wait_for_service(timeout_sec=60.0)
    future = pause.call_async(SetBool.Request(data=True))
    rig.graph.wait_for(future.done, "pause")
    assert rig.node.session.paused


def test_save_scene_writes_all_or_nothing(make_rig, plain_oracle, tmp_path):
    from gld_ros.srv import SaveScene

    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    client = rig.peer.create_client(SaveScene, "/gld/save_scene")
    assert client.wait_for_service(timeout_sec=60.0)
    for path, succeeds in ((tmp_path / "scene", True), (tmp_path / "scene", False)):
        future = client.call_async(SaveScene.Request(path=str(path), include_images=True))
        rig.graph.wait_for(future.done, "saved")
        assert future.result().success is succeeds
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene"]
    assert len(list((tmp_path / "scene" / "images").iterdir())) == 3
    for path in (f"/{'x' * 300}", "/proc/1/root/no/entry", "relative"):
        future = client.call_async(SaveScene.Request(path=path, include_images=True))
        rig.graph.wait_for(future.done, "a refusal")
        assert not future.result().success
        assert future.result().message


def test_a_service_that_fails_unexpectedly_says_so_and_the_node_goes_on(make_rig, plain_oracle):
    from std_srvs.srv import Trigger

    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    client = rig.peer.create_client(Trigger, "/gld/reset")
    assert client.wait_for_service(timeout_sec=60.0)
    reset = rig.node.session.reset

    def broken():
        raise OSError("out of luck")

    rig.node.session.reset = broken
    future = client.call_async(Trigger.Request())
    rig.graph.wait_for(future.done, "the failure")
    assert not future.result().success
    assert future.result().message == "OSError: out of luck"
    rig.node.session.reset = reset
    future = client.call_async(Trigger.Request())
    rig.graph.wait_for(future.done, "the reset")
    assert future.result().success
