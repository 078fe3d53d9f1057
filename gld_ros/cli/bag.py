"""`gld-ros bag`: a whole bag through the node's session, and what it would have published."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gld_ros.cli._mode_argument import add_mode_argument
from gld_ros.cli._parameter_arguments import add_parameter_arguments

if TYPE_CHECKING:
    from gld_ros.mapping.offline import OfflineSummary


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Declare the arguments of `gld-ros bag`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bag",
        help="views or depth for a recorded bag, offline: drops nothing, repeats exactly",
        description="Read images, CameraInfo and TF from a bag, run every job, and write a new bag "
        "with the node's topics. The same bag and parameters give the same bytes.",
    )
    parser.add_argument("input", type=Path, help="bag to read: folder, .mcap or .db3")
    parser.add_argument("output", type=Path, help="bag to write; must not exist")
    parser.add_argument("--bundle", default="tiny", help="weights: name or folder (default: tiny)")
    add_mode_argument(parser)
    add_parameter_arguments(parser)
    parser.add_argument(
        "--policy",
        default="look_around",
        choices=("look_around", "stereo_baseline"),
        help="where mode views imagines views (default: look_around)",
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
            *([f"mode={args.mode}"] if args.mode else []),
            f"policy.type={args.policy}",
            f"model.bundle={args.bundle}",
            *args.overrides,
        ]
        cameras = [camera.name for camera in bag_cameras(reader)]
        model = load_model(load_snapshot(args.params, overrides, cameras).session)
        fixed_frame = given.session.frames.fixed
        if model.mode == "views" or reader.transforms()[0].tree.roots():
            fixed_frame = bag_fixed_frame(reader, fixed_frame)
        parameters = load_snapshot(args.params, [*overrides, f"fixed_frame={fixed_frame}"], cameras)
        if model.random_weights:
            print("WARNING: this bundle has RANDOM weights; what it makes means nothing")
        wanted = written_products(model.mode, merged=parameters.node.merged_cloud)
        offline = OfflineRun(reader, model, parameters.session, wanted=wanted)
        frames = parameters.session.frames
        with tqdm(total=reader.num_messages, unit="message", desc="bag") as bar:
            for _ in write_jobs(offline.jobs(bar.update), args.output, frames, mode=model.mode):
                bar.set_postfix(jobs=offline.summary.jobs)
    summary = offline.summary
    _print(summary, args.output, model.mode)
    if args.compare is not None:
        differences = bags_differ(args.output, args.compare)
        for topic, what in differences.items():
            print(f"  {topic} differs: {what}")
        if differences:
            return 1
    return 0 if summary.views or summary.depth_images else 1


def _print(summary: "OfflineSummary", output: Path, mode: str) -> None:
    """Print what was made, and what was not and why."""
    made = (
        f"depth of {summary.depth_images} ({summary.metric_jobs} in metres, the others relative)"
        if mode == "depth"
        else f"{summary.jobs} jobs ({summary.metric_jobs} with metric scale), {summary.views} views"
    )
    print(f"{summary.images} images, {summary.keyframes} keyframes, {made} -> {output}")
    if summary.failed_jobs:
        print(f"  {summary.failed_jobs} jobs failed")
    for cause, count in sorted(summary.dropped.items()):
        print(f"  dropped {count}: {cause}")
    for cause, count in sorted(summary.unplaced.items()):
        print(f"  {count} images without a pose: {cause}")
    if summary.thinned:
        print(f"  {summary.thinned} images passed over: depth.rate")
    for reason, count in summary.reasons_without_job.items():
        print(f"  {count} times no job: {reason}")
    for reason, count in summary.reasons_without_metres.most_common(3):
        print(f"  {count} times no metres: {reason}")
