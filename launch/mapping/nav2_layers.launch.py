"""Start gld_node and Nav2 with costmap layers for its points; the nav2_*_layer.launch.py do so.

    ros2 launch gld_ros nav2_obstacle_layer.launch.py nav2_params:=/etc/robot/nav2_params.yaml
    ros2 launch gld_ros nav2_voxel_layer.launch.py fixed_frame:=odom

Nav2 gets a copy of its parameter file with our layers in the local costmap. Measured points may
mark and clear; predicted points lie in a layer of their own, may mark, and never clear. Arguments
of gld.launch.py are passed on.
"""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = Path(get_package_share_directory("gld_ros"))
# Files of config/ with the layers, by what the argument calls them.
LAYERS = {"obstacle": "nav2_costmap.yaml", "voxel": "nav2_voxel.yaml"}
LAST_LAYER = "inflation_layer"  # it inflates what the layers before it have marked
# Written for /gld; another name or namespace of the node takes its place.
NODE = "/gld/"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("layers", description="Kind of layers.", choices=tuple(LAYERS)),
            DeclareLaunchArgument(
                "nav2_params",
                default_value="",
                description="Nav2's parameter file for the robot; empty takes nav2_bringup's.",
            ),
            # Other defaults than gld.launch.py has: a planner's.
            DeclareLaunchArgument(
                "profile",
                default_value=str(SHARE / "config" / "nav2_planner.yaml"),
                description="Second parameter file of gld_node, laid over the first.",
            ),
            DeclareLaunchArgument(
                "observed",
                default_value="measured",
                description="measured, or all: also depth that the model completes, which then "
                "clears as well.",
            ),
            DeclareLaunchArgument(
                "policy",
                default_value="path_ahead",
                description="Where automatic views are; path_ahead follows Nav2's path.",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / "launch" / "gld.launch.py"))
            ),
            OpaqueFunction(function=nav2),
        ]
    )


def nav2(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return Nav2 with our layers, or what has to be installed for it. Raises ValueError."""
    argument = context.launch_configurations
    layers = (SHARE / "config" / LAYERS[argument["layers"]]).read_text()
    node = "/".join(filter(None, (argument["namespace"].strip("/"), argument["name"])))
    layers = layers.replace(f" {NODE}", f" /{node}/")
    given = argument["nav2_params"]
    if given and not Path(given).is_file():
        raise ValueError(f"nav2_params:={given}: there is no such file")
    try:
        bringup = Path(get_package_share_directory("nav2_bringup"))
    except PackageNotFoundError:
        return [
            LogInfo(
                msg="nav2_bringup is not installed, so gld_node runs alone: "
                "apt install ros-$ROS_DISTRO-navigation2 ros-$ROS_DISTRO-nav2-bringup"
            )
        ]
    robot = Path(given) if given else bringup / "params" / "nav2_params.yaml"
    merged = with_layers(yaml.safe_load(robot.read_text()), yaml.safe_load(layers))
    with tempfile.NamedTemporaryFile("w", suffix="_nav2_params.yaml", delete=False) as file:
        yaml.safe_dump(merged, file, sort_keys=False)
    return [
        LogInfo(msg=f"Nav2's parameters with our layers: {file.name}"),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(bringup / "launch" / "navigation_launch.py")),
            launch_arguments={
                "params_file": file.name,
                "use_sim_time": argument["use_sim_time"],
            }.items(),
        ),
    ]


def with_layers(robot: Any, layers: Any) -> Any:
    """Return Nav2 parameters with those of our layers laid over them.

    Plugins and observation sources are added to those that are there; inflation stays last.
    """
    if not (isinstance(robot, dict) and isinstance(layers, dict)):
        return layers
    merged = dict(robot)
    for name, value in layers.items():
        if name == "plugins":
            there = robot.get(name, [])
            new = [layer for layer in value if layer in layers and layer not in there]
            last = [layer for layer in there if layer == LAST_LAYER]
            merged[name] = [layer for layer in there if layer not in last] + new + last
        elif name == "observation_sources":
            merged[name] = " ".join(dict.fromkeys(f"{robot.get(name, '')} {value}".split()))
        else:
            merged[name] = with_layers(robot[name], value) if name in robot else value
    return merged
