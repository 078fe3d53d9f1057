"""What automatic policies take from topics: target poses, a path, a map; in the fixed frame.

Messages may be from rclpy or from a bag. The driver knows which message is the latest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gld_ros.geometry.poses import pose_from_quaternion
from gld_ros.mapping.frames import FloatArray
from gld_ros.mapping.job_planner import OccupancyGrid, PolicyInput
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.mapping.targets import Policy, poses_as_targets
from gld_ros.messages.stamps import stamp_to_ns

Pose = tuple[Sequence[float], Sequence[float]]  # position, quaternion xyzw
Lookup = Callable[[str, int], FloatArray]  # T_fixed_frame (4, 4) at a stamp, 0 being now


@dataclass(frozen=True)
class PolicyTopic:
    """The topic that a policy follows, named below the node."""

    name: str
    type: str


POLICY_TOPICS: Mapping[Policy, PolicyTopic] = {
    "topic": PolicyTopic("target_poses", "geometry_msgs/msg/PoseArray"),
    "path_ahead": PolicyTopic("path", "nav_msgs/msg/Path"),
    "frontier": PolicyTopic("map", "nav_msgs/msg/OccupancyGrid"),
}


def policy_input(message: Any, parameters: SessionParameters, lookup_fixed: Lookup) -> PolicyInput:
    """What the current policy needs of the latest message on its topic.

    Raises TransformUnavailable where it cannot be placed, ValueError for a bad message.
    """
    policy = parameters.policy.type
    # A map is valid until the next one arrives, so it is placed where its frame is now.
    stamp_ns = 0 if policy == "frontier" else stamp_to_ns(message.header.stamp)
    T_fixed_frame = lookup_fixed(message.header.frame_id, stamp_ns)
    if policy == "topic":
        convention = parameters.policy.pose_convention
        targets = poses_as_targets(T_fixed_frame, plain_poses(message.poses), convention)
        return PolicyInput(topic_targets=targets)
    if policy == "frontier":
        return PolicyInput(grid=_grid(message, T_fixed_frame))
    positions_m = [position for position, _ in plain_poses(p.pose for p in message.poses)]
    path_m = np.array(positions_m).reshape(-1, 3)
    return PolicyInput(
        T_fixed_base=lookup_fixed(parameters.frames.base, 0),
        path_fixed_m=path_m @ T_fixed_frame[:3, :3].T + T_fixed_frame[:3, 3],
    )


def plain_poses(poses: Any) -> list[Pose]:
    """Return geometry_msgs/Pose messages as (position, quaternion xyzw) pairs."""
    return [
        (
            (p.position.x, p.position.y, p.position.z),
            (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w),
        )
        for p in poses
    ]


def _grid(message: Any, T_fixed_frame: FloatArray) -> OccupancyGrid:
    """Place a nav_msgs/OccupancyGrid; raises ValueError for a bad size or origin."""
    info = message.info
    T_frame_grid = pose_from_quaternion(*plain_poses([info.origin])[0])
    cells = np.array(message.data, np.int8).reshape(info.height, info.width)
    return OccupancyGrid(cells, float(info.resolution), T_fixed_frame @ T_frame_grid)
