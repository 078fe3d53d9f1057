"""`gld_node`: a managed node around a `SynthesisSession`. Transitions, timers and the clock.

Each transition undoes exactly what its counterpart did. Subscriptions are in `inputs` and
`policies`, publishers in `outputs`, the action in `goals`, services in `services`, reports in
`diagnostics`; every decision about images and jobs is the session's.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import (
    LifecycleNode,
    LifecycleNodeMixin,
    LifecycleState,
    TransitionCallbackReturn,
)
from rclpy.node import Node
from rclpy.timer import Timer

from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.jobs import JobResult
from gld_ros.mapping.model import LoadedModel, ModelFactory, ModelUnavailable, load_model
from gld_ros.mapping.product_messages import offered_topics
from gld_ros.mapping.session import SynthesisSession
from gld_ros.mapping.synthesizer import DeviceFault
from gld_ros.ros.diagnostics.facts import NodeFacts
from gld_ros.ros.diagnostics.publisher import Diagnostics
from gld_ros.ros.distribution.image_bridge import cv_bridge_rgb
from gld_ros.ros.follow_up_thread import FollowUpThread
from gld_ros.ros.goals import GoalServer
from gld_ros.ros.inputs import SensorInputs, cameras_of
from gld_ros.ros.outputs import Outputs
from gld_ros.ros.parameters.declare import NodeParameters
from gld_ros.ros.parameters.snapshot import Snapshot
from gld_ros.ros.policies import PolicyInputs
from gld_ros.ros.services import Services
from gld_ros.ros.serving_thread import ServingThread
from gld_ros.ros.tf_buffer import TfSubscriber, make_tf_buffer

Transition = Callable[["GldNode", LifecycleState], TransitionCallbackReturn]
SUCCESS = TransitionCallbackReturn.SUCCESS

PLACING_PERIOD_S = 0.05  # while messages come
JOB_PERIOD_S = 0.5  # ROS time; at most, between looks for an automatic job while none is due
LOOK_PERIOD_S = 0.1  # at what is missing and at the clock, while none come
DEVICE_LOST_EXIT_CODE = 70


def _logging_errors(transition: Transition) -> Transition:
    """Log an unexpected exception of a transition, which rclpy would swallow."""

    @functools.wraps(transition)
    def run(node: GldNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().error(traceback.format_exc())
            raise

    return run


class GldNode(LifecycleNode):
    """The node; `model_factory` loads what imagines views (tests bring an oracle)."""

    def __init__(self, model_factory: ModelFactory = load_model, **options: Any) -> None:
        Node.__init__(self, "gld", **options)
        # A transition may load a model for minutes. It has a group of its own, so that states and
        # parameters are told and set meanwhile; other requests for transitions wait for its end.
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self.transition_group = MutuallyExclusiveCallbackGroup()
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback_group = self.transition_group
                self.transition_group.add_entity(service)
        self._model_factory = model_factory
        # ROS time stands still without /clock and in a paused bag; looking after input does not.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.exit_code = 0
        self.problem = ""  # why the last configure failed
        self.callback_errors: Counter[str] = Counter()  # by the type of what a callback raised
        self.session: SynthesisSession | None = None  # from configure to cleanup
        self.parameters = NodeParameters(self, lambda: self.active)
        self.parameters.on_change = self._parameters_changed
        self.faults = FaultLog(self._log)
        self._configured_with: Snapshot = self.parameters.snapshot
        self._tf: TfSubscriber | None = None
        self._placing: FollowUpThread | None = None
        self._policy_timer: Timer | None = None
        self._last_job_ns = 0  # when an automatic job was submitted; 0 before the first
        self._at_deactivate: list[Callable[[], Any]] = []  # undo activate, last first
        self._at_cleanup: list[Callable[[], Any]] = []  # undo configure, last first
        self._goal_server = GoalServer(self)
        self._own_services = Services(self)
        self._diagnostics = Diagnostics(self)
        self._diagnostics_timer = self.create_timer(
            self.parameters.snapshot.node.diagnostics_period_s,
            lambda: self._diagnostics.publish(self.facts()),
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=self._steady_clock,
        )
        self.get_logger().info("unconfigured, waiting for configure")

    @property
    def active(self) -> bool:
        """Whether goals are answered and sensors are heard."""
        return self.session is not None and self.session.active

    @property
    def now_ns(self) -> int:
        """ROS time in nanoseconds; 0 while simulated time has not begun."""
        return int(self.get_clock().now().nanoseconds)

    @property
    def rejected_transforms(self) -> Mapping[str, int]:
        """How many transforms could not be right, by frame and reason."""
        return self._tf.rejected if self._tf is not None else {}

    # -- transitions ------------------------------------------------------------------------------

    @_logging_errors
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check parameters, load the model, create publishers, TF, services and the action."""
        self.problem = "; ".join(self.parameters.problems())
        if self.problem:
            self.get_logger().error(self.problem)
            return TransitionCallbackReturn.FAILURE
        snapshot = self.parameters.snapshot
        try:
            model = self._model_factory(snapshot.session)
        except ModelUnavailable as error:
            self.problem = str(error)
            self.get_logger().error(self.problem)
            return TransitionCallbackReturn.FAILURE
        except DeviceFault as error:
            self._device_lost(str(error))
            return TransitionCallbackReturn.ERROR
        self._configured_with = snapshot
        self._create_session(model, snapshot)
        if self.parameters.snapshot is not snapshot:  # something was set while the model loaded
            self._configured().set_parameters(self.parameters.snapshot.session)
        self.get_logger().info(
            "configured: " + ", ".join(f"{k} {v}" for k, v in model.description.items())
        )
        if model.random_weights:
            self.get_logger().warning("the bundle has RANDOM weights: its views mean nothing")
        return SUCCESS

    @_logging_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the session, subscribe to sensors, start timers."""
        changed = self.parameters.needing_configure(self._configured_with)
        if changed:
            self.get_logger().info(f"{', '.join(changed)} changed: configuring again")
            self._release()
            if self.on_configure(state) != SUCCESS:
                return TransitionCallbackReturn.ERROR
        session = self._configured()
        try:
            session.start()
        except RuntimeError as error:
            self.get_logger().error(f"cannot activate: {error}")
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        inputs = SensorInputs(self, session, self.faults, self._sensor_thread)
        self._placing = placing = FollowUpThread(
            "gld_placing",
            lambda: self._place_images(session, inputs),
            self.callback_failed,
            at_most_every_s=PLACING_PERIOD_S,
            at_least_every_s=LOOK_PERIOD_S,
        )
        self._policy_timer = self.create_timer(
            _job_period_s(session.parameters.policy.rate_hz),
            lambda: self._plan_job(session),
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        self._at_deactivate = [
            inputs.close,
            placing.close,
            functools.partial(self.destroy_timer, self._policy_timer),
        ]
        return result

    @_logging_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo activate: unsubscribe, cancel what runs, keep weights and keyframes."""
        self._stop()
        if self.parameters.snapshot.node.release_on_deactivate:
            self._configured().model.release()
        return super().on_deactivate(state)

    @_logging_errors
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo configure: drop the model, publishers, TF, keyframes, scale."""
        self._release()
        return SUCCESS

    @_logging_errors
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate and clean up from any state."""
        self._stop()
        self._release()
        return SUCCESS

    @_logging_errors
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release what can be released; a lost device ends the process."""
        self._stop()
        self._release()
        lost = self.exit_code == DEVICE_LOST_EXIT_CODE
        return TransitionCallbackReturn.ERROR if lost else SUCCESS

    def close(self) -> None:
        """Stop everything, whatever the state; for the end of the process."""
        self._stop()
        self._release()
        self._goal_server.close()
        self._own_services.close()
        self.destroy_timer(self._diagnostics_timer)

    # -- configure and cleanup, activate and deactivate -------------------------------------------

    def _create_session(self, model: LoadedModel, snapshot: Snapshot) -> None:
        parameters = snapshot.session
        undo = self._at_cleanup  # grows step by step: what fails half-way is undone, too
        undo.append(model.release)
        outputs = Outputs(self, offered_topics(model.mode, merged=snapshot.node.merged_cloud))
        undo.append(outputs.close)
        self._sensor_thread = ServingThread(
            self.context, "gld_sensors", self.callback_failed, on_messages=self._poke_placing
        )
        self._sensor_thread.start()
        undo.append(self._sensor_thread.close)
        self._tf = make_tf_buffer(
            self,
            parameters.tf.cache_time_s,
            on_invalid=lambda error: self.faults.throttled("tf invalid", "error", f"TF: {error}"),
            callback_group=self._sensor_thread,
        )
        undo.append(self._tf.close)
        session = SynthesisSession(
            model,
            cameras_of(self, snapshot.node),
            parameters,
            self._tf.buffer,
            self.faults,
            now_ns=lambda: self.now_ns,
            wanted=outputs.wanted,
            publish=lambda result: outputs.publish_job(result, session.parameters.frames),
            on_progress=self._goal_server.on_progress,
            on_job_ended=self._job_ended,
            image_bridge=cv_bridge_rgb,
        )
        self._policies = PolicyInputs(self, session, self.faults, self._sensor_thread)
        undo.append(self._policies.close)
        jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=Duration(seconds=parameters.time.forward_gap_s),
                min_backward=Duration(
                    nanoseconds=-max(1, int(parameters.time.backward_tolerance_s * 1e9))
                ),
                on_clock_change=True,
            ),
            post_callback=lambda jump: self._clock_jumped(session, jump),
        )
        undo.append(jumps.unregister)
        self.session = session

    def _release(self) -> None:
        self.session = None
        while self._at_cleanup:
            self._at_cleanup.pop()()
        self._tf = None

    def _stop(self) -> None:
        session = self.session
        ended = session is None or session.stop(self.parameters.snapshot.node.shutdown_timeout_s)
        while self._at_deactivate:
            self._at_deactivate.pop()()
        self._placing = self._policy_timer = None
        self._last_job_ns = 0
        if not ended:
            self.get_logger().warning("a step did not end in time; its thread is abandoned")

    def _configured(self) -> SynthesisSession:
        if self.session is None:
            raise RuntimeError("the node is not configured")
        return self.session

    # -- timers and clock -------------------------------------------------------------------------

    def _poke_placing(self) -> None:
        placing, session = self._placing, self.session
        if placing is not None and session is not None and len(session.pending):
            placing.poke()

    def _place_images(self, session: SynthesisSession, inputs: SensorInputs) -> None:
        """Look for time jumps, then ask TF about the images that wait."""
        if not session.active:
            return
        inputs.find_depth()
        inputs.warn_missing()
        # Jumps of simulated time are the clock's to report (`_clock_jumped`).
        if not self.get_clock().ros_time_is_active:
            session.clock_reading()
        session.place_images()

    def _plan_job(self, session: SynthesisSession) -> None:
        """Submit the automatic job that is due, if any.

        The first is due as soon as there are keyframes for it: a period later a short bag is over.
        """
        since_s = (self.now_ns - self._last_job_ns) * 1e-9
        # The timer's own jitter must not cost a whole look.
        due_s = 1.0 / session.parameters.policy.rate_hz - JOB_PERIOD_S / 10
        if not session.active or (self._last_job_ns and 0 <= since_s < due_s):
            return
        planned = session.plan_automatic(self._policies.read)
        if planned is not None:
            self._last_job_ns = self.now_ns
            session.submit_automatic(planned)

    def _clock_jumped(self, session: SynthesisSession, jump: Any) -> None:
        """Judge a jump that the node's clock reports."""
        changed = jump.clock_change in (
            ClockChange.ROS_TIME_ACTIVATED,
            ClockChange.ROS_TIME_DEACTIVATED,
        )
        begins = not changed and self.now_ns == jump.delta.nanoseconds
        if not begins:  # time that begins does not jump
            session.clock_jumped(jump.delta.nanoseconds, changed)

    # -- results, parameters, reports -------------------------------------------------------------

    def _job_ended(self, result: JobResult) -> None:
        """Answer the goal of a job and report it; called on the worker's thread."""
        self._goal_server.on_result(result)
        self._diagnostics.publish_status(self.facts())
        if result.device_lost:
            self._device_lost(result.error_msg)

    def _device_lost(self, why: str) -> None:
        """Have the process end, so that a new one can be started."""
        self.problem = f"the device is lost: {why}"
        self.get_logger().fatal(self.problem)
        self.exit_code = DEVICE_LOST_EXIT_CODE

    def callback_failed(self, error: Exception) -> None:
        """Report an exception that a callback raised: a defect, which must not end the process."""
        kind = type(error).__name__
        self.callback_errors[kind] += 1
        trace = "".join(traceback.format_exception(error))
        self.faults.throttled(f"callback {kind}", "error", f"a callback failed:\n{trace}")

    def _parameters_changed(self, snapshot: Snapshot, names: set[str]) -> None:
        if self.session is not None:
            self.session.set_parameters(snapshot.session)
        if "diagnostics.period" in names:
            _set_period(self._diagnostics_timer, snapshot.node.diagnostics_period_s)
        if "policy.rate" in names and self._policy_timer is not None:
            _set_period(self._policy_timer, _job_period_s(snapshot.session.policy.rate_hz))

    def facts(self) -> NodeFacts:
        """Return everything that status and diagnostics report."""
        return NodeFacts(
            now_ns=self.now_ns,
            steady_ns=time.monotonic_ns(),
            active=self.active,
            sim_time=bool(self.get_parameter("use_sim_time").value),
            session=self.session,
            tf_rejected=self.rejected_transforms,
            problem=self.problem,
            callback_errors=self.callback_errors,
        )

    def _log(self, level: str, text: str) -> None:
        logger = self.get_logger()
        # rclpy ties a call site to one severity, hence no getattr.
        if level == "debug":
            logger.debug(text)
        elif level == "info":
            logger.info(text)
        elif level == "warning":
            logger.warning(text)
        elif level == "error":
            logger.error(text)
        else:
            logger.fatal(text)


def _job_period_s(rate_hz: float) -> float:
    return min(1.0 / rate_hz, JOB_PERIOD_S)


def _set_period(timer: Timer, seconds: float) -> None:
    timer.timer_period_ns = int(seconds * 1e9)
    timer.reset()
