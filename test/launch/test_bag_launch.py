"""gld_bag.launch.py plays the package's own bag as it is; what is missing is told at once."""

import re
import shutil

import pytest

pytest.importorskip("launch_pytest", reason="ROS 2 from PyPI has no launch_pytest")


def test_views_are_imagined_for_a_bag_whose_poses_are_in_map(command, outside, recorded_room):
    from gld_ros.msg import GldStatus, SynthesizedViewArray

    views, statuses = [], []
    outside.node.create_subscription(SynthesizedViewArray, "/gld/views", views.append, 10)
    outside.node.create_subscription(GldStatus, "/gld/status", statuses.append, 10)
    parameters = recorded_room.parent / "look_around.yaml"
    parameters.write_text(
        "/**:\n  ros__parameters:\n    device: cpu\n    policy.type: look_around\n"
        "    policy.rate: 1.0\n    sampler.num_steps: 2\n    sampler.max_targets: 1\n"
        "    policy.yaw_offsets: [0.2]\n    product.max_age: 0.0\n    tf.cache_time: 120.0\n"
    )
    # Slow playback: a busy machine needs seconds per keyframe.
    launch = command(
        "ros2",
        "launch",
        "gld_ros",
        "gld_bag.launch.py",
        f"bag:={recorded_room}",
        f"profile:={parameters}",
        "rate:=0.2",
    )
    outside.graph.wait_for(lambda: views, "an imagined view", 900.0)
    assert outside.parameters("fixed_frame", "camera_names") == ["map", ["camera"]]
    assert views[0].header.frame_id == "map"
    assert len(views[0].views) == 1
    assert statuses[-1].images_received > 0
    launch.interrupt()
    launch.interrupt()
    launch.ended()
    assert "exit code 130" not in launch.output
    assert "finished cleanly" in launch.output
    assert not launch.left_over()
    if shutil.which("rviz2") is None:
        assert "rviz2 is not installed" in launch.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "equired (launch )?argument bag"),  # the words of older and of newer launch
        (["bag:=/no/such/bag"], "bag:=/no/such/bag cannot be played"),
    ],
)
def test_a_bag_that_is_missing_ends_the_launch_at_once(command, words, message):
    launch = command("ros2", "launch", "gld_ros", "gld_bag.launch.py", *words)
    assert launch.ended() != 0
    assert re.search(message, launch.output.replace('"', "").replace("'", ""))
    assert "process started" not in launch.output
    assert not launch.left_over()


@pytest.mark.parametrize("given", ["argument", "file"])
def test_a_misspelt_fixed_frame_is_an_error_that_lists_the_frames(
    command, recorded_room, tmp_path, given
):
    file = tmp_path / "robot.yaml"
    file.write_text("/**:\n  ros__parameters: {fixed_frame: odmo}\n")
    word = {"argument": "fixed_frame:=odmo", "file": f"params_file:={file}"}[given]
    launch = command(
        "ros2", "launch", "gld_ros", "gld_bag.launch.py", f"bag:={recorded_room}", word
    )
    assert launch.ended() != 0
    assert "no frame 'odmo'; its frames are: " in launch.output
    assert "map" in launch.output
    assert "process started" not in launch.output
    assert not launch.left_over()


def test_a_camera_that_the_bag_lacks_is_named(command, recorded_room):
    launch = command(
        "ros2", "launch", "gld_ros", "gld_bag.launch.py", f"bag:={recorded_room}", "cameras:=rear"
    )
    assert launch.ended() != 0
    assert "no camera rear; it has: camera" in launch.output
    assert not launch.left_over()
