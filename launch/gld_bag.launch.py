"""Play a bag with simulated time, imagine views around its camera, show them in RViz if installed.

    ros2 launch gld_ros gld_bag.launch.py bag:=/data/recording

Cameras, topics and the fixed frame are found in the bag unless they are given.
"""

import json
import subprocess
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = Path(get_package_share_directory("gld_ros"))
LOAD_LIMIT_S = "600"

# (name, default, meaning); without a default an argument is required
ARGUMENTS = (
    ("bag", None, "Bag to play: folder, .mcap or .db3."),
    ("rate", "1.0", "Speed of playback."),
    ("cameras", "", "Names of the cameras, separated by spaces; empty takes all of the bag."),
    ("image", "", "Image topic, {camera} stands for a camera's name; empty finds it in the bag."),
    ("camera_info", "", "CameraInfo topic, likewise."),
    ("depth", "", "Topic of depth images, likewise; none: do without."),
    (
        "fixed_frame",
        "",
        "Frame poses are taken in; empty takes fixed_frame of the files; auto finds it in the bag.",
    ),
    ("bundle", "", "Weights: name or folder; empty takes model.bundle of the files."),
    ("mode", "", "auto, views or depth; empty takes mode of the files."),
    ("policy", "look_around", "Where automatic views are; none: goals only."),
    ("params_file", str(SHARE / "config" / "gld.yaml"), "Parameter file."),
    ("profile", str(SHARE / "config" / "profile_auto.yaml"), "Parameter file laid over the first."),
    ("rviz", "true", "Show the result in RViz where it is installed."),
)
CHOICES = {"rviz": ("true", "false"), "mode": ("", "auto", "views", "depth")}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name,
                    default_value=default,
                    description=meaning,
                    choices=CHOICES.get(name),
                )
                for name, default, meaning in ARGUMENTS
            ),
            OpaqueFunction(function=session),
        ]
    )


def session(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return node, RViz and player, after everything that can be wrong was looked at."""
    argument = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    found = bag_info(argument)
    cameras = argument["cameras"].split() or list(found["cameras"])
    unknown = sorted(set(cameras) - set(found["cameras"]))
    if unknown and not argument["image"]:
        raise ValueError(
            f"the bag has no camera {', '.join(unknown)}; it has: {', '.join(found['cameras'])}"
        )
    known = [found["cameras"][camera] for camera in cameras if camera not in unknown]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "gld.launch.py")),
        launch_arguments={
            "use_sim_time": "true",
            "cameras": " ".join(cameras),
            "image": argument["image"] or " ".join(camera["image"] for camera in known),
            "camera_info": argument["camera_info"]
            or " ".join(camera["camera_info"] for camera in known),
            "image_transport": "" if argument["image"] else found["image_transport"],
            "fixed_frame": found["fixed_frame"],
            "depth": argument["depth"] or bag_depth(known),
            "bundle": argument["bundle"],
            "mode": argument["mode"],
            "policy": argument["policy"],
            "params_file": argument["params_file"],
            "profile": argument["profile"],
            "rviz": argument["rviz"],
        }.items(),
    )
    play = ["gld-ros", "play", argument["bag"], "--clock", "--rate", argument["rate"]]
    # The node subscribes when it is active, and its model may take minutes to load.
    play += ["--wait", LOAD_LIMIT_S]
    if known and not argument["camera_info"]:
        play += ["--wait-for", *(camera["camera_info"] for camera in known)]
    player = ExecuteProcess(cmd=play, output="screen")
    return [node, player]


def bag_depth(cameras: list[dict[str, str]]) -> str:
    """Return the depth topics of cameras, or the default where one has none."""
    topics = [camera["depth"] for camera in cameras]
    return " ".join(topics) if topics and all(topics) else "{camera}/depth"


def bag_info(argument: dict[str, str]) -> dict:
    """Return what `gld-ros bag-info` finds. Raises ValueError with its words where it fails."""
    words = ["gld-ros", "bag-info", argument["bag"], "--json"]
    words += ["--params", argument["params_file"], argument["profile"]]
    if argument["fixed_frame"]:
        words += ["--fixed-frame", argument["fixed_frame"]]
    # A process of its own: the library may live in an environment that this interpreter is not in.
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"bag:={argument['bag']} cannot be played: {done.stderr.strip()}")
    return json.loads(done.stdout)
