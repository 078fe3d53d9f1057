"""From camera messages to keyframes: checks, waiting for TF, the gate.

Owns every decision about one incoming image, and counts each by cause; its pixels are decoded by
`frame_decoder`. Messages are duck-typed, and times and transforms are passed in, so a robot and
a bag use the same code.
"""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from gld_ros.mapping.cameras import ArrivedDepth, CameraState
from gld_ros.mapping.epochs import EpochMonitor, StampFault, TimeJump, is_future_stamp
from gld_ros.mapping.fault_log import FaultLog, Level
from gld_ros.mapping.frame_decoder import FrameDecoder
from gld_ros.mapping.frames import (
    NO_POSE,
    FloatArray,
    Keyframe,
)
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.mapping.pending import PendingImages, TfFailure, WaitingImage, tf_pose
from gld_ros.mapping.placed_frame import ArrivedImage, OnPlaced, PlacedFrame
from gld_ros.messages.camera_info import (
    camera_info_values,
    same_calibration,
)
from gld_ros.messages.depth_images import depth_hw_from_message
from gld_ros.messages.fixed_frame import AUTO
from gld_ros.messages.images import (
    ImageBridge,
    ImageError,
)
from gld_ros.messages.registered_depth import UnregisteredDepth, require_registered
from gld_ros.messages.stamps import NS_PER_S, stamp_to_ns
from gld_ros.messages.transforms import TfBuffer

# Drivers align depth after they publish the image; without it, the depth before would be taken.
DEPTH_WAIT_S = 0.2
MAX_HELD_FOR_EXACT_INFO = 10  # images of one camera whose own CameraInfo has not arrived yet


