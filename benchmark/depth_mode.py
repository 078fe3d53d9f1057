"""How right mode depth is: a bag's images by stereo and a model, judged by the bag's own depth.

    python benchmark/depth_mode.py BAG [--bundle tiny] [--image FILE.png]

The depth camera of the bag is the truth and is not measured with. Prints, by label, the share of
all pixels, and the relative error where the truth is known. The image has rows of images, depth
and labels.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
from gld_ros.bags.reader import BagReader
from gld_ros.depth_colours import depth_colours
from gld_ros.evaluation.withheld_grid import cell, write_cells
from gld_ros.mapping.model import load_model
from gld_ros.mapping.offline import OfflineRun
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.provenance_colours import provenance_colours
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.ros.parameters.files import load_snapshot

LABELS = (Provenance.MEASURED, Provenance.COMPLETED)
IMAGE_COLUMNS = 6


def truths_of(reader: BagReader) -> dict[int, Any]:
    """Depth images of the first camera, by their stamps."""
    topic = bag_cameras(reader)[0].depth_topic
    if topic is None:
        raise SystemExit(f"{reader.path} has no depth to judge by")
    messages = (message.content for message in reader.messages([topic]))
    return {stamp_to_ns(m.header.stamp): depth_m_from_message(m) for m in messages}


def run(bag: Path, bundle: str, image: Path | None) -> None:
    """Run the bag in mode depth and print what is right of it."""
    with BagReader(bag) as reader:
        cameras = [camera.name for camera in bag_cameras(reader)]
        settings = ["mode=depth", f"model.bundle={bundle}", "depth.source=stereo", "device=cpu"]
        settings.append(f"fixed_frame={bag_fixed_frame(reader)}")
        parameters = load_snapshot(None, settings, cameras).session
        offline = OfflineRun(reader, load_model(parameters), parameters)
        truths = truths_of(reader)
        views = []
        for job in offline.jobs():
            view = job.products[0].observed
            truth_m = truths.get(job.request.anchor.stamp_ns)
            if view is not None and truth_m is not None:
                views.append((view, truth_m))
    print(f"{offline.summary.images} images, {offline.summary.metric_jobs} in metres")
    for label in LABELS:
        shares, errors = [], []
        for view, truth_m in views:
            here = np.zeros(truth_m.shape, bool)
            if view.depth_m is not None and view.depth_m.shape == truth_m.shape:
                here = view.provenance == label
                known = here & (truth_m > 0) & np.isfinite(truth_m) & np.isfinite(view.depth_m)
                errors.append(np.abs(view.depth_m[known] / truth_m[known] - 1))
            shares.append(here.mean())
        error = np.concatenate(errors) if errors else np.zeros(0)
        found = f"median error {np.median(error):.1%}, over 20 %: {(error > 0.2).mean():.1%}"
        share = f"{np.mean(shares):.1%} of all pixels"
        print(f"{label.name}: {share}, {found if error.size else 'not in the truth'}")
    if image is not None:
        chosen = np.linspace(0, len(views) - 1, IMAGE_COLUMNS).round().astype(int)
        rows = [
            [cell(np.asarray(views[i][0].keyframe.image), "image") for i in chosen],
            [cell(depth_colours(views[i][0].depth_m), "depth") for i in chosen],
            [cell(provenance_colours(views[i][0].provenance), "label") for i in chosen],
        ]
        write_cells(rows, image, "blue completed")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--image", type=Path)
    given = parser.parse_args()
    run(given.bag, given.bundle, given.image)
