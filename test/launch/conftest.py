"""Owns what launch tests share: the shipped launch files with arguments, and an observer outside.

They need a distribution's launch and launch_pytest; ROS 2 from PyPI has neither.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

START_S = 120.0  # of a process on a busy machine
LOAD_S = 900.0  # of one that loads torch and tries its model

# Takes the place of the installed gld_node where a test is about processes: torch alone takes a
# minute to load on a small machine. `{load}` is the body of a model factory.
NODE_WITH_ANOTHER_MODEL = """#!{python}
import sys
from pathlib import Path
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.synthesizer import DeviceFault
from gld_ros.mapping.model_fault import fault_of
from gld_ros.ros.main import main

class NoModel:
    def run(self, request):
        raise RuntimeError("this model imagines nothing")
        yield

def load(parameters):
    {load}
    return LoadedModel(NoModel(), {{"backend": "none"}}, (84, 112), fault_of)

sys.exit(main(model_factory=load))
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ros)
            item.add_marker(pytest.mark.timeout(LOAD_S + 900.0))


class Launched:
    """Processes of one launch, as its events tell of them."""

    def __init__(self):
        self.pids = []
        self.exit_codes = []

    def description(self, file, arguments):
        """The shipped launch file with arguments, and handlers that keep notes."""
        from ament_index_python.packages import get_package_share_directory
        from launch.actions import IncludeLaunchDescription, RegisterEventHandler
        from launch.event_handlers import OnProcessExit, OnProcessStart
        from launch.launch_description_sources import PythonLaunchDescriptionSource

        from launch import LaunchDescription

        path = Path(get_package_share_directory("gld_ros")) / "launch" / file
        return LaunchDescription(
            [
                RegisterEventHandler(
                    OnProcessStart(on_start=lambda event, _: self.pids.append(event.pid))
                ),
                RegisterEventHandler(
                    OnProcessExit(on_exit=lambda event, _: self.exit_codes.append(event.returncode))
                ),
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(path)), launch_arguments=arguments.items()
                ),
            ]
        )