class Intake:
    """All cameras of a session; thread-safe.

    `on_placed`, if given, sees every image that TF placed, keyframe or not, in order of stamps, and
    those without a pose where `pending` needs none; it must be quick and must not call back.
    `image_bridge` is that of rgb_from_message; `no_fixed_frame` says why nothing can be placed, if
    that is so. A time jump is returned to the caller once everything of the old epoch, its
    transforms included, is forgotten.
    """

    def __init__(
        self,
        cameras: Mapping[str, CameraState],
        gate: KeyframeGate,
        store: KeyframeStore,
        pending: PendingImages[ArrivedImage],
        epochs: EpochMonitor,
        faults: FaultLog,
        transforms: TfBuffer,
        on_placed: OnPlaced | None = None,
        image_bridge: ImageBridge | None = None,
        no_fixed_frame: Callable[[], str] = lambda: "",
    ) -> None:
        self.cameras = cameras
        self._gate, self._store, self._pending = gate, store, pending
        self._epochs, self._faults, self._transforms = epochs, faults, transforms
        self._on_placed, self._no_fixed_frame = on_placed, no_fixed_frame
        self._decoder = FrameDecoder(store, faults, image_bridge)
        self._lock = Lock()

    def camera_info(
        self,
        camera: str,
        message: Any,
        parameters: SessionParameters,
        now_ros_ns: int,
        now_steady_ns: int,
    ) -> None:
        """Take in intrinsics; images that were waiting for them now wait for their pose."""
        state = self.cameras[camera]
        values = camera_info_values(message)
        with self._lock:
            if state.info is not None and same_calibration(values, state.info):
                values = state.info  # what was computed from it is kept too
            elif state.info is not None:
                self._gate.flush(camera)
                flushed = self._store.flush(camera)
                self._faults.throttled(
                    f"{camera}: intrinsics changed",
                    "warning",
                    f"camera {camera}: intrinsics changed; its {flushed} keyframes are discarded",
                )
                state.noticed["intrinsics changed"] += 1
            stamp_ns = stamp_to_ns(message.header.stamp)
            # One with a stamp in the future would outlive all that images ask for.
            state.note_info(0 if is_future_stamp(stamp_ns, now_ros_ns) else stamp_ns, values)
            held = list(state.held_images)
            state.held_images.clear()
            for image in held:
                self._await_pose(state, image, parameters, now_ros_ns, now_steady_ns)

    def image(
        self,
        camera: str,
        message: Any,
        parameters: SessionParameters,
        now_ros_ns: int,
        now_steady_ns: int,
    ) -> TimeJump | None:
        """Take in an image: drop it with a counted reason, or let it wait for its pose."""
        state = self.cameras[camera]
        with self._lock:
            state.note_arrival(now_steady_ns)
            stamp_ns = stamp_to_ns(message.header.stamp)
            usable, jump = self._judge_stamp(state, stamp_ns, now_ros_ns)
            if usable:
                state.last_stamp_ns = stamp_ns
                self._await_pose(state, message, parameters, now_ros_ns, now_steady_ns)
            return jump

    def depth_image(self, camera: str, message: Any) -> None:
        """Keep a depth image that is registered to the camera's images, or count why it is not."""
        state = self.cameras[camera]
        try:
            depth_hw = depth_hw_from_message(message)
        except ImageError as error:
            with self._lock:
                self._refuse_depth(state, "depth", error)
            return
        header = message.header
        with self._lock:
            depth = ArrivedDepth(stamp_to_ns(header.stamp), header.frame_id, depth_hw, message)
            state.unjudged_depths.append(depth)
            self._judge_depths(state)

    def place(
        self, parameters: SessionParameters, now_ros_ns: int, now_steady_ns: int
    ) -> list[Keyframe]:
        """Ask TF about all waiting images; returns the keyframes that came of it.

        Where a depth camera sends, an image also waits for its depth, but never longer than for TF.
        """
        with self._lock:
            epoch = self._epochs.epoch
        fixed = parameters.frames.fixed
        depth_wait_ns = round(min(DEPTH_WAIT_S, parameters.tf.timeout_s) * NS_PER_S)
        outcome = self._pending.retry(
            lambda frame_id, stamp_ns: tf_pose(self._transforms, fixed, frame_id, stamp_ns),
            now_ros_ns,
            now_steady_ns,
            parameters.tf.timeout_s,
            lambda image: (
                now_ros_ns - image.arrived_ros_ns >= depth_wait_ns
                or not self.cameras[image.camera].expects_depth(image.stamp_ns)
            ),
        )
        for drop in outcome.dropped:
            self._report_tf_drop(drop.waiting, drop.reason, fixed)
            if not self._pending.poses_needed:
                wait_s = (now_steady_ns - drop.waiting.arrived_steady_ns) * 1e-9
                with self._lock:
                    if self._epochs.epoch == epoch and self._on_placed is not None:
                        self._on_placed(self._placed(drop.waiting, NO_POSE, wait_s, parameters))
        keyframes = []
        for placed in outcome.placed:
            with self._lock:
                if self._epochs.epoch != epoch:
                    break  # time jumped meanwhile: these poses belong to the old epoch
                keyframe = self._keyframe(
                    placed.waiting, placed.T_fixed_cam, placed.wait_s, parameters
                )
                if keyframe is not None:
                    self._store.add(keyframe)
                    keyframes.append(keyframe)
        return keyframes

    def clock_reading(self, ros_ns: int, steady_ns: int) -> TimeJump | None:
        """Look for a time jump between this reading of both clocks and the previous one."""
        with self._lock:
            return self._forgotten_after(self._epochs.clock_reading(ros_ns, steady_ns))

    def clock_jumped(self, delta_ns: int, source_changed: bool) -> TimeJump | None:
        """Judge a jump that the clock itself reports."""
        with self._lock:
            return self._forgotten_after(self._epochs.clock_callback(delta_ns, source_changed))

    def forget(self) -> None:
        """Discard images, keyframes and non-static transforms, at the user's request."""
        with self._lock:
            self._transforms.clear()
            self._forget()

    def end_of_input(self) -> None:
        """Count the images whose intrinsics will not come any more (the end of a bag)."""
        with self._lock:
            for state in self.cameras.values():
                state.dropped["no_info"] += len(state.held_images)
                state.held_images.clear()

    # -- under the lock ---------------------------------------------------------------------------

    def _forget(self) -> None:
        self._pending.flush()
        self._gate.flush()
        self._store.flush()
        for state in self.cameras.values():
            state.forget()

    def _forgotten_after(self, jump: TimeJump | None) -> TimeJump | None:
        # Within the lock, so that nothing of the old epoch comes in after it was forgotten.
        if jump is not None:
            self._transforms.clear()
            self._forget()
        return jump

    def _judge_stamp(
        self, state: CameraState, stamp_ns: int, now_ros_ns: int
    ) -> tuple[bool, TimeJump | None]:
        """Return whether an image may be used, and the time jump that its stamp reveals."""
        if stamp_ns > 0 and is_future_stamp(stamp_ns, now_ros_ns):
            # Before it affects the order, or all later good images would seem to be late.
            state.dropped["stamp_future"] += 1
            self._faults.throttled(
                f"{state.name}: stamp future",
                "warning",
                f"camera {state.name}: image stamp is {(stamp_ns - now_ros_ns) * 1e-9:.1f} s ahead "
                "of now and the image is dropped; synchronise the clocks, or set use_sim_time when "
                "a bag or simulator plays",
            )
            return False, None
        verdict = self._epochs.image_stamp(state.name, stamp_ns)
        self._forgotten_after(verdict.jump)
        if verdict.fault is StampFault.ZERO:
            state.dropped["stamp_zero"] += 1
            self._faults.once(
                f"{state.name}: stamp zero",
                "error",
                f"camera {state.name}: image stamps are zero, so TF cannot place them; let the "
                "driver stamp its images",
            )
        elif verdict.fault is StampFault.BACKWARD:
            state.dropped["stamp"] += 1
            self._faults.throttled(
                f"{state.name}: stamp backward",
                "warning",
                f"camera {state.name}: image stamp {stamp_ns * 1e-9:.3f} s is not newer than the "
                "previous one",
            )
        return verdict.usable, verdict.jump

    def _await_pose(
        self,
        state: CameraState,
        message: Any,
        parameters: SessionParameters,
        now_ros_ns: int,
        now_steady_ns: int,
    ) -> None:
        """Let an image with a good stamp wait for its pose; also one that was held before."""
        camera, stamp_ns = state.name, stamp_to_ns(message.header.stamp)
        frame_id = parameters.cameras.frame_ids.get(camera) or message.header.frame_id
        if not frame_id:
            state.dropped["frame_id"] += 1
            self._faults.once(
                f"{camera}: frame_id",
                "error",
                f"camera {camera}: images have an empty frame_id; set it in the driver, or "
                f"give frame_id_override.{camera}",
            )
            return
        # An override also names the frame of depth without one, as it does for images.
        unnamed = [""] if parameters.cameras.frame_ids.get(camera) else []
        state.frame_ids = frozenset({frame_id, message.header.frame_id, *unnamed})
        exact = parameters.cameras.exact_pairing
        info = state.infos_by_stamp.get(stamp_ns) if exact else state.info
        if info is None:
            state.held_images.append(message)
            if len(state.held_images) > (MAX_HELD_FOR_EXACT_INFO if exact else 1):
                state.held_images.popleft()
                state.dropped["no_info"] += 1
            return
        self._judge_depths(state)
        # Mode depth needs the pose of every image; otherwise the rate limit saves the lookup.
        if self._on_placed is None and self._gate.too_soon(camera, stamp_ns, parameters.gate):
            return
        overflow = self._pending.add(
            WaitingImage(
                camera, frame_id, stamp_ns, now_ros_ns, now_steady_ns, ArrivedImage(message, info)
            ),
            parameters.tf.pending_max,
        )
        if overflow is not None:
            self._report_tf_drop(overflow.waiting, overflow.reason, parameters.frames.fixed)

    def _judge_depths(self, state: CameraState) -> None:
        """Keep the depth images that are registered, as soon as there is something to compare."""
        if state.info is None or not state.frame_ids:
            return
        while state.unjudged_depths:
            depth = state.unjudged_depths.popleft()
            try:
                require_registered(depth.hw, depth.frame_id, state.frame_ids, state.info)
            except UnregisteredDepth as error:
                self._refuse_depth(state, error.fault.value, error)
                continue
            state.depth_rejection = ""
            state.depths.append(depth)
            state.newest_depth_ns = max(state.newest_depth_ns, depth.stamp_ns)

    def _refuse_depth(self, state: CameraState, cause: str, error: ImageError) -> None:
        state.refuse_depth(cause, str(error))
        self._faults.throttled(
            f"{state.name}: {cause}", "warning", f"camera {state.name}: depth is dropped: {error}"
        )

    def _placed(
        self,
        waiting: WaitingImage[ArrivedImage],
        T_fixed_cam: FloatArray,
        wait_s: float,
        parameters: SessionParameters,
    ) -> PlacedFrame:
        camera, stamp_ns, epoch = waiting.camera, waiting.stamp_ns, self._epochs.epoch
        state = self.cameras[camera]
        depth = state.nearest_depth(stamp_ns)
        return PlacedFrame(
            camera,
            stamp_ns,
            T_fixed_cam,
            epoch,
            lambda: self._decoder.frame(
                state, waiting, T_fixed_cam, epoch, wait_s, depth, parameters
            ),
        )

    def _keyframe(
        self,
        waiting: WaitingImage[ArrivedImage],
        T_fixed_cam: FloatArray,
        wait_s: float,
        parameters: SessionParameters,
    ) -> Keyframe | None:
        camera, stamp_ns, gate = waiting.camera, waiting.stamp_ns, parameters.gate
        placed = self._placed(waiting, T_fixed_cam, wait_s, parameters)
        if self._on_placed is not None:
            self._on_placed(placed)
            if self._gate.too_soon(camera, stamp_ns, gate):
                return None
        verdict = self._gate.judge(camera, stamp_ns, T_fixed_cam, gate)
        if verdict.jump:
            self._faults.throttled(
                "pose jump", "warning", f"{verdict.jump}; a new keyframe segment starts"
            )
        if not verdict.accepted:
            return None
        frame = placed.frame()
        if frame is None or self._gate.too_blurred(frame.image, gate):
            return None
        self._gate.accept(camera, stamp_ns, T_fixed_cam)
        return Keyframe.of(frame, verdict.segment)

    # -- transforms -------------------------------------------------------------------------------

    def _report_tf_drop(
        self, waiting: WaitingImage[ArrivedImage], reason: TfFailure, fixed: str
    ) -> None:
        unknown = reason is TfFailure.UNKNOWN_FRAME
        there = f"; TF has: {', '.join(self._transforms.frames()) or 'none'}" if unknown else ""
        lost = self._pending.poses_needed or reason is TfFailure.OVERFLOW
        what_then = "the image is dropped" if lost else "the image is used without a pose"
        no_frame = self._no_fixed_frame() if unknown else ""
        if no_frame:
            level: Level = "error" if lost or fixed != AUTO else "warning"
            self._faults.throttled("fixed frame", level, f"{no_frame}; {what_then}")
            return
        if fixed == AUTO:
            return  # it may still be found
        self._faults.throttled(
            f"tf {reason.value}",
            "error" if reason is TfFailure.NOT_RIGID else "warning",
            f"camera {waiting.camera}: no pose of frame {waiting.frame_id!r} in {fixed!r} at "
            f"{waiting.stamp_ns * 1e-9:.3f} s ({reason.value}); {what_then}{there}",
        )
