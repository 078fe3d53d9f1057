"""Start gld_node, which configures and activates itself unless autostart is false.

    ros2 launch gld_ros gld.launch.py --show-args
    ros2 launch gld_ros gld.launch.py camera_preset:=realsense rviz:=true
    ros2 launch gld_ros gld.launch.py image:=/front/image_raw camera_info:=/front/camera_info
    ros2 launch gld_ros gld.launch.py cameras:="front rear" image:="/{camera}/image_raw" \
        camera_info:="/{camera}/camera_info"
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

# Topics as the drivers name them in their own launch files: realsense-ros 4, the ZED wrapper 5.1,
# depthai-ros, the Azure Kinect driver, usb_cam and v4l2_camera. Depth is registered to the colour
# images.
PRESETS = {
    "realsense": {
        "image": "/camera/camera/color/image_raw",
        "camera_info": "/camera/camera/color/camera_info",
        "depth": "/camera/camera/aligned_depth_to_color/image_raw",
    },
    "zed": {
        "image": "/zed/zed_node/rgb/color/rect/image",
        "camera_info": "/zed/zed_node/rgb/color/rect/camera_info",
        "depth": "/zed/zed_node/depth/depth_registered",
    },
    "oak": {
        "image": "/oak/rgb/image_raw",
        "camera_info": "/oak/rgb/camera_info",
        "depth": "/oak/stereo/image_raw",
    },
    "azure_kinect": {
        "image": "/rgb/image_raw",
        "camera_info": "/rgb/camera_info",
        "depth": "/depth_to_rgb/image_raw",
    },
    "usb": {"image": "/image_raw", "camera_info": "/camera_info"},
}
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
        str(CONFIG / "profile_auto.yaml"),
        "Second parameter file, laid over the first: config/profile_{auto,cpu,desktop,jetson}.yaml;"
        " auto leaves device, precision and steps to the node.",
    ),
    (
        "cameras",
        "",
        "Names of the cameras, separated by spaces; empty takes camera_names of the files.",
    ),
    (
        "camera_preset",
        "",
        "Topics of one camera as its driver names them: realsense, zed, oak, "
        "azure_kinect or usb. An image, camera_info or depth that is given counts more.",
    ),
    (
        "image",
        "{camera}/image",
        "Image topic without a transport suffix: one in which {camera} stands for each camera's "
        "name, or one per camera, separated by spaces.",
    ),
    ("camera_info", "{camera}/camera_info", "CameraInfo topic, likewise."),
    (
        "depth",
        "{camera}/depth",
        "Topic of depth images in the optical frame of the camera's images, raw or ending in "
        "/compressedDepth, likewise; they measure if depth.source is auto or camera. Not given: "
        "the topic that drivers name so, once it is there; none: without, as depth.source stereo.",
    ),
    ("image_transport", "", "raw or compressed; empty takes image_transport of the files."),
    (
        "fixed_frame",
        "",
        "Frame poses are taken in, or auto: odom if TF has it above the cameras, else their root; "
        "empty takes fixed_frame of the files.",
    ),
    ("bundle", "", "Weights: name or folder; empty takes model.bundle of the files."),
    (
        "mode",
        "",
        "auto, views or depth: imagine views, or give every image its depth and no more; empty "
        "takes mode of the files.",
    ),
    (
        "policy",
        "",
        "Where automatic views are: none, look_around, ...; empty takes policy.type of the files.",
    ),
    (
        "observed",
        "",
        "measured: ~/observed/* has no depth of the model, so mappers may clear with it; all: also "
        "what the model completes; empty takes observed.provenance of the files.",
    ),
    ("use_sim_time", "false", "Take time from /clock (bags, simulators)."),
    ("rviz", "false", "Show images, clouds and keyframes in RViz where it is installed."),
    ("autostart", "true", "Configure and activate at once; false leaves that to a manager."),
    ("respawn", "true", "Start again after a lost device (exit code 70) or a crash."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)
# Arguments that set a parameter of the node.
PARAMETERS = {
    "fixed_frame": "fixed_frame",
    "image_transport": "image_transport",
    "bundle": "model.bundle",
    "mode": "mode",
    "policy": "policy.type",
}
AUTO = "auto"
CAMERAS = ["camera"]  # of the node, where nothing names others
NO_DEPTH = "none"
TRUTH = {"true": True, "false": False}
OBSERVED = {"measured": ["measured"], "all": ["measured", "completed"]}
CHOICES = {"mode": ("", "auto", "views", "depth"), "observed": ("", "measured", "all")}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name,
                    default_value=default,
                    description=meaning,
                    choices=tuple(TRUTH) if default in TRUTH else CHOICES.get(name),
                )
                for name, default, meaning in ARGUMENTS
            ),
            OpaqueFunction(function=node),
            OpaqueFunction(function=rviz),
        ]
    )


def node(context: LaunchContext) -> list[Node]:
    """Return the node that the arguments ask for. Raises ValueError for arguments that clash."""
    argument = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    for file in (argument["params_file"], argument["profile"]):
        if not Path(file).is_file():
            raise ValueError(f"there is no parameter file {file!r}")
    without_depth = argument["depth"] == NO_DEPTH
    if without_depth:
        argument["depth"] = "{camera}/depth"
    cameras = camera_names(argument)
    overrides = {
        "use_sim_time": TRUTH[argument["use_sim_time"]],
        "autostart": TRUTH[argument["autostart"]],
    }
    if argument["cameras"]:
        overrides["camera_names"] = cameras
    if argument["observed"]:
        overrides["observed.provenance"] = OBSERVED[argument["observed"]]
    if without_depth:
        overrides["depth.source"] = "stereo"
    for name, parameter in PARAMETERS.items():
        if argument[name]:
            overrides[parameter] = argument[name]
    return [
        Node(
            package="gld_ros",
            executable="gld_node",
            name=argument["name"],
            namespace=argument["namespace"],
            parameters=[argument["params_file"], argument["profile"], overrides],
            remappings=[
                remapping
                for topic, given in camera_topics(argument).items()
                for remapping in remappings(topic, given, cameras)
            ],
            arguments=["--ros-args", "--log-level", argument["log_level"]],
            respawn=TRUTH[argument["respawn"]],
            respawn_delay=2.0,
            output="screen",
        )
    ]


def camera_names(argument: dict[str, str]) -> list[str]:
    """Return the cameras that were given, else those of the files. Raises ValueError."""
    return argument["cameras"].split() or list(of_the_files(argument, "camera_names", CAMERAS))


def full_name(argument: dict[str, str]) -> str:
    """Return the node's name with its namespace."""
    return "/".join(["", *filter(None, (argument["namespace"].strip("/"), argument["name"]))])


