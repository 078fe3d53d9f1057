"""Run a bag through the node's session without ROS, and look at what would have been published.

python examples/run_a_bag_offline.py            a tour through a rendered room
python examples/run_a_bag_offline.py BAG
"""

import sys
import tempfile
from itertools import islice
from pathlib import Path

from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
from gld_ros.bags.reader import BagReader
from gld_ros.mapping.model import load_model
from gld_ros.mapping.offline import OfflineRun
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

if len(sys.argv) > 1:
    path = Path(sys.argv[1])
else:
    path, room = Path(tempfile.mkdtemp()) / "tour", first_room_with_tour("narrow")
    write_tour_bag(path, "narrow", room, image_hw=(90, 120), seconds=10, rate_hz=3)

with BagReader(path) as bag:
    settings = ["policy.type=look_around", f"fixed_frame={bag_fixed_frame(bag)}"]
    cameras = [camera.name for camera in bag_cameras(bag)]
    parameters = load_snapshot(None, settings, cameras).session
    run = OfflineRun(bag, load_model(parameters), parameters)
    for job in islice(run.jobs(), 1):  # the first job; without islice, all of them
        for products in job.products:
            metres = "in metres" if products.scale.metric else "without scale"
            for view in products.predicted:
                share = view.quality.measured
                print(f"view {view.slot}, {metres}: {share:.0%} measured")
    print(f"{run.summary.keyframes} keyframes, {run.summary.jobs} jobs, {run.summary.views} views")
