"""Poses between frames at a time, and transforms from and to messages.

`gld_ros.messages.frame_tree` has the rules; here the poses on a route are multiplied.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gld_ros.geometry.poses import (
    interpolated_pose,
    invert_rigid,
    pose_from_vector,
    quaternion_xyzw,
)
from gld_ros.messages.frame_tree import (
    AheadTransform,
    Ancestor,
    FrameTree,
    InvalidTransform,
    Leg,
    checked_sample,
)
from gld_ros.messages.stamps import make_header, stamp_to_ns
from gld_ros.messages.types import Types

FloatArray = NDArray[np.floating[Any]]


class TfBuffer(Protocol):
    """The interface of a TF buffer, whichever library multiplies poses."""

    def insert(
        self,
        parent_frame: str,
        child_frame: str,
        translation_m: ArrayLike,
        rotation_xyzw: ArrayLike,
        stamp_ns: int,
        *,
        static: bool = False,
    ) -> None:
        """Add T_parent_child at a time; raises InvalidTransform."""

    def lookup(
        self, target_frame: str, source_frame: str, stamp_ns: int | None = None
    ) -> FloatArray:
        """Return T_target_source (4, 4); raises a TransformUnavailable."""

    def frames(self) -> list[str]:
        """Every frame that a transform has named, by name."""

    def chain_above(self, frame_id: str) -> list[Ancestor]:
        """The frame and all above it up to its root; raises UnknownFrame."""

    def clear(self) -> None:
        """Forget what depends on time; static transforms stay."""


class TransformBuffer:
    """Transforms of the last `cache_time_s` seconds per edge; safe to use from several threads.

    Neither extrapolates nor interpolates over more than MAX_GAP_S; `tree` has what is known.
    """

    def __init__(self, cache_time_s: float = 30.0) -> None:
        self.tree = FrameTree(cache_time_s)

    def insert(
        self,
        parent_frame: str,
        child_frame: str,
        translation_m: ArrayLike,
        rotation_xyzw: ArrayLike,
        stamp_ns: int,
        *,
        static: bool = False,
    ) -> None:
        """Add T_parent_child at a time, in any order. Raises InvalidTransform."""
        self.tree.insert(
            checked_sample(
                parent_frame, child_frame, translation_m, rotation_xyzw, stamp_ns, static=static
            )
        )

    def lookup(
        self, target_frame: str, source_frame: str, stamp_ns: int | None = None
    ) -> FloatArray:
        """Return T_target_source (4, 4) float64, which maps points of the source to the target.

        Raises what `FrameTree.route` does.
        """
        route = self.tree.route(target_frame, source_frame, stamp_ns)
        return invert_rigid(_product(route.from_target)) @ _product(route.from_source)

    def frames(self) -> list[str]:
        """Every frame that a transform has named, by name."""
        return self.tree.frames()

    def chain_above(self, frame_id: str) -> list[Ancestor]:
        """The frame and all above it up to its root, by the newest samples. Raises UnknownFrame."""
        return self.tree.chain_above(frame_id)

    def clear(self) -> None:
        """Discard all non-static edges; static ones are kept, since they are not sent again."""
        self.tree.clear()


def _product(legs: list[Leg]) -> FloatArray:
    """T_top_bottom (4, 4) of the edges from a frame upwards."""
    T_above_frame = np.eye(4)
    for leg in legs:
        T_above_frame = pose_from_vector(interpolated_pose(*leg)) @ T_above_frame
    return T_above_frame


def insert_message(
    buffer: TfBuffer, message: Any, *, static: bool, newest_ns: int | None = None
) -> list[InvalidTransform]:
    """Insert all transforms of a tf2_msgs/TFMessage; return what was rejected.

    Moving transforms with stamps above `newest_ns`, if given, are rejected as AheadTransform.
    """
    rejected: list[InvalidTransform] = []
    for transform in message.transforms:
        p, q = transform.transform.translation, transform.transform.rotation
        stamp_ns = stamp_to_ns(transform.header.stamp)
        if newest_ns is not None and not static and stamp_ns > newest_ns:
            ahead_s = (stamp_ns - newest_ns) * 1e-9
            rejected.append(
                AheadTransform(
                    f"{transform.header.frame_id} <- {transform.child_frame_id}: from the future, "
                    f"{ahead_s:.1f} s beyond what is taken; synchronise the clocks"
                )
            )
            continue
        try:
            buffer.insert(
                transform.header.frame_id,
                transform.child_frame_id,
                (p.x, p.y, p.z),
                (q.x, q.y, q.z, q.w),
                stamp_ns,
                static=static,
            )
        except InvalidTransform as error:
            rejected.append(error)
    return rejected


def transform_message(
    T_parent_child: FloatArray, parent: str, child: str, stamp_ns: int, types: Types
) -> Any:
    """Return a geometry_msgs/TransformStamped of a rigid 4x4 matrix."""
    x, y, z = (float(v) for v in T_parent_child[:3, 3])
    qx, qy, qz, qw = (float(v) for v in quaternion_xyzw(T_parent_child[:3, :3]))
    return types("geometry_msgs/msg/TransformStamped")(
        header=make_header(stamp_ns, parent, types),
        child_frame_id=child,
        transform=types("geometry_msgs/msg/Transform")(
            translation=types("geometry_msgs/msg/Vector3")(x=x, y=y, z=z),
            rotation=types("geometry_msgs/msg/Quaternion")(x=qx, y=qy, z=qz, w=qw),
        ),
    )


def pose_message(T_frame_pose: FloatArray, types: Types) -> Any:
    """Return a geometry_msgs/Pose of a rigid 4x4 matrix."""
    x, y, z = (float(v) for v in T_frame_pose[:3, 3])
    qx, qy, qz, qw = (float(v) for v in quaternion_xyzw(T_frame_pose[:3, :3]))
    return types("geometry_msgs/msg/Pose")(
        position=types("geometry_msgs/msg/Point")(x=x, y=y, z=z),
        orientation=types("geometry_msgs/msg/Quaternion")(x=qx, y=qy, z=qz, w=qw),
    )
