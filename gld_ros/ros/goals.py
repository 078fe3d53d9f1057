"""The action `~/synthesize_views`: from a goal to a job, feedback, cancellation, result.

Every accepted goal is answered with an error code; 0 means that the views are there.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from gld_ros.action import SynthesizeViews
from gld_ros.geometry.poses import PoseConvention
from gld_ros.mapping.jobs import ErrorCode, JobProgress, JobRequest, JobResult, Outcome
from gld_ros.mapping.products import Product
from gld_ros.mapping.targets import InvalidTarget, poses_as_targets
from gld_ros.messages.camera_info import CameraInfoError, camera_info_values, pinhole_camera
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import NS_PER_S, make_header, stamp_to_ns
from gld_ros.messages.transforms import TransformUnavailable
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.job_maker import MadeJob, NoJob
from gld_ros.ros.outputs import job_views_message
from gld_ros.ros.view_messages import Frames

logger = logging.getLogger(__name__)

POLL_S = 0.01
STAGES = {"queued": 0, "encoding": 1, "sampling": 2, "decoding": 3}


class GoalSource(Protocol):
    """What the action needs of the node."""

    def make_goal_job(self, poses: list[Any], options: dict[str, Any]) -> MadeJob | NoJob: ...
    def goal_limits(self) -> tuple[int, str]: ...
    def lookup_fixed(self, frame_id: str, stamp_ns: int) -> Any: ...
    def submit_goal(self, made: MadeJob, publish: bool) -> bool: ...
    def cancel_job(self, job_id: int) -> bool: ...
    def frames(self) -> Frames: ...
    @property
    def is_active(self) -> bool: ...
    @property
    def epoch(self) -> int: ...


class GoalFailed(Exception):
    """Ends a goal with an error code and a sentence."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class _OpenGoal:
    """A goal whose job was submitted; the worker's thread fills it in."""

    handle: Any
    started_s: float
    done: threading.Event
    result: JobResult | None = None


