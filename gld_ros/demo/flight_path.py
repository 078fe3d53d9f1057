"""The path of a fly-through: smooth, through recorded camera poses, and partly away from them.

On the recorded path nearly everything was measured. To show what was not, the camera swings around
the point that it looks at, sideways, up and back, twice on its way.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from gld_ros.geometry.poses import distance_m, turn_rad

SWINGS = 2
VIEWS_PER_KNOT = 6  # between recorded poses that the path goes through; the others shake it
_UP, _BACK = 0.5, 0.5  # of the swing sideways
_MIN_STEP = 0.02  # of the depth, or this many radians, between poses that the path goes through

FloatArray = NDArray[np.floating[Any]]


def flight_path(
    T_fixed_cam: Sequence[FloatArray], num_views: int, depth_m: float, off_path: float
) -> list[FloatArray]:
    """Poses (4, 4) of a camera that flies past recorded ones, from the first to the last.

    `depth_m` is how far away the scene is, in the unit of the poses; `off_path` how far the path is
    left, as a share of it. Raises ValueError for fewer than 2 views or for cameras in one place.
    """
    if num_views < 2:
        raise ValueError(f"{num_views} views are not a flight; at least 2 are needed")
    if not depth_m > 0 or off_path < 0:
        raise ValueError(f"depth {depth_m} must be above 0, and off_path {off_path} not below")
    way = _way(T_fixed_cam, depth_m)
    knots = _knots(way, max(2, num_views // VIEWS_PER_KNOT))
    if len(knots) < 2:
        raise ValueError("the recorded cameras are all in one place and look the same way")
    poses = [T_fixed_cam[k] for k in knots]
    place = CubicSpline(way[knots], [T[:3, 3] for T in poses], bc_type="natural")
    turn = RotationSpline(way[knots], Rotation.from_matrix([T[:3, :3] for T in poses]))
    path: list[FloatArray] = []
    for along in np.linspace(0.0, 1.0, num_views):
        at = way[knots[0]] + along * (way[knots[-1]] - way[knots[0]])
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = turn(at).as_matrix(), place(at)
        path.append(T @ _swing(float(along), depth_m, off_path))
    return path


def _way(T_fixed_cam: Sequence[FloatArray], depth_m: float) -> FloatArray:
    """How far each pose (N,) is along the path: moves in depths of the scene, plus turns."""
    steps = [
        distance_m(a, b) / depth_m + turn_rad(a, b) for a, b in itertools.pairwise(T_fixed_cam)
    ]
    return np.cumsum([0.0, *steps])


def _knots(way: FloatArray, count: int) -> list[int]:
    """The recorded poses nearest to evenly spaced places on the way, with distances between."""
    knots: list[int] = []
    for at in np.linspace(way[0], way[-1], count):
        nearest = int(np.argmin(np.abs(way - at)))
        if not knots or way[nearest] - way[knots[-1]] > _MIN_STEP:
            knots.append(nearest)
    return knots


def _swing(along: float, depth_m: float, off_path: float) -> FloatArray:
    """T_path_cam (4, 4): off the path at a place from 0 to 1, looking at the same point as on it.

    Optical axes: x right, y down, z forward.
    """
    phase = 2.0 * np.pi * SWINGS * along
    away = np.sin(phase / 2) ** 2
    x, y, z = off_path * depth_m * np.array([np.sin(phase), -_UP * away, -_BACK * away])
    forward = np.array([-x, -y, depth_m - z])
    forward /= np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = x, y, z
    return T
