"""Time to classify imagined views against real ones and to make their products, on one core.

Run: `OMP_NUM_THREADS=1 taskset -c 0 python benchmark/provenance.py`. Owns only the measurement; the
scene is a box room with a step in depth, seen from places a hand's breadth apart.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from gld_ros.cli._arguments import SIZE_FORM, size_hw
from gld_ros.mapping.clouds import cloud_from_depth
from gld_ros.mapping.provenance import DepthView, Provenance, classify_view, seen_surface


def box_depth(T_world_cam: np.ndarray, K_px: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Z-depth (H, W) inside a room of 6 x 4 x 6 m, half of its back wall 1.5 m nearer."""
    v, u = np.mgrid[0 : hw[0], 0 : hw[1]].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_px).T
    origin = T_world_cam[:3, 3]
    with np.errstate(divide="ignore"):
        walls = np.where(rays > 0, 1.0, -1.0) * [3.0, 2.0, 3.0]
        depth = ((walls - origin) / rays).min(-1)
    step = (1.5 - origin[2]) * rays
    hits = (step[..., 0] + origin[0] > 0) & (step[..., 2] < depth)
    return np.where(hits, 1.5 - origin[2], depth).astype(np.float32)


def shifted(x_m: float) -> np.ndarray:
    """A camera moved sideways."""
    T = np.eye(4)
    T[0, 3] = x_m
    return T


def milliseconds(action: Callable[[], object], repeats: int) -> list[float]:
    """Processor time of each of `repeats` calls."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append((time.process_time() - started) * 1e3)
    return times


def main() -> None:
    """Print one row per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=size_hw, default=(378, 504), metavar=SIZE_FORM)
    parser.add_argument("--views", type=int, default=4, help="reference views")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    hw = arguments.size
    K_px = np.array([[0.8 * hw[1], 0, hw[1] / 2], [0, 0.8 * hw[1], hw[0] / 2], [0, 0, 1]])
    places = [shifted(0.1 * (i + 1)) for i in range(arguments.views)]
    views = [DepthView(box_depth(T, K_px, hw), K_px, T) for T in places]
    target = box_depth(shifted(-0.1), K_px, hw)
    surfaces = [seen_surface(view, 0.05) for view in views]
    provenance = classify_view(target, K_px, shifted(-0.1), surfaces)
    rgb = np.zeros((*hw, 3), np.uint8)
    confidence = np.ones(hw, np.float32)

    rows = {
        f"prepare {len(views)} real views (per job)": lambda: [
            seen_surface(v, 0.05) for v in views
        ],
        "classify one imagined view": lambda: classify_view(target, K_px, shifted(-0.1), surfaces),
        "its cloud": lambda: cloud_from_depth(
            target, K_px, shifted(-0.1), rgb, confidence, provenance.labels, 0
        ),
    }
    shares = ", ".join(f"{p.name.lower()} {provenance.fraction(p):.2f}" for p in Provenance if p)
    print(f"{hw[1]}x{hw[0]}, {len(views)} reference views: {shares}")
    for name, action in rows.items():
        times = milliseconds(action, arguments.repeats)
        print(f"{name:36s} median {statistics.median(times):6.1f} ms  best {min(times):6.1f} ms")


if __name__ == "__main__":
    main()
