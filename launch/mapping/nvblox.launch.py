"""Start gld_node and nvblox on /gld/observed/depth/image.

    ros2 launch gld_ros nvblox.launch.py camera_preset:=realsense mode:=depth

Fusion carves free space along every pixel: right for depth of real images, in the frame of their
camera. Predicted depth is not connected. What is done stands in mapper.launch.py.
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
                launch_arguments={"mapper": "nvblox"}.items(),
            )
        ]
    )
