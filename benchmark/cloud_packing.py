"""Time to make a PointCloud2 of a million points on one core, as the node publishes it.

Run: `OMP_NUM_THREADS=1 taskset -c 0 python benchmark/cloud_packing.py` (after `. ./env.sh`; without
ROS the bag library's message class is filled instead, and the line says so).
"""

import argparse
import statistics
import time

import numpy as np

from gld_ros.ros.clouds import cloud_message


def message_types() -> tuple[str, type, type, object]:
    """Name, PointCloud2, PointField and an empty header of whichever family is here."""
    try:
        from sensor_msgs.msg import PointCloud2, PointField
        from std_msgs.msg import Header

        return "rclpy", PointCloud2, PointField, Header()
    except ImportError:
        from rosbags.typesys import Stores, get_typestore

        types = get_typestore(Stores.ROS2_KILTED).types
        stamp = types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
        cloud, field = types["sensor_msgs/msg/PointCloud2"], types["sensor_msgs/msg/PointField"]
        return "rosbags", cloud, field, header


def main() -> None:
    """Print the median and the extremes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()

    random = np.random.default_rng(0)
    xyz_m = random.normal(size=(args.points, 3)).astype(np.float32)
    rgb = random.integers(0, 256, (args.points, 3), dtype=np.uint8)
    confidence = random.random(args.points, dtype=np.float32)
    provenance = random.integers(0, 5, args.points, dtype=np.uint8)
    family, cloud_type, field_type, header = message_types()

    wall_ms, cpu_ms = [], []
    for _ in range(args.repeats + 2):
        wall, cpu = time.perf_counter(), time.process_time()
        cloud_message(xyz_m, rgb, confidence, provenance, 1, header, cloud_type, field_type)
        wall_ms.append(1e3 * (time.perf_counter() - wall))
        cpu_ms.append(1e3 * (time.process_time() - cpu))
    wall_ms, cpu_ms = wall_ms[2:], cpu_ms[2:]  # the first runs warm the caches
    print(
        f"{args.points} points into a {family} PointCloud2: median {statistics.median(wall_ms):.1f}"
        f" ms wall ({min(wall_ms):.1f} to {max(wall_ms):.1f}), {statistics.median(cpu_ms):.1f} ms"
        " of one core"
    )


if __name__ == "__main__":
    main()
