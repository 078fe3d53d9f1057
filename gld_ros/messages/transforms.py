"""Where every frame was at every moment: transforms by time, without extrapolation or waiting.

Follows tf2's rules (linear position, spherical rotation, a frame may change its parent), needs no
ROS, and bounds how old a pose may be. Leaves waiting and retrying to the caller: a lookup answers,
or raises at once what is missing.
"""

import math
import threading
from bisect import bisect_left
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gld_ros.geometry.poses import (
    interpolated_pose,
    invert_rigid,
    pose_from_vector,
    pose_vector,
    quaternion_xyzw,
)
from gld_ros.messages.stamps import NS_PER_S, make_header, stamp_to_ns
from gld_ros.messages.types import Types

FloatArray = NDArray[np.floating[Any]]

# Between samples farther apart than this a frame may have been anywhere.
MAX_GAP_S = 1.0
# After so many late samples in a row, not they are wrong but the newer ones.
RESTART_AFTER = 3


class TransformUnavailable(LookupError):
    """There is no transform between two frames at this time; the subclass says why."""

    reason = "unavailable"


class FutureTransform(TransformUnavailable):
    """The time is later than the newest sample: it may become available."""

    reason = "future"


class PastTransform(TransformUnavailable):
    """The time is earlier than the oldest sample kept: it will not become available."""

    reason = "past"


class DisconnectedFrames(TransformUnavailable):
    """Both frames are known, but no chain of transforms joins them."""

    reason = "disconnected"


class UnknownFrame(TransformUnavailable):
    """No transform has named one of the frames."""

    reason = "unknown_frame"


class InvalidTransform(ValueError):
    """A transform that cannot be right: not finite, no rotation, or a loop of frames."""


class LateTransform(InvalidTransform):
    """A transform from before all that is kept: a publisher's clock jumped, forth or back."""


class AheadTransform(InvalidTransform):
    """A transform from a time that is far ahead: it would hide all that come after it."""


def checked_pose(
    parent_frame: str, child_frame: str, translation_m: ArrayLike, rotation_xyzw: ArrayLike
) -> tuple[str, str, FloatArray]:
    """Return parent, child and pose vector as a buffer keeps them. Raises InvalidTransform."""
    parent, child = _name(parent_frame), _name(child_frame)
    if not parent or not child or parent == child:
        raise InvalidTransform(f"transform {parent!r} <- {child!r} does not join two frames")
    try:
        return parent, child, pose_vector(translation_m, rotation_xyzw)
    except ValueError as error:
        raise InvalidTransform(f"transform {parent} <- {child}: {error}") from error


def _name(frame: str) -> str:
    return frame.lstrip("/")  # as tf2 does


