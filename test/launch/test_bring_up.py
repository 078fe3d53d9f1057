"""gld.launch.py brings up the node that its arguments describe, and takes it down cleanly."""

import json
import sys

import pytest
import yaml

launch_pytest = pytest.importorskip("launch_pytest", reason="ROS 2 from PyPI has no launch_pytest")

IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"


@launch_pytest.fixture
def gld(quick_node, launched, arguments):
    return launched.description("gld.launch.py", arguments)


def with_arguments(**arguments):
    return pytest.mark.parametrize("arguments", [arguments], indirect=True, ids=[""])


@pytest.mark.launch(fixture=gld)
def test_node_activates_itself_and_ends_cleanly(launched, outside, launch_service):
    outside.wait_state("active")
    outside.wait_heard("/camera/image", IMAGE)
    outside.wait_heard("/camera/camera_info", INFO)
    yield
    assert launched.exit_codes == [0]


@pytest.mark.launch(fixture=gld)
@with_arguments(image="/front/image_raw", camera_info="/front/info", fixed_frame="map")
def test_topics_and_fixed_frame_are_given_as_arguments(outside):
    outside.wait_state("active")
    assert outside.parameters("device", "sampler.num_steps") == ["auto", 0]
    outside.wait_heard("/front/image_raw", IMAGE)
    outside.wait_heard("/front/info", INFO)
    assert outside.parameters("fixed_frame") == ["map"]


@pytest.mark.launch(fixture=gld)
@with_arguments(
    camera_preset="realsense",
    bundle="mine",
    mode="depth",
    policy="stereo_baseline",
    image="/my/image",
)
def test_a_preset_names_topics_and_given_ones_count_more(outside):
    outside.wait_state("active")
    outside.wait_heard("/my/image", IMAGE)
    outside.wait_heard("/camera/camera/color/camera_info", INFO)
    outside.wait_heard("/camera/camera/aligned_depth_to_color/image_raw", IMAGE)
    names = ("model.bundle", "mode", "policy.type")
    assert outside.parameters(*names) == ["mine", "depth", "stereo_baseline"]


@pytest.mark.launch(fixture=gld)
@with_arguments(
    namespace="robot1",
    cameras="front rear",
    image="/{camera}/image_raw",
    camera_info="camera_infos/{camera}",
)
def test_two_cameras_in_a_namespace(outside):
    from gld_ros.msg import GldStatus

    outside.wait_state("active", "/robot1/gld")
    assert outside.parameters("camera_names", node="/robot1/gld") == [["front", "rear"]]
    topics = {
        name: {"image": f"/{name}/image_raw", "info": f"/robot1/camera_infos/{name}", "frame": name}
        for name in ("front", "rear")
    }
    for camera in topics.values():
        outside.wait_heard(camera["image"], IMAGE)
        outside.wait_heard(camera["info"], INFO)
    statuses = []
    outside.node.create_subscription(GldStatus, "/robot1/gld/status", statuses.append, 1)
    steps = iter(range(10_000))

    def keyframes_of_both():
        for camera in topics.values():
            outside.send_frame(next(steps), **camera)
        return statuses and statuses[-1].keyframes >= 4

    outside.graph.wait_for(keyframes_of_both, "keyframes of two cameras")
    assert statuses[-1].images_received >= 4


@pytest.fixture
def robot_parameters(tmp_path):
    """A robot's own file in the usual shape: a section for all nodes and one for this node."""
    path = tmp_path / "robot.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    keyframes.capacity: 11\n    policy:\n      rate: 0.25\n"
        "/robot1/gld:\n  ros__parameters:\n    camera_names: [left, right]\n"
        "/robot2/gld:\n  ros__parameters:\n    keyframes.capacity: 12\n"
    )
    return path


@launch_pytest.fixture
def gld_with_file(quick_node, launched, robot_parameters):
    arguments = {"namespace": "robot1", "profile": str(robot_parameters)}
    return launched.description("gld.launch.py", arguments)


@pytest.mark.launch(fixture=gld_with_file)
def test_parameter_files_have_sections_by_node(outside):
    outside.wait_state("active", "/robot1/gld")
    names = ("keyframes.capacity", "policy.rate", "camera_names", "depth.max")
    values = outside.parameters(*names, node="/robot1/gld")
    assert values == [11, 0.25, ["left", "right"], 30.0]
    outside.wait_heard("/robot1/left/image", IMAGE)


