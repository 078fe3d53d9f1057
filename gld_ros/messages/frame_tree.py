"""Which transforms are known at which time: one set of rules for all libraries of poses.

Follows tf2's rules (a frame may change its parent, the first of two samples with one stamp stays),
needs no ROS, and bounds how old a pose may be. `gld_ros.messages.transforms` multiplies what a
`Route` names with numpy, `gld_ros.ros.tf_buffer` with the distribution's tf2. Leaves waiting and
retrying to the caller: a route is found, or what is missing is raised at once.
"""

import enum
import math
import threading
from bisect import bisect_left
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gld_ros.geometry.poses import pose_vector
from gld_ros.messages.stamps import NS_PER_S

FloatArray = NDArray[np.floating[Any]]

# Between samples farther apart than this a frame may have been anywhere.
MAX_GAP_S = 1.0
MAX_GAP_NS = MAX_GAP_S * NS_PER_S
# After so many late samples in a row, not they are wrong but the newer ones.
RESTART_AFTER = 3
MAX_STAMP_NS = (2**31 - 1) * NS_PER_S  # a message holds no later second


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
    """A transform that cannot be right: not finite, no rotation, no time, or a loop of frames."""


class LateTransform(InvalidTransform):
    """A transform from before all that is kept: a publisher's clock jumped, forth or back."""


class AheadTransform(InvalidTransform):
    """A transform from a time that is far ahead: it would hide all that come after it."""


class Sample(NamedTuple):
    """T_parent_child at a time, as a pose vector (7,); a static one holds at all times."""

    parent: str
    child: str
    pose: FloatArray
    stamp_ns: int
    static: bool


class Ancestor(NamedTuple):
    """A frame above another, or that one itself; `still`: only static edges are between them."""

    frame: str
    still: bool


class Leg(NamedTuple):
    """One edge of a route: `ratio` of the way from one pose vector to the next."""

    first: FloatArray
    second: FloatArray
    ratio: float


class Route(NamedTuple):
    """The edges from two frames up to the nearest one that is above both, at a time."""

    stamp_ns: int
    from_target: list[Leg]
    from_source: list[Leg]


class Insertion(enum.Enum):
    """What became of a sample."""

    KEPT = enum.auto()
    REPEATED = enum.auto()  # there was one with this stamp; that one stays
    REWRITTEN = enum.auto()  # kept, and others were forgotten for it


def checked_sample(
    parent_frame: str,
    child_frame: str,
    translation_m: ArrayLike,
    rotation_xyzw: ArrayLike,
    stamp_ns: int,
    *,
    static: bool = False,
) -> Sample:
    """Return a transform as a FrameTree keeps it. Raises InvalidTransform."""
    parent, child = _name(parent_frame), _name(child_frame)
    if not parent or not child or parent == child:
        raise InvalidTransform(f"transform {parent!r} <- {child!r} does not join two frames")
    if not static and not 0 <= stamp_ns <= MAX_STAMP_NS:
        raise InvalidTransform(f"transform {parent} <- {child}: {stamp_ns} ns is not a time")
    try:
        pose = pose_vector(translation_m, rotation_xyzw)
    except ValueError as error:
        raise InvalidTransform(f"transform {parent} <- {child}: {error}") from error
    return Sample(parent, child, pose, stamp_ns, static)


def _name(frame: str) -> str:
    return frame.lstrip("/")  # as tf2 does