class _Edge:
    """T_parent_child over time, by rising stamp; a static edge has one pose for all times."""

    def __init__(self, child: str, static: bool) -> None:
        self.child = child
        self.static = static
        self.stamps_ns: list[int] = []
        self.samples: list[tuple[str, FloatArray]] = []  # parent, pose vector
        self.parents: set[str] = set()
        self._late: list[tuple[int, str, FloatArray]] = []  # the present run of late samples

    @property
    def parent(self) -> str:
        """The parent in the newest sample."""
        return self.samples[-1][0]

    def behind_ns(self, stamp_ns: int) -> int:
        """How far a stamp lies behind the newest one."""
        return self.stamps_ns[-1] - stamp_ns if self.stamps_ns else 0

    def insert(
        self, stamp_ns: int, parent: str, pose: FloatArray, cache_ns: float, max_gap_ns: float
    ) -> bool:
        """Keep a sample; returns False for one older than the cache, unless it completes a run."""
        self.parents.add(parent)
        if self.static:
            self.samples = [(parent, pose)]
            return True
        behind_ns = self.behind_ns(stamp_ns)
        if behind_ns > max_gap_ns:
            rising = self._late if self._late and self._late[-1][0] < stamp_ns else []
            self._late = [*rising, (stamp_ns, parent, pose)]
            if len(self._late) == RESTART_AFTER and math.isfinite(cache_ns):
                kept = bisect_left(self.stamps_ns, self._late[0][0])
                self.stamps_ns[kept:] = [stamp for stamp, _, _ in self._late]
                self.samples[kept:] = [(parent, pose) for _, parent, pose in self._late]
                self._late = []
                return True
            if behind_ns > cache_ns:
                return False
        else:
            self._late = []
        place = bisect_left(self.stamps_ns, stamp_ns)
        if place < len(self.stamps_ns) and self.stamps_ns[place] == stamp_ns:
            self.samples[place] = parent, pose
        else:
            self.stamps_ns.insert(place, stamp_ns)
            self.samples.insert(place, (parent, pose))
        old = bisect_left(self.stamps_ns, self.stamps_ns[-1] - cache_ns)
        if old > 64:  # in batches, since each removal moves the rest
            del self.stamps_ns[:old], self.samples[:old]
        return True

    def at(self, stamp_ns: int, max_gap_ns: float) -> tuple[str, FloatArray]:
        """Parent and pose vector at a time. Raises PastTransform or FutureTransform."""
        if self.static:
            return self.samples[0]
        name, stamps_ns = f"{self.parent} <- {self.child}", self.stamps_ns
        if stamp_ns < stamps_ns[0]:
            raise PastTransform(f"{name} begins {_seconds(stamps_ns[0] - stamp_ns)} later")
        if stamp_ns > stamps_ns[-1]:
            late = _seconds(stamp_ns - stamps_ns[-1])
            raise FutureTransform(f"{name} is known up to {late} before that")
        place = bisect_left(stamps_ns, stamp_ns)
        if stamps_ns[place] == stamp_ns:
            return self.samples[place]
        (parent, first), (next_parent, second) = self.samples[place - 1 : place + 1]
        before_ns, after_ns = stamps_ns[place - 1 : place + 1]
        if parent != next_parent:
            raise PastTransform(f"{self.child} moves from {parent} to {next_parent} just then")
        if after_ns - before_ns > max_gap_ns:
            gap, limit = _seconds(after_ns - before_ns), _seconds(max_gap_ns)
            raise FutureTransform(
                f"{name} has no sample within {gap} around that; the limit is {limit}"
            )
        ratio = (stamp_ns - before_ns) / (after_ns - before_ns)
        return parent, interpolated_pose(first, second, ratio)


def _seconds(duration_ns: float) -> str:
    return f"{duration_ns / NS_PER_S:.3f} s"


