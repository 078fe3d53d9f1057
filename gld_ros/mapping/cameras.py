"""One camera of a session: its intrinsics, what waits for them, and what was counted."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from gld_ros.mapping.frames import SensorDepth
from gld_ros.messages.camera_info import CameraInfoValues, PinholeCamera

MAX_DEPTH_OFFSET_NS = 50_000_000  # between a depth image and the colour image it belongs to
DEPTHS_KEPT = 30
INFOS_KEPT = 100


@dataclass
class CameraState:
    """What is known of one camera, for the intake and for diagnostics."""

    name: str
    topic: str
    compressed: bool
    info: CameraInfoValues | None = None
    infos_by_stamp: dict[int, CameraInfoValues] = field(default_factory=dict)
    held_images: deque[Any] = field(default_factory=deque)  # wait for intrinsics, oldest first
    pinhole: PinholeCamera | None = None
    pinhole_of: tuple[CameraInfoValues, tuple[int, int]] | None = None
    rejection: str = ""  # why the present intrinsics cannot be used
    rejected_of: tuple[CameraInfoValues, tuple[int, int]] | None = None
    depths: deque[tuple[int, SensorDepth]] = field(
        default_factory=lambda: deque(maxlen=DEPTHS_KEPT)
    )
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

    def nearest_depth(self, stamp_ns: int) -> SensorDepth | None:
        """Return the depth image that belongs to an image, if one has arrived."""
        near = min(self.depths, key=lambda entry: abs(entry[0] - stamp_ns), default=None)
        if near is None or abs(near[0] - stamp_ns) > MAX_DEPTH_OFFSET_NS:
            return None
        return near[1]

    def forget(self) -> None:
        """Discard everything of the past epoch."""
        self.held_images.clear()
        self.infos_by_stamp.clear()
        self.depths.clear()
