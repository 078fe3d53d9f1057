"""The action `~/synthesize_views`: from a goal to a job, feedback, cancellation, result.

Every accepted goal is answered with an error code; 0 means that the views are there.
"""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from gld_ros.action import SynthesizeViews
from gld_ros.geometry.poses import PoseConvention
from gld_ros.mapping.frames import FloatArray
from gld_ros.mapping.job_planner import JobOptions, PlannedJob
from gld_ros.mapping.jobs import ErrorCode, JobProgress, JobRequest, JobResult, Outcome
from gld_ros.mapping.product_messages import views_message
from gld_ros.mapping.products import Product
from gld_ros.mapping.session import SynthesisSession
from gld_ros.mapping.targets import InvalidTarget, poses_as_targets
from gld_ros.messages.camera_info import CameraInfoError, camera_info_values, pinhole_camera
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import NS_PER_S, make_header, stamp_to_ns
from gld_ros.messages.transforms import TransformUnavailable
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.policies import plain_poses

logger = logging.getLogger(__name__)

POLL_S = 0.01
STAGES = {"queued": 0, "encoding": 1, "sampling": 2, "decoding": 3}
CONVENTIONS: dict[int, PoseConvention] = {
    SynthesizeViews.Goal.CONVENTION_BODY: "body",
    SynthesizeViews.Goal.CONVENTION_OPTICAL: "optical",
}
RETURNED = frozenset(  # by `return_images`
    {
        Product.PREDICTED_COLOR,
        Product.PREDICTED_DEPTH,
        Product.PREDICTED_CONFIDENCE,
        Product.QUALITY,
    }
)


class GoalFailed(Exception):
    """Ends a goal with an error code and a sentence."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class _OpenGoal:
    """A goal whose job was submitted; the worker's thread fills it in."""

    handle: Any
    done: threading.Event
    result: JobResult | None = None


