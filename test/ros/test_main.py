import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.ros


def test_threads_of_a_node_process_hand_over_in_half_a_millisecond(monkeypatch):
    """With the usual 5 ms a quarter of a camera's images is lost on idle cores."""
    import rclpy

    from gld_ros.ros.main import main

    def stop(**options):
        raise KeyboardInterrupt

    usual_s = sys.getswitchinterval()
    monkeypatch.setattr(rclpy, "init", stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            main([])
        assert sys.getswitchinterval() == pytest.approx(0.0005)
    finally:
        sys.setswitchinterval(usual_s)


def state_of(graph, name="/gld"):
    """Label of a node's state, or nothing while it does not answer."""
    from lifecycle_msgs.srv import GetState

    node = graph.node("asking")
    client = node.create_client(GetState, f"{name}/get_state")

    def ask():
        if not client.service_is_ready():
            return ""
        future = client.call_async(GetState.Request())
        end_s = time.monotonic() + 5.0
        while not future.done():
            if time.monotonic() > end_s:
                return ""  # it went to a process that has just ended
            time.sleep(0.02)
        return future.result().current_state.label

    return ask


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_twice_at_once_ends_the_node_cleanly(ros_graph, number):
    """Ctrl-C reaches a launched node from the terminal and from the launch process."""
    ask = state_of(ros_graph)
    with subprocess.Popen(
        [sys.executable, "-m", "gld_ros.ros.main", "--ros-args", "-p", "autostart:=true"]
    ) as process:
        try:
            ros_graph.wait_for(lambda: ask() == "active", "the active node", 240.0)
            process.send_signal(number)
            process.send_signal(number)
            assert process.wait(120.0) == 0
        finally:
            process.kill()


def test_a_wrong_parameter_leaves_an_unconfigured_node_that_says_why(ros_graph):
    ask = state_of(ros_graph)
    with subprocess.Popen(
        [sys.executable, "-m", "gld_ros.ros.main", "--ros-args", "-p", "autostart:=true",
         "-p", "depth.min:=-1.0"], stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "autostart: configure failed" in line:
                    break
            assert "depth.min" in "".join(lines)
            assert "ros2 lifecycle set /gld configure" in lines[-1]
            ros_graph.wait_for(lambda: ask() == "unconfigured", "its state")
        finally:
            process.kill()


def test_an_exception_of_a_callback_is_counted_and_the_node_spins_on(own_domain):
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from gld_ros.ros.diagnostic_statuses import ERROR, DiagnosticsMemory, statuses
    from gld_ros.ros.main import spin_once
    from gld_ros.ros.node import GldNode

    context = rclpy.Context()
    rclpy.init(context=context)
    node = GldNode(context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    calls = []

    def fail():
        calls.append(1)
        raise PermissionError("nobody expects this")

    node.create_timer(0.01, fail)
    try:
        end_s = time.monotonic() + 60.0
        while len(calls) < 3 and time.monotonic() < end_s:
            spin_once(executor, node)
        assert node.callback_errors["PermissionError"] == len(calls) >= 3
        assert node.faults.lines["callback PermissionError"] == 1
        [own, _] = statuses(node.facts(), DiagnosticsMemory())
        assert (own.name, own.level) == ("gld: callbacks", ERROR)
    finally:
        executor.shutdown()
        node.close()
        node.destroy_node()
        context.shutdown()
