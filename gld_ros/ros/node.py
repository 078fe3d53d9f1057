"""`gld_node`: a managed node that imagines views. Wiring only: topics, timers, transitions.

Each transition undoes exactly what its counterpart did. Decisions live elsewhere: images in
`intake`, jobs in `job_maker`, goals in `goals`, products in `gld_ros.mapping`, words for operators
in `diagnostics`.
"""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_srvs.srv import SetBool, Trigger

from gld_ros.geometry.poses import pose_from_quaternion
from gld_ros.mapping.epochs import EpochMonitor, TimeJump
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.jobs import (
    CancelReason,
    ErrorCode,
    JobProgress,
    JobRequest,
    JobResult,
    Outcome,
)
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.pending import PendingImages, TfFailure
from gld_ros.mapping.postprocess import Postprocessor
from gld_ros.mapping.synthesizer import DeviceFault
from gld_ros.mapping.targets import poses_as_targets
from gld_ros.mapping.worker import SynthesisWorker
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.messages.transforms import TransformUnavailable
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.diagnostics import Diagnostics, NodeFacts
from gld_ros.ros.goals import GoalServer
from gld_ros.ros.intake import CameraState, Intake
from gld_ros.ros.job_maker import JobMaker, MadeJob, NoJob, OccupancyGrid, PolicyInput
from gld_ros.ros.model import LoadedModel, ModelFactory, ModelUnavailable, load_model
from gld_ros.ros.outputs import Outputs, is_too_old, latched
from gld_ros.ros.parameters.declare import NodeParameters
from gld_ros.ros.parameters.snapshot import Snapshot
from gld_ros.ros.parameters.spec import When
from gld_ros.ros.parameters.table import BY_NAME
from gld_ros.ros.scene_files import SceneNotSaved, save_scene
from gld_ros.ros.tf_buffer import make_tf_buffer
from gld_ros.ros.view_messages import Frames
from gld_ros.srv import SaveScene

Transition = Callable[["GldNode", LifecycleState], TransitionCallbackReturn]

