"""Goals over DDS: cancel within one step, every error code, order among goals and other jobs."""

import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros

SUCCEEDED, CANCELED, ABORTED = 4, 5, 6


def test_cancel_is_honoured_within_one_step(make_rig, plain_oracle):
    plain_oracle.step_delay_s = 0.3
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    handle, future = rig.goal([rig.T_fixed_cam(0.3)], num_steps=50)
    feedback = rig.received["feedback"]
    rig.graph.wait_for(lambda: any(f.feedback.stage == 2 for f in feedback), "sampling")
    cancelled = handle.cancel_goal_async()
    rig.graph.wait_for(cancelled.done, "the cancel's answer")
    steps_then = len(feedback)
    rig.graph.wait_for(future.done, "the answer")
    assert future.result().status == CANCELED
    assert len(feedback) <= steps_then + 2  # the running step, and one on its way here
    assert rig.node.session.history.cancelled == 1
    plain_oracle.step_delay_s = 0.0
    assert rig.finished_goal([rig.T_fixed_cam(0.3)])[0] == SUCCEEDED


def test_goals_that_cannot_be_are_invalid(make_rig, plain_oracle):
    from builtin_interfaces.msg import Duration

    rig = make_rig(plain_oracle, {"sampler.max_targets": 2})
    rig.activate()
    rig.drive()
    here = rig.T_fixed_cam(0.3)
    nowhere = here.copy()
    nowhere[0, 3] = np.nan
    for targets, fields, says in (
        ([], {}, "0 targets"),
        ([here] * 3, {}, "3 targets"),
        ([nowhere], {}, "target pose 0"),
        ([here], {"pose_convention": 7}, "pose_convention is 7"),
        ([here], {"guidance_scale": float("nan")}, "guidance_scale"),
        ([here], {"guidance_scale": 1e9}, "0 to 10"),
        ([here], {"num_steps": 65535}, "num_steps is 65535; 0 to 200"),
        ([here], {"max_wait": Duration(sec=10**9)}, "goals.max_wait"),
        ([here], {"max_wait": Duration(sec=-1)}, "max_wait is -1"),
        ([here], {"cameras": ["nobody"] * 1000}, "1 unknown cameras, 'nobody' first"),
        ([here], {"frame_id": "x" * 1000}, "frame_id has 1000 characters"),
        ([here], {"camera_info": uncalibrated(20_000)}, "20000x20000 px"),
        ([here], {"camera_info": uncalibrated(1)}, "1x1 px"),
        ([here], {"camera_info": uncalibrated(84)}, "K"),
    ):
        status, result = rig.finished_goal(targets, **fields)
        assert status == ABORTED
        assert result.error_code == result.INVALID_GOAL
        assert says in result.error_msg


def uncalibrated(side_px):
    from sensor_msgs.msg import CameraInfo

    return CameraInfo(width=side_px, height=side_px)


def test_waiting_goals_hold_up_nobody(make_rig, plain_oracle):
    from builtin_interfaces.msg import Duration
    from rclpy.action import ActionClient
    from rclpy.qos import QoSProfile

    from gld_ros.action import SynthesizeViews

    rig = make_rig(plain_oracle, {"goals.max_open": 8})
    rig.activate()
    rig.drive()
    assert rig.finished_goal([rig.T_fixed_cam(0.3)])[0] == SUCCEEDED
    _, goal = rig.make_goal([rig.T_fixed_cam(0.3)], frame_id="nowhere", max_wait=Duration(sec=500))
    deep = QoSProfile(depth=100)  # or this client itself loses answers
    client = ActionClient(
        rig.peer,
        SynthesizeViews,
        "/gld/synthesize_views",
        goal_service_qos_profile=deep,
        result_service_qos_profile=deep,
    )
    assert client.wait_for_server(timeout_sec=60.0)
    time.sleep(1.0)  # until the server has matched this client too
    sent = [client.send_goal_async(goal) for _ in range(40)]
    rig.graph.wait_for(lambda: all(f.done() for f in sent), "an answer to each")
    waiting = [f.result() for f in sent if f.result().accepted]
    assert len(waiting) == 8
    assert rig.counter("goals rejected") >= 1
    answers = [handle.get_result_async() for handle in waiting]
    cancelled = waiting[0].cancel_goal_async()
    rig.graph.wait_for(lambda: cancelled.done() and answers[0].done(), "the cancelled goal")
    assert answers[0].result().status == CANCELED
    status, result = rig.finished_goal([rig.T_fixed_cam(0.3)])
    assert (status, result.error_code) == (SUCCEEDED, 0)
    assert not any(answer.done() for answer in answers[1:])
    rig.node.trigger_deactivate()
    rig.graph.wait_for(lambda: all(answer.done() for answer in answers), "answers")
    codes = {answer.result().result.error_code for answer in answers[1:]}
    assert codes == {result.NODE_INACTIVE}


def test_goals_that_wait_are_answered_by_a_cleanup(make_rig, plain_oracle):
    from builtin_interfaces.msg import Duration

    rig = make_rig(plain_oracle)
    rig.activate()
    _, answer = rig.goal([rig.T_fixed_cam(0.3)], max_wait=Duration(sec=500))
    rig.node.trigger_deactivate()
    rig.node.trigger_cleanup()
    rig.graph.wait_for(answer.done, "its answer")
    assert answer.result().result.error_code == answer.result().result.NODE_INACTIVE


