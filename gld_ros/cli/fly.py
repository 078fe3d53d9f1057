"""`gld-ros fly`: a fly-through of a bag as GIF, WebM and MP4, with imagined pixels tinted."""

import argparse
from pathlib import Path

from gld_ros.cli._arguments import add_parameter_arguments

HELP = "make a fly-through video of a bag, with imagined pixels tinted"
DESCRIPTION = """\
Run a bag through the node's session, offline, and make a video of the place: a camera flies along
a smooth path through the recorded poses and leaves it a little, so that regions come into view that
no camera has seen. Measured surfaces have their real colours and the model fills the rest, as in
the node's target views. On the left is the view, on the right the same with imagined pixels tinted:

  untinted  measured: a real pixel on a measured surface
  green     corroborated: imagined, on a surface that some real image shows
  orange    hallucinated: imagined where no camera has looked
  red       contradicted: imagined, but a camera saw through it
  grey      no depth: only the colour was imagined

BAG is a ROS 2 bag with images, CameraInfo and TF. Without BAG, a tour of a procedural room is
rendered, once, into OUT/tour; its depth is not used, as in `gld-ros demo`.
"""

EXAMPLES = """\
examples:
  gld-ros fly my_bag
  gld-ros fly --out out/tour                       (the procedural room)
  gld-ros fly my_bag --views 120 --off-path 0.3    (longer, and further off the path)
  gld-ros fly my_bag --set depth.source=stereo     (do not use the bag's depth images)

OUT holds fly.gif, fly.webm, fly.mp4, summary.json (time, path, share of each label per view) and,
with --frames, every frame as PNG. Exit status 0 only if every view was made.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros fly`."""
    parser.add_argument("bag", type=Path, nargs="?", metavar="BAG")
    parser.add_argument("--out", type=Path, default=Path("out/fly"), help="default: %(default)s")
    parser.add_argument("--bundle", default="tiny", help="weights: name or folder (default: tiny)")
    parser.add_argument(
        "--views", type=int, default=60, help="views of the fly-through (default: 60)"
    )
    parser.add_argument(
        "--off-path",
        type=float,
        default=0.15,
        metavar="SHARE",
        help="how far to leave the recorded path, as a share of the median measured depth, 0 to 1 "
        "(default: 0.15)",
    )
    parser.add_argument("--fps", type=float, default=12.0, help="views per second (default: 12)")
    parser.add_argument(
        "--camera",
        default="",
        help="camera whose path is followed (default: the one with the most keyframes)",
    )
    parser.add_argument("--frames", action="store_true", help="also write every frame as PNG")
    add_parameter_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Make the video; 1 if a view is missing."""
    from dataclasses import replace

    if not 2 <= args.views <= 1000:
        raise ValueError(f"--views is {args.views}; allowed are 2 to 1000")
    if not 0 <= args.off_path <= 1:
        raise ValueError(f"--off-path is {args.off_path}; allowed are 0 (stay on it) to 1")
    if not 1 <= args.fps <= 60:
        raise ValueError(f"--fps is {args.fps}; allowed are 1 to 60")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; give a folder")

    from tqdm import tqdm

    from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
    from gld_ros.bags.reader import BagReader
    from gld_ros.demo.flight import FlightOptions, fly, summary, write_flight
    from gld_ros.demo.tour import room_tour
    from gld_ros.mapping.model import load_model
    from gld_ros.ros.parameters.files import load_snapshot

    bag = args.bag or room_tour(args.out / "tour")
    with BagReader(bag) as reader:
        cameras = [camera.name for camera in bag_cameras(reader)]
        if args.camera and args.camera not in cameras:
            raise ValueError(f"--camera is {args.camera!r}; the bag has: {', '.join(cameras)}")
        given = load_snapshot(args.params, args.overrides)
        fixed_frame = bag_fixed_frame(reader, given.session.frames.fixed)
        print(f"poses in frame {fixed_frame!r}")
        overrides = [
            f"model.bundle={args.bundle}",
            # Labels are wanted for all pixels, also for those that are too unsure to publish.
            "depth.min_confidence=0.0",
            *(["depth.source=stereo"] if args.bag is None else []),
            *args.overrides,
            f"fixed_frame={fixed_frame}",
        ]
        parameters = load_snapshot(args.params, overrides, cameras).session
        model = load_model(replace(parameters, mode="views"))
        if model.random_weights:
            print("WARNING: this bundle has RANDOM weights; what it imagines means nothing")
        options = FlightOptions(args.views, args.off_path, args.fps, args.camera)
        with tqdm(desc="bag", disable=None) as bar:
            stages = [""]  # shown so far; a hidden bar keeps none

            def show(stage: str, done: int, total: int) -> None:
                if (stage, total) != (stages[-1], bar.total):
                    stages.append(stage)
                    bar.set_description(stage, refresh=False)
                    bar.reset(total)
                bar.update(done - bar.n)

            flight = fly(reader, model, parameters, options, show)
    for failure in flight.failures:
        print(f"PROBLEM: {failure}")
    if not flight.views:
        return 1
    lines = write_flight(flight, args.out, args.fps, frames=args.frames)
    figures = summary(flight)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in figures["mean_shares"].items())
    print(f"{figures['views']} views from {figures['keyframes']} keyframes: {shares}")
    if figures["median_depth_m"] is None:
        print("nothing could be measured: the flight stays on the recorded path")
    print(", ".join(f"{stage} {seconds} s" for stage, seconds in figures["seconds"].items()))
    print("\n".join(lines))
    return 1 if flight.failures else 0
