"""`gld-ros check` on a live graph: it is content with a good one and names the first fault."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

pytestmark = pytest.mark.ros


@pytest.fixture
def streaming(make_rig, plain_oracle):
    """A node with a camera that streams from a thread; `changes` alter what it sends."""
    rig = make_rig(plain_oracle)
    rig.activate()
    stop, changes = threading.Event(), {"tf": True}

    def stream():
        while not stop.wait(0.1):
            stamp_ns = rig.now_ns()
            if changes["tf"]:
                rig.send_tf(rig.T_fixed_cam(0.0), stamp_ns - 50_000_000)
                rig.send_tf(rig.T_fixed_cam(0.0), stamp_ns + 50_000_000)
            rig.send_info(stamp_ns=stamp_ns, **changes.get("info", {}))
            pixels = np.full((*rig.HW, 3), 90, np.uint8)
            stamp_ns += round(changes.get("offset_s", 0.0) * 1e9)
            rig.send_image(rig.image(pixels, stamp_ns, changes.get("frame_id", "camera_optical")))

    thread = threading.Thread(target=stream)
    thread.start()
    yield rig, changes
    stop.set()
    thread.join()


def looked_at(ros_graph, **options):
    from gld_ros.ros.graph_faults import judge
    from gld_ros.ros.graph_watch import watch

    seen = watch(ros_graph.node("checker"), seconds=5.0, **options)
    return seen, judge(seen)


def test_healthy_graph_has_nothing_to_fix(ros_graph, streaming):
    seen, faults = looked_at(ros_graph)
    assert faults == []
    assert seen.node_state == "active"
    [(image, info)] = seen.cameras
    assert (image.topic, info.topic) == ("/camera/image", "/camera/camera_info")
    assert 0.1 < image.rate_hz < 15.0
    assert image.frame_id == "camera_optical"
    assert abs(image.age_s) < 1.0
    assert seen.tf_placed == seen.tf_asked > 0
    assert {end.node_name for end in image.subscriptions} == {"gld"}


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"tf": False}, "/tf", "no image could be placed"),
        ({"info": {"k": [0.0] * 9}}, "/camera/camera_info", "not calibrated"),
        ({"offset_s": -20.0}, "/camera/image", "age of images on arrival: 20."),
        ({"frame_id": ""}, "/camera/image", "empty frame_id"),
    ],
)
def test_first_fault_is_named(ros_graph, streaming, change, subject, words):
    streaming[1].update(change)
    _, faults = looked_at(ros_graph)
    assert faults
    assert faults[0].fatal
    assert faults[0].subject == subject
    assert words in faults[0].problem
    assert faults[0].fix


def test_inactive_node_is_named(ros_graph, streaming):
    rig, _ = streaming
    rig.node.trigger_deactivate()
    seen, faults = looked_at(ros_graph)
    assert seen.node_state == "inactive"
    assert (faults[0].subject, faults[0].problem) == ("/gld", "the node is inactive")


def test_an_unconfigured_node_comes_before_the_images_that_it_does_not_read(ros_graph, make_rig):
    make_rig(None)
    seen, faults = looked_at(ros_graph)
    assert seen.node_state == "unconfigured"
    assert [fault.subject for fault in faults[:2]] == ["/gld", "/camera/image"]
    assert "configure and activate" in faults[0].fix


def test_command_on_an_empty_graph_says_what_to_do():
    command = [sys.executable, "-m", "gld_ros.cli.main", "check", "--node", "/nobody/gld"]
    done = subprocess.run(
        [*command, "--seconds", "0.5", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["state"] == ""
    assert report["faults"][0]["subject"] == "/nobody/camera/image"
    assert "start the camera driver" in report["faults"][0]["fix"]


def test_an_unseen_camera_may_be_on_a_machine_that_is_not_looked_at(ros_graph, monkeypatch):
    from gld_ros.ros.graph_faults import judge
    from gld_ros.ros.graph_watch import watch

    node = ros_graph.node("check")
    fixes = []
    for reach in ("LOCALHOST", "SUBNET"):
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", reach)
        seen = watch(node, cameras=["/front"], seconds=0.1)
        fixes.append(next(f.fix for f in judge(seen) if f.subject == "/front/image"))
    assert "export GLD_LOCAL_ONLY=0" in fixes[0]
    assert "GLD_LOCAL_ONLY" not in fixes[1]
