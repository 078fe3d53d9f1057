"""What exists from configure to cleanup: the session of a loaded model and what it is connected to.

Owns the order in which publishers, the thread of sensor messages, TF, the topics of policies and
the watch for clock jumps are set up and undone. What exists only while active is the node's.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.clock import ClockChange, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode

from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.jobs import JobProgress, JobRequest, JobResult
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.parameters import TimeParameters
from gld_ros.mapping.product_messages import offered_topics
from gld_ros.mapping.session import SynthesisSession
from gld_ros.ros.distribution.image_bridge import cv_bridge_rgb
from gld_ros.ros.inputs import cameras_of
from gld_ros.ros.outputs import Outputs
from gld_ros.ros.parameters.snapshot import Snapshot
from gld_ros.ros.policies import PolicyInputs
from gld_ros.ros.serving_thread import ServingThread
from gld_ros.ros.tf_buffer import make_tf_buffer


class Configured:
    """A session with publishers, TF and topics of policies; `snapshot` is what it was made with.

    `on_sensor_messages` is called on the thread of sensor messages after some were taken,
    `on_progress` and `on_job_ended` on the worker's; `callback_failed` gets what a callback raises.
    """

    def __init__(
        self,
        node: LifecycleNode,
        model: LoadedModel,
        snapshot: Snapshot,
        faults: FaultLog,
        *,
        on_sensor_messages: Callable[[], None],
        on_progress: Callable[[JobRequest, JobProgress], None],
        on_job_ended: Callable[[JobResult], None],
        callback_failed: Callable[[Exception], None],
    ) -> None:
        parameters, clock = snapshot.session, node.get_clock()
        self.snapshot = snapshot
        with ExitStack() as undo:  # what fails half-way is undone, too
            undo.callback(model.release)
            outputs = Outputs(node, offered_topics(model.mode, merged=snapshot.node.merged_cloud))
            undo.callback(outputs.close)
            self.sensor_thread = ServingThread(
                node.context, "gld_sensors", callback_failed, on_messages=on_sensor_messages
            )
            self.sensor_thread.start()
            undo.callback(self.sensor_thread.close)
            self.tf = make_tf_buffer(
                node,
                parameters.tf.cache_time_s,
                on_invalid=lambda error: faults.throttled("tf invalid", "error", f"TF: {error}"),
                callback_group=self.sensor_thread,
            )
            undo.callback(self.tf.close)
            self.session = session = SynthesisSession(
                model,
                cameras_of(node, snapshot.node),
                parameters,
                self.tf.buffer,
                faults,
                now_ns=lambda: int(clock.now().nanoseconds),
                wanted=outputs.wanted,
                publish=lambda result: outputs.publish_job(result, session.parameters.frames),
                on_progress=on_progress,
                on_job_ended=on_job_ended,
                image_bridge=cv_bridge_rgb,
            )
            self.policies = PolicyInputs(node, session, faults, self.sensor_thread)
            undo.callback(self.policies.close)
            jumps = clock.create_jump_callback(
                _jump_threshold(parameters.time),
                post_callback=lambda jump: _judge_jump(session, jump, clock.now().nanoseconds),
            )
            undo.callback(jumps.unregister)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Undo everything, the last first."""
        self._undo.close()


def _jump_threshold(parameters: TimeParameters) -> JumpThreshold:
    return JumpThreshold(
        min_forward=Duration(seconds=parameters.forward_gap_s),
        min_backward=Duration(nanoseconds=-max(1, int(parameters.backward_tolerance_s * 1e9))),
        on_clock_change=True,
    )


def _judge_jump(session: SynthesisSession, jump: Any, now_ns: int) -> None:
    """Tell the session of a jump that the node's clock reports."""
    changed = jump.clock_change in (
        ClockChange.ROS_TIME_ACTIVATED,
        ClockChange.ROS_TIME_DEACTIVATED,
    )
    begins = not changed and now_ns == jump.delta.nanoseconds
    if not begins:  # time that begins does not jump
        session.clock_jumped(jump.delta.nanoseconds, changed)
