"""Start gld_node, which configures and activates itself unless autostart is false.

    ros2 launch gld_ros gld.launch.py --show-args
    ros2 launch gld_ros gld.launch.py image:=/front/image_raw camera_info:=/front/camera_info
    ros2 launch gld_ros gld.launch.py cameras:="front rear" image:="/{camera}/image_raw" \
        camera_info:="/{camera}/camera_info"
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

CONFIG = Path(get_package_share_directory("gld_ros")) / "config"

# (name, default, meaning)
ARGUMENTS = (
    ("namespace", "", "Namespace of the node, such as the robot's name."),
    ("name", "gld", "Name of the node."),
    (
        "params_file",
        str(CONFIG / "gld.yaml"),
        "Parameter file; a copy of the default one shows every parameter.",
    ),
    (
        "profile",
        str(CONFIG / "profile_cpu.yaml"),
        "Second parameter file, laid over the first: config/profile_{cpu,desktop,jetson}.yaml.",
    ),
    (
        "cameras",
        "",
        "Names of the cameras, separated by spaces; empty takes camera_names of the files.",
    ),
    (
        "image",
        "{camera}/image",
        "Image topic without a transport suffix: one in which {camera} stands for each camera's "
        "name, or one per camera, separated by spaces.",
    ),
    ("camera_info", "{camera}/camera_info", "CameraInfo topic, likewise."),
    ("depth", "{camera}/depth", "Topic of a depth sensor, likewise; read if scale.mode asks."),
    ("image_transport", "", "raw or compressed; empty takes image_transport of the files."),
    ("fixed_frame", "", "Frame poses are taken in; empty takes fixed_frame of the files."),
    ("use_sim_time", "false", "Take time from /clock (bags, simulators)."),
    ("autostart", "true", "Configure and activate at once; false leaves that to a manager."),
    ("respawn", "true", "Start again after a lost device (exit code 70) or a crash."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)
TRUTH = {"true": True, "false": False}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name,
                    default_value=default,
                    description=meaning,
                    choices=tuple(TRUTH) if default in TRUTH else None,
                )
                for name, default, meaning in ARGUMENTS
            ),
            OpaqueFunction(function=node),
        ]
    )


def node(context: LaunchContext) -> list[Node]:
    """Return the node that the arguments ask for. Raises ValueError for arguments that clash."""
    argument = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    for file in (argument["params_file"], argument["profile"]):
        if not Path(file).is_file():
            raise ValueError(f"there is no parameter file {file!r}")
    cameras = argument["cameras"].split()
    overrides = {
        "use_sim_time": TRUTH[argument["use_sim_time"]],
        "autostart": TRUTH[argument["autostart"]],
    }
    if cameras:
        overrides["camera_names"] = cameras
    for name in ("fixed_frame", "image_transport"):
        if argument[name]:
            overrides[name] = argument[name]
    return [
        Node(
            package="gld_ros",
            executable="gld_node",
            name=argument["name"],
            namespace=argument["namespace"],
            parameters=[argument["params_file"], argument["profile"], overrides],
            remappings=[
                remapping
                for topic in ("image", "camera_info", "depth")
                for remapping in remappings(topic, argument[topic], cameras)
            ],
            arguments=["--ros-args", "--log-level", argument["log_level"]],
            respawn=TRUTH[argument["respawn"]],
            respawn_delay=2.0,
            output="screen",
        )
    ]


def remappings(topic: str, given: str, cameras: list[str]) -> list[tuple[str, str]]:
    """Return what turns the node's <camera>/<topic> into the topics that were given."""
    if given == f"{{camera}}/{topic}":
        return []
    if "{camera}" in given and not cameras:
        raise ValueError(f"{topic}:={given} needs the names of the cameras: cameras:='front rear'")
    cameras = cameras or ["camera"]
    topics = given.split()
    if "{camera}" in given:
        topics = [given.replace("{camera}", camera) for camera in cameras]
    if len(topics) != len(cameras):
        raise ValueError(
            f"{topic}:='{given}' names {len(topics)} topic(s) for {len(cameras)} camera(s), "
            f"{' '.join(cameras)}; give one each, or one such as {topic}:='/{{camera}}/{topic}'"
        )
    return [(f"{camera}/{topic}", name) for camera, name in zip(cameras, topics, strict=True)]
