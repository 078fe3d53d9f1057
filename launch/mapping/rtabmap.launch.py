"""Start gld_node and rtabmap on a camera's images and /gld/observed/depth/image.

    ros2 launch gld_ros rtabmap.launch.py camera_preset:=usb

rtabmap's grid is built from that depth and may be cleared by it. Images and depth are joined by
exact stamps. Predicted depth is not connected. What is done stands in mapper.launch.py.
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
                launch_arguments={"mapper": "rtabmap"}.items(),
            )
        ]
    )
