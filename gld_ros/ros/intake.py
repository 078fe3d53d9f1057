"""From camera messages to keyframes: checks, waiting for TF, the gate, decoding, rectification.

Owns every decision about one incoming image, and counts each by cause. Needs no rclpy: messages
are duck-typed, times and the TF lookup are passed in, so the live node and the offline runner over
a bag take the same path.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.epochs import EpochMonitor, StampFault, TimeJump, is_future_stamp
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.frames import Keyframe, SensorDepth, shrink_to_fit
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.pending import Lookup, PendingImages, PlacedImage, TfFailure, WaitingImage
from gld_ros.messages.camera_info import (
    CameraInfoError,
    CameraInfoValues,
    PinholeCamera,
    camera_info_values,
    pinhole_camera,
)
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.images import (
    ImageError,
    UnsupportedEncoding,
    rgb_from_message,
)
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.ros.parameters.snapshot import Snapshot

# Pixels beyond what any bucket of the model uses are not kept.
MAX_KEYFRAME_HW = (504, 504)
MAX_DEPTH_OFFSET_NS = 50_000_000  # between a depth image and the colour image it belongs to


@dataclass
class CameraState:
    """What is known of one camera, for the intake and for diagnostics."""

    name: str
    topic: str
    compressed: bool
    info: CameraInfoValues | None = None
    infos_by_stamp: dict[int, CameraInfoValues] = field(default_factory=dict)
    held_image: Any = None  # the newest image while there are no intrinsics
    pinhole: PinholeCamera | None = None
    pinhole_of: tuple[CameraInfoValues, tuple[int, int]] | None = None
    refused: str = ""  # why the present intrinsics cannot be used
    refused_of: tuple[CameraInfoValues, tuple[int, int]] | None = None
    depths: deque[tuple[int, SensorDepth]] = field(default_factory=lambda: deque(maxlen=30))
    image_hw: tuple[int, int] | None = None
    encoding: str = ""
    received: int = 0
    last_stamp_ns: int = 0
    last_arrival_steady_ns: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)  # faults that cost no image by itself
    interval_s: float = 0.0  # running mean between arrivals
    qos_incompatible: int = 0
    lost: int = 0

    @property
    def total_dropped(self) -> int:
        """Images of this camera that were given up for a fault (not those the gate left out)."""
        return sum(self.dropped.values())


class Intake:
    """All cameras of a node or of an offline run; thread-safe."""

    def __init__(
        self,
        cameras: dict[str, CameraState],
        gate: KeyframeGate,
        store: KeyframeStore,
        pending: PendingImages[Any],
        epochs: EpochMonitor,
        faults: FaultLog,
        on_jump: Callable[[TimeJump], None],
    ) -> None:
        self.cameras = cameras
        self._gate, self._store, self._pending = gate, store, pending
        self._epochs, self._faults, self._on_jump = epochs, faults, on_jump
        self._lock = RLock()

    def camera_info(self, camera: str, message: Any, parameters: Snapshot) -> Any:
        """Take in intrinsics; returns the image that was held for want of them, if any."""
        state = self.cameras[camera]
        values = camera_info_values(message)
        with self._lock:
            if state.info is not None and values != state.info:
                self._gate.flush(camera)
                flushed = self._store.flush(camera)
                self._faults.throttled(
                    f"{camera}: intrinsics changed",
                    "warning",
                    f"camera {camera}: intrinsics changed; its {flushed} keyframes are forgotten",
                )
                state.noticed["intrinsics changed"] += 1
                state.pinhole_of = state.refused_of = None
            state.info = values
            if parameters["camera_info.pairing"] == "exact":
                state.infos_by_stamp[stamp_to_ns(message.header.stamp)] = values
                for stamp_ns in sorted(state.infos_by_stamp)[:-100]:
                    del state.infos_by_stamp[stamp_ns]
            held, state.held_image = state.held_image, None
        return held

    def image(
        self, camera: str, message: Any, parameters: Snapshot, now_ros_ns: int, now_steady_ns: int
    ) -> None:
        """Take in an image: refuse it with a counted reason, or let it wait for its pose."""
        state = self.cameras[camera]
        with self._lock:
            state.received += 1
            if state.last_arrival_steady_ns:
                interval_s = (now_steady_ns - state.last_arrival_steady_ns) * 1e-9
                weight = 0.1 if state.interval_s else 1.0
                state.interval_s += weight * (interval_s - state.interval_s)
            state.last_arrival_steady_ns = now_steady_ns
            stamp_ns = stamp_to_ns(message.header.stamp)
            if not self._stamp_is_usable(state, stamp_ns, now_ros_ns):
                return
            state.last_stamp_ns = stamp_ns
            self.await_pose(camera, message, parameters, now_ros_ns, now_steady_ns)

    def await_pose(
        self, camera: str, message: Any, parameters: Snapshot, now_ros_ns: int, now_steady_ns: int
    ) -> None:
        """Let an image with a good stamp wait for its pose; also one that was held before."""
        state = self.cameras[camera]
        stamp_ns = stamp_to_ns(message.header.stamp)
        with self._lock:
            frame_id = parameters[f"frame_id_override.{camera}"] or message.header.frame_id
            if not frame_id:
                self._drop(state, "frame_id")
                self._faults.once(
                    f"{camera}: frame_id",
                    "error",
                    f"camera {camera}: images have an empty frame_id; set it in the driver, or "
                    f"give frame_id_override.{camera}",
                )
                return
            if not self._has_info(state, message, stamp_ns, parameters):
                return
            if self._gate.too_soon(camera, stamp_ns, parameters.gate):
                return
            waiting = WaitingImage(camera, frame_id, stamp_ns, now_ros_ns, now_steady_ns, message)
            overflow = self._pending.add(waiting, parameters["tf.pending_max"])
            if overflow is not None:
                self._say_tf_drop(overflow.waiting, overflow.reason, parameters)

    def sensor_depth(self, camera: str, message: Any) -> None:
        """Remember a depth image of the camera's own optical frame, for mode depth_topic."""
        state = self.cameras[camera]
        try:
            depth_m = depth_m_from_message(message)
        except ImageError as error:
            with self._lock:
                self._drop(state, "depth")
            self._faults.throttled(f"{camera}: depth", "warning", f"camera {camera}: {error}")
            return
        with self._lock:
            if state.info is not None:
                K_px = np.array(state.info.K, dtype=np.float64).reshape(3, 3)
                state.depths.append((stamp_to_ns(message.header.stamp), SensorDepth(depth_m, K_px)))

    def retry(
        self, lookup: Lookup, parameters: Snapshot, now_ros_ns: int, now_steady_ns: int
    ) -> list[Keyframe]:
        """Ask TF about all waiting images; returns the keyframes that came of it."""
        with self._lock:
            epoch = self._epochs.epoch
        outcome = self._pending.retry(
            lookup, now_ros_ns, now_steady_ns, float(parameters["tf.timeout"])
        )
        for drop in outcome.dropped:
            self._say_tf_drop(drop.waiting, drop.reason, parameters)
        keyframes = []
        for placed in outcome.placed:
            with self._lock:
                if self._epochs.epoch != epoch:
                    break  # time jumped meanwhile: these poses are of what was forgotten
                keyframe = self._keyframe(placed, parameters)
                if keyframe is not None:
                    self._store.add(keyframe)
                    keyframes.append(keyframe)
        return keyframes

    def clock_reading(self, ros_ns: int, steady_ns: int) -> None:
        """Look for a time jump between this reading of both clocks and the previous one."""
        with self._lock:
            self._on_any(self._epochs.clock_reading(ros_ns, steady_ns))

    def clock_jumped(self, delta_ns: int, source_changed: bool) -> None:
        """Judge a jump that the clock itself reports."""
        with self._lock:
            self._on_any(self._epochs.clock_callback(delta_ns, source_changed))

    def _on_any(self, jump: TimeJump | None) -> None:
        # Under the lock, so that nothing of the old epoch comes in after it was forgotten.
        if jump is not None:
            self._on_jump(jump)

    def flush(self) -> None:
        """Forget images and poses: a new epoch, or the user asked for it."""
        with self._lock:
            self._pending.flush()
            self._gate.flush()
            self._store.flush()
            for state in self.cameras.values():
                state.held_image = None
                state.infos_by_stamp.clear()

    def _stamp_is_usable(self, state: CameraState, stamp_ns: int, now_ros_ns: int) -> bool:
        if stamp_ns > 0 and is_future_stamp(stamp_ns, now_ros_ns):
            # Kept out of the order of stamps, or the next good image would seem to go back in time.
            state.noticed["stamps ahead of now"] += 1
            self._faults.throttled(
                f"{state.name}: stamp future",
                "warning",
                f"camera {state.name}: image stamp is {(stamp_ns - now_ros_ns) * 1e-9:.1f} s ahead "
                "of now; synchronise the clocks, or set use_sim_time when a bag or simulator plays",
            )
            return True
        verdict = self._epochs.image_stamp(state.name, stamp_ns)
        self._on_any(verdict.jump)
        if verdict.fault is StampFault.ZERO:
            self._drop(state, "stamp_zero")
            self._faults.once(
                f"{state.name}: stamp zero",
                "error",
                f"camera {state.name}: image stamps are zero, so TF cannot place them; let the "
                "driver stamp its images",
            )
        elif verdict.fault is StampFault.BACKWARD:
            self._drop(state, "stamp")
            self._faults.throttled(
                f"{state.name}: stamp backward",
                "warning",
                f"camera {state.name}: image stamp {stamp_ns * 1e-9:.3f} s is not newer than the "
                f"previous one",
            )
        return verdict.usable

    def _has_info(
        self, state: CameraState, message: Any, stamp_ns: int, parameters: Snapshot
    ) -> bool:
        exact = parameters["camera_info.pairing"] == "exact"
        found = stamp_ns in state.infos_by_stamp if exact else state.info is not None
        if not found:
            if state.held_image is not None:
                self._drop(state, "no_info")
            state.held_image = message
        return found

    def _keyframe(self, placed: PlacedImage[Any], parameters: Snapshot) -> Keyframe | None:
        waiting, T_fixed_cam = placed.waiting, placed.T_fixed_cam
        state = self.cameras[waiting.camera]
        verdict = self._gate.judge(waiting.camera, waiting.stamp_ns, T_fixed_cam, parameters.gate)
        if verdict.jump:
            self._faults.throttled(
                "pose jump", "warning", f"{verdict.jump}; a new keyframe segment starts"
            )
        if not verdict.accepted:
            return None
        decoded = self._decode(state, waiting.payload)
        if decoded is None:
            return None
        pinhole = self._pinhole(state, decoded, waiting.stamp_ns, parameters)
        if pinhole is None or self._gate.too_blurred(decoded, parameters.gate):
            return None
        image, K_px = shrink_to_fit(pinhole.rectify(decoded), pinhole.K_px, MAX_KEYFRAME_HW)
        self._gate.accept(waiting.camera, waiting.stamp_ns, T_fixed_cam)
        return Keyframe(
            camera=waiting.camera,
            stamp_ns=waiting.stamp_ns,
            frame_id=waiting.frame_id,
            # A copy: the pixels may be memory of the middleware's message.
            image=np.array(image),
            K_px=K_px,
            T_fixed_cam=T_fixed_cam,
            epoch=self._epochs.epoch,
            wait_tf_s=placed.wait_s,
            sensor_depth=_nearest_depth(state, waiting.stamp_ns),
            segment=verdict.segment,
        )

    def _decode(self, state: CameraState, message: Any) -> NDArray[np.uint8] | None:
        try:
            decoded = rgb_from_message(message)
            state.encoding = message.format if state.compressed else message.encoding
        except UnsupportedEncoding as error:
            self._drop(state, "encoding")
            self._faults.once(f"{state.name}: encoding", "error", f"camera {state.name}: {error}")
            return None
        except ImageError as error:
            self._drop(state, "decode" if state.compressed else "size")
            self._faults.throttled(
                f"{state.name}: malformed", "warning", f"camera {state.name}: {error}"
            )
            return None
        if decoded.reduced_from_16_bit:
            self._faults.once(
                f"{state.name}: 16 bit",
                "info",
                f"camera {state.name}: 16-bit colours; their upper 8 bits are used",
            )
        image_hw = (decoded.rgb.shape[0], decoded.rgb.shape[1])
        if state.image_hw is not None and state.image_hw != image_hw:
            flushed = self._store.flush(state.name)
            self._faults.throttled(
                f"{state.name}: size changed",
                "info",
                f"camera {state.name}: image size changed from {state.image_hw[1]}x"
                f"{state.image_hw[0]} to {image_hw[1]}x{image_hw[0]}; its {flushed} keyframes are "
                "forgotten",
            )
        state.image_hw = image_hw
        return decoded.rgb

    def _pinhole(
        self, state: CameraState, image: NDArray[np.uint8], stamp_ns: int, parameters: Snapshot
    ) -> PinholeCamera | None:
        exact = parameters["camera_info.pairing"] == "exact"
        info = state.infos_by_stamp.pop(stamp_ns, state.info) if exact else state.info
        assert info is not None  # an image waits for its pose only once it has intrinsics
        key = (info, (image.shape[0], image.shape[1]))
        if state.pinhole_of == key:
            return state.pinhole
        if state.refused_of == key:
            self._drop(state, "info")
            return None
        try:
            state.pinhole = pinhole_camera(
                info, key[1], parameters["cameras.rectification"], state.topic
            )
        except CameraInfoError as error:
            state.refused, state.refused_of, state.pinhole_of = str(error), key, None
            self._drop(state, "info")
            self._faults.once(
                f"{state.name}: info {error.fault.value}",
                "error",
                f"camera {state.name} is refused: {error}",
            )
            return None
        state.pinhole_of, state.refused, state.refused_of = key, "", None
        level = "warning" if any("is scaled" in note for note in state.pinhole.notes) else "info"
        self._faults.once(
            f"{state.name}: camera {hash(key)}",
            "warning" if level == "warning" else "info",
            f"camera {state.name}: {'; '.join(state.pinhole.notes)}",
        )
        return state.pinhole

    def _drop(self, state: CameraState, cause: str) -> None:
        state.dropped[cause] += 1

    def _say_tf_drop(
        self, waiting: WaitingImage[Any], reason: TfFailure, parameters: Snapshot
    ) -> None:
        level = "error" if reason is TfFailure.NOT_RIGID else "warning"
        self._faults.throttled(
            f"tf {reason.value}",
            "error" if level == "error" else "warning",
            f"camera {waiting.camera}: no pose of frame {waiting.frame_id!r} in "
            f"{parameters['fixed_frame']!r} at {waiting.stamp_ns * 1e-9:.3f} s "
            f"({reason.value}); the image is dropped",
        )


def _nearest_depth(state: CameraState, stamp_ns: int) -> SensorDepth | None:
    near = min(state.depths, key=lambda entry: abs(entry[0] - stamp_ns), default=None)
    if near is None or abs(near[0] - stamp_ns) > MAX_DEPTH_OFFSET_NS:
        return None
    return near[1]
