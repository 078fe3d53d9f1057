"""`gld-ros rrd`: a written bag as a recording for the Rerun viewer."""

import argparse
from pathlib import Path

HELP = "turn a bag of results into a recording for the Rerun viewer"
DESCRIPTION = """\
Write every product of a bag that `gld-ros bag`, `gld-ros bags` or a recorder of the node's topics
has written, and its TF, as an .rrd file with a layout: clouds and cameras in 3D, the images of
every frame, the figures of every job. Open it with `rerun FILE`.

Needs Rerun (pip install rerun-sdk); what was recorded with another version opens with a viewer of
that version.
"""

EXAMPLES = """\
examples:
  gld-ros bag drive views && gld-ros rrd views views.rrd
  rerun views.rrd
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros rrd`."""
    parser.add_argument("bag", type=Path, help="bag to read: folder, .mcap or .db3")
    parser.add_argument("output", type=Path, help="file to write, ending in .rrd; must not exist")


def run(args: argparse.Namespace) -> int:
    """Write the recording."""
    if args.output.suffix != ".rrd":
        raise ValueError(
            f"{args.output} does not end in .rrd, by which the viewer knows recordings"
        )

    from tqdm import tqdm

    from gld_ros.bags.reader import BagReader
    from gld_ros.mapping.rerun_recording import product_topics, write_rerun_recording

    with BagReader(args.bag) as bag:
        topics = product_topics(bag)
        total = sum(bag.topics[topic].num_messages for topic in topics)
        with tqdm(total=total, unit="message", desc="bag", disable=None) as bar:
            unplaced = write_rerun_recording(bag, args.output, bar.update)
    print(f"{total} messages of {len(topics)} topics -> {args.output}")
    for topic, count in unplaced.items():
        print(f"  {topic}: {count} messages have no pose in TF and are not placed in 3D")
    return 0
