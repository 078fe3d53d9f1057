"""Where to put target views: policies that turn robot state into target camera poses.

Owns one function per policy, from plain arrays to `T_fixed_cam` (optical axes, metres). `guard`
decides whether a target is acceptable; the node decides when policies run.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import (
    T_BODY_OPTICAL,
    PoseConvention,
    distance_m,
    optical_pose,
    pose_from_quaternion,
    rigid_transform,
    rotation_z,
    transform_points,
    turn_rad,
)

FloatArray = NDArray[np.floating[Any]]
Policy = Literal["none", "topic", "look_around", "stereo_baseline", "path_ahead", "frontier"]

POLICIES: tuple[Policy, ...] = (
    "none",
    "topic",
    "look_around",
    "stereo_baseline",
    "path_ahead",
    "frontier",
)

# nav_msgs/OccupancyGrid: -1 unknown, 0 free ... 100 occupied.
UNKNOWN_CELL = -1
MAX_FREE_CELL = 50
FRONTIER_SPACING_M = 1.0  # frontier targets nearer to each other would show the same thing

_UP = np.array([0.0, 0.0, 1.0])  # REP-103: z of the fixed frame points up
_MIN_STEP_M = 1e-6


class InvalidTarget(ValueError):
    """A pose that cannot be a target (NaN, zero quaternion, unknown convention)."""


def poses_as_targets(
    T_fixed_frame: FloatArray,
    poses: Sequence[tuple[Sequence[float], Sequence[float]]],
    convention: PoseConvention,
) -> list[FloatArray]:
    """Target poses of messages: (position, quaternion xyzw) pairs in one frame.

    Raises InvalidTarget naming the first pose that is not finite or has no unit quaternion.
    """
    targets: list[FloatArray] = []
    for i, (position_m, xyzw) in enumerate(poses):
        try:
            T_frame_target = pose_from_quaternion(position_m, xyzw)
            targets.append(T_fixed_frame @ optical_pose(T_frame_target, convention))
        except ValueError as error:
            raise InvalidTarget(f"target pose {i}: {error}") from error
    return targets


def look_around(T_fixed_cam: FloatArray, yaw_offsets_rad: Sequence[float]) -> list[FloatArray]:
    """The camera turned in place about the vertical of the fixed frame; positive is to the left."""
    return [
        rigid_transform(rotation_z(yaw) @ T_fixed_cam[:3, :3], T_fixed_cam[:3, 3])
        for yaw in yaw_offsets_rad
    ]


def stereo_baseline(T_fixed_cam: FloatArray, baselines_m: Sequence[float]) -> list[FloatArray]:
    """The camera moved sideways along its own x (positive is to the right), not turned."""
    return [
        rigid_transform(T_fixed_cam[:3, :3], T_fixed_cam[:3, 3] + baseline * T_fixed_cam[:3, 0])
        for baseline in baselines_m
    ]


def path_ahead(
    path_fixed_m: FloatArray,
    T_fixed_base: FloatArray,
    T_fixed_cam: FloatArray,
    spacing_m: float,
    count: int,
) -> list[FloatArray]:
    """Cameras every `spacing_m` along a path (N, 3), starting at the point nearest to the base.

    Each looks along the path's tangent with the real camera's downward tilt, without roll, at the
    real camera's height above the path. A path that ends sooner gives fewer targets. Raises
    InvalidTarget for a path that is not finite.
    """
    path = np.asarray(path_fixed_m, dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(path).all():
        raise InvalidTarget("path has NaN or infinite positions")
    if not spacing_m > 0:
        raise ValueError(f"path spacing is {spacing_m} m; > 0 is needed")
    if len(path) == 0:
        return []
    steps = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1)
    path = path[np.concatenate([[True], steps > _MIN_STEP_M])]
    if len(path) < 2:
        return []
    lengths = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1)
    arc_m = np.concatenate([[0.0], np.cumsum(lengths)])
    start_m = _nearest_arc_m(path, arc_m, T_fixed_base[:2, 3])
    height_m = T_fixed_cam[2, 3] - np.interp(start_m, arc_m, path[:, 2])
    tilt_rad = np.arcsin(np.clip(T_fixed_cam[2, 2], -1.0, 1.0))  # of the optical axis above level

    targets = []
    for i in range(1, count + 1):
        at_m = start_m + i * spacing_m
        if at_m > arc_m[-1] + _MIN_STEP_M:
            break
        position = np.array([np.interp(at_m, arc_m, path[:, axis]) for axis in range(3)])
        segment = min(int(np.searchsorted(arc_m, at_m, side="right")) - 1, len(lengths) - 1)
        tangent = path[segment + 1, :2] - path[segment, :2]
        heading_rad = float(np.arctan2(tangent[1], tangent[0]))
        targets.append(_camera_towards(position + height_m * _UP, heading_rad, float(tilt_rad)))
    return targets


def frontier(
    occupancy: NDArray[np.int8],
    resolution_m: float,
    T_fixed_grid: FloatArray,
    T_fixed_cam: FloatArray,
    radius_m: float,
    count: int,
) -> list[FloatArray]:
    """Cameras on the nearest frontier cells of an occupancy grid (rows, columns), facing unknown.

    A frontier cell is free and has unknown cells among its eight neighbours; the camera stands on
    it at the real camera's height and tilt and looks towards the mean of those neighbours. Targets
    keep a distance from each other; ties go to the lower row, then column.
    """
    cells = np.asarray(occupancy)
    if cells.ndim != 2 or not resolution_m > 0:
        raise ValueError(
            f"occupancy grid has shape {cells.shape} and resolution {resolution_m} m; "
            "two dimensions and a resolution > 0 are needed"
        )
    unknown = np.pad(cells == UNKNOWN_CELL, 1)
    free = (cells >= 0) & (cells < MAX_FREE_CELL)
    towards_row, towards_column = np.zeros(cells.shape), np.zeros(cells.shape)
    rows, columns = cells.shape
    for d_row in (-1, 0, 1):
        for d_column in (-1, 0, 1):
            neighbour = unknown[1 + d_row : 1 + d_row + rows, 1 + d_column : 1 + d_column + columns]
            towards_row += d_row * neighbour
            towards_column += d_column * neighbour
    # Unknown cells on opposite sides cancel: no side is the unknown one.
    row, column = np.nonzero(free & ((towards_row != 0) | (towards_column != 0)))
    centres = np.stack(
        [(column + 0.5) * resolution_m, (row + 0.5) * resolution_m, np.zeros(len(row))], axis=1
    )
    centres = transform_points(T_fixed_grid, centres)
    direction = np.stack(
        [towards_column[row, column], towards_row[row, column], np.zeros(len(row))], axis=1
    )
    direction = direction @ T_fixed_grid[:3, :3].T
    distances = np.linalg.norm(centres[:, :2] - T_fixed_cam[:2, 3], axis=1)
    tilt_rad = float(np.arcsin(np.clip(T_fixed_cam[2, 2], -1.0, 1.0)))

    targets: list[FloatArray] = []
    for i in np.argsort(distances, kind="stable"):
        if distances[i] > radius_m or len(targets) == count:
            break
        position = np.array([centres[i, 0], centres[i, 1], T_fixed_cam[2, 3]])
        if all(
            np.linalg.norm(position - target[:3, 3]) >= FRONTIER_SPACING_M for target in targets
        ):
            heading_rad = float(np.arctan2(direction[i, 1], direction[i, 0]))
            targets.append(_camera_towards(position, heading_rad, tilt_rad))
    return targets


def nearest_targets(
    T_fixed_targets: Sequence[FloatArray], T_fixed_cam: FloatArray, max_targets: int
) -> list[FloatArray]:
    """The `max_targets` poses nearest to a camera (turn breaks ties), in their original order.

    For automatic policies only: a goal with too many targets is rejected, not cut.
    """
    order = sorted(
        range(len(T_fixed_targets)),
        key=lambda i: (
            distance_m(T_fixed_cam, T_fixed_targets[i]),
            turn_rad(T_fixed_cam, T_fixed_targets[i]),
            i,
        ),
    )
    return [T_fixed_targets[i] for i in sorted(order[:max_targets])]


def _camera_towards(position_m: FloatArray, heading_rad: float, tilt_rad: float) -> FloatArray:
    """`T_fixed_cam` of a level camera: yaw about z, then the optical axis raised by the tilt."""
    c, s = np.cos(tilt_rad), np.sin(tilt_rad)
    R_level_tilted = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    R_fixed_body = rotation_z(heading_rad) @ R_level_tilted
    return rigid_transform(R_fixed_body @ T_BODY_OPTICAL[:3, :3], position_m)


def _nearest_arc_m(path: FloatArray, arc_m: FloatArray, point_xy: FloatArray) -> float:
    """Arc length at which a polyline comes nearest to a point, seen from above."""
    starts, ends = path[:-1, :2], path[1:, :2]
    along = ends - starts
    squared = (along**2).sum(axis=1)
    fraction = np.clip(((point_xy - starts) * along).sum(axis=1) / squared, 0.0, 1.0)
    nearest = starts + fraction[:, None] * along
    segment = int(np.argmin(((nearest - point_xy) ** 2).sum(axis=1)))
    return float(arc_m[segment] + fraction[segment] * (arc_m[segment + 1] - arc_m[segment]))
