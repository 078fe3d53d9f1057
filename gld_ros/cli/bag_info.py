"""`gld-ros bag-info`: the cameras of a bag and the fixed frame for their poses."""

import argparse
from pathlib import Path

HELP = "list the cameras of a bag and the fixed frame for their poses"
DESCRIPTION = """\
List the cameras of a bag with their topics, and the frame that poses are taken in: the one that is
named, by --fixed-frame or by fixed_frame in a parameter file, else the one that is found: odom if
it is above all cameras, otherwise the root above them. A frame that is named and missing is an
error that lists the bag's frames.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros bag-info`."""
    parser.add_argument("bag", type=Path, help="folder of the bag, or one .mcap or .db3 file")
    parser.add_argument(
        "--fixed-frame", help="frame of the poses (default: that of --params, else found)"
    )
    parser.add_argument(
        "--params",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="ROS parameter files of the node; of their fixed_frame the last counts",
    )
    parser.add_argument(
        "--agreement",
        action="store_true",
        help="also compare images with TF: wrong extrinsics, time offsets and rectification show",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Print what the bag has; fails where the node could make nothing of it."""
    import json

    from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
    from gld_ros.bags.reader import BagReader

    with BagReader(args.bag) as bag:
        found = bag_cameras(bag)
        # The node takes all its cameras over one transport.
        chosen = [camera for camera in found if not camera.compressed] or found
        transport = "compressed" if chosen[0].compressed else "raw"
        cameras = {
            camera.name: {
                "image": camera.image_topic.removesuffix("/compressed"),
                "camera_info": camera.info_topic,
                "depth": camera.depth_topic or "",
            }
            for camera in chosen
        }
        wanted = _wanted_frame(args)
        fixed_frame = bag_fixed_frame(bag, wanted)
    agreements = _agreements(args.bag, fixed_frame) if args.agreement else {}
    if args.json:
        document = {"fixed_frame": fixed_frame, "image_transport": transport, "cameras": cameras}
        if args.agreement:
            document["images_against_tf"] = agreements
        print(json.dumps(document))
        return 0
    print(f"fixed frame      {fixed_frame}{'' if wanted == fixed_frame else ' (found)'}")
    print(f"image transport  {transport}")
    for name, topics in cameras.items():
        print(f"camera {name}: {', '.join(topic for topic in topics.values() if topic)}")
    for topic, line in agreements.items():
        print(f"{topic}: {line}")
    return 0


def _wanted_frame(args: argparse.Namespace) -> str:
    from gld_ros.messages.fixed_frame import AUTO
    from gld_ros.ros.parameters.files import values_for_node

    wanted = AUTO
    for file in args.params:
        wanted = str(values_for_node(file, "/gld").get("fixed_frame", wanted))
    return args.fixed_frame or wanted


def _agreements(bag: Path, fixed_frame: str) -> dict[str, str]:
    """Per image topic, whether the images of a bag fit their poses, in words."""
    from gld_ros.scenes.agreement import recording_agreement
    from gld_ros.scenes.bags import open_bag

    return {r.scene_id: recording_agreement(r).describe() for r in open_bag(bag, fixed_frame)}
