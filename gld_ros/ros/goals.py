"""The action `~/synthesize_views`: from a goal to a job, feedback, cancellation, result.

Every accepted goal is answered with an error code; 0 means that the views are there. A goal that
waits (for TF, keyframes or its turn) holds no thread: a timer looks after all of them. A goal whose
job was submitted holds one, and the worker takes two jobs of goals at most: one runs, one is next.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from gld_ros.action import SynthesizeViews
from gld_ros.geometry.poses import PoseConvention
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.frames import FloatArray
from gld_ros.mapping.job_planner import JobOptions, PlannedJob
from gld_ros.mapping.jobs import ErrorCode, JobProgress, JobRequest, JobResult, Outcome
from gld_ros.mapping.parameters import FrameParameters
from gld_ros.mapping.policy_topics import plain_poses
from gld_ros.mapping.product_messages import views_message
from gld_ros.mapping.products import Product
from gld_ros.mapping.session import NO_VIEWS, SynthesisSession
from gld_ros.mapping.targets import InvalidTarget, poses_as_targets
from gld_ros.messages.camera_info import CameraInfoError, camera_info_values, pinhole_camera
from gld_ros.messages.fixed_frame import AUTO
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import NS_PER_S, make_header, stamp_to_ns
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.parameters.table import MAX_GUIDANCE_SCALE, MAX_NUM_STEPS
from gld_ros.ros.serving_thread import ServingThread

logger = logging.getLogger(__name__)

POLL_S = 0.05  # at whether a running goal is cancelled; its end is noticed at once
LOOK_PERIOD_S = 0.05  # at goals that wait
CLOSING_S = 1.0  # for the answers of goals that wait when the process ends
# A queue of the usual ten overflows in a burst of requests, and who is lost waits for ever.
SERVICE_QOS = QoSProfile(depth=1000)
MAX_NAME_LENGTH = 256
MIN_SIDE_PX = 14  # of a target view: one patch of the backbone
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
    """A goal that was accepted and not answered yet."""

    handle: Any
    deadline_s: float  # steady
    session: SynthesisSession | None  # when it came
    epoch: int
    options: JobOptions | None = None  # None until the goal was checked
    planned: PlannedJob | None = None
    failure: GoalFailed | None = None
    result: JobResult | None = None
    done: threading.Event = field(default_factory=threading.Event)  # of the job


class GoalServer:
    """Answers goals as long as the node lives, in every state.

    `session` returns the node's, if it has one; `max_open` is how many goals may be open at once;
    `callback_failed` gets what a callback raises.
    """

    def __init__(
        self,
        node: Node,
        session: Callable[[], SynthesisSession | None],
        max_open: Callable[[], int],
        faults: FaultLog,
        callback_failed: Callable[[Exception], None],
    ) -> None:
        self._node, self._session = node, session
        self._max_open, self._faults = max_open, faults
        self._waiting: list[_OpenGoal] = []
        self._answering: dict[bytes, _OpenGoal] = {}  # by goal id
        self._submitted: dict[int, _OpenGoal] = {}  # by job id
        self._lock = threading.Lock()
        # Clients may send goals faster than an executor takes them, and very large ones.
        self._thread = ServingThread(node.context, "gld_goals", callback_failed)
        self._server = ActionServer(
            node,
            SynthesizeViews,
            "~/synthesize_views",
            execute_callback=self._answer,
            handle_accepted_callback=self._accepted,
            goal_callback=self._judge,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
            callback_group=self._thread,
            goal_service_qos_profile=SERVICE_QOS,
            result_service_qos_profile=SERVICE_QOS,
            cancel_service_qos_profile=SERVICE_QOS,
        )
        self._timer = node.create_timer(
            LOOK_PERIOD_S,
            self._look_at_waiting,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._timer.cancel()  # until there is something to look at
        self._thread.start()

    def close(self) -> None:
        """Answer the goals that wait, then destroy the server."""
        with self._lock:
            waiting = list(self._waiting)
        for goal in waiting:
            goal.failure = GoalFailed(ErrorCode.NODE_INACTIVE, "the node ends")
            self._hand_over(goal)
        end_s = time.monotonic() + CLOSING_S
        while self._answering and time.monotonic() < end_s:
            time.sleep(POLL_S)
        self._node.destroy_timer(self._timer)
        self._thread.close()
        self._server.destroy()

    # -- from a request to a goal that waits ------------------------------------------------------

    def _judge(self, goal: Any) -> GoalResponse:
        """Accept a goal unless too many are open; its result says what is wrong with it."""
        max_open = self._max_open()
        with self._lock:
            if len(self._waiting) + len(self._answering) < max_open:
                return GoalResponse.ACCEPT
        self._faults.throttled(
            "goals rejected",
            "warning",
            f"a goal is rejected: {max_open} are open already (goals.max_open)",
        )
        return GoalResponse.REJECT

    def _accepted(self, handle: Any) -> None:
        wait_s = stamp_to_ns(handle.request.max_wait) / NS_PER_S
        session = self._session()
        epoch = 0 if session is None else session.epoch
        goal = _OpenGoal(handle, time.monotonic() + wait_s, session, epoch)
        with self._lock:
            self._waiting.append(goal)
            self._timer.reset()

    # -- goals that wait --------------------------------------------------------------------------

    def _look_at_waiting(self) -> None:
        """Plan and submit what can be; hand over what is submitted or has failed."""
        with self._lock:
            waiting = list(self._waiting)
            if not waiting:
                self._timer.cancel()
        for goal in waiting:
            try:
                ready = self._advance(goal)
            except GoalFailed as failure:
                goal.failure, ready = failure, True
            except Exception as error:
                logger.exception("goal failed")
                goal.failure = GoalFailed(ErrorCode.UNKNOWN, f"{type(error).__name__}: {error}")
                ready = True
            if ready:
                self._hand_over(goal)

    def _hand_over(self, goal: _OpenGoal) -> None:
        """Let the executor answer a goal."""
        with self._lock:
            if goal not in self._waiting:
                return
            self._waiting.remove(goal)
            self._answering[bytes(goal.handle.goal_id.uuid)] = goal
        goal.handle.execute()

    def _advance(self, goal: _OpenGoal) -> bool:
        """Return whether the goal's job is submitted; raises GoalFailed."""
        session = goal.session
        if session is None or not session.active or session is not self._session():
            raise GoalFailed(ErrorCode.NODE_INACTIVE, "the node is not active")
        if goal.handle.is_cancel_requested:
            raise GoalFailed(ErrorCode.NONE, "cancelled by its client")
        if session.epoch != goal.epoch:
            raise GoalFailed(ErrorCode.TIME_JUMP, "time jumped while the goal waited")
        if goal.options is None:
            _check(goal.handle.request, session)
            goal.options = _options(goal.handle.request, goal.deadline_s)
        why = (ErrorCode.TIMEOUT, "another goal waits already")
        if goal.planned is None:
            planned = _plan(goal.handle.request, goal.options, session)
            if isinstance(planned, PlannedJob):
                goal.planned = planned
            else:
                why = planned
        if goal.planned is not None:
            with self._lock:
                self._submitted[goal.planned.request.job_id] = goal
            if session.submit_goal(goal.planned):
                return True
            with self._lock:
                del self._submitted[goal.planned.request.job_id]
        if time.monotonic() >= goal.deadline_s:
            raise GoalFailed(*why)
        return False

    # -- goals whose job runs ---------------------------------------------------------------------

    def on_progress(self, request: JobRequest, progress: JobProgress) -> None:
        """Send feedback of a goal's job; called on the worker's thread."""
        with self._lock:
            goal = self._submitted.get(request.job_id)
        if goal is not None and goal.handle.is_active:
            goal.handle.publish_feedback(_feedback(progress))

    def on_result(self, result: JobResult) -> None:
        """Wake the goal that waits for this job; called on the worker's thread."""
        with self._lock:
            goal = self._submitted.get(result.request.job_id)
        if goal is not None:
            goal.result = result
            goal.done.set()

    def _answer(self, handle: Any) -> Any:
        """Wait for the job of a goal that was handed over, and return its result."""
        goal_id = bytes(handle.goal_id.uuid)
        goal = self._answering[goal_id]
        try:
            if goal.failure is not None:
                return _ended_badly(handle, goal.failure.code, str(goal.failure))
            result = self._finished_job(goal)
            if result.outcome is not Outcome.DONE:
                return _ended_badly(handle, result.error_code, result.error_msg)
            assert goal.session is not None  # whose job ended
            answer = _success(handle.request, result, goal.session.parameters.frames)
            handle.succeed()
            return answer
        except Exception as error:
            logger.exception("goal failed")
            return _ended_badly(handle, ErrorCode.UNKNOWN, f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                del self._answering[goal_id]

    def _finished_job(self, goal: _OpenGoal) -> JobResult:
        # A goal without them has failed.
        assert goal.planned is not None
        assert goal.session is not None
        job_id = goal.planned.request.job_id
        try:
            goal.handle.publish_feedback(_feedback(JobProgress("queued", 0, 0, 0.0, 0.0, 0.0)))
            asked_to_cancel = False
            while not goal.done.wait(POLL_S):
                if goal.handle.is_cancel_requested and not asked_to_cancel:
                    asked_to_cancel = goal.session.worker.cancel(job_id)
            assert goal.result is not None  # set before the event
            return goal.result
        finally:
            with self._lock:
                del self._submitted[job_id]


def _check(goal: Any, session: SynthesisSession) -> None:
    """Check what does not depend on time; raises GoalFailed."""
    parameters = session.parameters
    max_targets, max_side_px = parameters.sampler.max_targets, parameters.cameras.max_side_px
    max_wait_s = parameters.goals.max_wait_s
    count, wait_s = len(goal.targets.poses), stamp_to_ns(goal.max_wait) / NS_PER_S
    width, height = goal.camera_info.width, goal.camera_info.height
    unknown = sorted(set(goal.cameras) - set(session.cameras))
    frame_length = len(goal.targets.header.frame_id)
    problem = ""
    if not 1 <= count <= max_targets:
        problem = f"{count} targets; 1 to {max_targets} are allowed"
    elif frame_length > MAX_NAME_LENGTH:
        problem = f"frame_id has {frame_length} characters; up to {MAX_NAME_LENGTH} are allowed"
    elif session.mode == "depth":
        problem = NO_VIEWS
    elif unknown:
        known = ", ".join(session.cameras)
        problem = f"{len(unknown)} unknown cameras, {unknown[0][:80]!r} first; known are {known}"
    elif goal.pose_convention not in CONVENTIONS:
        problem = f"pose_convention is {goal.pose_convention}; 0 (body) or 1 (optical) is allowed"
    elif not 0 <= goal.guidance_scale <= MAX_GUIDANCE_SCALE:
        problem = f"guidance_scale is {goal.guidance_scale}; 0 to {MAX_GUIDANCE_SCALE} is allowed"
    elif goal.num_steps > MAX_NUM_STEPS:
        problem = f"num_steps is {goal.num_steps}; 0 to {MAX_NUM_STEPS} are allowed"
    elif width and not MIN_SIDE_PX <= min(width, height) <= max(width, height) <= max_side_px:
        problem = (
            f"camera_info is of {width}x{height} px; {MIN_SIDE_PX} to {max_side_px} px a side "
            "are allowed (keyframes.max_image_side)"
        )
    elif not 0 <= wait_s <= max_wait_s:
        problem = f"max_wait is {wait_s:g} s; 0 to {max_wait_s:g} s is allowed (goals.max_wait)"
    if problem:
        raise GoalFailed(ErrorCode.INVALID_GOAL, problem)


def _plan(
    request: Any, options: JobOptions, session: SynthesisSession
) -> PlannedJob | tuple[ErrorCode, str]:
    """Return the job of a goal, or what it has to wait for; raises GoalFailed."""
    try:
        poses = _targets(request, session)
    except TransformUnavailable as error:
        searching = session.parameters.frames.fixed == AUTO and not session.missing_fixed_frame()
        return ErrorCode.NO_KEYFRAMES if searching else ErrorCode.TF_ERROR, str(error)
    planned = session.plan_goal(poses, options)
    if isinstance(planned, PlannedJob):
        return planned
    if planned.error_code is not ErrorCode.NO_KEYFRAMES:
        raise GoalFailed(planned.error_code, planned.reason)
    return planned.error_code, planned.reason


def _targets(goal: Any, session: SynthesisSession) -> list[FloatArray]:
    header, poses = goal.targets.header, plain_poses(goal.targets.poses)
    try:
        poses_as_targets(np.eye(4), poses, CONVENTIONS[goal.pose_convention])  # good ones, at least
        T_fixed_frame = session.lookup_fixed(header.frame_id, stamp_to_ns(header.stamp))
        return poses_as_targets(T_fixed_frame, poses, CONVENTIONS[goal.pose_convention])
    except InvalidTarget as error:
        raise GoalFailed(ErrorCode.INVALID_GOAL, str(error)) from error


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


def _success(goal: Any, result: JobResult, frames: FrameParameters) -> Any:
    answer = SynthesizeViews.Result()
    answer.views = views_message(result, result.times, frames, rclpy_type)
    scale = result.products[-1].scale
    if not scale.metric:
        answer.error_code = int(ErrorCode.SCALE_UNRESOLVED)
        answer.error_msg = f"colours only, depth is withheld: {scale.reason}"
    if goal.return_images:
        for view in (v for products in result.products for v in products.predicted):
            header = make_header(result.request.anchor.stamp_ns, frames.view(view.slot), rclpy_type)
            if view.color is not None:
                answer.images.append(image_message(view.color, "rgb8", header))
            if view.depth_m is not None:
                answer.depths.append(image_message(view.depth_m, "32FC1", header))
            if view.confidence is not None:
                answer.confidences.append(image_message(view.confidence, "32FC1", header))
    return answer


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
    for duration, seconds in (
        (feedback.elapsed, progress.elapsed_s),
        (feedback.remaining, progress.remaining_s),
    ):
        duration.sec, duration.nanosec = divmod(round(seconds * NS_PER_S), NS_PER_S)
    return feedback