def of_the_files(argument: dict[str, str], parameter: str, default: Any) -> Any:
    """Return what the parameter files say of a parameter of the node. Raises ValueError."""
    value = default
    for file in (argument["params_file"], argument["profile"]):
        try:
            document = yaml.safe_load(Path(file).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"parameter file {file!r} cannot be read: {error}") from error
        for section, values in sections(document):
            if re.fullmatch(section, full_name(argument)):
                value = values.get(parameter, value)
    return value


def sections(document: Any, pattern: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield, per section of a parameter file, a pattern of the nodes it is for, and its values."""
    wild = {"**": "(/[^/]+)*", "*": "/[^/]+"}
    for name, below in document.items() if isinstance(document, dict) else ():
        if name == "ros__parameters" and isinstance(below, dict):
            yield pattern, below
            continue
        parts = [part for part in str(name).split("/") if part]
        yield from sections(
            below, pattern + "".join(wild.get(p, f"/{re.escape(p)}") for p in parts)
        )


def rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return RViz with the topics of this node and its first camera, or say why there is none."""
    argument = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not TRUTH[argument["rviz"]]:
        return []
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        return [LogInfo(msg="rviz2 is not installed, so nothing is shown (rviz:=false says so)")]
    text = (CONFIG.parent / "rviz" / "gld.rviz").read_text()
    text = text.replace(": /camera/image,", f": {real_image(argument)},")
    with tempfile.NamedTemporaryFile("w", suffix=".rviz", delete=False) as config:
        config.write(text.replace(": /gld/", f": {full_name(argument)}/"))
    frame = argument["fixed_frame"] or of_the_files(argument, "fixed_frame", AUTO)
    told = []
    if frame == AUTO:
        frame = "odom"
        told = [
            LogInfo(
                msg="RViz starts in the frame odom; where the node finds another (its log says "
                "which), choose that in RViz, or give fixed_frame:="
            )
        ]
    return [
        *told,
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", config.name, "-f", frame],
            parameters=[{"use_sim_time": TRUTH[argument["use_sim_time"]]}],
        ),
    ]


def real_image(argument: dict[str, str]) -> str:
    """Return the topic of the first camera's images, with the suffix of their transport."""
    topic = camera_topics(argument)["image"].replace("{camera}", camera_names(argument)[0])
    topic = topic.split()[0]
    if not topic.startswith("/"):
        topic = "/".join(["", *filter(None, (argument["namespace"].strip("/"), topic))])
    transport = argument["image_transport"] or of_the_files(argument, "image_transport", "raw")
    return f"{topic}/compressed" if transport == "compressed" else topic


def camera_topics(argument: dict[str, str]) -> dict[str, str]:
    """Return the topics that were given, else those of the preset. Raises ValueError."""
    preset = argument["camera_preset"]
    if preset and preset not in PRESETS:
        raise ValueError(
            f"camera_preset:={preset} is not known; there are: {', '.join(PRESETS)}. Other cameras "
            "are given by image:=, camera_info:= and depth:="
        )
    return {
        topic: PRESETS[preset].get(topic, argument[topic])
        if preset and argument[topic] == f"{{camera}}/{topic}"
        else argument[topic]
        for topic in ("image", "camera_info", "depth")
    }


def remappings(topic: str, given: str, cameras: list[str]) -> list[tuple[str, str]]:
    """Return what turns the node's <camera>/<topic> into the topics that were given."""
    if given == f"{{camera}}/{topic}":
        return []
    if "{camera}" in given and cameras == CAMERAS:
        raise ValueError(f"{topic}:={given} needs the names of the cameras: cameras:='front rear'")
    topics = given.split()
    if "{camera}" in given:
        topics = [given.replace("{camera}", camera) for camera in cameras]
    if len(topics) != len(cameras):
        raise ValueError(
            f"{topic}:='{given}' names {len(topics)} topic(s) for {len(cameras)} camera(s), "
            f"{' '.join(cameras)}; give one each, or one such as {topic}:='/{{camera}}/{topic}'"
        )
    return [(f"{camera}/{topic}", name) for camera, name in zip(cameras, topics, strict=True)]
