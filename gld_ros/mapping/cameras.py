"""One camera of a session: its intrinsics, what waits for them, and what was counted."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from gld_ros.messages.camera_info import CameraInfoValues, PinholeCamera
from gld_ros.messages.registered_depth import SAME_MOMENT_NS

MAX_DEPTH_OFFSET_NS = 50_000_000  # between a depth image and the colour image it belongs to
DEPTHS_KEPT = 30
DEPTH_SILENT_NS = 1_000_000_000  # then no image waits for its depth any more
INFOS_KEPT = 100


@dataclass(frozen=True, eq=False)
class ArrivedDepth:
    """A depth image as it came: decoded only if it belongs to an image that is used."""

    stamp_ns: int
    frame_id: str
    hw: tuple[int, int]
    message: Any


@dataclass
class CameraState:
    """What is known of one camera, for the intake and for diagnostics."""

    name: str
    topic: str
    compressed: bool
    depth_topic: str = ""
    info: CameraInfoValues | None = None
    infos_by_stamp: dict[int, CameraInfoValues] = field(default_factory=dict)
    held_images: deque[Any] = field(default_factory=deque)  # wait for intrinsics, oldest first
    pinhole: PinholeCamera | None = None
    pinhole_of: tuple[CameraInfoValues, tuple[int, int]] | None = None
    rejection: str = ""  # why the present intrinsics cannot be used
    rejected_of: tuple[CameraInfoValues, tuple[int, int]] | None = None
    frame_ids: frozenset[str] = frozenset()  # names of the images' optical frame, once known
    depths: deque[ArrivedDepth] = field(default_factory=lambda: deque(maxlen=DEPTHS_KEPT))
    unjudged_depths: deque[ArrivedDepth] = field(  # came before an image and its intrinsics
        default_factory=lambda: deque(maxlen=DEPTHS_KEPT)
    )
    newest_depth_ns: int = 0
    depth_rejection: str = ""  # why the newest depth image cannot be used
    image_hw: tuple[int, int] | None = None
    encoding: str = ""
    received: int = 0
    infos_received: int = 0
    last_stamp_ns: int = 0
    last_arrival_steady_ns: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)  # faults that cost no image by itself
    interval_s: float = 0.0  # running mean between arrivals
    qos_incompatible: int = 0
    lost: int = 0

    @property
    def total_dropped(self) -> int:
        """Images of this camera that were dropped for a fault (not those the gate left out)."""
        return sum(self.dropped.values())

    def note_arrival(self, now_steady_ns: int) -> None:
        """Count an image, and update the rate at which images arrive."""
        self.received += 1
        if self.last_arrival_steady_ns:
            interval_s = (now_steady_ns - self.last_arrival_steady_ns) * 1e-9
            weight = 0.1 if self.interval_s else 1.0
            self.interval_s += weight * (interval_s - self.interval_s)
        self.last_arrival_steady_ns = now_steady_ns

    def note_info(self, stamp_ns: int, values: CameraInfoValues) -> None:
        """Keep intrinsics as the latest and by their stamp."""
        self.info = values
        self.infos_received += 1
        self.infos_by_stamp[stamp_ns] = values
        for old_ns in sorted(self.infos_by_stamp)[:-INFOS_KEPT]:
            del self.infos_by_stamp[old_ns]

    def refuse_depth(self, cause: str, why: str) -> None:
        """Count a depth image that cannot be used; images are used without it."""
        self.dropped[cause] += 1
        self.depth_rejection = why

    def nearest_depth(self, stamp_ns: int) -> ArrivedDepth | None:
        """Return the depth image that belongs to an image, if one has arrived."""
        near = min(self.depths, key=lambda depth: abs(depth.stamp_ns - stamp_ns), default=None)
        if near is None or abs(near.stamp_ns - stamp_ns) > MAX_DEPTH_OFFSET_NS:
            return None
        return near

    def expects_depth(self, stamp_ns: int) -> bool:
        """Whether depth comes, but has not yet come up to this stamp."""
        missing_ns = stamp_ns - self.newest_depth_ns
        return bool(self.depths) and SAME_MOMENT_NS < missing_ns <= DEPTH_SILENT_NS

    def forget(self) -> None:
        """Discard everything of the past epoch."""
        self.held_images.clear()
        self.infos_by_stamp.clear()
        self.depths.clear()
        self.unjudged_depths.clear()
        self.newest_depth_ns = 0
        self.depth_rejection = ""