class _Edge:
    """T_parent_child over time, by rising stamp; a static edge has one pose for all times."""

    def __init__(self, child: str, static: bool, cache_ns: float) -> None:
        self.child = child
        self.static = static
        self._cache_ns = cache_ns
        self.stamps_ns: list[int] = []
        self.samples: list[Sample] = []
        self.parents: set[str] = set()
        self._late: list[Sample] = []  # the present run of late samples

    @property
    def parent(self) -> str:
        """The parent in the newest sample."""
        return self.samples[-1].parent

    def behind_ns(self, stamp_ns: int) -> int:
        """How far a stamp lies behind the newest one."""
        return self.stamps_ns[-1] - stamp_ns if self.stamps_ns else 0

    def insert(self, sample: Sample) -> Insertion | None:
        """Keep a sample; returns None for one older than the cache, unless it completes a run."""
        self.parents.add(sample.parent)
        if self.static:
            self.samples = [sample]
            return Insertion.KEPT
        stamp_ns = sample.stamp_ns
        behind_ns = self.behind_ns(stamp_ns)
        if behind_ns > MAX_GAP_NS:
            rising = self._late if self._late and self._late[-1].stamp_ns < stamp_ns else []
            self._late = [*rising, sample]
            if len(self._late) == RESTART_AFTER and math.isfinite(self._cache_ns):
                kept = bisect_left(self.stamps_ns, self._late[0].stamp_ns)
                self.stamps_ns[kept:] = [late.stamp_ns for late in self._late]
                self.samples[kept:] = self._late
                self._late = []
                return Insertion.REWRITTEN
            if behind_ns > self._cache_ns:
                return None
        else:
            self._late = []
        place = bisect_left(self.stamps_ns, stamp_ns)
        if place < len(self.stamps_ns) and self.stamps_ns[place] == stamp_ns:
            return Insertion.REPEATED
        self.stamps_ns.insert(place, stamp_ns)
        self.samples.insert(place, sample)
        old = bisect_left(self.stamps_ns, self._oldest_ns())
        if old > 64:  # in batches, since each removal moves the rest
            del self.stamps_ns[:old], self.samples[:old]
        return Insertion.KEPT

    def _oldest_ns(self) -> float:
        return self.stamps_ns[-1] - self._cache_ns

    def at(self, stamp_ns: int) -> tuple[str, Leg]:
        """Parent and pose at a time. Raises PastTransform or FutureTransform."""
        if self.static:
            return self.parent, Leg(self.samples[0].pose, self.samples[0].pose, 0.0)
        name, stamps_ns = f"{self.parent} <- {self.child}", self.stamps_ns
        if stamp_ns < stamps_ns[0]:
            raise PastTransform(f"{name} begins {_seconds(stamps_ns[0] - stamp_ns)} later")
        if stamp_ns > stamps_ns[-1]:
            late = _seconds(stamp_ns - stamps_ns[-1])
            raise FutureTransform(f"{name} is known up to {late} before that")
        place = bisect_left(stamps_ns, stamp_ns)
        after = self.samples[place]
        before = after if after.stamp_ns == stamp_ns else self.samples[place - 1]
        gap_ns = after.stamp_ns - before.stamp_ns
        if before.parent != after.parent:
            raise PastTransform(
                f"{self.child} moves from {before.parent} to {after.parent} just then"
            )
        if gap_ns > MAX_GAP_NS:
            gap, limit = _seconds(gap_ns), _seconds(MAX_GAP_NS)
            raise FutureTransform(
                f"{name} has no sample within {gap} around that; the limit is {limit}"
            )
        if before.stamp_ns < self._oldest_ns():
            kept = _seconds(self._cache_ns)
            raise PastTransform(f"{name} is kept for {kept}, and that was before")
        ratio = (stamp_ns - before.stamp_ns) / gap_ns if gap_ns else 0.0
        return before.parent, Leg(before.pose, after.pose, ratio)


def _seconds(duration_ns: float) -> str:
    return f"{duration_ns / NS_PER_S:.3f} s"


