"""`gld-ros bag`: a whole bag through the node's session, and what it would have published."""

import argparse
from pathlib import Path

from gld_ros.cli._parameter_arguments import add_parameter_arguments


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Declare the arguments of `gld-ros bag`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bag",
        help="imagine views for a recorded bag, offline: drops nothing, repeats exactly",
        description="Read images, CameraInfo and TF from a bag, run every job, and write a new bag "
        "with the node's topics. The same bag and parameters give the same bytes.",
    )
    parser.add_argument("input", type=Path, help="bag to read: folder, .mcap or .db3")
    parser.add_argument("output", type=Path, help="bag to write; must not exist")
    parser.add_argument("--bundle", default="tiny", help="weights: name or folder (default: tiny)")
    add_parameter_arguments(parser)
    parser.add_argument(
        "--policy",
        default="look_around",
        choices=("look_around", "stereo_baseline"),
        help="where to imagine views (default: look_around)",
    )
    parser.add_argument(
        "--compare", type=Path, metavar="BAG", help="exit 1 unless the output equals this bag"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the bag; exit status 1 when no view could be made, or --compare found a difference."""
    import logging

    from tqdm import tqdm

    from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
    from gld_ros.bags.reader import BagReader
    from gld_ros.mapping.model import load_model
    from gld_ros.mapping.offline import OfflineRun, bags_differ, write_jobs, written_products
    from gld_ros.ros.parameters.files import load_snapshot

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with BagReader(args.input) as reader:
        given = load_snapshot(args.params, args.overrides)
        overrides = [
            f"policy.type={args.policy}",
            f"model.bundle={args.bundle}",
            *args.overrides,
            f"fixed_frame={bag_fixed_frame(reader, given.session.frames.fixed)}",
        ]
        cameras = [camera.name for camera in bag_cameras(reader)]
        parameters = load_snapshot(args.params, overrides, cameras)
        model = load_model(parameters.session)
        if model.random_weights:
            print("WARNING: this bundle has RANDOM weights; its views mean nothing")
        wanted = written_products(merged=parameters.node.merged_cloud)
        offline = OfflineRun(reader, model, parameters.session, wanted=wanted)
        frames = parameters.session.frames
        with tqdm(total=reader.num_messages, unit="message", desc="bag") as bar:
            for _ in write_jobs(offline.jobs(bar.update), args.output, frames):
                bar.set_postfix(jobs=offline.summary.jobs)
    summary = offline.summary
    print(
        f"{summary.images} images, {summary.keyframes} keyframes, {summary.jobs} jobs "
        f"({summary.metric_jobs} with metric scale), {summary.views} views -> {args.output}"
    )
    if summary.failed_jobs:
        print(f"  {summary.failed_jobs} jobs failed")
    for cause, count in sorted(summary.dropped.items()):
        print(f"  dropped {count}: {cause}")
    for reason, count in summary.reasons_without_job.items():
        print(f"  {count} times no job: {reason}")
    if args.compare is not None:
        differences = bags_differ(args.output, args.compare)
        for topic, what in differences.items():
            print(f"  {topic} differs: {what}")
        if differences:
            return 1
    return 0 if summary.views else 1
