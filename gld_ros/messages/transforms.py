"""Where every frame was at every moment: transforms by time, without extrapolation or waiting.

Follows tf2's rules (linear position, spherical rotation) without ROS; `gld_ros.ros.tf_buffer` has
the distribution's own buffer behind the same interface. Leaves waiting and retrying to the caller:
a lookup answers, or raises at once what is missing.
"""

import math
import threading
from bisect import bisect_left
from typing import Any, Protocol

import numpy as np

from gld_ros.messages.stamps import NS_PER_S, stamp_to_ns

_MAX_NORM_ERROR = 1e-2  # of the squared norm; what tf2 tolerates as well


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


class TfBuffer(Protocol):
    """What a node asks of a buffer, whoever keeps it."""

    def insert(
        self,
        parent_frame: str,
        child_frame: str,
        translation_m: Any,
        rotation_xyzw: Any,
        stamp_ns: int,
        *,
        static: bool = False,
    ) -> None:
        """Add T_parent_child at a time; raises InvalidTransform."""

    def lookup(
        self, target_frame: str, source_frame: str, stamp_ns: int | None = None
    ) -> np.ndarray:
        """Return T_target_source (4, 4); raises a TransformUnavailable."""

    def clear(self) -> None:
        """Forget what depends on time; static transforms stay."""


_Pose = tuple[float, float, float, float, float, float, float]  # x y z, qx qy qz qw


def checked_pose(
    parent: str, child: str, translation_m: Any, rotation_xyzw: Any
) -> tuple[str, str, _Pose]:
    """Return parent, child and pose as a buffer keeps them. Raises InvalidTransform."""
    parent, child = parent.lstrip("/"), child.lstrip("/")  # tf2 ignores leading slashes, too
    if not parent or not child or parent == child:
        raise InvalidTransform(f"transform from frame {child!r} to frame {parent!r}")
    values = tuple(float(value) for value in (*translation_m, *rotation_xyzw))
    if not all(map(math.isfinite, values)):
        raise InvalidTransform(f"transform {parent} <- {child} is not finite: {values}")
    squared = sum(value * value for value in values[3:])
    if abs(squared - 1.0) > _MAX_NORM_ERROR:
        raise InvalidTransform(
            f"rotation of {parent} <- {child} is not normalised: xyzw = {values[3:]}"
        )
    norm = math.sqrt(squared)
    x, y, z, *rotation = values
    qx, qy, qz, qw = (value / norm for value in rotation)
    return parent, child, (x, y, z, qx, qy, qz, qw)


def _between(one: _Pose, two: _Pose, ratio: float) -> _Pose:
    """Position on the straight line, rotation on the shorter arc (what tf2 does)."""
    x, y, z = (a + ratio * (b - a) for a, b in zip(one[:3], two[:3], strict=True))
    cosine = sum(a * b for a, b in zip(one[3:], two[3:], strict=True))
    sign = -1.0 if cosine < 0 else 1.0
    angle = math.acos(min(1.0, abs(cosine)))
    if angle < 1e-6:
        weight_one, weight_two = 1.0 - ratio, ratio
    else:
        weight_one = math.sin((1.0 - ratio) * angle) / math.sin(angle)
        weight_two = math.sin(ratio * angle) / math.sin(angle)
    rotation = [
        weight_one * a + sign * weight_two * b for a, b in zip(one[3:], two[3:], strict=True)
    ]
    norm = math.sqrt(sum(value * value for value in rotation))
    qx, qy, qz, qw = (value / norm for value in rotation)
    return x, y, z, qx, qy, qz, qw