class GoalServer:
    """Answers goals; each occupies one executor thread while it waits."""

    def __init__(self, node: Any, source: GoalSource) -> None:
        self._source = source
        self._open: dict[int, _OpenGoal] = {}
        self._lock = threading.Lock()
        self._server = ActionServer(
            node,
            SynthesizeViews,
            "~/synthesize_views",
            execute_callback=self._execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )

    def close(self) -> None:
        """Destroy the server."""
        self._server.destroy()

    @property
    def open_goals(self) -> int:
        """How many goals have a job that waits or runs."""
        with self._lock:
            return len(self._open)

    def on_progress(self, request: JobRequest, progress: JobProgress) -> None:
        """Send feedback of a goal's job; called on the worker's thread."""
        with self._lock:
            goal = self._open.get(request.job_id)
        if goal is not None and goal.handle.is_active:
            goal.handle.publish_feedback(_feedback(progress))

    def on_result(self, result: JobResult) -> None:
        """Wake the goal that waits for this job; called on the worker's thread."""
        with self._lock:
            goal = self._open.get(result.request.job_id)
        if goal is not None:
            goal.result = result
            goal.done.set()

    def _execute(self, handle: Any) -> Any:
        verdicts: MadeJob | None = None
        try:
            verdicts, result = self._run(handle)
        except GoalFailed as failure:
            if handle.is_cancel_requested:
                handle.canceled()
            else:
                handle.abort()
            return _failure(failure.code, str(failure))
        except Exception as error:
            logger.exception("goal failed")
            handle.abort()
            return _failure(ErrorCode.UNKNOWN, f"{type(error).__name__}: {error}")
        if result.outcome is not Outcome.DONE:
            if handle.is_cancel_requested:
                handle.canceled()
            else:
                handle.abort()
            return _failure(result.error_code, result.error_msg)
        answer = self._success(handle.request, verdicts, result)
        handle.succeed()
        return answer

    def _run(self, handle: Any) -> tuple[MadeJob, JobResult]:
        goal = handle.request
        if not self._source.is_active:
            raise GoalFailed(ErrorCode.NODE_INACTIVE, "the node is not active")
        started_s = time.monotonic()
        wait_s = stamp_to_ns(goal.max_wait) / NS_PER_S
        deadline_s = started_s + wait_s
        camera = self._checked(goal)
        epoch = self._source.epoch
        made = self._made_in_time(handle, goal, camera, deadline_s, epoch)
        opened = _OpenGoal(handle, started_s, threading.Event())
        job_id = made.request.job_id
        with self._lock:
            self._open[job_id] = opened
        try:
            while not self._source.submit_goal(made, goal.publish):
                self._keep_waiting(
                    handle, deadline_s, epoch, ErrorCode.TIMEOUT, "another goal waits already"
                )
            handle.publish_feedback(_feedback(JobProgress("queued", 0, 0, 0.0, 0.0, 0.0)))
            asked_to_cancel = False
            while not opened.done.wait(POLL_S):
                if handle.is_cancel_requested and not asked_to_cancel:
                    asked_to_cancel = self._source.cancel_job(job_id)
            assert opened.result is not None  # set before the event
            return made, opened.result
        finally:
            with self._lock:
                del self._open[job_id]

    def _checked(self, goal: Any) -> tuple[Any, tuple[int, int]] | None:
        """Check what does not depend on time; returns the camera that was asked for, if any."""
        max_targets, _ = self._source.goal_limits()
        count = len(goal.targets.poses)
        if not 1 <= count <= max_targets:
            raise GoalFailed(
                ErrorCode.INVALID_GOAL, f"{count} targets; 1 to {max_targets} are allowed"
            )
        if goal.pose_convention not in (
            SynthesizeViews.Goal.CONVENTION_BODY,
            SynthesizeViews.Goal.CONVENTION_OPTICAL,
        ):
            raise GoalFailed(
                ErrorCode.INVALID_GOAL,
                f"pose_convention is {goal.pose_convention}; 0 (body) or 1 (optical) is allowed",
            )
        if not np.isfinite(goal.guidance_scale) or goal.guidance_scale < 0:
            raise GoalFailed(
                ErrorCode.INVALID_GOAL, f"guidance_scale is {goal.guidance_scale}; >= 0 is needed"
            )
        info = goal.camera_info
        if info.width == 0:
            return None
        hw = (int(info.height), int(info.width))
        try:
            return pinhole_camera(camera_info_values(info), hw, "input_is_rectified").K_px, hw
        except (CameraInfoError, ValueError) as error:
            raise GoalFailed(ErrorCode.INVALID_GOAL, str(error)) from error

    def _made_in_time(
        self, handle: Any, goal: Any, camera: Any, deadline_s: float, epoch: int
    ) -> MadeJob:
        """Make the job, waiting for TF and keyframes until the deadline."""
        options: dict[str, Any] = {
            "cameras": list(goal.cameras),
            "anchor_time_ns": stamp_to_ns(goal.anchor_time),
            "seed": int(goal.seed) if goal.use_seed else None,
            "num_steps": int(goal.num_steps),
            "guidance_scale": float(goal.guidance_scale),
            # The job may wait for the worker as long as the goal may wait at all.
            "start_before_steady_s": (
                deadline_s if stamp_to_ns(goal.max_wait) > 0 else float("inf")
            ),
        }
        if camera is not None:
            options["K_px"], options["image_hw"] = camera
        if goal.return_images:
            options["always_wanted"] = frozenset(
                {
                    Product.PREDICTED_COLOR,
                    Product.PREDICTED_DEPTH,
                    Product.PREDICTED_CONFIDENCE,
                    Product.QUALITY,
                }
            )
        while True:
            code, message = ErrorCode.UNKNOWN, ""
            try:
                poses = self._targets(goal)
            except TransformUnavailable as error:
                code, message = ErrorCode.TF_ERROR, str(error)
            else:
                made = self._source.make_goal_job(poses, options)
                if isinstance(made, MadeJob):
                    return made
                code, message = made.error_code, made.reason
                if code is not ErrorCode.NO_KEYFRAMES:
                    raise GoalFailed(code, message)
            self._keep_waiting(handle, deadline_s, epoch, code, message)

    def _targets(self, goal: Any) -> list[Any]:
        header = goal.targets.header
        T_fixed_frame = self._source.lookup_fixed(header.frame_id, stamp_to_ns(header.stamp))
        convention: PoseConvention = (
            "optical" if goal.pose_convention == SynthesizeViews.Goal.CONVENTION_OPTICAL else "body"
        )
        poses = [
            (
                (p.position.x, p.position.y, p.position.z),
                (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w),
            )
            for p in goal.targets.poses
        ]
        try:
            return poses_as_targets(T_fixed_frame, poses, convention)
        except InvalidTarget as error:
            raise GoalFailed(ErrorCode.INVALID_GOAL, str(error)) from error

    def _keep_waiting(
        self, handle: Any, deadline_s: float, epoch: int, code: ErrorCode, message: str
    ) -> None:
        """Sleep a little, or end the goal: cancelled, inactive, time jumped, or out of time."""
        if handle.is_cancel_requested:
            raise GoalFailed(ErrorCode.NONE, "cancelled by its client")
        if not self._source.is_active:
            raise GoalFailed(ErrorCode.NODE_INACTIVE, "the node was deactivated")
        if self._source.epoch != epoch:
            raise GoalFailed(ErrorCode.TIME_JUMP, "time jumped while the goal waited")
        if time.monotonic() >= deadline_s:
            raise GoalFailed(code, message)
        time.sleep(POLL_S)

    def _success(self, goal: Any, made: MadeJob, result: JobResult) -> Any:
        answer = SynthesizeViews.Result()
        frames = self._source.frames()
        products = [run.products for run in result.runs if run.products is not None]
        answer.views = job_views_message(result, made.verdicts, products, frames)
        scale = products[-1].scale
        if not scale.metric:
            answer.error_code = int(ErrorCode.SCALE_UNRESOLVED)
            answer.error_msg = f"colours only, depth is withheld: {scale.reason}"
        if goal.return_images:
            for view in (v for p in products for v in p.predicted):
                header = make_header(
                    result.request.anchor.stamp_ns, frames.view(view.slot), rclpy_type
                )
                if view.color is not None:
                    answer.images.append(image_message(view.color, "rgb8", header))
                if view.depth_m is not None:
                    answer.depths.append(image_message(view.depth_m, "32FC1", header))
                if view.confidence is not None:
                    answer.confidences.append(image_message(view.confidence, "32FC1", header))
        return answer


def _failure(code: ErrorCode, message: str) -> Any:
    answer = SynthesizeViews.Result()
    answer.error_code, answer.error_msg = int(code), message
    return answer


def _feedback(progress: JobProgress) -> Any:
    feedback = SynthesizeViews.Feedback()
    feedback.stage = STAGES[progress.stage]
    feedback.step, feedback.total_steps = progress.step, progress.total_steps
    feedback.progress = float(progress.fraction)
    for field, seconds in (
        (feedback.elapsed, progress.elapsed_s),
        (feedback.remaining, progress.remaining_s),
    ):
        field.sec, field.nanosec = divmod(round(seconds * NS_PER_S), NS_PER_S)
    return feedback
