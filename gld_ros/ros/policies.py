"""What automatic policies take from topics: target poses, a path, a map; in the fixed frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.node import Node

from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.frames import FloatArray
from gld_ros.mapping.job_planner import OccupancyGrid, PolicyInput
from gld_ros.mapping.session import SynthesisSession
from gld_ros.mapping.targets import poses_as_targets
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.distribution.quaternions import pose_matrix
from gld_ros.ros.outputs import latched

Pose = tuple[Sequence[float], Sequence[float]]  # position, quaternion xyzw


class PolicyInputs:
    """The latest message of each topic that a policy follows, from configure to cleanup."""

    def __init__(
        self, node: Node, session: SynthesisSession, faults: FaultLog, callback_group: Any
    ) -> None:
        self._node, self._session, self._faults = node, session, faults
        self._latest: dict[str, Any] = {}
        self._subscriptions = [
            node.create_subscription(
                rclpy_type(kind),
                topic,
                lambda message, topic=topic: self._latest.__setitem__(topic, message),
                qos,
                callback_group=callback_group,
            )
            for topic, kind, qos in (
                ("target_poses", "geometry_msgs/msg/PoseArray", 1),
                ("path", "nav_msgs/msg/Path", 1),
                ("map", "nav_msgs/msg/OccupancyGrid", latched()),
            )
        ]

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def read(self) -> PolicyInput:
        """Return what the present policy needs; with the reason where it cannot be placed."""
        policy = self._session.parameters.policy.type
        topic = {"topic": "target_poses", "path_ahead": "path", "frontier": "map"}.get(policy)
        message = self._latest.get(topic) if topic else None
        if message is None:
            return PolicyInput()
        # A map is true until the next one comes, so it is placed where its frame is now.
        stamp_ns = 0 if policy == "frontier" else stamp_to_ns(message.header.stamp)
        try:
            T_fixed_frame = self._session.lookup_fixed(message.header.frame_id, stamp_ns)
            if policy == "topic":
                convention = self._session.parameters.policy.pose_convention
                targets = poses_as_targets(T_fixed_frame, plain_poses(message.poses), convention)
                return PolicyInput(topic_targets=targets)
            if policy == "frontier":
                return PolicyInput(grid=_grid(message, T_fixed_frame))
            positions_m = [position for position, _ in plain_poses(p.pose for p in message.poses)]
            path_m = np.array(positions_m).reshape(-1, 3)
            return PolicyInput(
                T_fixed_base=self._session.lookup_fixed(self._session.parameters.frames.base),
                path_fixed_m=path_m @ T_fixed_frame[:3, :3].T + T_fixed_frame[:3, 3],
            )
        except (TransformUnavailable, ValueError) as error:  # of TF, or of the message itself
            self._faults.throttled("policy input", "warning", f"policy {policy}: {error}")
            return PolicyInput(missing=str(error))


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
    T_frame_grid = pose_matrix(*plain_poses([info.origin])[0])
    cells = np.array(message.data, np.int8).reshape(info.height, info.width)
    return OccupancyGrid(cells, float(info.resolution), T_fixed_frame @ T_frame_grid)
