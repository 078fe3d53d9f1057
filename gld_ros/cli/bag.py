"""`gld-ros bag`: runs a whole bag through the node's session and writes what it would publish."""

import argparse
from pathlib import Path

from gld_ros.cli._bag_run import BagOptions, BagRunner, add_bag_options, shown_on

HELP = "make views or depth for a bag, offline: nothing is dropped, results repeat exactly"
DESCRIPTION = """\
Read images, CameraInfo and TF from a bag, run every job, and write a new bag with the node's
topics. The same bag, parameters and --threads give the same bytes. What is withheld or left out is
counted, with its reasons. Exit status 1 if no view could be made. `gld-ros bags` does the same for
many bags.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros bag`."""
    parser.add_argument("input", type=Path, help="bag to read: folder, .mcap or .db3")
    parser.add_argument("output", type=Path, help="bag to write; must not exist")
    add_bag_options(parser)
    parser.add_argument(
        "--require-metric",
        action="store_true",
        help="exit 1 if no job has metric scale, so that no depth and no cloud was written",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument(
        "--compare", type=Path, metavar="BAG", help="exit 1 unless the output equals this bag"
    )


def run(args: argparse.Namespace) -> int:
    """Run the bag; exit status 1 if nothing useful was made, or --compare found a difference."""
    import json
    import logging
    import sys

    from tqdm import tqdm

    from gld_ros.mapping.offline import bags_differ
    from gld_ros.mapping.offline_summary import summary_document, summary_lines

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options = BagOptions.of(args)
    runner = BagRunner(options)
    with tqdm(unit="message", desc="bag", disable=None) as bar:
        summary = runner.run(args.input, args.output, shown_on(bar))
    random_weights = runner.load().random_weights
    if random_weights:
        print("WARNING: this bundle has RANDOM weights; its output is meaningless", file=sys.stderr)
    problems = []
    if not (summary.views or summary.depth_images):
        problems.append("no view and no depth could be made")
    if args.require_metric and not summary.metric_jobs:
        problems.append(f"none of {summary.jobs} jobs is metric")
    differences = bags_differ(args.output, args.compare) if args.compare else {}
    if args.json:
        document = {
            "input": str(args.input),
            "output": str(args.output),
            "random_weights": random_weights,
            **summary_document(summary),
            "differences": dict(differences),
            "problems": problems,
        }
        print(json.dumps(document, indent=1))
    else:
        first, *others = summary_lines(summary)
        print(f"{first} -> {args.output}", *others, sep="\n")
        for topic, what in differences.items():
            print(f"  {topic} differs: {what}")
        for problem in problems:
            print(f"gld-ros bag: {problem}", file=sys.stderr)
    return 1 if problems or differences else 0