@launch_pytest.fixture
def gld_with_front(quick_node, launched, tmp_path):
    path = tmp_path / "front.yaml"
    path.write_text("gld:\n  ros__parameters: {camera_names: [front]}\n")
    arguments = {"profile": str(path), "camera_preset": "usb"}
    return launched.description("gld.launch.py", arguments)


@pytest.mark.launch(fixture=gld_with_front)
def test_a_preset_is_of_the_camera_that_the_file_names(outside):
    outside.wait_state("active")
    assert outside.parameters("camera_names") == [["front"]]
    outside.wait_heard("/image_raw", IMAGE)
    outside.wait_heard("/camera_info", INFO)


# Takes the place of RViz: it keeps its arguments and the file that it is given.
RVIZ = """#!{python}
import json, pathlib, sys
config = pathlib.Path(sys.argv[sys.argv.index("-d") + 1]).read_text()
pathlib.Path({kept!r}).write_text(json.dumps([sys.argv[1:], config]))
"""


def test_rviz_shows_this_node_and_its_camera(quick_node, package, command, outside, tmp_path):
    kept = tmp_path / "rviz.json"
    file = package("rviz2") / "lib/rviz2/rviz2"
    file.parent.mkdir(parents=True)
    file.write_text(RVIZ.format(python=sys.executable, kept=str(kept)))
    file.chmod(0o755)
    words = ["camera_preset:=realsense", "rviz:=true", "name:=imaginer", "fixed_frame:=map"]
    launch = command("ros2", "launch", "gld_ros", "gld.launch.py", *words)
    outside.wait_state("active", "/imaginer")
    outside.graph.wait_for(kept.is_file, "RViz")
    launch.interrupt()
    launch.ended()
    arguments, config = json.loads(kept.read_text())
    assert arguments[arguments.index("-f") + 1] == "map"
    topics = {
        display["Topic"]["Value"]
        for display in yaml.safe_load(config)["Visualization Manager"]["Displays"]
        if "Topic" in display
    }
    assert "/camera/camera/color/image_raw" in topics
    assert "/imaginer/observed/relative_depth/image" in topics
    assert not [topic for topic in topics if topic.startswith("/gld/")]


@pytest.mark.launch(fixture=gld)
@with_arguments(autostart="false")
def test_without_autostart_a_manager_decides(outside):
    assert outside.state() == "unconfigured"
    for transition, state in ((1, "inactive"), (3, "active"), (4, "inactive"), (2, "unconfigured")):
        request = outside.types("lifecycle_msgs/srv/ChangeState").Request()
        request.transition.id = transition
        answer = outside.call(
            "lifecycle_msgs/srv/ChangeState", "/gld/change_state", transition=request.transition
        )
        assert answer.success
        assert outside.state() == state


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["params_file:=/no/such.yaml"], "no parameter file '/no/such.yaml'"),
        (["image:=/{camera}/image"], "needs the names of the cameras"),
        (["cameras:=front rear", "image:=/front/image"], "1 topic(s) for 2 camera(s)"),
        (["camera_preset:=kinect"], "there are: realsense, zed, oak, azure_kinect, usb"),
        (["use_sim_time:=maybe"], 'provided value "maybe" is not valid'),
        (["mode:=both"], 'provided value "both" is not valid'),
        (["observed:=some"], 'provided value "some" is not valid'),
    ],
)
def test_wrong_arguments_end_the_launch_before_anything_starts(command, words, message):
    launch = command("ros2", "launch", "gld_ros", "gld.launch.py", *words)
    assert launch.ended() != 0
    assert message in launch.output
    assert "process started" not in launch.output
    assert not launch.left_over()


@pytest.mark.parametrize("file", ["gld.launch.py", "gld_bag.launch.py"])
def test_arguments_are_taught(command, file):
    launch = command("ros2", "launch", "gld_ros", file, "--show-args")
    assert launch.ended() == 0
    for name in (
        "cameras",
        "image",
        "camera_info",
        "depth",
        "bundle",
        "mode",
        "policy",
        "fixed_frame",
        "params_file",
        "profile",
    ):
        assert f"'{name}':" in launch.output
    assert "no description given" not in launch.output