class TransformBuffer:
    """Transforms of the last `cache_time_s` seconds per edge; safe to use from several threads.

    `backward` counts, per "parent <- child", the samples whose stamp lies more than `max_gap_s`
    behind the newest: a publisher whose clock jumped, or two publishers of one frame.
    """

    def __init__(self, cache_time_s: float = 30.0, max_gap_s: float = MAX_GAP_S) -> None:
        if not cache_time_s > 0:
            raise ValueError(f"cache_time_s is {cache_time_s}; it must be above 0")
        self._cache_ns = cache_time_s * NS_PER_S
        self._max_gap_ns = max_gap_s * NS_PER_S
        self._edges: dict[str, _Edge] = {}  # by child
        self._lock = threading.Lock()
        self.backward: Counter[str] = Counter()

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
        """Add T_parent_child at a time; an equal stamp replaces, any order is allowed.

        A child may get another parent: each time keeps the parent it had. After RESTART_AFTER
        samples in a row that lie more than `max_gap_s` behind the newest, the newer ones are
        forgotten: they were ahead of time. Before that, samples older than the cache raise
        LateTransform. Raises InvalidTransform.
        """
        parent, child, pose = checked_pose(parent_frame, child_frame, translation_m, rotation_xyzw)
        with self._lock:
            if child in self._ancestors(parent):
                raise InvalidTransform(f"transform {parent} <- {child} closes a loop of frames")
            edge = self._edges.get(child)
            if edge is None or edge.static != static:
                edge = self._edges[child] = _Edge(child, static)
            behind_ns = edge.behind_ns(stamp_ns)
            if behind_ns > self._max_gap_ns:
                self.backward[f"{parent} <- {child}"] += 1
            if not edge.insert(stamp_ns, parent, pose, self._cache_ns, self._max_gap_ns):
                raise LateTransform(
                    f"transform {parent} <- {child}: its stamp is {_seconds(behind_ns)} behind "
                    "the newest; a publisher's clock jumped, or two publish this frame"
                )

    def _ancestors(self, frame: str) -> list[str]:
        """The frame and all above it, by the newest samples."""
        chain = [frame]
        while (edge := self._edges.get(chain[-1])) is not None:
            chain.append(edge.parent)
        return chain

    def lookup(
        self, target_frame: str, source_frame: str, stamp_ns: int | None = None
    ) -> FloatArray:
        """Return T_target_source (4, 4) float64, which maps points of the source to the target.

        Without a stamp: at the latest time that all edges between them know. Never extrapolates,
        nor interpolates over more than `max_gap_s`. Raises UnknownFrame, DisconnectedFrames,
        PastTransform or FutureTransform.
        """
        target, source = _name(target_frame), _name(source_frame)
        with self._lock:
            self._require_known(target, source)
            when_ns = self._latest_common_ns(target, source) if stamp_ns is None else stamp_ns
            above_target, no_target = self._climb(target, when_ns)
            above_source, no_source = self._climb(source, when_ns)
            common = next((frame for frame in above_target if frame in above_source), None)
            if common is None:
                self._edges_between(target, source)
                missing = no_source if no_source is not None else no_target
                kind = DisconnectedFrames if missing is None else type(missing)
                why = "they were in separate trees" if missing is None else missing
                at_s = when_ns / NS_PER_S
                raise kind(f"{target} <- {source} at {at_s:.3f} s: {why}")
        return invert_rigid(above_target[common]) @ above_source[common]

    def _climb(
        self, frame: str, stamp_ns: int
    ) -> tuple[dict[str, FloatArray], TransformUnavailable | None]:
        """T_ancestor_frame at a time by ancestor, nearest first, and what ended the climb early."""
        here = frame
        poses: dict[str, FloatArray] = {frame: np.eye(4)}
        while (edge := self._edges.get(here)) is not None:
            try:
                parent, pose = edge.at(stamp_ns, self._max_gap_ns)
            except TransformUnavailable as error:
                return poses, error
            if parent in poses:
                return poses, DisconnectedFrames(f"{parent} was its own ancestor")
            poses[parent] = pose_from_vector(pose) @ poses[here]
            here = parent
        return poses, None

    def _require_known(self, *frames: str) -> None:
        known = self._frames()
        for frame in frames:
            if frame not in known:
                names = ", ".join(sorted(known)) or "none"
                raise UnknownFrame(f"frame {frame!r} is not known; known are: {names}")

    def _frames(self) -> set[str]:
        return set(self._edges).union(*(edge.parents for edge in self._edges.values()))

    def _edges_between(self, target: str, source: str) -> list[_Edge]:
        """The edges that join two frames by the newest samples. Raises DisconnectedFrames."""
        above_target, above_source = self._ancestors(target), self._ancestors(source)
        common = set(above_target) & set(above_source)
        if not common:
            raise DisconnectedFrames(
                f"{target} (below {above_target[-1]}) and {source} (below {above_source[-1]}) "
                "are in separate trees"
            )
        return [self._edges[f] for f in (*above_target, *above_source) if f not in common]

    def _latest_common_ns(self, target: str, source: str) -> int:
        edges = self._edges_between(target, source)
        return min((edge.stamps_ns[-1] for edge in edges if not edge.static), default=0)

    def has_frame(self, frame_id: str) -> bool:
        """Whether any transform has named the frame."""
        with self._lock:
            return _name(frame_id) in self._frames()

    def roots(self) -> list[str]:
        """Frames that are no child of another, by name."""
        with self._lock:
            return sorted(self._frames() - set(self._edges))

    def root_of(self, frame_id: str) -> str:
        """The frame at the top of this one's tree, by the newest samples. Raises UnknownFrame."""
        with self._lock:
            self._require_known(_name(frame_id))
            return self._ancestors(_name(frame_id))[-1]

    def clear(self) -> None:
        """Forget all moving edges; static ones stay, because nobody sends them again."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}


def insert_message(
    buffer: TransformBuffer, message: Any, *, static: bool, newest_ns: int | None = None
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
