"""Images that wait until TF can place them: retried, never extrapolated, never blocking.

Owns the waiting list, its limits and its counters. The lookup is a callable, and times are
passed in, so the same code runs on tf2, on a recorded bag and in tests.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import is_rigid
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.transforms import TfBuffer

FloatArray = NDArray[np.floating[Any]]
Payload = TypeVar("Payload")


class TfFailure(Enum):
    """Why TF has no pose at a stamp; the value is the word used in diagnostics."""

    FUTURE = "future"  # TF is late: its newest transform is older than the stamp
    PAST = "past"  # the stamp is older than the buffer
    DISCONNECTED = "disconnected"  # both frames exist, in separate trees
    UNKNOWN_FRAME = "unknown"
    NOT_RIGID = "not_rigid"  # NaN, or not a rotation
    OVERFLOW = "overflow"  # too many newer images of this camera were waiting

    @property
    def is_absence(self) -> bool:
        """Whether waiting is pointless: TF does not know how the frames are connected."""
        return self in (TfFailure.DISCONNECTED, TfFailure.UNKNOWN_FRAME)

    @classmethod
    def of(cls, reason: str) -> "TfFailure":
        """Return the failure that the `reason` of a TransformUnavailable names."""
        known = {f.value: f for f in (cls.FUTURE, cls.PAST, cls.DISCONNECTED)}
        return known.get(reason, cls.UNKNOWN_FRAME)


def tf_pose(
    transforms: TfBuffer, fixed: str, frame_id: str, stamp_ns: int
) -> FloatArray | TfFailure:
    """T_fixed_frame (4, 4) at a stamp, or why TF has none."""
    if frame_id == fixed:
        return np.eye(4)
    try:
        return transforms.lookup(fixed, frame_id, stamp_ns)
    except TransformUnavailable as error:
        return TfFailure.of(error.reason)


Lookup = Callable[[str, int], FloatArray | TfFailure]  # (frame_id, stamp_ns) -> T_fixed_frame


@dataclass(frozen=True)
class WaitingImage(Generic[Payload]):
    """An image whose camera pose is not known yet."""

    camera: str
    frame_id: str
    stamp_ns: int
    arrived_ros_ns: int
    arrived_steady_ns: int
    payload: Payload


@dataclass(frozen=True)
class PlacedImage(Generic[Payload]):
    """An image whose pose was found, after `wait_s` of steady time."""

    waiting: WaitingImage[Payload]
    T_fixed_cam: FloatArray
    wait_s: float


@dataclass(frozen=True)
class DroppedImage(Generic[Payload]):
    """An image that was dropped, or is used without a pose, and why."""

    waiting: WaitingImage[Payload]
    reason: TfFailure


@dataclass(frozen=True)
class RetryOutcome(Generic[Payload]):
    """What one pass over the list settled; everything else still waits."""

    placed: tuple[PlacedImage[Payload], ...]
    dropped: tuple[DroppedImage[Payload], ...]


class PendingImages(Generic[Payload]):
    """The waiting list of all cameras; thread-safe.

    With `poses_needed` False, images without a pose are used: they wait only while TF may still
    place them, and are counted as unplaced, not as dropped.
    """

    def __init__(self, *, poses_needed: bool = True) -> None:
        self.poses_needed = poses_needed
        self._lock = Lock()
        self._queues: dict[str, deque[WaitingImage[Payload]]] = {}
        self._dropped: Counter[TfFailure] = Counter()
        self._unplaced: Counter[TfFailure] = Counter()
        self._placed = 0
        self._waited_s = 0.0

    def add(self, image: WaitingImage[Payload], pending_max: int) -> DroppedImage[Payload] | None:
        """Append an image; when its camera has more than `pending_max`, the oldest is dropped."""
        if pending_max < 1:
            raise ValueError(f"pending_max is {pending_max}; at least 1 is needed")
        with self._lock:
            queue = self._queues.setdefault(image.camera, deque())
            queue.append(image)
            if len(queue) <= pending_max:
                return None
            self._dropped[TfFailure.OVERFLOW] += 1
            return DroppedImage(queue.popleft(), TfFailure.OVERFLOW)

    def retry(
        self,
        lookup: Lookup,
        now_ros_ns: int,
        now_steady_ns: int,
        timeout_s: float,
        is_complete: Callable[[WaitingImage[Payload]], bool] = lambda image: True,
    ) -> RetryOutcome[Payload]:
        """Ask TF once for every waiting image, in order of stamps.

        One to which something still belongs that is not there (`is_complete`) waits, and with it
        all later images of its camera; that takes as long as the caller lets it. An image is
        dropped when it has waited `timeout_s` of ROS time (a paused bag pauses this) and TF still
        cannot place it; a pose that is not rigid drops it at once. `lookup` and `is_complete` must
        not block and must not call back into this object.
        """
        timeout_ns = round(timeout_s * 1e9)
        placed: list[PlacedImage[Payload]] = []
        dropped: list[DroppedImage[Payload]] = []
        with self._lock:
            # While TF lags behind one stamp of a frame, it lags behind all later ones too.
            lagging: dict[str, TfFailure] = {}
            held_up: set[str] = set()
            for image in sorted(
                (image for queue in self._queues.values() for image in queue),
                key=lambda image: (image.stamp_ns, image.camera),
            ):
                if image.camera in held_up or not is_complete(image):
                    held_up.add(image.camera)
                    continue
                answer = lagging.get(image.frame_id) or lookup(image.frame_id, image.stamp_ns)
                if isinstance(answer, TfFailure):
                    if answer is not TfFailure.PAST:
                        lagging[image.frame_id] = answer
                    hopeless = answer.is_absence and not self.poses_needed
                    if not hopeless and now_ros_ns - image.arrived_ros_ns < timeout_ns:
                        continue
                    dropped.append(DroppedImage(image, answer))
                elif is_rigid(answer):
                    wait_s = (now_steady_ns - image.arrived_steady_ns) * 1e-9
                    placed.append(PlacedImage(image, answer, wait_s))
                else:
                    dropped.append(DroppedImage(image, TfFailure.NOT_RIGID))
            settled = {id(p.waiting) for p in placed} | {id(d.waiting) for d in dropped}
            for queue in self._queues.values():
                kept = [image for image in queue if id(image) not in settled]
                queue.clear()
                queue.extend(kept)
            counter = self._dropped if self.poses_needed else self._unplaced
            counter.update(drop.reason for drop in dropped)
            self._placed += len(placed)
            self._waited_s += sum(p.wait_s for p in placed)
        return RetryOutcome(tuple(placed), tuple(dropped))

    def frame_ids(self) -> dict[str, str]:
        """The frame of the newest waiting image, by camera."""
        with self._lock:
            return {camera: queue[-1].frame_id for camera, queue in self._queues.items() if queue}

    def flush(self, camera: str | None = None) -> int:
        """Forget the waiting images of one camera, or of all; returns how many there were."""
        with self._lock:
            queues = [
                queue for name, queue in self._queues.items() if camera is None or name == camera
            ]
            count = sum(len(queue) for queue in queues)
            for queue in queues:
                queue.clear()
            return count

    def __len__(self) -> int:
        with self._lock:
            return sum(len(queue) for queue in self._queues.values())

    @property
    def dropped(self) -> dict[TfFailure, int]:
        """How many images were dropped so far, per reason (zeros included)."""
        with self._lock:
            return {reason: self._dropped[reason] for reason in TfFailure}

    @property
    def unplaced(self) -> dict[TfFailure, int]:
        """How many images were used without a pose so far, per reason (zeros included)."""
        with self._lock:
            return {reason: self._unplaced[reason] for reason in TfFailure}

    @property
    def placed(self) -> int:
        """How many images got a pose so far."""
        with self._lock:
            return self._placed

    @property
    def mean_wait_s(self) -> float:
        """Mean steady time that placed images waited; 0 before the first."""
        with self._lock:
            return self._waited_s / self._placed if self._placed else 0.0
