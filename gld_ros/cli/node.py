"""`gld-ros node`: the node on cameras of a robot or a bag, without a launch file."""

import argparse
import os
import sys
from pathlib import Path

from gld_ros.cli._arguments import (
    add_mode_argument,
    add_parameter_arguments,
    add_preset_argument,
)

HELP = "run the node on the cameras of a robot"
DESCRIPTION = """\
Run the node, already configured and active, on the image topics of one or more cameras. CameraInfo
is expected next to each image topic, where camera drivers publish it. Ctrl-C ends it.

  gld-ros node --camera /front/image_raw
  gld-ros node --camera /front/image_raw --depth /front/aligned_depth_to_color/image_raw
  gld-ros node --camera /front/image_raw --depth none
  gld-ros node --camera front=/front/image_raw rear=/rear/image_raw --frame map
  gld-ros node --camera /front/image_raw --mode depth
  gld-ros play recording/ --clock                     (a recording, in one shell)
  gld-ros node --camera /image --sim-time

Views are on /gld/predicted/color/image, clouds on /gld/observed/points and /gld/predicted/points.
In mode depth every image gets depth on /gld/observed/depth/image or, if metres are unknown,
relative depth on /gld/observed/relative_depth/image.
`gld-ros check` says what is missing if nothing is published; `gld-ros params` lists all parameters.
In a ROS distribution, `ros2 launch gld_ros gld.launch.py` does the same and restarts the node if it
dies.
"""
COMPRESSED = "/compressed"
NO_DEPTH = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros node`."""
    parser.add_argument(
        "--camera",
        nargs="+",
        default=[],
        metavar="[NAME=]TOPIC",
        help="image topics, raw or compressed (default: camera/image)",
    )
    parser.add_argument(
        "--depth",
        nargs="+",
        default=[],
        metavar="[NAME=]TOPIC",
        help="depth images registered to a camera's images, raw or compressedDepth, which measure "
        "its depth (default: the topic of the graph that drivers name so); none: do without",
    )
    parser.add_argument("--bundle", default="tiny", help="weights: name or folder (default: tiny)")
    parser.add_argument(
        "--policy",
        default="look_around",
        help="where automatic views are (default: look_around); none: goals only",
    )
    parser.add_argument("--frame", default="odom", help="frame of the poses (default: odom)")
    add_mode_argument(parser)
    add_preset_argument(parser)
    parser.add_argument("--sim-time", action="store_true", help="take time from /clock")
    add_parameter_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Become the node's process; raises ValueError for arguments that clash."""
    import rclpy  # noqa: F401 (said in one line where it is missing)

    arguments = node_arguments(args)
    # The guard of the ROS wheels would keep the node from finding their libraries.
    environment = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    command = [sys.executable, "-m", "gld_ros.ros.main", *arguments]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def node_arguments(args: argparse.Namespace) -> list[str]:
    """The node's own arguments: parameters and remappings. Raises ValueError for what clashes."""
    cameras = _named(args.camera or ["camera/image"], "--camera")
    compressed = {topic.endswith(COMPRESSED) for topic in cameras.values()}
    if len(compressed) > 1:
        raise ValueError(
            f"--camera {' '.join(args.camera)}: some topics are compressed, some are not; the node "
            "reads all in one way"
        )
    parameters = {
        "autostart": "true",
        "use_sim_time": str(args.sim_time).lower(),
        "camera_names": f"[{', '.join(cameras)}]",
        "image_transport": "compressed" if True in compressed else "raw",
        "model.bundle": f'"{args.bundle}"',
        "policy.type": f'"{args.policy}"',
        "fixed_frame": f'"{args.frame}"',
        "sampler.preset": args.preset,
    }
    if args.mode is not None:
        parameters["mode"] = args.mode
    arguments = ["--ros-args"]
    if args.params is not None:
        if not Path(args.params).is_file():
            raise ValueError(f"--params {args.params}: there is no such file")
        arguments += ["--params-file", str(args.params)]
    depths = {} if args.depth == [NO_DEPTH] else _named(args.depth, "--depth")
    if args.depth == [NO_DEPTH]:
        parameters["depth.source"] = "stereo"
    for override in args.overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override}: NAME=VALUE is needed")
        parameters[name] = value
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    for name, topic in cameras.items():
        image = topic.removesuffix(COMPRESSED)
        info = f"{image.rpartition('/')[0]}/camera_info" if "/" in image else "camera_info"
        arguments += ["-r", f"{name}/image:={image}", "-r", f"{name}/camera_info:={info}"]
    for name, topic in depths.items():
        if name not in cameras:
            raise ValueError(f"--depth {name}={topic}: no --camera has that name")
        arguments += ["-r", f"{name}/depth:={topic}"]
    return arguments


def _named(given: list[str], option: str) -> dict[str, str]:
    """Topics by name; the only one may have none and is called camera. Raises ValueError."""
    topics: dict[str, str] = {}
    for word in given:
        name, equals, topic = word.partition("=")
        if not equals:
            name, topic = "camera", word
        if name in topics or not name or not topic:
            raise ValueError(
                f"{option} {' '.join(given)}: several need names of their own, such as "
                "front=/front/image_raw"
            )
        topics[name] = topic
    return topics