class GoalServer:
    """Answers goals; each occupies one executor thread while it waits."""

    def __init__(self, node: Any, session: SynthesisSession) -> None:
        self._session = session
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
        try:
            result = self._run(handle)
        except GoalFailed as failure:
            return _ended_badly(handle, failure.code, str(failure))
        except Exception as error:
            logger.exception("goal failed")
            handle.abort()
            return _failure(ErrorCode.UNKNOWN, f"{type(error).__name__}: {error}")
        if result.outcome is not Outcome.DONE:
            return _ended_badly(handle, result.error_code, result.error_msg)
        answer = self._success(handle.request, result)
        handle.succeed()
        return answer

    def _run(self, handle: Any) -> JobResult:
        goal = handle.request
        if not self._session.active:
            raise GoalFailed(ErrorCode.NODE_INACTIVE, "the node is not active")
        wait_s = stamp_to_ns(goal.max_wait) / NS_PER_S
        deadline_s = time.monotonic() + wait_s
        self._check(goal)
        epoch = self._session.epoch
        planned = self._planned_in_time(handle, _options(goal, deadline_s), deadline_s, epoch)
        opened = _OpenGoal(handle, threading.Event())
        job_id = planned.request.job_id
        with self._lock:
            self._open[job_id] = opened
        try:
            while not self._session.submit_goal(planned):
                self._keep_waiting(
                    handle, deadline_s, epoch, ErrorCode.TIMEOUT, "another goal waits already"
                )
            handle.publish_feedback(_feedback(JobProgress("queued", 0, 0, 0.0, 0.0, 0.0)))
            asked_to_cancel = False
            while not opened.done.wait(POLL_S):
                if handle.is_cancel_requested and not asked_to_cancel:
                    asked_to_cancel = self._session.worker.cancel(job_id)
            assert opened.result is not None  # set before the event
            return opened.result
        finally:
            with self._lock:
                del self._open[job_id]

    def _check(self, goal: Any) -> None:
        """Check what does not depend on time; raises GoalFailed."""
        max_targets = self._session.parameters.sampler.max_targets
        count = len(goal.targets.poses)
        problem = ""
        if not 1 <= count <= max_targets:
            problem = f"{count} targets; 1 to {max_targets} are allowed"
        elif goal.pose_convention not in CONVENTIONS:
            problem = (
                f"pose_convention is {goal.pose_convention}; 0 (body) or 1 (optical) is allowed"
            )
        elif not np.isfinite(goal.guidance_scale) or goal.guidance_scale < 0:
            problem = f"guidance_scale is {goal.guidance_scale}; >= 0 is needed"
        if problem:
            raise GoalFailed(ErrorCode.INVALID_GOAL, problem)

    def _planned_in_time(
        self, handle: Any, options: JobOptions, deadline_s: float, epoch: int
    ) -> PlannedJob:
        """Plan the job, waiting for TF and keyframes until the deadline."""
        while True:
            try:
                poses = self._targets(handle.request)
            except TransformUnavailable as error:
                code, message = ErrorCode.TF_ERROR, str(error)
            else:
                planned = self._session.plan_goal(poses, options)
                if isinstance(planned, PlannedJob):
                    return planned
                code, message = planned.error_code, planned.reason
                if code is not ErrorCode.NO_KEYFRAMES:
                    raise GoalFailed(code, message)
            self._keep_waiting(handle, deadline_s, epoch, code, message)

    def _targets(self, goal: Any) -> list[FloatArray]:
        header = goal.targets.header
        T_fixed_frame = self._session.lookup_fixed(header.frame_id, stamp_to_ns(header.stamp))
        try:
            return poses_as_targets(
                T_fixed_frame, plain_poses(goal.targets.poses), CONVENTIONS[goal.pose_convention]
            )
        except InvalidTarget as error:
            raise GoalFailed(ErrorCode.INVALID_GOAL, str(error)) from error

    def _keep_waiting(
        self, handle: Any, deadline_s: float, epoch: int, code: ErrorCode, message: str
    ) -> None:
        """Sleep a little, or end the goal: cancelled, inactive, time jumped, or out of time."""
        if handle.is_cancel_requested:
            raise GoalFailed(ErrorCode.NONE, "cancelled by its client")
        if not self._session.active:
            raise GoalFailed(ErrorCode.NODE_INACTIVE, "the node was deactivated")
        if self._session.epoch != epoch:
            raise GoalFailed(ErrorCode.TIME_JUMP, "time jumped while the goal waited")
        if time.monotonic() >= deadline_s:
            raise GoalFailed(code, message)
        time.sleep(POLL_S)

    def _success(self, goal: Any, result: JobResult) -> Any:
        answer = SynthesizeViews.Result()
        frames = self._session.parameters.frames
        answer.views = views_message(result, result.times, frames, rclpy_type)
        scale = result.products[-1].scale
        if not scale.metric:
            answer.error_code = int(ErrorCode.SCALE_UNRESOLVED)
            answer.error_msg = f"colours only, depth is withheld: {scale.reason}"
        if goal.return_images:
            for view in (v for products in result.products for v in products.predicted):
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


def _options(goal: Any, deadline_s: float) -> JobOptions:
    """Return what a goal asks for beyond its targets; raises GoalFailed for a bad camera."""
    K_px = image_hw = None
    info = goal.camera_info
    if info.width:
        image_hw = (int(info.height), int(info.width))
        try:
            K_px = pinhole_camera(camera_info_values(info), image_hw, "input_is_rectified").K_px
        except (CameraInfoError, ValueError) as error:
            raise GoalFailed(ErrorCode.INVALID_GOAL, str(error)) from error
    return JobOptions(
        K_px=K_px,
        image_hw=image_hw,
        cameras=tuple(goal.cameras),
        anchor_time_ns=stamp_to_ns(goal.anchor_time),
        seed=int(goal.seed) if goal.use_seed else None,
        num_steps=int(goal.num_steps),
        guidance_scale=float(goal.guidance_scale),
        # The job may wait for the worker as long as the goal may wait at all.
        start_before_steady_s=deadline_s if stamp_to_ns(goal.max_wait) > 0 else float("inf"),
        always_wanted=RETURNED if goal.return_images else frozenset(),
        publish=bool(goal.publish),
    )


def _ended_badly(handle: Any, code: ErrorCode, message: str) -> Any:
    if handle.is_cancel_requested:
        handle.canceled()
    else:
        handle.abort()
    return _failure(code, message)


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
