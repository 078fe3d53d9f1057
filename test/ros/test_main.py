import shutil
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
        end_s = time.monotonic() + 20.0
        while not future.done():
            if time.monotonic() > end_s:
                return ""  # it went to a process that has just ended
            time.sleep(0.02)
        return future.result().current_state.label

    return ask


# The node with a model that is there at once.
HAS_ITS_MODEL = """
import sys
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.ros.main import main

class NoModel:
    def run(self, request):
        raise RuntimeError("this model imagines nothing")
        yield

def load(parameters):
    return LoadedModel(NoModel(), {"backend": "none"}, (84, 112), fault_of)

sys.exit(main(["gld_node", "--ros-args", "-p", "autostart:=true"], model_factory=load))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_twice_at_once_ends_a_busy_node_cleanly(ros_graph, number):
    """Ctrl-C reaches a launched node from the terminal and from the launch process."""
    from sensor_msgs.msg import CameraInfo, Image
    from tf2_msgs.msg import TFMessage

    ask = state_of(ros_graph)
    camera = ros_graph.node("camera")
    topics = {"/tf": TFMessage, "/camera/image": Image, "/camera/camera_info": CameraInfo}
    publishers = [camera.create_publisher(kind, topic, 10) for topic, kind in topics.items()]

    def publish():
        for publisher, kind in zip(publishers, topics.values(), strict=True):
            publisher.publish(kind())

    camera.create_timer(0.005, publish)
    with subprocess.Popen(
        [sys.executable, "-c", HAS_ITS_MODEL], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            ros_graph.wait_for(lambda: ask() == "active", "the active node", 300.0)
            ros_graph.wait_for(
                lambda: all(p.get_subscription_count() for p in publishers), "its subscriptions"
            )
            process.send_signal(number)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60.0)
            assert process.returncode == 0, errors
            for noise in ("Traceback", "Destroyable", "never retrieved"):
                assert noise not in errors
        finally:
            process.kill()


@pytest.mark.parametrize("start", ["gld-ros node", "gld_node"])
def test_each_command_runs_an_active_node_on_the_topics_that_are_given(ros_graph, start):
    from sensor_msgs.msg import CameraInfo, Image

    ask = state_of(ros_graph)
    camera = ros_graph.node("camera")
    image = camera.create_publisher(Image, "/front/image_raw", 10)
    info = camera.create_publisher(CameraInfo, "/front/camera_info", 10)
    command = [sys.executable, "-m", "gld_ros.cli.main", "node", "--camera", "/front/image_raw"]
    if start == "gld_node":
        installed = shutil.which("gld_node")
        assert installed is not None, "the environment has no gld_node: make build, . ./env.sh"
        remapped = ("image:=/front/image_raw", "camera_info:=/front/camera_info")
        command = [installed, "--ros-args", "-p", "autostart:=true"]
        command += [word for rule in remapped for word in ("-r", f"camera/{rule}")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            ros_graph.wait_for(lambda: ask() == "active", "the active node", 300.0)
            ros_graph.wait_for(lambda: image.get_subscription_count(), "its images")
            ros_graph.wait_for(lambda: info.get_subscription_count(), "its CameraInfo")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60.0)
            assert process.returncode == 0, errors
        finally:
            process.kill()


# A model that is loading until the end of the process, which says when it began.
LOADS_FOR_EVER = """
import sys, time
from gld_ros.ros.main import main

def load(parameters):
    print("loading", flush=True)
    while True:
        time.sleep(0.01)

sys.exit(main(["gld_node", "--ros-args", "-p", "autostart:=true"], model_factory=load))
"""


def test_a_node_answers_while_its_model_loads_and_ends_at_once(ros_graph):
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    ask = state_of(ros_graph)
    setting = ros_graph.node("setting").create_client(SetParameters, "/gld/set_parameters")
    with subprocess.Popen(
        [sys.executable, "-c", LOADS_FOR_EVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "loading\n"
            ros_graph.wait_for(lambda: ask() == "configuring", "its state", 300.0)
            assert setting.wait_for_service(timeout_sec=60.0)
            value = Parameter("depth.max", value=20.0).to_parameter_msg()
            future = setting.call_async(SetParameters.Request(parameters=[value]))
            ros_graph.wait_for(future.done, "the answer")
            assert future.result().results[0].successful
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60.0)
            assert process.returncode == 0, errors
            assert "Traceback" not in errors
            assert "never retrieved" not in errors
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_cv_bridge_is_probed_ends_the_process_cleanly(
    tmp_path, monkeypatch, own_domain, number
):
    package = tmp_path / "cv_bridge"
    package.mkdir()
    began = tmp_path / "began"
    (package / "__init__.py").write_text(
        f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(300)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with subprocess.Popen(
        [sys.executable, "-m", "gld_ros.ros.main"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            end_s = time.monotonic() + 120.0
            while not began.exists() and time.monotonic() < end_s:
                time.sleep(0.02)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60.0)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()


def test_a_wrong_parameter_leaves_an_unconfigured_node_that_says_why(ros_graph):
    ask = state_of(ros_graph)
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gld_ros.ros.main",
            "--ros-args",
            "-p",
            "autostart:=true",
            "-p",
            "depth.min:=-1.0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
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


def test_a_node_whose_logs_cannot_be_written_says_so_and_runs(ros_graph, monkeypatch):
    ask = state_of(ros_graph)
    monkeypatch.setenv("ROS_LOG_DIR", "/dev/null/logs")
    with subprocess.Popen(
        [sys.executable, "-m", "gld_ros.ros.main"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            ros_graph.wait_for(lambda: ask() == "unconfigured", "its state", 300.0)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60.0)
            assert process.returncode == 0, errors
            assert "Set ROS_LOG_DIR to a folder that can be written" in errors
            assert "Traceback" not in errors
        finally:
            process.kill()


def test_a_command_whose_logs_cannot_be_written_says_so_and_works(own_domain, monkeypatch):
    monkeypatch.setenv("ROS_LOG_DIR", "/dev/null/logs")
    command = ["gld_ros.cli.main", "check", "--seconds", "0.1"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert "Set ROS_LOG_DIR to a folder that can be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1, done.stdout  # there is nothing on this graph


def test_an_exception_of_a_callback_is_counted_and_the_node_spins_on(own_domain):
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from gld_ros.ros.diagnostics.facts import ERROR, DiagnosticsMemory
    from gld_ros.ros.diagnostics.statuses import statuses
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
