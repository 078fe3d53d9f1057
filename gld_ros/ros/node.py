"""`gld_node`: a managed node around a `SynthesisSession`. Its transitions.

Each transition undoes exactly what its counterpart did. What lives from configure to cleanup is in
`configured`, subscriptions are in `inputs` and `policies`, publishers in `outputs`, the action in
`goals`, services in `services`, reports in `diagnostics`, when automatic jobs are due in
`automatic_jobs`; every decision about images and jobs is the session's.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.lifecycle import (
    LifecycleNode,
    LifecycleNodeMixin,
    LifecycleState,
    TransitionCallbackReturn,
)
from rclpy.node import Node

from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.jobs import JobResult
from gld_ros.mapping.model import ModelFactory, ModelUnavailable, load_model
from gld_ros.mapping.session import SynthesisSession
from gld_ros.mapping.synthesizer import DeviceFault
from gld_ros.ros.automatic_jobs import AutomaticJobs
from gld_ros.ros.configured import Configured
from gld_ros.ros.diagnostics.facts import NodeFacts
from gld_ros.ros.diagnostics.publisher import Diagnostics
from gld_ros.ros.follow_up_thread import FollowUpThread
from gld_ros.ros.goals import GoalServer
from gld_ros.ros.inputs import SensorInputs
from gld_ros.ros.node_log import emit_to
from gld_ros.ros.parameters.declare import NodeParameters
from gld_ros.ros.parameters.snapshot import Snapshot
from gld_ros.ros.services import Services

Transition = Callable[["GldNode", LifecycleState], TransitionCallbackReturn]
SUCCESS = TransitionCallbackReturn.SUCCESS

PLACING_PERIOD_S = 0.05  # while messages come
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
        self.exit_code = 0
        self.problem = ""  # why the last configure failed
        self.callback_errors: Counter[str] = Counter()  # by the type of what a callback raised
        self.parameters = NodeParameters(self, lambda: self.active)
        self.parameters.on_change = self._parameters_changed
        self.faults = FaultLog(emit_to(self.get_logger()))
        self._configured: Configured | None = None
        self._placing: FollowUpThread | None = None  # from activate to deactivate, as the next
        self._automatic_jobs: AutomaticJobs | None = None
        self._undo_activate = ExitStack()
        self._goal_server = GoalServer(
            self,
            lambda: self.session,
            lambda: self.parameters.snapshot.session.goals.max_open,
            self.faults,
            self.callback_failed,
        )
        self._own_services = Services(self, lambda: self.session)
        self._diagnostics = Diagnostics(
            self, self.facts, self.parameters.snapshot.node.diagnostics_period_s
        )
        self.get_logger().info("unconfigured, waiting for configure")

    @property
    def session(self) -> SynthesisSession | None:
        """The session of the loaded model, from configure to cleanup."""
        configured = self._configured  # cleanup on another thread may take it
        return configured.session if configured is not None else None

    @property
    def active(self) -> bool:
        """Whether goals are answered and sensors are heard."""
        session = self.session
        return session is not None and session.active

    @property
    def now_ns(self) -> int:
        """ROS time in nanoseconds; 0 while simulated time has not begun."""
        return int(self.get_clock().now().nanoseconds)

    @property
    def rejected_transforms(self) -> Mapping[str, int]:
        """How many transforms could not be right, by frame and reason."""
        configured = self._configured
        return configured.tf.rejected if configured is not None else {}

    # -- transitions ------------------------------------------------------------------------------

    @_logging_errors
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check parameters, load the model, create what lives until cleanup."""
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
        self._configured = Configured(
            self,
            model,
            snapshot,
            self.faults,
            on_sensor_messages=self._poke_placing,
            on_progress=self._goal_server.on_progress,
            on_job_ended=self._job_ended,
            callback_failed=self.callback_failed,
        )
        if self.parameters.snapshot is not snapshot:  # something was set while the model loaded
            self._configured.session.set_parameters(self.parameters.snapshot.session)
        self.get_logger().info(
            "configured: " + ", ".join(f"{k} {v}" for k, v in model.description.items())
        )
        if model.random_weights:
            self.get_logger().warning("the bundle has RANDOM weights: its views mean nothing")
        return SUCCESS

    @_logging_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the session, subscribe to sensors, start timers."""
        changed = self.parameters.needing_configure(self._existing().snapshot)
        if changed:
            self.get_logger().info(f"{', '.join(changed)} changed: configuring again")
            self._release()
            if self.on_configure(state) != SUCCESS:
                return TransitionCallbackReturn.ERROR
        configured = self._existing()
        session = configured.session
        try:
            session.start()
        except RuntimeError as error:
            self.get_logger().error(f"cannot activate: {error}")
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        inputs = SensorInputs(self, session, self.faults, configured.sensor_thread)
        self._undo_activate.callback(inputs.close)
        self._placing = FollowUpThread(
            "gld_placing",
            lambda: self._place_images(session, inputs),
            self.callback_failed,
            at_most_every_s=PLACING_PERIOD_S,
            at_least_every_s=LOOK_PERIOD_S,
        )
        self._undo_activate.callback(self._placing.close)
        self._automatic_jobs = AutomaticJobs(self, session, configured.policies.read)
        self._undo_activate.callback(self._automatic_jobs.close)
        return result

    @_logging_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo activate: unsubscribe, cancel what runs, keep weights and keyframes."""
        self._stop()
        if self.parameters.snapshot.node.release_on_deactivate:
            self._existing().session.model.release()
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
        self._diagnostics.close()

    # -- undoing configure and activate -----------------------------------------------------------

    def _release(self) -> None:
        configured, self._configured = self._configured, None
        if configured is not None:
            configured.close()

    def _stop(self) -> None:
        session = self.session
        ended = session is None or session.stop(self.parameters.snapshot.node.shutdown_timeout_s)
        self._undo_activate.close()
        self._placing = self._automatic_jobs = None
        if not ended:
            self.get_logger().warning("a step did not end in time; its thread is abandoned")

    def _existing(self) -> Configured:
        if self._configured is None:
            raise RuntimeError("the node is not configured")
        return self._configured

    # -- images -----------------------------------------------------------------------------------

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
        # Jumps of simulated time are the clock's to report (`configured`).
        if not self.get_clock().ros_time_is_active:
            session.clock_reading()
        session.place_images()

    # -- results, parameters, reports -------------------------------------------------------------

    def _job_ended(self, result: JobResult) -> None:
        """Answer the goal of a job and report it; called on the worker's thread."""
        self._goal_server.on_result(result)
        self._diagnostics.publish_status()
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
        session = self.session
        if session is not None:
            session.set_parameters(snapshot.session)
        if "diagnostics.period" in names:
            self._diagnostics.set_period(snapshot.node.diagnostics_period_s)
        if "policy.rate" in names and self._automatic_jobs is not None:
            self._automatic_jobs.set_rate(snapshot.session.policy.rate_hz)

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