INTAKE_PERIOD_S = 0.02
DEVICE_LOST_EXIT_CODE = 70
NO_INPUT_SAID_AFTER_S = 2.0
SENSOR_QOS = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE
)


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
        # Transitions run in the default group, so nothing else but parameter services may use it.
        super().__init__("gld", **options)
        self._model_factory = model_factory
        self._active = False
        self._active_since_s = 0.0
        self._problem = ""  # why the last configure failed
        # ROS time stands still without /clock and in a paused bag; looking after input does not.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.exit_code = 0
        self.parameters = NodeParameters(self, lambda: self._active)
        self.parameters.on_change = self._parameters_changed
        self.faults = FaultLog(self._log)
        self._parts: _Parts | None = None
        self._entities: list[Any] = []  # what activate created: subscriptions and timers
        self._diagnostics = Diagnostics(self)
        self._diagnostics_timer = self.create_timer(
            self.parameters.snapshot["diagnostics.period"],
            self._publish_diagnostics,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=self._steady_clock,
        )
        self.get_logger().info("unconfigured, waiting for configure")

    # -- transitions ------------------------------------------------------------------------------

    @_logging_errors
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check parameters, load the model, create publishers, TF, services and the action."""
        self._problem = "; ".join(self.parameters.problems())
        if self._problem:
            self.get_logger().error(self._problem)
            return TransitionCallbackReturn.FAILURE
        try:
            model = self._model_factory(self.parameters.snapshot)
        except ModelUnavailable as error:
            self._problem = str(error)
            self.get_logger().error(self._problem)
            return TransitionCallbackReturn.FAILURE
        except DeviceFault as error:
            self._device_lost(str(error))
            return TransitionCallbackReturn.ERROR
        self._parts = _Parts(self, model)
        self.get_logger().info(
            "configured: " + ", ".join(f"{k} {v}" for k, v in model.description.items())
        )
        if model.random_weights:
            self.get_logger().warning("the bundle has RANDOM weights: its views mean nothing")
        return TransitionCallbackReturn.SUCCESS

    @_logging_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker, subscribe, start timers."""
        changed = self._configured().changed_since(self.parameters.snapshot)
        if changed:
            self.get_logger().info(f"{', '.join(changed)} changed: configuring again")
            self._release()
            if self.on_configure(state) != TransitionCallbackReturn.SUCCESS:
                return TransitionCallbackReturn.ERROR
        parts = self._configured()
        try:
            parts.worker.start()
        except RuntimeError as error:
            self.get_logger().error(f"cannot activate: {error}")
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        self._active_since_s = time.monotonic()
        self._active = True
        self._entities = self._subscribe(parts)
        self._entities += [
            self.create_timer(
                INTAKE_PERIOD_S,
                self._intake_tick,
                callback_group=parts.intake_group,
                clock=self._steady_clock,
            ),
            self.create_timer(
                1.0 / self.parameters.snapshot["policy.rate"],
                self._policy_tick,
                callback_group=parts.policy_group,
            ),
        ]
        return result

    @_logging_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo activate: unsubscribe, cancel what runs, keep weights and keyframes."""
        self._stop(CancelReason.INACTIVE)
        if self.parameters.snapshot["release_on_deactivate"]:
            self._configured().model.release()
        return super().on_deactivate(state)

    @_logging_errors
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo configure: drop the model, publishers, TF, keyframes, scale."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @_logging_errors
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate and clean up from any state."""
        self._stop(CancelReason.INACTIVE)
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @_logging_errors
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release what can be released; a lost device ends the process."""
        self._stop(CancelReason.INACTIVE)
        self._release()
        lost = self.exit_code == DEVICE_LOST_EXIT_CODE
        return TransitionCallbackReturn.ERROR if lost else TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop everything, whatever the state; for the end of the process."""
        self._stop(CancelReason.INACTIVE)
        self._release()
        self.destroy_timer(self._diagnostics_timer)

    def _stop(self, reason: CancelReason) -> None:
        self._active = False
        for entity in self._entities:
            if hasattr(entity, "timer_period_ns"):
                self.destroy_timer(entity)
            else:
                self.destroy_subscription(entity)
        self._entities = []
        if self._parts is not None:
            ended = self._parts.worker.stop(self.parameters.snapshot["shutdown_timeout"], reason)
            if not ended:
                self.get_logger().warning("a step did not end in time; its thread is abandoned")

    def _release(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.close()

    def _configured(self) -> _Parts:
        if self._parts is None:
            raise RuntimeError("the node is not configured")
        return self._parts

    # -- input ------------------------------------------------------------------------------------

    def _subscribe(self, parts: _Parts) -> list[Any]:
        snapshot = self.parameters.snapshot
        made = []
        overridable = QoSOverridingOptions.with_default_policies()
        for name, camera in parts.intake.cameras.items():
            group = MutuallyExclusiveCallbackGroup()
            kind = "CompressedImage" if camera.compressed else "Image"
            made += [
                self.create_subscription(
                    rclpy_type(f"sensor_msgs/msg/{kind}"),
                    camera.topic,
                    lambda message, name=name: self._image(name, message),
                    SENSOR_QOS,
                    callback_group=group,
                    event_callbacks=self._counting(camera),
                    qos_overriding_options=overridable,
                ),
                self.create_subscription(
                    rclpy_type("sensor_msgs/msg/CameraInfo"),
                    f"{name}/camera_info",
                    lambda message, name=name: self._camera_info(name, message),
                    SENSOR_QOS,
                    callback_group=group,
                    event_callbacks=self._counting(camera),
                    qos_overriding_options=overridable,
                ),
            ]
            if snapshot["scale.mode"] == "depth_topic":
                made.append(
                    self.create_subscription(
                        rclpy_type("sensor_msgs/msg/Image"),
                        f"{name}/depth",
                        lambda message, name=name: parts.intake.sensor_depth(name, message),
                        SENSOR_QOS,
                        callback_group=group,
                    )
                )
        made += [
            self.create_subscription(
                rclpy_type("geometry_msgs/msg/PoseArray"),
                "target_poses",
                parts.keep_targets,
                1,
                callback_group=parts.policy_group,
            ),
            self.create_subscription(
                rclpy_type("nav_msgs/msg/Path"),
                "path",
                parts.keep_path,
                1,
                callback_group=parts.policy_group,
            ),
            self.create_subscription(
                rclpy_type("nav_msgs/msg/OccupancyGrid"),
                "map",
                parts.keep_map,
                latched(),
                callback_group=parts.policy_group,
            ),
        ]
        return made

    def _counting(self, camera: CameraState) -> SubscriptionEventCallbacks:
        """Return callbacks that count what the middleware could not deliver to a camera."""

        def incompatible(event: Any) -> None:
            camera.qos_incompatible += event.total_count_change
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self.faults.throttled(
                f"{camera.name}: qos",
                "warning",
                f"camera {camera.name}: a publisher beside {camera.topic} offers a QoS that this "
                f"subscription cannot take ({policy}); see qos_overrides",
            )

        def lost(event: Any) -> None:
            camera.lost += event.total_count_change

        return SubscriptionEventCallbacks(incompatible_qos=incompatible, message_lost=lost)

    def _image(self, camera: str, message: Any) -> None:
        if self._active:
            self._configured().intake.image(
                camera, message, self.parameters.snapshot, self.now_ns, time.monotonic_ns()
            )

    def _camera_info(self, camera: str, message: Any) -> None:
        if not self._active:
            return
        intake, snapshot = self._configured().intake, self.parameters.snapshot
        held = intake.camera_info(camera, message, snapshot)
        if held is not None:
            intake.await_pose(camera, held, snapshot, self.now_ns, time.monotonic_ns())

    def _intake_tick(self) -> None:
        """Look for time jumps, then ask TF about the images that wait."""
        parts = self._parts
        if parts is None or not self._active:
            return
        self._say_what_is_missing(parts)
        # Jumps of simulated time are the clock's to report (`clock_jumped`).
        if not self.get_clock().ros_time_is_active:
            parts.intake.clock_reading(self.now_ns, time.monotonic_ns())
        parts.intake.retry(
            self._lookup_or_failure, self.parameters.snapshot, self.now_ns, time.monotonic_ns()
        )

    def _say_what_is_missing(self, parts: _Parts) -> None:
        """Name the input that does not come, and how many publish it, every five seconds."""
        if time.monotonic() - self._active_since_s < NO_INPUT_SAID_AFTER_S:
            return
        if self.get_clock().ros_time_is_active and self.now_ns == 0:
            publishers = self.count_publishers("/clock")
            self.faults.throttled(
                "no clock",
                "warning",
                f"use_sim_time is set, but nothing came on /clock ({publishers} publishers)",
            )
            return
        for camera in parts.intake.cameras.values():
            if not camera.received:
                topic, lacks = camera.topic, "image"
            elif camera.info is None:
                topic, lacks = self.resolve_topic_name(f"{camera.name}/camera_info"), "CameraInfo"
            else:
                continue
            self.faults.throttled(
                f"{camera.name}: no {lacks}",
                "warning",
                f"camera {camera.name}: no {lacks} on {topic} yet "
                f"({self.count_publishers(topic)} publishers)",
            )

    def _lookup_or_failure(self, frame_id: str, stamp_ns: int) -> Any:
        try:
            return self.lookup_fixed(frame_id, stamp_ns)
        except TransformUnavailable as error:
            return {
                "future": TfFailure.FUTURE,
                "past": TfFailure.PAST,
                "disconnected": TfFailure.DISCONNECTED,
            }.get(error.reason, TfFailure.UNKNOWN_FRAME)

    def clock_jumped(self, jump: Any) -> None:
        """Judge a jump that the node's clock reports."""
        changed = jump.clock_change in (
            ClockChange.ROS_TIME_ACTIVATED,
            ClockChange.ROS_TIME_DEACTIVATED,
        )
        parts = self._parts
        first = not changed and self.now_ns == jump.delta.nanoseconds
        if parts is not None and not first:  # time that begins does not jump
            parts.intake.clock_jumped(jump.delta.nanoseconds, changed)

    def time_jumped(self, jump: TimeJump) -> None:
        """Forget everything of the old epoch; the intake calls it, and stands still meanwhile."""
        parts = self._parts
        if parts is None:
            return
        self.get_logger().warning(f"time jump, epoch {jump.epoch} begins: {jump.reason}")
        parts.worker.cancel_all(CancelReason.TIME_JUMP)
        parts.tf.buffer.clear()
        parts.forget(jump.epoch)
        parts.note_jump()
        self.faults.new_epoch()

    # -- jobs -------------------------------------------------------------------------------------

    def _policy_tick(self) -> None:
        parts, snapshot = self._parts, self.parameters.snapshot
        if parts is None or not self._active or parts.paused:
            return
        if snapshot["policy.type"] == "none" or parts.worker.limits.automatic_paused:
            parts.waiting_for = ""
            return
        if not (parts.outputs.listened_to() - {"keyframes"}):
            parts.waiting_for = "nobody subscribes to a product"
            return
        made = parts.jobs.automatic(
            snapshot, parts.epochs.epoch, self.now_ns, self._policy_input(parts, snapshot)
        )
        if isinstance(made, NoJob):
            parts.waiting_for = made.reason
            if made.error_code is ErrorCode.INSUFFICIENT_OVERLAP:
                self.faults.throttled("guard", "warning", f"targets refused: {made.reason}")
            return
        parts.waiting_for = ""
        for reason in made.refused:
            self.faults.throttled("guard", "warning", f"target refused: {reason}")
        if made.surplus:
            self.faults.throttled(
                "too many targets",
                "warning",
                f"{made.surplus} targets beyond sampler.max_targets "
                f"({snapshot['sampler.max_targets']}) are left out; the nearest are kept",
            )
        if made.request.anchor.stamp_ns == parts.last_automatic_anchor_ns:
            return  # nothing new was seen, so nothing new could be imagined
        parts.last_automatic_anchor_ns = made.request.anchor.stamp_ns
        parts.remember(made, publish=True)
        parts.worker.submit_automatic(made.request)

    def _policy_input(self, parts: _Parts, snapshot: Snapshot) -> PolicyInput:
        policy = snapshot["policy.type"]
        try:
            if policy == "topic" and parts.targets is not None:
                return PolicyInput(topic_targets=self._topic_targets(parts.targets, snapshot))
            if policy == "path_ahead" and parts.path is not None:
                header = parts.path.header
                T_fixed_path = self.lookup_fixed(header.frame_id, stamp_to_ns(header.stamp))
                positions = np.array(
                    [
                        (p.pose.position.x, p.pose.position.y, p.pose.position.z)
                        for p in parts.path.poses
                    ]
                ).reshape(-1, 3)
                return PolicyInput(
                    T_fixed_base=self.lookup_fixed(snapshot["base_frame"], 0),
                    path_fixed_m=positions @ T_fixed_path[:3, :3].T + T_fixed_path[:3, 3],
                )
            if policy == "frontier" and parts.map is not None:
                return PolicyInput(grid=self._grid(parts.map))
        except (TransformUnavailable, ValueError) as error:  # of TF, or of the message itself
            self.faults.throttled("policy input", "warning", f"policy {policy}: {error}")
            return PolicyInput(missing=str(error))
        return PolicyInput()

    def _topic_targets(self, message: Any, snapshot: Snapshot) -> Sequence[Any]:
        T_fixed_frame = self.lookup_fixed(
            message.header.frame_id, stamp_to_ns(message.header.stamp)
        )
        poses = [
            (
                (p.position.x, p.position.y, p.position.z),
                (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w),
            )
            for p in message.poses
        ]
        return poses_as_targets(T_fixed_frame, poses, snapshot["policy.pose_convention"])

    def _grid(self, message: Any) -> OccupancyGrid:
        """Place a nav_msgs/OccupancyGrid; raises ValueError for a bad size or origin."""
        info, header = message.info, message.header
        origin = info.origin
        T_frame_grid = pose_from_quaternion(
            (origin.position.x, origin.position.y, origin.position.z),
            (
                origin.orientation.x,
                origin.orientation.y,
                origin.orientation.z,
                origin.orientation.w,
            ),
        )
        # A map is true until the next one comes, so it is placed where its frame is now.
        T_fixed_frame = self.lookup_fixed(header.frame_id, 0)
        cells = np.asarray(message.data, dtype=np.int8).reshape(info.height, info.width)
        return OccupancyGrid(cells, float(info.resolution), T_fixed_frame @ T_frame_grid)

    def on_job_progress(self, request: JobRequest, progress: JobProgress) -> None:
        """Pass progress on to the goal that asked; called on the worker's thread."""
        parts = self._parts
        if parts is not None:
            parts.goals.on_progress(request, progress)

    def on_job_result(self, result: JobResult) -> None:
        """Publish a finished job and answer its goal; called on the worker's thread."""
        parts = self._parts
        if parts is None:
            return
        made, publish = parts.recall(result.request)
        snapshot = self.parameters.snapshot
        published_s = 0.0
        if result.outcome is Outcome.DONE and publish:
            if is_too_old(result, self.now_ns, snapshot["product.max_age"]):
                parts.products_too_old += 1
                self.faults.throttled(
                    "product too old",
                    "warning",
                    f"a product of {result.times.total:.1f} s of work is older than "
                    f"product.max_age ({snapshot['product.max_age']} s) and is dropped; use a "
                    "lower profile, or raise it together with the consumers' TF cache",
                )
            else:
                published_s = parts.outputs.publish_job(
                    result, made.verdicts, self.frames(), snapshot["view_tf.publish"]
                )
        elif result.outcome is Outcome.FAILED:
            self.faults.throttled(
                f"job failed {result.error_code.name}",
                "error",
                f"job {result.request.job_id} failed: {result.error_msg}",
            )
        if parts.worker.out_of_memory_count > parts.out_of_memory_said:
            parts.out_of_memory_said = parts.worker.out_of_memory_count
            self.faults.throttled(
                "out of memory",
                "warning",
                f"out of memory; degraded to level {parts.worker.limits.level}: "
                f"{parts.worker.limits.description}",
            )
        parts.note_result(result, published_s, self.now_ns)
        scale = parts.postprocessor.scale_state(self.now_ns)
        if result.outcome is Outcome.DONE and not scale.metric:
            withheld = snapshot["scale.withhold_if_unresolved"]
            self.faults.throttled(
                "scale unresolved",
                "warning",
                f"depth and clouds are {'withheld' if withheld else 'not metric'}: {scale.reason}",
            )
        parts.goals.on_result(result)
        self._diagnostics.publish_status(self.facts())
        if result.device_lost:
            self._device_lost(result.error_msg)

    def _device_lost(self, why: str) -> None:
        """Have the process end, so that a new one can be started."""
        self._problem = f"the device is lost: {why}"
        self.get_logger().fatal(self._problem)
        self.exit_code = DEVICE_LOST_EXIT_CODE

    # -- what goals, diagnostics and services ask -------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether goals are answered and sensors are heard."""
        return self._active

    @property
    def epoch(self) -> int:
        """Number of the present stretch of continuous time."""
        return self._parts.epochs.epoch if self._parts is not None else 0

    @property
    def now_ns(self) -> int:
        """ROS time in nanoseconds; 0 while simulated time has not begun."""
        return int(self.get_clock().now().nanoseconds)

    def frames(self) -> Frames:
        """Return the names of the frames that products carry."""
        snapshot = self.parameters.snapshot
        return Frames(snapshot["fixed_frame"], snapshot["view_frame_prefix"])

    def goal_limits(self) -> tuple[int, str]:
        """Return how many targets a goal may have, and the convention of topics."""
        snapshot = self.parameters.snapshot
        return snapshot["sampler.max_targets"], snapshot["policy.pose_convention"]

    def lookup_fixed(self, frame_id: str, stamp_ns: int) -> Any:
        """Return T_fixed_frame (4, 4) at a stamp, 0 being the latest; TransformUnavailable else."""
        fixed = self.parameters.snapshot["fixed_frame"]
        if frame_id == fixed:
            return np.eye(4)
        return self._configured().tf.buffer.lookup(fixed, frame_id, stamp_ns or None)

    def make_goal_job(self, poses: list[Any], options: dict[str, Any]) -> MadeJob | NoJob:
        """Return the job of a goal, or why there is none."""
        parts = self._configured()
        return parts.jobs.goal(
            self.parameters.snapshot, parts.epochs.epoch, self.now_ns, poses, **options
        )

    def submit_goal(self, made: MadeJob, publish: bool) -> bool:
        """Hand a goal's job to the worker; False if another goal waits already."""
        parts = self._configured()
        parts.remember(made, publish)
        accepted = parts.worker.submit_goal(made.request)
        if not accepted:
            parts.recall(made.request)
        return accepted

    def cancel_job(self, job_id: int) -> bool:
        """Cancel a waiting or running job; False if there is none of this number."""
        return self._configured().worker.cancel(job_id)

    def facts(self) -> NodeFacts:
        """Return everything that status and diagnostics report."""
        return NodeFacts(
            now_ns=self.now_ns,
            steady_ns=time.monotonic_ns(),
            active=self._active,
            sim_time=bool(self.get_parameter("use_sim_time").value),
            parameters=self.parameters.snapshot,
            parts=self._parts,
            problem=self._problem,
        )

    def _publish_diagnostics(self) -> None:
        self._diagnostics.publish(self.facts())

    def _parameters_changed(self, snapshot: Snapshot, names: set[str]) -> None:
        if "keyframes.capacity" in names and self._parts is not None:
            self._parts.store.resize(snapshot["keyframes.capacity"])
        if "diagnostics.period" in names:
            self._diagnostics_timer.timer_period_ns = int(snapshot["diagnostics.period"] * 1e9)
            self._diagnostics_timer.reset()
        if "policy.rate" in names:
            for entity in self._entities:
                if getattr(entity, "callback", None) == self._policy_tick:
                    entity.timer_period_ns = int(1e9 / snapshot["policy.rate"])
                    entity.reset()

    def reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answer `~/reset`: forget keyframes, scale and queue."""
        parts = self._configured()
        parts.worker.cancel_all(CancelReason.USER)
        parts.forget(parts.epochs.epoch)
        response.success, response.message = True, "keyframes, scale and queue are forgotten"
        return response

    def pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Answer `~/pause`: stop or resume automatic jobs; intake goes on."""
        self._configured().paused = request.data
        response.success = True
        response.message = "automatic jobs are " + ("paused" if request.data else "resumed")
        return response

    def save_scene(
        self, request: SaveScene.Request, response: SaveScene.Response
    ) -> SaveScene.Response:
        """Answer `~/save_scene`: write the keyframes as a scene folder."""
        keyframes = self._configured().store.snapshot()
        try:
            save_scene(request.path, keyframes, include_images=request.include_images)
        except SceneNotSaved as error:
            self.get_logger().error(str(error))
            response.success, response.message = False, str(error)
            return response
        response.success, response.num_keyframes = True, len(keyframes)
        response.message = f"{len(keyframes)} keyframes written to {request.path}"
        return response

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


class _Parts:
    """What exists from configure to cleanup."""

    def __init__(self, node: GldNode, model: LoadedModel) -> None:
        snapshot = node.parameters.snapshot
        self._node = node
        self._snapshot = snapshot
        self.model = model
        self.gate = KeyframeGate()
        self.store = KeyframeStore(snapshot["keyframes.capacity"])
        self.pending: PendingImages[Any] = PendingImages()
        self.epochs = EpochMonitor(
            snapshot["time.backward_tolerance"], snapshot["time.forward_gap"]
        )
        compressed = snapshot["image_transport"] == "compressed"
        suffix = "/compressed" if compressed else ""
        cameras = {
            # Resolved and remapped first: remapping <camera>/image is enough for both transports.
            name: CameraState(name, node.resolve_topic_name(f"{name}/image") + suffix, compressed)
            for name in snapshot["camera_names"]
        }
        self.intake = Intake(
            cameras,
            self.gate,
            self.store,
            self.pending,
            self.epochs,
            node.faults,
            node.time_jumped,
        )
        self.outputs = Outputs(node, merged=snapshot["cloud.publish_merged"])
        self.postprocessor = Postprocessor(self.outputs.wanted)
        self.jobs = JobMaker(
            self.gate, self.store, model.model_hw, lambda: self.postprocessor.median_depth_m
        )
        self.worker = SynthesisWorker(
            model.synthesizer,
            postprocess=self.postprocessor,
            on_result=node.on_job_result,
            on_progress=node.on_job_progress,
            ros_now_ns=lambda: node.now_ns,
            epoch=lambda: self.epochs.epoch,
            fault_of=model.fault_of,
        )
        self.tf_group = MutuallyExclusiveCallbackGroup()
        self.intake_group = MutuallyExclusiveCallbackGroup()
        self.policy_group = MutuallyExclusiveCallbackGroup()
        self.tf = make_tf_buffer(
            node,
            snapshot["tf.cache_time"],
            on_invalid=lambda error: node.faults.throttled("tf invalid", "error", f"TF: {error}"),
            callback_group=self.tf_group,
        )
        self.goals = GoalServer(node, node)
        service_group = MutuallyExclusiveCallbackGroup()
        self._services = [
            node.create_service(kind, name, callback, callback_group=service_group)
            for kind, name, callback in (
                (Trigger, "~/reset", node.reset),
                (SetBool, "~/pause", node.pause),
                (SaveScene, "~/save_scene", node.save_scene),
            )
        ]
        self._jump_handle = node.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=Duration(seconds=snapshot["time.forward_gap"]),
                min_backward=Duration(
                    nanoseconds=-max(1, int(snapshot["time.backward_tolerance"] * 1e9))
                ),
                on_clock_change=True,
            ),
            post_callback=node.clock_jumped,
        )
        self.paused = False
        self.waiting_for = ""
        self.targets: Any = None
        self.path: Any = None
        self.map: Any = None
        self.out_of_memory_said = 0
        self.last_automatic_anchor_ns = 0
        self.products_too_old = 0
        self.jobs_done = self.jobs_cancelled = self.jobs_failed = self.jobs_superseded = 0
        self.last_result: JobResult | None = None
        self.last_done: JobResult | None = None
        self.last_publish_s = 0.0
        self.last_age_s = 0.0
        self.ages_s: list[float] = []
        self._jump_steady_ns: int | None = None
        self._made: dict[int, tuple[MadeJob, bool]] = {}
        self._made_lock = threading.Lock()

    def close(self) -> None:
        """Undo the constructor."""
        self._jump_handle.unregister()
        self.goals.close()
        for service in self._services:
            self._node.destroy_service(service)
        self.tf.close()
        self.outputs.close()
        self.model.release()

    def changed_since(self, snapshot: Snapshot) -> list[str]:
        """Return what was set since configure and cannot take effect without configuring again."""
        return [
            name
            for name, value in snapshot.values.items()
            if value != self._snapshot[name]
            and (name not in BY_NAME or BY_NAME[name].when is When.INACTIVE)
        ]

    def note_jump(self) -> None:
        """Remember when time jumped."""
        self._jump_steady_ns = time.monotonic_ns()

    def seconds_since_jump(self, steady_ns: int) -> float:
        """Return how long ago time jumped; infinity if it never did."""
        if self._jump_steady_ns is None:
            return float("inf")
        return (steady_ns - self._jump_steady_ns) * 1e-9

    def forget(self, epoch: int) -> None:
        """Forget images, keyframes and scale."""
        self.intake.flush()
        self.postprocessor.reset(epoch)
        self.last_automatic_anchor_ns = 0

    def remember(self, made: MadeJob, publish: bool) -> None:
        """Keep what a job's result needs until it comes."""
        with self._made_lock:
            self._made[made.request.job_id] = (made, publish)

    def recall(self, request: JobRequest) -> tuple[MadeJob, bool]:
        """Return, and drop, what `remember` kept."""
        with self._made_lock:
            return self._made.pop(request.job_id)

    def keep_targets(self, message: Any) -> None:
        """Remember the latest message of `target_poses`."""
        self.targets = message

    def keep_path(self, message: Any) -> None:
        """Remember the latest message of `path`."""
        self.path = message

    def keep_map(self, message: Any) -> None:
        """Remember the latest message of `map`."""
        self.map = message

    def note_result(self, result: JobResult, published_s: float, now_ns: int) -> None:
        """Count a result for status and diagnostics."""
        self.last_result, self.last_publish_s = result, published_s
        if result.outcome is Outcome.DONE:
            self.jobs_done += 1
            self.last_done = result
            self.last_age_s = (now_ns - result.request.anchor.stamp_ns) * 1e-9
            self.ages_s = [*self.ages_s[-99:], self.last_age_s]
        elif result.outcome is Outcome.CANCELLED:
            self.jobs_cancelled += 1
            self.jobs_superseded += result.cancelled_by is CancelReason.SUPERSEDED
        else:
            self.jobs_failed += 1
