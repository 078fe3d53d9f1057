"""`gld-ros check`: checks a live graph or a bag and prints a table and the first thing to fix."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gld_ros.ros.graph_faults import Fault

HELP = "check a live graph or a bag and name the first thing to fix"
DESCRIPTION = """\
Watch a running graph for five seconds: image and CameraInfo topics, their types, QoS at both
ends, rates, the age of stamps, whether CameraInfo is valid, whether TF can place the images in the
fixed frame, and whether the node is active. With BAG, check a recorded bag instead.

Both compare images with TF: corners that images share must lie where the poses of the cameras allow
it. If not, extrinsics, time stamps or rectification are wrong; shifts of the stamps by up to 100 ms
are tried, and the one that explains the images is reported. This needs texture, and a camera that
moves and turns during the check; otherwise there is no verdict on TF.

Nothing is changed. Exit status 0: nothing prevents the node from working.

  gld-ros check
  gld-ros check --node /robot1/gld
  gld-ros check --camera /front --fixed-frame odom       (without a running node)
  gld-ros check my_bag                                   (needs no ROS)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros check`."""
    parser.add_argument(
        "bag", type=Path, nargs="?", metavar="BAG", help="bag to check instead of the graph"
    )
    parser.add_argument("--node", default="/gld", help="full name of gld_node (default: /gld)")
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        help="camera to check, <camera>/image; repeatable (default: those of the node)",
    )
    parser.add_argument(
        "--fixed-frame",
        default="",
        help="frame of the poses (default: that of the node; auto: odom if it is above the "
        "cameras, else their root)",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="how long to watch the graph (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Check and print; 1 if anything prevents the node from working."""
    if not args.seconds > 0:
        raise ValueError(f"--seconds is {args.seconds}; it must be above 0")
    if not args.node.startswith("/"):
        raise ValueError(f"--node is {args.node!r}; give the full name, such as /gld")
    return _run_bag(args) if args.bag is not None else _run_graph(args)


def _run_graph(args: argparse.Namespace) -> int:
    from gld_ros.cli._spinning import spinning_node
    from gld_ros.ros.graph_faults import judge
    from gld_ros.ros.graph_watch import rows, watch

    with spinning_node("gld_check", catch_signals=True) as node:
        seen = watch(
            node,
            target=args.node,
            cameras=args.camera,
            fixed_frame=args.fixed_frame,
            seconds=args.seconds,
            progress=_show_progress,
        )
    faults = judge(seen)
    fatal = [fault for fault in faults if fault.fatal]
    if args.json:
        document = {
            "node": seen.node_name,
            "state": seen.node_state,
            "fixed_frame": seen.fixed_frame,
            "sim_time": seen.sim_time,
            "tf": {"asked": seen.tf_asked, "placed": seen.tf_placed, "problem": seen.tf_problem},
            "topics": rows(seen),
            "images_against_tf": {
                image.topic: image.agreement.describe()
                for image, _ in seen.cameras
                if image.agreement is not None
            },
            "faults": [vars(fault) for fault in faults],
        }
        print(json.dumps(document, indent=1))
        return 1 if fatal else 0
    print(_table(rows(seen)))
    print(
        f"\nnode {seen.node_name}: {seen.node_state or 'not there'}"
        f"{', simulated time' if seen.sim_time else ''}"
        f"\nTF: {seen.tf_placed} of {seen.tf_asked} images could be placed in {seen.fixed_frame!r}"
    )
    for image, _ in seen.cameras:
        if image.agreement is not None:
            print(f"{image.topic}: {image.agreement.describe()}")
    _print_faults(faults)
    return 1 if fatal else 0


def _run_bag(args: argparse.Namespace) -> int:
    if args.camera:
        raise ValueError("--camera is for the live graph; of a bag all cameras are looked at")
    from gld_ros.messages.fixed_frame import AUTO
    from gld_ros.ros.bag_check import judge_bag, look_at_bag

    seen = look_at_bag(args.bag, args.fixed_frame or AUTO)
    faults = judge_bag(seen)
    fatal = any(fault.fatal for fault in faults)
    if args.json:
        document = {
            "bag": str(seen.path),
            "fixed_frame": seen.fixed_frame,
            "duration_s": round(seen.duration_s, 3),
            "cameras": {
                camera.topic: {
                    "images": camera.images,
                    "placed": camera.placed,
                    "rate_hz": round(camera.rate_hz, 2),
                    "images_against_tf": camera.agreement and camera.agreement.describe(),
                }
                for camera in seen.cameras
            },
            "faults": [vars(fault) for fault in faults],
        }
        print(json.dumps(document, indent=1))
        return 1 if fatal else 0
    found = "" if seen.fixed_frame == args.fixed_frame else " (found)"
    print(f"bag {seen.path}: {seen.duration_s:.1f} s, fixed frame {seen.fixed_frame!r}{found}")
    for camera in seen.cameras:
        print(
            f"{camera.topic}: {camera.placed} of {camera.images} images could be placed, "
            f"{camera.rate_hz:.1f} Hz"
        )
        if camera.agreement is not None:
            print(f"{camera.topic}: {camera.agreement.describe()}")
    _print_faults(faults)
    return 1 if fatal else 0


def _print_faults(faults: "Sequence[Fault]") -> None:
    for fault in faults:
        print(f"{'FAULT' if fault.fatal else 'warning'}  {fault.subject}: {fault.problem}")
    if faults:
        print(f"\nfix first: {faults[0].subject}: {faults[0].problem}; {faults[0].fix}")
    else:
        print("\nnothing to fix")


def _show_progress(fraction: float) -> None:
    if sys.stderr.isatty():
        end = "\r\033[K" if fraction >= 1 else ""
        print(f"\rlooking at the graph {fraction:4.0%}{end}", end="", file=sys.stderr, flush=True)


def _age(age_s: float | None) -> str:
    """A stamp's age for the table; the fault says what one of days means."""
    from gld_ros.messages.stamps import RECORDED_AGE_S

    if age_s is None:
        return "-"
    return f"{age_s:.3f} s" if abs(age_s) < RECORDED_AGE_S else f"{age_s / 86_400:.0f} days"


def _table(rows: list[dict[str, Any]]) -> str:
    header = ("topic", "type", "from", "to", "rate", "age", "frame")
    lines = [header]
    for row in rows:
        lines.append(
            (
                row["topic"],
                row["type"].rpartition("/")[2],
                _ends(row["publishers"]),
                _ends(row["subscriptions"]),
                f"{row['rate_hz']:.1f} Hz" if row["rate_hz"] else "-",
                _age(row["age_s"]),
                row["frame_id"],
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _ends(ends: list[dict[str, str]]) -> str:
    """Nodes with their QoS: r reliable, b best effort, l latched."""
    short = {"reliable": "r", "best_effort": "b"}
    return (
        ", ".join(
            f"{end['node']} ({short.get(end['reliability'], '?')}"
            f"{'l' if end['durability'] == 'transient_local' else ''})"
            for end in ends[:3]
        )
        + (f" +{len(ends) - 3}" if len(ends) > 3 else "")
        if ends
        else "none"
    )