def matrix_of_pose(pose: _Pose) -> np.ndarray:
    """Return T (4, 4) of x y z and qx qy qz qw, whose length is 1."""
    tx, ty, tz, x, y, z, w = pose
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), tx],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), ty],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), tz],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _inverse(T: np.ndarray) -> np.ndarray:
    inverse = np.eye(4)
    inverse[:3, :3] = T[:3, :3].T
    inverse[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return inverse


class _Edge:
    """T_parent_child over time: sorted stamps and poses; a static edge has one pose for all."""

    def __init__(self, parent: str, static: bool) -> None:
        self.parent = parent
        self.static = static
        self.stamps_ns: list[int] = []
        self.poses: list[_Pose] = []

    def insert(self, stamp_ns: int, pose: _Pose, cache_ns: float) -> None:
        if self.static:
            self.poses = [pose]
            return
        if not self.stamps_ns or stamp_ns > self.stamps_ns[-1]:
            self.stamps_ns.append(stamp_ns)
            self.poses.append(pose)
        elif stamp_ns >= self.stamps_ns[-1] - cache_ns:
            place = bisect_left(self.stamps_ns, stamp_ns)
            if self.stamps_ns[place] == stamp_ns:
                self.poses[place] = pose
            else:
                self.stamps_ns.insert(place, stamp_ns)
                self.poses.insert(place, pose)
        old = bisect_left(self.stamps_ns, self.stamps_ns[-1] - cache_ns)
        if old > 64:  # in batches, since each removal moves the rest
            del self.stamps_ns[:old], self.poses[:old]

    def at(self, stamp_ns: int) -> _Pose:
        """The pose at a time inside the range that the caller has checked."""
        if self.static:
            return self.poses[0]
        place = bisect_left(self.stamps_ns, stamp_ns)
        if self.stamps_ns[place] == stamp_ns:
            return self.poses[place]
        before_ns, after_ns = self.stamps_ns[place - 1 : place + 1]
        ratio = (stamp_ns - before_ns) / (after_ns - before_ns)
        return _between(self.poses[place - 1], self.poses[place], ratio)


class TransformBuffer:
    """Transforms of the last `cache_time_s` seconds per edge; safe to use from several threads."""

    def __init__(self, cache_time_s: float = 30.0) -> None:
        if not cache_time_s > 0:
            raise ValueError(f"cache_time_s is {cache_time_s}; it must be above 0")
        self._cache_ns = cache_time_s * NS_PER_S
        self._edges: dict[str, _Edge] = {}  # by child
        self._lock = threading.Lock()

    def insert(
        self,
        parent_frame: str,
        child_frame: str,
        translation_m: Any,
        rotation_xyzw: Any,
        stamp_ns: int,
        *,
        static: bool = False,
    ) -> None:
        """Add T_parent_child at a time; an equal stamp replaces, any order is allowed.

        Samples older than the cache are ignored. A child that gets another parent starts anew with
        it. Raises InvalidTransform.
        """
        parent, child, pose = checked_pose(parent_frame, child_frame, translation_m, rotation_xyzw)
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.static != static:
                if child in self._ancestors(parent):
                    raise InvalidTransform(f"transform {parent} <- {child} closes a loop of frames")
                edge = self._edges[child] = _Edge(parent, static)
            edge.insert(stamp_ns, pose, self._cache_ns)

    def _ancestors(self, frame: str) -> list[str]:
        """The frame and all above it."""
        chain = [frame]
        while (edge := self._edges.get(chain[-1])) is not None:
            chain.append(edge.parent)
        return chain

    def lookup(
        self, target_frame: str, source_frame: str, stamp_ns: int | None = None
    ) -> np.ndarray:
        """Return T_target_source (4, 4) float64, which maps points of the source to the target.

        Without a stamp: at the latest time that all edges between them know. Never extrapolates:
        raises UnknownFrame, DisconnectedFrames, PastTransform or FutureTransform.
        """
        target, source = target_frame.lstrip("/"), source_frame.lstrip("/")
        with self._lock:
            up_target, up_source = self._edges_to_common(target, source)
            if stamp_ns is None:
                stamp_ns = _latest_common_ns([edge for _, edge in up_target + up_source])
            for child, edge in up_target + up_source:
                _require_covered(child, edge, stamp_ns, target, source)
            T_common_target, T_common_source = np.eye(4), np.eye(4)
            for _, edge in up_target:
                T_common_target = matrix_of_pose(edge.at(stamp_ns)) @ T_common_target
            for _, edge in up_source:
                T_common_source = matrix_of_pose(edge.at(stamp_ns)) @ T_common_source
        return _inverse(T_common_target) @ T_common_source

    def latest_common_stamp_ns(self, target_frame: str, source_frame: str) -> int | None:
        """Return the newest time at which a lookup works, None where only static edges join them.

        Raises UnknownFrame or DisconnectedFrames.
        """
        with self._lock:
            paths = self._edges_to_common(target_frame.lstrip("/"), source_frame.lstrip("/"))
            edges = [edge for path in paths for _, edge in path if not edge.static]
        return _latest_common_ns(edges) if edges else None

    def _edges_to_common(
        self, target: str, source: str
    ) -> tuple[list[tuple[str, _Edge]], list[tuple[str, _Edge]]]:
        """The edges from both frames up to their nearest common ancestor, nearest first."""
        known = {*self._edges, *(edge.parent for edge in self._edges.values())}
        for frame in (target, source):
            if frame not in known:
                names = ", ".join(sorted(known)) or "none"
                raise UnknownFrame(f"frame {frame!r} is not known; known are: {names}")
        above_target, above_source = self._ancestors(target), self._ancestors(source)
        common = next((frame for frame in above_target if frame in above_source), None)
        if common is None:
            raise DisconnectedFrames(
                f"{target} (below {above_target[-1]}) and {source} (below {above_source[-1]}) "
                "are in separate trees"
            )

        def path(chain: list[str]) -> list[tuple[str, _Edge]]:
            return [(child, self._edges[child]) for child in chain[: chain.index(common)]]

        return path(above_target), path(above_source)

    def clear(self) -> None:
        """Forget all moving edges; static ones stay, because nobody sends them again."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}


def _latest_common_ns(edges: list[_Edge]) -> int:
    return min((edge.stamps_ns[-1] for edge in edges if not edge.static), default=0)


def _require_covered(child: str, edge: _Edge, stamp_ns: int, target: str, source: str) -> None:
    if edge.static:
        return
    asked = f"{target} <- {source} at {stamp_ns / NS_PER_S:.3f} s: {edge.parent} <- {child}"
    if stamp_ns < edge.stamps_ns[0]:
        early = (edge.stamps_ns[0] - stamp_ns) / NS_PER_S
        raise PastTransform(f"{asked} begins {early:.3f} s later")
    if stamp_ns > edge.stamps_ns[-1]:
        late = (stamp_ns - edge.stamps_ns[-1]) / NS_PER_S
        raise FutureTransform(f"{asked} is known up to {late:.3f} s before that")


def insert_message(buffer: TfBuffer, message: Any, *, static: bool) -> list[InvalidTransform]:
    """Insert all transforms of a tf2_msgs/TFMessage; return what had to be refused."""
    refused = []
    for transform in message.transforms:
        p, q = transform.transform.translation, transform.transform.rotation
        try:
            buffer.insert(
                transform.header.frame_id,
                transform.child_frame_id,
                (p.x, p.y, p.z),
                (q.x, q.y, q.z, q.w),
                stamp_to_ns(transform.header.stamp),
                static=static,
            )
        except InvalidTransform as error:
            refused.append(error)
    return refused
