"""Start gld_node and one mapper on what it observes; octomap, nvblox and rtabmap.launch.py do so.

    ros2 launch gld_ros octomap.launch.py camera_preset:=realsense
    ros2 launch gld_ros mapper.launch.py mapper:=nvblox image:=/front/image_raw mode:=depth

Arguments of gld.launch.py are passed on. A mapper clears free space along its rays, so it is given
~/observed/* alone, and there only what was measured: nothing imagined and nothing that the model
completes clears or is marked as measured.
"""

import runpy
from pathlib import Path

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = Path(get_package_share_directory("gld_ros"))
NODE_LAUNCH = SHARE / "launch" / "gld.launch.py"

# The mapper's node, its file of config/mapping, the parameter that names the frame of the poses,
# and what its topics are connected with: products of the node, or images of the camera. The node's
# publishers are reliable with depth 2, which best-effort and reliable subscribers hear.
MAPPERS = {
    "octomap": {
        "package": "octomap_server",
        "executable": "octomap_server_node",
        "install": "apt install ros-$ROS_DISTRO-octomap-server",
        "config": "octomap_server.yaml",
        "frame_parameter": "frame_id",
        "products": {"cloud_in": "observed/points"},
        "camera": {},
    },
    "nvblox": {
        "package": "nvblox_ros",
        "executable": "nvblox_node",
        "install": "install isaac_ros_nvblox as NVIDIA's Isaac ROS describes",
        "config": "nvblox.yaml",
        "frame_parameter": "global_frame",
        "products": {
            "camera_0/depth/image": "observed/depth/image",
            "camera_0/depth/camera_info": "observed/depth/camera_info",
        },
        "camera": {},
    },
    "rtabmap": {
        "package": "rtabmap_slam",
        "executable": "rtabmap",
        "install": "apt install ros-$ROS_DISTRO-rtabmap-slam",
        "config": "rtabmap.yaml",
        "frame_parameter": "odom_frame_id",
        "products": {"depth/image": "observed/depth/image"},
        "camera": {"rgb/image": "image", "rgb/camera_info": "camera_info"},
    },
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "mapper", description="Who makes the map.", choices=tuple(MAPPERS)
            ),
            # Another default than gld.launch.py has: a mapper clears.
            DeclareLaunchArgument(
                "observed",
                default_value="measured",
                description="measured, or all: also depth that the model completes, which then "
                "clears as well.",
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(NODE_LAUNCH))),
            OpaqueFunction(function=mapper),
        ]
    )


def mapper(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the mapper, connected, or what has to be installed for it. Raises ValueError."""
    argument = context.launch_configurations
    chosen = MAPPERS[argument["mapper"]]
    namespace = argument["namespace"].strip("/")
    node = "/".join(["", *filter(None, (namespace, argument["name"]))])
    remappings = [(topic, f"{node}/{product}") for topic, product in chosen["products"].items()]
    if chosen["camera"]:
        images = camera_topics(argument, namespace)
        remappings += [(topic, images[kind]) for topic, kind in chosen["camera"].items()]
    try:
        get_package_prefix(chosen["package"])
    except PackageNotFoundError:
        return [
            LogInfo(
                msg=f"{chosen['package']} is not installed, so gld_node runs alone: "
                f"{chosen['install']}"
            )
        ]
    overrides = {"use_sim_time": argument["use_sim_time"] == "true"}
    if argument["fixed_frame"]:
        overrides[chosen["frame_parameter"]] = argument["fixed_frame"]
    return [
        Node(
            package=chosen["package"],
            executable=chosen["executable"],
            parameters=[str(SHARE / "config" / "mapping" / chosen["config"]), overrides],
            remappings=remappings,
            output="screen",
        )
    ]


def camera_topics(argument: dict[str, str], namespace: str) -> dict[str, str]:
    """Return the topics of the one camera that gld.launch.py is given. Raises ValueError."""
    node_launch = runpy.run_path(str(NODE_LAUNCH))
    cameras = node_launch["camera_names"](argument)
    if len(cameras) > 1:
        raise ValueError(
            f"{argument['mapper']} takes one camera here, and there are {len(cameras)}, "
            f"{' '.join(cameras)}; start gld.launch.py with all of them and the mapper by itself"
        )
    given = node_launch["camera_topics"](argument)
    topics = {kind: topic.replace("{camera}", cameras[0]) for kind, topic in given.items()}
    return {
        kind: topic if topic.startswith("/") else "/".join(["", *filter(None, (namespace, topic))])
        for kind, topic in topics.items()
    }
