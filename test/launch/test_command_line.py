"""The distribution's own tools against the running node."""

import re
import time

import pytest

launch_pytest = pytest.importorskip("launch_pytest", reason="ROS 2 from PyPI has no launch_pytest")

PARAMETERS = (
    "/**:\n  ros__parameters:\n    device: cpu\n    sampler.num_steps: 2\n    scale.mode: fixed\n"
    "    keyframes.max_angular_velocity: 100.0\n    keyframes.min_interval: 0.0\n"
    "    keyframes.min_translation: 0.05\n    guard.min_overlap: 0.0\n    tf.cache_time: 120.0\n"
    "    keyframes.max_age: 600.0\n    product.max_age: 0.0\n"
)
GOAL = (
    "{targets: {header: {frame_id: odom}, poses: [{position: {x: 0.3, z: 1.0}, "
    "orientation: {x: -0.7071068, w: 0.7071068}}]}, pose_convention: 1, publish: true, "
    "return_images: false, max_wait: {sec: 20}}"
)


@pytest.fixture
def parameters(tmp_path):
    path = tmp_path / "parameters.yaml"
    path.write_text(PARAMETERS)
    return path


@launch_pytest.fixture
def gld(launched, parameters):
    return launched.description("gld.launch.py", {"profile": str(parameters)})


@pytest.mark.launch(fixture=gld)
def test_parameters_states_and_a_goal_from_the_command_line(command, outside, launched):
    outside.wait_state("active")
    found = ("--no-daemon", "--spin-time", "5")

    def run(*words):
        one = command(*words)
        assert one.ended() == 0, one.output
        return one.output

    assert run("ros2", "lifecycle", "get", *found, "/gld").startswith("active")
    assert "0.5" in run("ros2", "param", "get", *found, "/gld", "tf.timeout")
    assert "successful" in run("ros2", "param", "set", *found, "/gld", "depth.max", "20.0")
    refused = command("ros2", "param", "set", *found, "/gld", "depth.max", "-1.0")
    refused.ended()
    assert re.search("depth.max", refused.output)
    assert outside.parameters("depth.max") == [20.0]
    assert "fixed_frame" in run("ros2", "param", "list", *found, "/gld")
    description = run("ros2", "param", "describe", *found, "/gld", "tf.timeout")
    assert "How long an image waits for its pose" in description

    images = []
    image_type = outside.types("sensor_msgs/msg/Image")
    outside.node.create_subscription(image_type, "/gld/predicted/color/image", images.append, 10)
    outside.wait_heard("/camera/image", "sensor_msgs/msg/Image")
    outside.wait_heard("/camera/camera_info", "sensor_msgs/msg/CameraInfo")
    outside.wait_heard("/tf", "tf2_msgs/msg/TFMessage")
    goal = command(
        "ros2",
        "action",
        "send_goal",
        "--feedback",
        "/gld/synthesize_views",
        "gld_ros/action/SynthesizeViews",
        GOAL,
    )
    for step in range(2000):
        outside.send_frame(step)
        if goal.process.poll() is not None or images:
            break
        time.sleep(0.1)
    assert goal.ended() == 0
    assert "Goal accepted" in goal.output
    assert "total_steps: 2" in goal.output
    assert re.search(r"error_code: 0\b", goal.output), goal.output
    assert "SUCCEEDED" in goal.output
    outside.graph.wait_for(lambda: images, "the imagined view on its topic")
    assert images[0].header.frame_id.startswith("gld_view")

    run("ros2", "lifecycle", "set", *found, "/gld", "deactivate")
    assert outside.state() == "inactive"
