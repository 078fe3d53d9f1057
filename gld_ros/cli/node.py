"""`gld-ros node`: the node on cameras of a robot or a bag, without a launch file."""

import argparse
import os
import sys
from typing import Any

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
A file of parameters (--params) counts less than what is typed and more than the defaults named
here; the node is active at once, whatever the file says of autostart (but --set autostart=false).
In a ROS distribution, `ros2 launch gld_ros gld.launch.py` does the same and restarts the node if it
dies.
"""
NODE_NAME = "gld"
COMPRESSED = "/compressed"
NO_DEPTH = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros node`."""
    parser.add_argument(
        "--camera",
        nargs="+",
        default=[],
        metavar="[NAME=]TOPIC",
        help="image topics, raw or compressed (default: NAME/image of each camera in the parameter "
        "camera_names, camera/image)",
    )
    parser.add_argument(
        "--depth",
        nargs="+",
        default=[],
        metavar="[NAME=]TOPIC",
        help="depth images registered to a camera's images, raw or compressedDepth, which measure "
        "its depth (default: the topic of the graph that drivers name so); none: do without",
    )
    parser.add_argument(
        "--bundle", help="weights: name or folder (default: the parameter model.bundle, tiny)"
    )
    parser.add_argument(
        "--policy",
        help="where automatic views are (default: policy.type of --params, or look_around); none: "
        "goals only",
    )
    parser.add_argument(
        "--frame",
        help="frame of the poses (default: the parameter fixed_frame; its own is auto: odom if TF "
        "has it above the cameras, else their root)",
    )
    add_mode_argument(parser)
    add_preset_argument(parser, default=None, says="the parameter sampler.preset, published")
    parser.add_argument(
        "--sim-time",
        action="store_true",
        help="take time from /clock (default: the parameter use_sim_time, false)",
    )
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
    """The node's own arguments: parameters and remappings. Raises ValueError for what clashes.

    ROS takes the last value that it is given: ours, then the file's, then what was typed.
    """
    given = _given(args)
    names = given.get("camera_names", ["camera"])
    if not isinstance(names, list) or not names:
        raise ValueError(f"camera_names is {names!r}; it must be a list of names")
    cameras = _named(args.camera, "--camera", names)
    typed = _typed(args, cameras)
    arguments = ["--ros-args", "-p", "policy.type:=look_around"]
    if args.params is not None:
        arguments += ["--params-file", str(args.params)]
    for name, value in typed.items():
        # For all nodes and for this one: either alone may come before a section of the file.
        arguments += ["-p", f"{name}:={value}", "-p", f"{NODE_NAME}:{name}:={value}"]
    for name, topic in cameras.items():
        image = topic.removesuffix(COMPRESSED)
        info = f"{image.rpartition('/')[0]}/camera_info" if "/" in image else "camera_info"
        arguments += ["-r", f"{name}/image:={image}", "-r", f"{name}/camera_info:={info}"]
    known = list(cameras) or names
    if args.depth != [NO_DEPTH]:
        for name, topic in _named(args.depth, "--depth", known).items():
            if name not in known:
                raise ValueError(
                    f"--depth {name}={topic}: no camera has that name; there are: "
                    f"{', '.join(known)}"
                )
            arguments += ["-r", f"{name}/depth:={topic}"]
    return arguments


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters of the file and of --set, as they are written."""
    from gld_ros.plain_yaml import parse_yaml
    from gld_ros.ros.parameters.files import values_for_node

    if args.params is not None and not args.params.is_file():
        raise ValueError(f"--params {args.params}: there is no such file")
    given = values_for_node(args.params, f"/{NODE_NAME}") if args.params is not None else {}
    return given | {name: parse_yaml(value) for name, value in _set(args).items()}


def _set(args: argparse.Namespace) -> dict[str, str]:
    values = {}
    for override in args.overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override}: NAME=VALUE is needed")
        values[name] = value
    return values


def _typed(args: argparse.Namespace, cameras: dict[str, str]) -> dict[str, str]:
    """The parameters that options ask for; --set comes last. Raises ValueError."""
    typed = {"autostart": "true"}  # whatever the file says: that is what this command is for
    if cameras:
        typed["camera_names"] = f"[{', '.join(cameras)}]"
    compressed = {topic.endswith(COMPRESSED) for topic in cameras.values()}
    if len(compressed) > 1:
        raise ValueError(
            f"--camera {' '.join(args.camera)}: some topics are compressed, some are not; the node "
            "reads all in one way"
        )
    if True in compressed:
        typed["image_transport"] = "compressed"
    if args.sim_time:
        typed["use_sim_time"] = "true"
    if args.depth == [NO_DEPTH]:
        typed["depth.source"] = "stereo"
    for parameter, value in (
        ("model.bundle", args.bundle),
        ("policy.type", args.policy),
        ("fixed_frame", args.frame),
    ):
        if value is not None:
            typed[parameter] = f'"{value}"'
    for parameter, value in (("sampler.preset", args.preset), ("mode", args.mode)):
        if value is not None:
            typed[parameter] = value
    return typed | _set(args)


def _named(given: list[str], option: str, names: list[str]) -> dict[str, str]:
    """Topics by name; without one it belongs to the only name there is. Raises ValueError."""
    topics: dict[str, str] = {}
    for word in given:
        name, equals, topic = word.partition("=")
        if not equals:
            name, topic = names[0], word
            if len(names) > 1:
                raise ValueError(
                    f"{option} {word}: name its camera, such as {name}={word}; camera_names is "
                    f"{', '.join(names)}"
                )
        if name in topics or not name or not topic:
            raise ValueError(
                f"{option} {' '.join(given)}: several need names of their own, such as "
                "front=/front/image_raw"
            )
        topics[name] = topic
    return topics
