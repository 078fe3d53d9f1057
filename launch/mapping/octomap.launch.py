"""Start gld_node and octomap_server on /gld/observed/points.

    ros2 launch gld_ros octomap.launch.py camera_preset:=realsense

Octomap inserts a ray per point and clears along it, which is right for points of real images, in
the frame of their camera. Predicted points are not connected. What is done stands in
mapper.launch.py.
"""

from pathlib import Path

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    common = str(Path(__file__).with_name("mapper.launch.py"))
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(common),
                launch_arguments={"mapper": "octomap"}.items(),
            )
        ]
    )
