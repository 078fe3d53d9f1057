"""launch/mapping starts the receivers on what may be given to them, or says what to install."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from gld_ros.mapping.product_messages import TOPICS

pytest.importorskip("launch_pytest", reason="ROS 2 from PyPI has no launch_pytest")

# Takes the place of a mapper, which no machine of ours has: it keeps its arguments.
MAPPER = """#!{python}
import json, pathlib, sys
pathlib.Path({kept!r}).write_text(json.dumps(sys.argv[1:]))
"""
NAVIGATION = """
from launch.actions import DeclareLaunchArgument, LogInfo
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file"),
            LogInfo(msg=["NAV2 TAKES ", LaunchConfiguration("params_file")]),
        ]
    )
"""
ROBOT = {
    "controller_server": {"ros__parameters": {"controller_frequency": 20.0}},
    "local_costmap": {
        "local_costmap": {
            "ros__parameters": {
                "plugins": ["voxel_layer", "inflation_layer"],
                "voxel_layer": {
                    "plugin": "nav2_costmap_2d::VoxelLayer",
                    "observation_sources": "scan",
                    "scan": {"topic": "/scan", "clearing": True},
                },
            }
        }
    },
}


@pytest.mark.parametrize(
    ("name", "package_name", "executable", "camera"),
    [
        ("octomap", "octomap_server", "octomap_server_node", set()),
        ("nvblox", "nvblox_ros", "nvblox_node", set()),
        ("rtabmap", "rtabmap_slam", "rtabmap", {"/image_raw", "/camera_info"}),
    ],
)
def test_a_mapper_gets_observed_products_alone(
    name, package_name, executable, camera, quick_node, package, command, outside, tmp_path
):
    kept = tmp_path / "arguments.json"
    file = package(package_name) / f"lib/{package_name}/{executable}"
    file.parent.mkdir(parents=True)
    file.write_text(MAPPER.format(python=sys.executable, kept=str(kept)))
    file.chmod(0o755)
    launch = command(
        "ros2", "launch", "gld_ros", f"{name}.launch.py", "camera_preset:=usb", "fixed_frame:=map"
    )
    outside.wait_state("active")
    outside.wait_heard("/image_raw", "sensor_msgs/msg/Image")
    assert outside.parameters("fixed_frame", "observed.provenance") == ["map", ["measured"]]
    arguments = json.loads(kept.read_text())
    launch.interrupt()
    launch.ended()
    connected = {words.partition(":=")[2] for words in arguments if ":=/" in words}
    assert camera <= connected
    products = {topic.removeprefix("/gld/") for topic in connected - camera}
    assert products
    assert products <= {topic for topic in TOPICS if topic.startswith("observed/")}
    overrides = [words for words in arguments if words.endswith((".yaml", ".yml"))]
    assert any(f"config/mapping/{name}" in path for path in overrides)


def test_a_mapper_that_is_missing_is_named_and_the_node_runs(quick_node, command, outside):
    launch = command("ros2", "launch", "gld_ros", "octomap.launch.py")
    outside.wait_state("active")
    launch.interrupt()
    launch.ended()
    assert "octomap_server is not installed, so gld_node runs alone: apt install" in launch.output


def test_rtabmap_takes_one_camera(command):
    launch = command("ros2", "launch", "gld_ros", "rtabmap.launch.py", "cameras:=front rear")
    assert launch.ended() != 0
    assert "rtabmap takes one camera here" in launch.output


@pytest.mark.parametrize("kind", ["obstacle", "voxel"])
def test_nav2_gets_the_robots_parameters_with_our_layers(
    kind, quick_node, package, command, outside, tmp_path
):
    file = package("nav2_bringup") / "share/nav2_bringup/launch/navigation_launch.py"
    file.parent.mkdir(parents=True)
    file.write_text(NAVIGATION)
    robot = tmp_path / "robot.yaml"
    robot.write_text(yaml.safe_dump(ROBOT))
    launch = command(
        "ros2",
        "launch",
        "gld_ros",
        f"nav2_{kind}_layer.launch.py",
        f"nav2_params:={robot}",
        "name:=imaginer",
    )
    outside.wait_state("active", "/imaginer")
    names = ("policy.type", "observed.provenance")
    assert outside.parameters(*names, node="/imaginer") == ["path_ahead", ["measured"]]
    launch.interrupt()
    launch.ended()
    taken = re.search(r"NAV2 TAKES (\S+)", launch.output)
    assert taken, launch.output
    merged = yaml.safe_load(Path(taken[1]).read_text())
    assert merged["controller_server"] == ROBOT["controller_server"]
    costmap = merged["local_costmap"]["local_costmap"]["ros__parameters"]
    imagined = {"obstacle": "imagined_layer", "voxel": "imagined_voxel_layer"}[kind]
    assert costmap["plugins"] == ["voxel_layer", imagined, "inflation_layer"]
    assert costmap["voxel_layer"]["scan"] == {"topic": "/scan", "clearing": True}
    layer = costmap[imagined]["imagined"]
    assert layer["topic"] == "/imaginer/predicted/points"
    assert (layer["marking"], layer["clearing"]) == (True, False)
    if kind == "voxel":
        assert costmap["voxel_layer"]["observation_sources"] == "scan observed"
        assert costmap["voxel_layer"]["observed"]["topic"] == "/imaginer/observed/points"


def test_parameters_of_nav2_that_are_missing_are_named(command):
    launch = command(
        "ros2", "launch", "gld_ros", "nav2_voxel_layer.launch.py", "nav2_params:=/no/such.yaml"
    )
    assert launch.ended() != 0
    assert "nav2_params:=/no/such.yaml: there is no such file" in launch.output
