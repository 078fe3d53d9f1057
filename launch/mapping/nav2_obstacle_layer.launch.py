"""Start gld_node, and Nav2 with an obstacle layer for /gld/predicted/points.

    ros2 launch gld_ros nav2_obstacle_layer.launch.py nav2_params:=/etc/robot/nav2_params.yaml

Predicted points may mark and never clear. What is done stands in nav2_layers.launch.py.
"""

from pathlib import Path

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    common = str(Path(__file__).with_name("nav2_layers.launch.py"))
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(common),
                launch_arguments={"layers": "obstacle"}.items(),
            )
        ]
    )
