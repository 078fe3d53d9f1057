"""The application without ROS: images, transforms and requests in, finished jobs out.

A node and an offline run drive the same `SynthesisSession`, so a robot and a bag cannot differ.
They own topics, timers and clocks; all decisions about images, jobs, epochs and scale are made here
or in the modules that this one combines.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.depth_stream import DepthStream
from gld_ros.mapping.epochs import EpochMonitor, TimeJump
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.fixed_frame_search import FixedFrameSearch
from gld_ros.mapping.frames import FloatArray, Keyframe
from gld_ros.mapping.intake import Intake
from gld_ros.mapping.job_history import JobHistory
from gld_ros.mapping.job_planner import (
    JobOptions,
    JobPlanner,
    JobRejection,
    PlannedJob,
    PolicyInput,
)
from gld_ros.mapping.jobs import (
    CancelReason,
    ErrorCode,
    JobProgress,
    JobRequest,
    JobResult,
    Outcome,
    SynthesisRun,
    product_age_s,
)
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.measurements import Measurements
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.mapping.pending import PendingImages
from gld_ros.mapping.placed_frame import ArrivedImage, PlacedFrame
from gld_ros.mapping.postprocess import Postprocessor
from gld_ros.mapping.products import Product
from gld_ros.mapping.scale import ScaleState
from gld_ros.mapping.stereo_device import StereoDevice
from gld_ros.mapping.worker import SynthesisWorker
from gld_ros.measuring.surfaces import MeasuredScene, Surface
from gld_ros.messages.fixed_frame import AUTO
from gld_ros.messages.frame_tree import UnknownFrame
from gld_ros.messages.images import ImageBridge
from gld_ros.messages.transforms import TfBuffer

MEASURING_WAIT_S = 1.0  # of a job, for keyframes that are being measured
NOTHING_WANTED = "no product has a subscriber"
NO_VIEWS = (
    "the node runs in mode depth, which imagines no views; set mode to views, with a bundle that "
    "has diffusion and RGB decoder weights"
)


class SynthesisSession:
    """One run of the application, from a loaded model to its release.

    `wanted` returns the products somebody subscribes to now. `publish` is given every finished job
    that is to be published and returns the seconds that took; `on_progress` and `on_job_ended` then
    inform the requester. All three are called on the worker's thread. Public attributes may be
    read.
    """

    def __init__(
        self,
        model: LoadedModel,
        cameras: Mapping[str, CameraState],
        parameters: SessionParameters,
        transforms: TfBuffer,
        faults: FaultLog,
        *,
        now_ns: Callable[[], int],
        wanted: Callable[[], frozenset[Product]],
        publish: Callable[[JobResult], float] = lambda result: 0.0,
        on_progress: Callable[[JobRequest, JobProgress], None] = lambda request, progress: None,
        on_job_ended: Callable[[JobResult], None] = lambda result: None,
        image_bridge: ImageBridge | None = None,
    ) -> None:
        self.model = model
        self.cameras = cameras
        self._given = parameters
        self._fixed_frame = FixedFrameSearch(transforms, faults, poses_needed=model.mode == "views")
        self.active = False
        self.paused = False  # automatic jobs are
        self.waiting_for = ""  # why there is no automatic job now
        self.history = JobHistory()
        self.gate = KeyframeGate()
        self.store = KeyframeStore(parameters.keyframes.capacity)
        self.mode = model.mode
        self.pending: PendingImages[ArrivedImage] = PendingImages(poses_needed=self.mode == "views")
        self.depth_stream = DepthStream()
        self.measurements = Measurements(
            parameters.depth_source,
            StereoDevice(
                model.measuring_device,
                model.fault_of,
                lambda text: faults.throttled("measuring", "warning", text),
            ),
        )
        self.wanted = wanted
        self._now_ns, self._publish = now_ns, publish
        self._on_job_ended = on_job_ended
        self._transforms, self._faults = transforms, faults
        self._epochs = EpochMonitor(
            parameters.time.backward_tolerance_s, parameters.time.forward_gap_s
        )
        self._intake = Intake(
            cameras,
            self.gate,
            self.store,
            self.pending,
            self._epochs,
            faults,
            transforms,
            self._note_image,
            image_bridge,
            self.missing_fixed_frame,
        )
        self._postprocessor = Postprocessor(wanted, self._measured)
        self._planner = JobPlanner(
            self.gate, self.store, model.model_hw, lambda: self._postprocessor.median_depth_m
        )
        self.worker = SynthesisWorker(
            model.synthesizer,
            postprocess=self._postprocessor,
            on_result=self._job_ended,
            on_progress=on_progress,
            surfaces=self._surfaces,
            ros_now_ns=now_ns,
            epoch=lambda: self.epoch,
            fault_of=model.fault_of,
        )
        self._last_anchor_ns = 0  # of an automatic job
        self._oom_reported = 0
        self._jump_steady_ns: int | None = None

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let jobs run on their own thread. Raises RuntimeError if an earlier thread hangs."""
        self.worker.start()
        self.measurements.start()
        self.active = True

    def stop(self, timeout_s: float) -> bool:
        """Cancel what runs and end the thread; False if it did not end. Keyframes are kept."""
        self.active = False
        self.depth_stream.flush()
        self.measurements.stop(timeout_s)
        return self.worker.stop(timeout_s, CancelReason.INACTIVE)

    def set_parameters(self, parameters: SessionParameters) -> None:
        """Take over changed parameters; jobs that are planned already keep theirs."""
        self._given = parameters
        self.measurements.source = parameters.depth_source
        self.store.resize(parameters.keyframes.capacity)

    def reset(self) -> None:
        """Discard keyframes, scale, queue and non-static transforms, at the user's request.

        A fixed frame that was found is looked for again.
        """
        self._fixed_frame.forget()
        self._discard()

    def _discard(self) -> None:
        self.worker.cancel_all(CancelReason.USER)
        self._intake.forget()
        self._forget_products()

    @property
    def parameters(self) -> SessionParameters:
        """All parameters, with the fixed frame that was found if it was to be."""
        return self._fixed_frame.applied(self._given)

    # -- input ------------------------------------------------------------------------------------

    def camera_info(self, camera: str, message: Any) -> None:
        """Take in a sensor_msgs/CameraInfo."""
        self._intake.camera_info(
            camera, message, self.parameters, self._now_ns(), time.monotonic_ns()
        )

    def image(self, camera: str, message: Any) -> None:
        """Take in a sensor_msgs/Image or CompressedImage, as the camera's state says."""
        self._after(
            self._intake.image(
                camera, message, self.parameters, self._now_ns(), time.monotonic_ns()
            )
        )

    def depth_image(self, camera: str, message: Any) -> None:
        """Take in a depth image of a camera's own optical frame."""
        self._intake.depth_image(camera, message)

    def place_images(self) -> list[Keyframe]:
        """Ask TF about the images that wait; returns the keyframes that came of it."""
        if self._fixed_frame.look(self._given, self.pending.frame_ids(), live=self.active):
            self._discard()  # their poses are in another frame
        keyframes = self._intake.place(self.parameters, self._now_ns(), time.monotonic_ns())
        if keyframes:
            for keyframe in keyframes:
                self.measurements.add(keyframe)
            self.measurements.keep_only(self.store.snapshot())
            if not self.active:  # no thread does it: a bag, which must repeat exactly
                self.measurements.work_off()
        if self.active:
            self._submit_depth()
        return keyframes

    def clock_reading(self) -> None:
        """Look for a jump of the clock since the previous reading."""
        self._after(self._intake.clock_reading(self._now_ns(), time.monotonic_ns()))

    def clock_jumped(self, delta_ns: int, source_changed: bool) -> None:
        """Judge a jump that the clock itself reports."""
        self._after(self._intake.clock_jumped(delta_ns, source_changed))

    def end_of_input(self) -> None:
        """Count what waits for messages that will not come any more."""
        self._intake.end_of_input()

    # -- jobs -------------------------------------------------------------------------------------

    def plan_depth(self) -> PlannedJob | None:
        """Return the job of the next image that waits for its depth; None if none does."""
        frame = self.depth_stream.take()
        if frame is None:
            return None
        segment = self.gate.segment_at(frame.stamp_ns)
        return self._planner.depth(self.parameters, Keyframe.of(frame, segment))

    def plan_automatic(
        self, policy_input: Callable[[], PolicyInput] = PolicyInput
    ) -> PlannedJob | None:
        """Return the automatic job that is due; `waiting_for` says why there is none.

        None also if the newest keyframe has had its job already.
        """
        outcome = self._automatic_job(policy_input)
        self.waiting_for = outcome.reason if isinstance(outcome, JobRejection) else ""
        return outcome if isinstance(outcome, PlannedJob) else None

    def _automatic_job(
        self, policy_input: Callable[[], PolicyInput]
    ) -> PlannedJob | JobRejection | None:
        parameters = self.parameters
        if self.mode == "depth":  # every image has its job, see `plan_depth`
            return None if self.wanted() else JobRejection(NOTHING_WANTED)
        if self.paused or parameters.policy.type == "none" or self.worker.limits.automatic_paused:
            return None
        if not self.wanted():
            return JobRejection(NOTHING_WANTED)
        planned = self._planner.automatic(parameters, self.epoch, self._now_ns(), policy_input())
        if isinstance(planned, JobRejection):
            if planned.error_code is ErrorCode.INSUFFICIENT_OVERLAP:
                self._faults.throttled("guard", "warning", f"targets rejected: {planned.reason}")
            return planned
        for reason in planned.rejected:
            self._faults.throttled("guard", "warning", f"target rejected: {reason}")
        if planned.surplus:
            self._faults.once(  # it is so at every job
                "too many targets",
                "warning",
                f"{planned.surplus} targets beyond sampler.max_targets "
                f"({parameters.sampler.max_targets}) are left out; the nearest are kept",
            )
        anchor_ns = planned.request.anchor.stamp_ns
        if anchor_ns == self._last_anchor_ns:
            return None
        self._last_anchor_ns = anchor_ns
        return planned

    def plan_goal(
        self, poses: Sequence[FloatArray], options: JobOptions
    ) -> PlannedJob | JobRejection:
        """Return the job of a goal with targets `T_fixed_target` (4, 4), or why there is none."""
        if self.mode == "depth":
            return JobRejection(NO_VIEWS, ErrorCode.INVALID_GOAL)
        return self._planner.goal(self.parameters, self.epoch, poses, options)

    def submit_automatic(self, planned: PlannedJob) -> None:
        """Hand an automatic job to the worker's thread; it replaces one that waits."""
        self.worker.submit_automatic(planned.request)

    def submit_goal(self, planned: PlannedJob) -> bool:
        """Hand a goal's job to the worker's thread; False if another goal waits already."""
        return self.worker.submit_goal(planned.request)

    def run(self, planned: PlannedJob) -> JobResult:
        """Run a job to its end on the caller's thread, in a session that was not started."""
        result = self.worker.run(planned.request)
        self._job_ended(result)
        return result

    # -- what drivers and diagnostics ask ---------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Number of the current epoch."""
        return self._epochs.epoch

    @property
    def last_jump(self) -> TimeJump | None:
        """The latest time jump."""
        return self._epochs.last_jump

    def seconds_since_jump(self) -> float:
        """Return how long ago time jumped, on the steady clock; infinity if it never did."""
        if self._jump_steady_ns is None:
            return float("inf")
        return (time.monotonic_ns() - self._jump_steady_ns) * 1e-9

    def scale_state(self) -> ScaleState:
        """Return the metric scale as of now."""
        return self._postprocessor.scale_state(self._now_ns())

    def lookup_fixed(self, frame_id: str, stamp_ns: int = 0) -> FloatArray:
        """Return T_fixed_frame (4, 4) at a stamp, 0 being the latest; or TransformUnavailable."""
        fixed = self.parameters.frames.fixed
        if frame_id == fixed:
            return np.eye(4)
        if fixed == AUTO:
            raise UnknownFrame(self.missing_fixed_frame() or "no image is placed yet")
        return self._transforms.lookup(fixed, frame_id, stamp_ns or None)

    def missing_fixed_frame(self) -> str:
        """Say why images cannot be placed at all; empty while that may still change."""
        return self._fixed_frame.problem_with(self.parameters.frames.fixed)

    # -- what follows -----------------------------------------------------------------------------

    def _after(self, jump: TimeJump | None) -> None:
        """Begin a new epoch; the intake has discarded images and transforms already."""
        if jump is None:
            return
        self._faults.new_epoch()
        self._faults.throttled(
            "time jump", "warning", f"time jump, epoch {jump.epoch} begins: {jump.reason}"
        )
        self._jump_steady_ns = time.monotonic_ns()
        self.worker.cancel_all(CancelReason.TIME_JUMP)
        self._forget_products()

    def _note_image(self, placed: PlacedFrame) -> None:
        """Keep an image that the intake let through; called within the intake."""
        if placed.is_placed:
            self.measurements.note(placed)
        if self.mode == "depth" and not self.paused and self.wanted():
            self.depth_stream.offer(placed, self.parameters.depth_rate_hz, newest_only=self.active)

    def _submit_depth(self) -> None:
        """Give the worker the next image if it has nothing to do; it asks again when it has not.

        An image waits undecoded, and is queued before the worker's state is checked, so none is
        lost if the worker finishes in between.
        """
        if self.mode != "depth" or self.worker.is_busy or self.worker.limits.automatic_paused:
            return
        planned = self.plan_depth()
        if planned is not None:
            self.worker.submit_automatic(planned.request)

    def _measured(self, request: JobRequest, run: SynthesisRun) -> MeasuredScene:
        if request.is_depth:
            return self.measurements.of_image(request.anchor)
        return self._measured_around(request, run.slots, run.keyframes)

    def _surfaces(
        self, request: JobRequest, slots: Sequence[int], keyframes: Sequence[Keyframe]
    ) -> Sequence[Surface]:
        """What the model is shown before it runs: nothing where its view alone is wanted."""
        if not request.parameters.products.composite:
            return ()
        return self._measured_around(request, slots, keyframes).surfaces

    def _measured_around(
        self, request: JobRequest, slots: Sequence[int], keyframes: Sequence[Keyframe]
    ) -> MeasuredScene:
        self.measurements.await_results(MEASURING_WAIT_S)
        targets = [request.targets[slot] for slot in slots]
        return self.measurements.scene(keyframes, targets)

    def _forget_products(self) -> None:
        self.measurements.reset()
        self.depth_stream.flush()
        self._postprocessor.reset(self.epoch)
        self._last_anchor_ns = 0

    def _job_ended(self, result: JobResult) -> None:
        now_ns, limit_s = self._now_ns(), self.parameters.time.max_product_age_s
        request = result.request
        if result.outcome is Outcome.DONE and request.publish:
            if 0 < limit_s < product_age_s(request.anchor.stamp_ns, now_ns):
                self.history.too_old += 1
                self._faults.throttled(
                    "product too old",
                    "warning",
                    f"a product of {result.times.total:.1f} s of work is older than "
                    f"product.max_age ({limit_s} s) and is dropped; use a lower profile, or raise "
                    "it together with the consumers' TF cache",
                )
            else:
                seconds = self._publish(result)
                result = replace(result, times=replace(result.times, publish=seconds))
        self.history.note(result, now_ns)
        self._report(result)
        self._on_job_ended(result)
        if self.active:
            self._submit_depth()

    def _report(self, result: JobResult) -> None:
        """Log what an operator should know about a job."""
        if result.outcome is Outcome.FAILED:
            self._faults.throttled(
                f"job failed {result.error_code.name}",
                "error",
                f"job {result.request.job_id} failed: {result.error_msg}",
            )
        if self.worker.out_of_memory_count > self._oom_reported:
            self._oom_reported = self.worker.out_of_memory_count
            limits = self.worker.limits
            self._faults.throttled(
                "out of memory",
                "warning",
                f"out of memory; degraded to level {limits.level}: {limits.description}",
            )
        if result.outcome is not Outcome.DONE or not result.products:
            return
        scale = result.products[-1].scale
        if not scale.metric:
            withheld = self.parameters.products.withhold_if_unresolved
            self._faults.throttled(
                "scale unresolved",
                "warning",
                f"depth and clouds are {'withheld' if withheld else 'not metric'}: {scale.reason}",
            )
