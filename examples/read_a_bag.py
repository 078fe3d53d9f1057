"""Read a ROS 2 bag without ROS: its topics, and images with intrinsics and poses.

python examples/read_a_bag.py            a short tour through a rendered room
python examples/read_a_bag.py BAG
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from gld_ros.bags.reader import BagReader
from gld_ros.scenes.bags import open_bag
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

if len(sys.argv) > 1:
    path = Path(sys.argv[1])
else:
    path = Path(tempfile.mkdtemp()) / "tour"
    write_tour_bag(
        path, "narrow", first_room_with_tour("narrow"), image_hw=(120, 160), seconds=2, rate_hz=5
    )

with BagReader(path) as bag:
    for topic in bag.topics.values():
        print(f"{topic.num_messages:6d}  {topic.type:30s}  {topic.name}")

for recording in open_bag(path):
    frame = recording.load(0)
    x, y, z = frame.T_world_cam[:3, 3]
    print(f"{recording.scene_id}: {len(recording)} posed images {frame.rgb.shape[:2]}")
    print(f"  first camera at {x:.2f}, {y:.2f}, {z:.2f} m, focal length {frame.K_px[0, 0]:.0f} px")
    if frame.depth_m is not None:
        print(f"  its depth: {np.median(frame.depth_m[frame.depth_m > 0]):.2f} m in the middle")