def test_goals_and_services_are_answered_in_every_state(make_rig, plain_oracle):
    from std_srvs.srv import SetBool, Trigger

    from gld_ros.srv import SaveScene

    rig = make_rig(plain_oracle)
    here = [rig.T_fixed_cam(0.3)]
    requests = {
        "reset": Trigger.Request(),
        "pause": SetBool.Request(data=False),
        "save_scene": SaveScene.Request(path="no absolute path"),
    }
    clients = {
        name: rig.peer.create_client(kind, f"/gld/{name}")
        for name, kind in (("reset", Trigger), ("pause", SetBool), ("save_scene", SaveScene))
    }

    def answers():
        for client in clients.values():
            rig.graph.wait_for(client.service_is_ready, "the service")
        futures = {name: clients[name].call_async(request) for name, request in requests.items()}
        rig.graph.wait_for(lambda: all(f.done() for f in futures.values()), "answers")
        return {name: future.result() for name, future in futures.items()}

    for prepare in ("", "configure", "activate", "deactivate", "cleanup"):
        if prepare:
            getattr(rig.node, f"trigger_{prepare}")()
        configured = rig.node.session is not None
        for name, answer in answers().items():
            if not configured:
                assert (answer.success, answer.message) == (False, "the node is not configured")
            else:
                assert answer.success == (name != "save_scene")
        _, result = rig.finished_goal(here)
        code = result.NO_KEYFRAMES if prepare == "activate" else result.NODE_INACTIVE
        assert result.error_code == code


def test_goals_that_lack_something_say_what(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.activate()
    here, far = rig.T_fixed_cam(0.3), rig.T_fixed_cam(9.0)
    status, result = rig.finished_goal([here])
    assert (status, result.error_code) == (ABORTED, result.NO_KEYFRAMES)
    rig.drive()
    status, result = rig.finished_goal([far])
    assert (status, result.error_code) == (ABORTED, result.INSUFFICIENT_OVERLAP)
    assert "guard.max_translation" in result.error_msg
    client, goal = rig.make_goal([here], frame_id="nowhere")
    future = client.send_goal_async(goal)
    rig.graph.wait_for(future.done, "accepted")
    answer = future.result().get_result_async()
    rig.graph.wait_for(answer.done, "answered")
    assert answer.result().result.error_code == result.TF_ERROR
    assert "nowhere" in answer.result().result.error_msg


def test_goal_waits_for_keyframes_as_long_as_it_may(make_rig, plain_oracle):
    from builtin_interfaces.msg import Duration

    rig = make_rig(plain_oracle)
    rig.activate()
    _, future = rig.goal([rig.T_fixed_cam(0.3)], max_wait=Duration(sec=60))
    rig.drive()
    rig.graph.wait_for(future.done, "the answer")
    assert future.result().status == SUCCEEDED


def test_failures_of_the_backend_have_their_codes(make_rig, plain_oracle):
    from gld_ros.mapping.synthesizer import OutOfMemory

    # On the last levels two views are left, which must tell the scale.
    rig = make_rig(plain_oracle, {"scale.min_baseline": 0.05})
    rig.activate()
    rig.drive()
    for errors, code in (
        ([OutOfMemory("full"), OutOfMemory("full")], "OUT_OF_MEMORY"),
        ([RuntimeError("boom")], "UNKNOWN"),
    ):
        plain_oracle.errors = errors
        status, result = rig.finished_goal([rig.T_fixed_cam(0.3)])
        assert (status, result.error_code) == (ABORTED, getattr(result, code))
        status, result = rig.finished_goal([rig.T_fixed_cam(0.3)])
        assert (status, result.error_code) == (SUCCEEDED, 0)


def test_two_goals_queue_and_a_late_one_times_out(make_rig, plain_oracle):
    from builtin_interfaces.msg import Duration

    plain_oracle.step_delay_s = 0.1
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    target = [rig.T_fixed_cam(0.3)]
    _, first = rig.goal(target, num_steps=100)
    rig.graph.wait_for(lambda: rig.node.session.worker.running is not None, "the first runs")
    _, second = rig.goal(target, num_steps=1, max_wait=Duration(nanosec=300_000_000))
    rig.graph.wait_for(second.done, "the second's time is up")
    assert second.result().result.error_code == second.result().result.TIMEOUT
    _, third = rig.goal(target, num_steps=1)
    plain_oracle.step_delay_s = 0.0
    rig.graph.wait_for(lambda: first.done() and third.done(), "both")
    assert first.result().status == third.result().status == SUCCEEDED
    jobs = [f.result().result.views.job_id for f in (first, third)]
    assert jobs == sorted(jobs)


def test_goal_preempts_an_automatic_job(make_rig, plain_oracle):
    from gld_ros.mapping.jobs import JobKind

    plain_oracle.step_delay_s = 0.3
    rig = make_rig(
        plain_oracle,
        {"policy.type": "look_around", "policy.yaw_offsets": [0.1], "sampler.num_steps": 100},
    )
    rig.listen("/gld/predicted/color/image", "sensor_msgs/msg/Image")
    rig.activate()
    rig.drive()
    worker = rig.node.session.worker
    rig.graph.wait_for(
        lambda: worker.running is not None and worker.running.kind is JobKind.AUTOMATIC, "it runs"
    )
    started = time.monotonic()
    status, result = rig.finished_goal([rig.T_fixed_cam(0.3)], num_steps=1)
    assert (status, result.error_code) == (SUCCEEDED, 0)
    assert time.monotonic() - started < 25.0  # the automatic job alone takes 30 s
    assert rig.node.session.history.cancelled >= 1


def test_deactivate_answers_the_running_goal(make_rig, plain_oracle):
    plain_oracle.step_delay_s = 0.1
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    _, future = rig.goal([rig.T_fixed_cam(0.3)], num_steps=100)
    rig.graph.wait_for(lambda: rig.node.session.worker.running is not None, "the job runs")
    rig.node.trigger_deactivate()
    rig.graph.wait_for(future.done, "the answer")
    assert future.result().result.error_code == future.result().result.NODE_INACTIVE