class FrameTree:
    """Transforms of the last `cache_time_s` seconds per edge; safe to use from several threads.

    `backward` counts, per "parent <- child", the samples whose stamp lies more than MAX_GAP_S
    behind the newest: a publisher whose clock jumped, or two publishers of one frame.
    """

    def __init__(self, cache_time_s: float = 30.0) -> None:
        if not cache_time_s > 0:
            raise ValueError(f"cache_time_s is {cache_time_s}; it must be above 0")
        self._cache_ns = cache_time_s * NS_PER_S
        self._edges: dict[str, _Edge] = {}  # by child
        self._lock = threading.Lock()
        self.backward: Counter[str] = Counter()

    def insert(self, sample: Sample) -> Insertion:
        """Add a sample of any time.

        A child may get another parent: each time keeps the parent it had. After RESTART_AFTER
        samples in a row that lie more than MAX_GAP_S behind the newest, the newer ones are
        forgotten: they were ahead of time. Before that, samples older than the cache raise
        LateTransform. Raises InvalidTransform.
        """
        parent, child = sample.parent, sample.child
        with self._lock:
            if child in self._ancestors(parent):
                raise InvalidTransform(f"transform {parent} <- {child} closes a loop of frames")
            edge = self._edges.get(child)
            new = edge is None or edge.static != sample.static
            if edge is None or new:
                rewritten = edge is not None
                edge = _Edge(child, sample.static, self._cache_ns)
                self._edges[child] = edge
                edge.insert(sample)
                return Insertion.REWRITTEN if rewritten else Insertion.KEPT
            behind_ns = edge.behind_ns(sample.stamp_ns)
            if behind_ns > MAX_GAP_NS:
                self.backward[f"{parent} <- {child}"] += 1
            insertion = edge.insert(sample)
            if insertion is None:
                raise LateTransform(
                    f"transform {parent} <- {child}: its stamp is {_seconds(behind_ns)} behind "
                    "the newest; a publisher's clock jumped, or two publish this frame"
                )
            return insertion

    def _ancestors(self, frame: str) -> list[str]:
        """The frame and all above it, by the newest samples."""
        chain = [frame]
        while (edge := self._edges.get(chain[-1])) is not None:
            chain.append(edge.parent)
        return chain

    def route(self, target_frame: str, source_frame: str, stamp_ns: int | None = None) -> Route:
        """Return what joins two frames.

        Without a stamp: at the latest time that all edges between them know. Never extrapolates,
        nor interpolates over more than MAX_GAP_S. Raises UnknownFrame, DisconnectedFrames,
        PastTransform or FutureTransform.
        """
        target, source = _name(target_frame), _name(source_frame)
        with self._lock:
            self._require_known(target, source)
            when_ns = self._latest_common_ns(target, source) if stamp_ns is None else stamp_ns
            above_target, target_legs, no_target = self._climb(target, when_ns)
            above_source, source_legs, no_source = self._climb(source, when_ns)
            common = next((frame for frame in above_target if frame in above_source), None)
            if common is None:
                self._edges_between(target, source)
                missing = no_source if no_source is not None else no_target
                kind = DisconnectedFrames if missing is None else type(missing)
                why = "they were in separate trees" if missing is None else missing
                at_s = when_ns / NS_PER_S
                raise kind(f"{target} <- {source} at {at_s:.3f} s: {why}")
        return Route(
            when_ns,
            target_legs[: above_target.index(common)],
            source_legs[: above_source.index(common)],
        )

    def _climb(
        self, frame: str, stamp_ns: int
    ) -> tuple[list[str], list[Leg], TransformUnavailable | None]:
        """The frames above one at a time, itself first, how they join, and what ended the climb."""
        above, legs = [frame], list[Leg]()
        while (edge := self._edges.get(above[-1])) is not None:
            try:
                parent, leg = edge.at(stamp_ns)
            except TransformUnavailable as error:
                return above, legs, error
            if parent in above:
                return above, legs, DisconnectedFrames(f"{parent} was its own ancestor")
            above.append(parent)
            legs.append(leg)
        return above, legs, None

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

    def frames(self) -> list[str]:
        """Every frame that a transform has named, by name."""
        with self._lock:
            return sorted(self._frames())

    def roots(self) -> list[str]:
        """Frames that are no child of another, by name."""
        with self._lock:
            return sorted(self._frames() - set(self._edges))

    def root_of(self, frame_id: str) -> str:
        """The frame at the top of this one's tree, by the newest samples. Raises UnknownFrame."""
        with self._lock:
            self._require_known(_name(frame_id))
            return self._ancestors(_name(frame_id))[-1]

    def chain_above(self, frame_id: str) -> list[Ancestor]:
        """The frame and all above it up to its root, by the newest samples. Raises UnknownFrame."""
        with self._lock:
            self._require_known(_name(frame_id))
            chain, still = list[Ancestor](), True
            for frame in self._ancestors(_name(frame_id)):
                chain.append(Ancestor(frame, still))
                edge = self._edges.get(frame)
                still = still and (edge is None or edge.static)
            return chain

    def samples(self) -> list[Sample]:
        """All that is kept."""
        with self._lock:
            return [sample for edge in self._edges.values() for sample in edge.samples]

    def clear(self) -> None:
        """Discard all non-static edges; static ones are kept, since they are not sent again."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}
