"""A process of gld_node whose device is lost ends with exit code 70, and can be started again."""

import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]

HW = (84, 112)
# The node as it is installed, with a model whose device fails in the words of torch.
PROCESS = """
import sys
from gld_ros.ros.main import main
from gld_ros.mapping.model import LoadedModel, torch_fault_of

class Lost:
    def run(self, request):
        import torch
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        yield

def model(parameters):
    return LoadedModel(Lost(), {"backend": "test"}, (84, 112), torch_fault_of)

parameters = {"policy.type": "look_around", "policy.rate": "5.0", "keyframes.min_interval": "0.0",
              "keyframes.min_translation": "0.05", "keyframes.max_angular_velocity": "100.0"}
arguments = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
sys.exit(main(["gld_node", "--ros-args", *arguments], model_factory=model))
"""


class Robot:
    """A camera that drives along x, its TF, and a consumer of views."""

    def __init__(self, graph):
        from lifecycle_msgs.srv import ChangeState, GetState

        from gld_ros.messages.types import rclpy_type

        self.graph, self.types = graph, rclpy_type
        self.node = graph.node("robot")
        self.publishers = {
            topic: self.node.create_publisher(rclpy_type(kind), topic, 10)
            for topic, kind in (
                ("/tf", "tf2_msgs/msg/TFMessage"),
                ("/camera/camera_info", "sensor_msgs/msg/CameraInfo"),
                ("/camera/image", "sensor_msgs/msg/Image"),
            )
        }
        self.node.create_subscription(
            rclpy_type("sensor_msgs/msg/Image"), "/gld/predicted/color/image", lambda image: None, 1
        )
        self.change = self.node.create_client(ChangeState, "/gld/change_state")
        self.state = self.node.create_client(GetState, "/gld/get_state")
        self.frames = 0

    def call(self, client, request):
        assert client.wait_for_service(timeout_sec=120.0)
        future = client.call_async(request)
        self.graph.wait_for(future.done, "an answer", 120.0)
        return future.result()

    def transition(self, number):
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id = number
        return self.call(self.change, request).success

    def label(self):
        """Name of the node's state; asked until an answer comes, as discovery takes its time."""
        from lifecycle_msgs.srv import GetState

        for _ in range(40):
            assert self.state.wait_for_service(timeout_sec=120.0)
            future = self.state.call_async(GetState.Request())
            deadline = time.monotonic() + 5.0
            while not future.done() and time.monotonic() < deadline:
                time.sleep(0.02)
            if future.done():
                return future.result().current_state.label
            self.state.remove_pending_request(future)
        pytest.fail("the node never told its state")

    def is_alone(self):
        """Whether nothing is left of the node in the graph."""
        return not any(name == "gld" for name in self.node.get_node_names())

    def drive_on(self):
        """Send the next image, 10 cm further on, with intrinsics and pose."""
        from gld_ros.messages.camera_info import camera_info_message
        from gld_ros.messages.images import image_message
        from gld_ros.messages.stamps import make_header
        from gld_ros.messages.transforms import transform_message

        self.frames += 1
        T_odom_camera = np.eye(4)
        T_odom_camera[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
        T_odom_camera[:3, 3] = (0.1 * self.frames, 0.0, 1.0)
        stamp_ns = self.node.get_clock().now().nanoseconds
        header = make_header(stamp_ns, "camera_optical", self.types)
        K_px = np.array([[80.0, 0.0, 55.5], [0.0, 80.0, 41.5], [0.0, 0.0, 1.0]])
        pixels = np.random.default_rng(self.frames).integers(0, 256, (*HW, 3), dtype=np.uint8)
        pose = transform_message(T_odom_camera, "odom", "camera_optical", stamp_ns, self.types)
        self.publishers["/tf"].publish(self.types("tf2_msgs/msg/TFMessage")(transforms=[pose]))
        info = camera_info_message(K_px, HW, header, self.types)
        self.publishers["/camera/camera_info"].publish(info)
        self.publishers["/camera/image"].publish(image_message(pixels, "rgb8", header))


def test_a_lost_device_ends_the_process_with_70_and_it_starts_again(ros_graph, tmp_path):
    robot = Robot(ros_graph)
    for start in range(2):  # what `respawn` of the launch file does after an exit
        log = (tmp_path / f"{start}.log").open("w+")
        with subprocess.Popen(
            [sys.executable, "-c", PROCESS], stdout=log, stderr=subprocess.STDOUT
        ) as process:
            try:
                assert robot.label() == "unconfigured"
                assert robot.transition(1)
                assert robot.transition(3)
                deadline = time.monotonic() + 120.0
                while process.poll() is None and time.monotonic() < deadline:
                    robot.drive_on()
                    time.sleep(0.3)
            finally:
                process.kill()
        log.seek(0)
        said = log.read()
        assert process.returncode == 70, said
        assert "the device is lost" in said
        assert "unspecified launch failure" in said
        robot.graph.wait_for(robot.is_alone, "the process to be gone")
