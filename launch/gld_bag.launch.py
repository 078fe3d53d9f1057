"""Play a bag with simulated time, imagine views for it, and show them in RViz."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("gld_ros"))

# (name, default, meaning)
ARGUMENTS = (
    ("bag", "", "Bag to play: folder, .mcap or .db3. Required."),
    ("rate", "1.0", "Speed of playback."),
    ("image", "camera/image_raw", "Image topic in the bag."),
    ("camera_info", "camera/camera_info", "CameraInfo topic in the bag."),
    ("params_file", str(SHARE / "config" / "gld.yaml"), "Parameter file."),
    ("profile", str(SHARE / "config" / "profile_cpu.yaml"), "Overlay on the parameter file."),
    ("rviz", "true", "Show the result in RViz."),
)


def generate_launch_description() -> LaunchDescription:
    argument = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "gld.launch.py")),
        launch_arguments={
            "use_sim_time": "true",
            "image": argument["image"],
            "camera_info": argument["camera_info"],
            "params_file": argument["params_file"],
            "profile": argument["profile"],
        }.items(),
    )
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=meaning)
                for name, default, meaning in ARGUMENTS
            ),
            node,
            ExecuteProcess(
                cmd=["gld-ros", "play", argument["bag"], "--clock", "--rate", argument["rate"]],
                output="screen",
            ),
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(SHARE / "rviz" / "gld.rviz")],
                parameters=[{"use_sim_time": True}],
                condition=IfCondition(argument["rviz"]),
            ),
        ]
    )