@pytest.fixture
def node_with_another_model(tmp_path, monkeypatch):
    """Puts an overlay over the installed package whose gld_node loads what `load` returns."""
    from ament_index_python.packages import get_package_share_directory

    def put_over(load="pass"):
        share = Path(get_package_share_directory("gld_ros"))
        overlay = tmp_path / "overlay"
        marker = overlay / "share/ament_index/resource_index/packages/gld_ros"
        marker.parent.mkdir(parents=True)
        marker.touch()
        shutil.copytree(share / "launch", overlay / "share/gld_ros/launch")
        for folder in ("config", "rviz"):
            shutil.copytree(share / folder, overlay / "share/gld_ros" / folder)
        executable = overlay / "lib/gld_ros/gld_node"
        executable.parent.mkdir(parents=True)
        executable.write_text(NODE_WITH_ANOTHER_MODEL.format(python=sys.executable, load=load))
        executable.chmod(0o755)
        prefixes = f"{overlay}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}"
        monkeypatch.setenv("AMENT_PREFIX_PATH", prefixes)

    return put_over


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package in a folder of its own known; returns its prefix."""

    def make(name):
        prefix = tmp_path / name
        marker = prefix / f"share/ament_index/resource_index/packages/{name}"
        marker.parent.mkdir(parents=True)
        marker.touch()
        monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix), prepend=":")
        return prefix

    return make


@pytest.fixture
def quick_node(node_with_another_model):
    """A gld_node that has its model at once."""
    node_with_another_model()


@pytest.fixture
def launched(own_domain):
    return Launched()


@pytest.fixture
def arguments(request):
    """Launch arguments of a test, given by `parametrize(..., indirect=True)`."""
    return getattr(request, "param", {})


class Outside:
    """A node that looks at gld_node from outside, and plays its cameras."""

    def __init__(self, graph):
        from gld_ros.messages.types import rclpy_type

        self.graph, self.types = graph, rclpy_type
        self.node = graph.node("outside")
        self._publishers = {}
        self._clients = {}

    def call(self, type_name, name, timeout_s=START_S, **fields):
        """The answer of a service that may go away and come back meanwhile."""
        kind = self.types(type_name)
        client = self._clients.setdefault(name, self.node.create_client(kind, name))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not client.wait_for_service(timeout_sec=1.0):
                continue
            future = client.call_async(kind.Request(**fields))
            patience = time.monotonic() + 5.0
            while not future.done() and time.monotonic() < patience:
                time.sleep(0.01)
            if future.done():
                return future.result()
            client.remove_pending_request(future)
        pytest.fail(f"no answer from {name} within {timeout_s} s")

    def state(self, node="/gld"):
        answer = self.call("lifecycle_msgs/srv/GetState", f"{node}/get_state")
        return answer.current_state.label

    def wait_state(self, wanted, node="/gld", timeout_s=LOAD_S):
        deadline = time.monotonic() + timeout_s
        while (state := self.state(node)) != wanted:
            if time.monotonic() > deadline:
                pytest.fail(f"{node} is {state}, not {wanted}, after {timeout_s} s")
            time.sleep(0.1)

    def parameters(self, *names, node="/gld"):
        answer = self.call(
            "rcl_interfaces/srv/GetParameters", f"{node}/get_parameters", names=names
        )
        return [_value(value) for value in answer.values]

    def publisher(self, topic, type_name):
        if topic not in self._publishers:
            publisher = self.node.create_publisher(self.types(type_name), topic, 10)
            self._publishers[topic] = publisher
        return self._publishers[topic]

    def wait_heard(self, topic, type_name):
        """Wait until somebody subscribes to a topic of ours."""
        publisher = self.publisher(topic, type_name)
        self.graph.wait_for(lambda: publisher.get_subscription_count() > 0, f"a reader of {topic}")

    def send_frame(self, step, image="/camera/image", info="/camera/camera_info", frame="camera"):
        """Publish pose, intrinsics and image of a camera that moves 10 cm along x per step."""
        from gld_ros.messages.camera_info import camera_info_message
        from gld_ros.messages.images import image_message
        from gld_ros.messages.stamps import make_header
        from gld_ros.messages.transforms import transform_message

        T_odom_camera = np.eye(4)
        T_odom_camera[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
        T_odom_camera[:3, 3] = (0.1 * step, 0.0, 1.0)
        stamp_ns = self.node.get_clock().now().nanoseconds
        header = make_header(stamp_ns, frame, self.types)
        K_px = np.array([[80.0, 0.0, 55.5], [0.0, 80.0, 41.5], [0.0, 0.0, 1.0]])
        rgb = np.random.default_rng(step).integers(0, 256, (84, 112, 3), dtype=np.uint8)
        pose = transform_message(T_odom_camera, "odom", frame, stamp_ns, self.types)
        message = self.types("tf2_msgs/msg/TFMessage")(transforms=[pose])
        self.publisher("/tf", "tf2_msgs/msg/TFMessage").publish(message)
        info_message = camera_info_message(K_px, rgb.shape[:2], header, self.types)
        self.publisher(info, "sensor_msgs/msg/CameraInfo").publish(info_message)
        self.publisher(image, "sensor_msgs/msg/Image").publish(image_message(rgb, "rgb8", header))


def _value(value):
    """What a rcl_interfaces/ParameterValue holds."""
    names = (
        "bool",
        "integer",
        "double",
        "string",
        "byte_array",
        "bool_array",
        "integer_array",
        "double_array",
        "string_array",
    )
    held = getattr(value, f"{names[value.type - 1]}_value")
    return list(held) if value.type > 4 else held


@pytest.fixture
def outside(ros_graph):
    return Outside(ros_graph)


class Command:
    """A command line as a person types it, in a session of its own."""

    def __init__(self, *words, cwd=None):
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # Tests that run in the background have Ctrl-C ignored, and would hand that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.output = ""

    def ended(self, timeout_s=START_S):
        """Wait for the end; returns the exit status, after which `output` is complete."""
        try:
            self.output, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.output, _ = self.process.communicate()
            pytest.fail(f"still running after {timeout_s} s:\n{self.output}")
        return self.process.returncode

    def interrupt(self):
        """Ctrl-C: every process of the terminal gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def left_over(self):
        """Command lines of processes that outlived the command."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                session = (entry / "stat").read_text().rpartition(")")[2].split()[3]
                if int(session) == self.process.pid:
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def command(own_domain):
    """Starts command lines; none of them outlives the test."""
    commands = []

    def start(*words, **options):
        commands.append(Command(*words, **options))
        return commands[-1]

    yield start
    for one in commands:
        one.close()


@pytest.fixture(scope="session")
def recorded_room(tmp_path_factory):
    """The package's own bag: a drive round a room, poses in `map`.

    Turns by 0.8 rad/s; above 1 rad/s images are no keyframes.
    """
    from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

    path = tmp_path_factory.mktemp("bags") / "room"
    room = first_room_with_tour("narrow")
    write_tour_bag(path, "narrow", room, image_hw=(84, 112), seconds=8.0, rate_hz=2.5)
    return path
