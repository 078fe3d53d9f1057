"""What an idle node pays for listening: the share of a core, by /proc, at 30 Hz and 100 Hz TF.

    ROS_DOMAIN_ID=131 python benchmark/listening.py --seconds 60 --against ../gld_ros_before

A node process (an oracle for a model, policy none) hears 640x480 images, CameraInfo and TF from a
second process. A node of plain rclpy that hears the same topics and does nothing with them goes
first, for comparison. With `--against`, the code of another checkout
takes its turn in the same run.
Nothing is rendered. A share of a core counts only if the feeder kept its rate, so what was sent
stands beside it, as do the load average and the time per message heard. `uncounted` images were
sent, not heard, and not counted as lost by the node; the feeder pauses while counts are read.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
HW = (480, 640)
K_PX = np.array([[500.0, 0.0, 319.5], [0.0, 500.0, 239.5], [0.0, 0.0, 1.0]])
CAMERA_HZ, TF_HZ = 30.0, 100.0
SETTLE_S = 5.0
PAUSE_S = 3.0  # until counts, printed once a second, are those of all that was sent
START_TIMEOUT_S = 180.0


def run_node() -> int:
    """Run gld_node and print the counts of its camera once a second."""
    from gld_ros.mapping.model import LoadedModel
    from gld_ros.mapping.model_fault import fault_of
    from gld_ros.mapping.synthesizer import OracleSynthesizer
    from gld_ros.ros import main as process

    create = process.GldNode

    def create_watched(*args: Any) -> Any:
        node = create(*args)
        threading.Thread(target=_print_counts, args=(node,), daemon=True).start()
        return node

    process.GldNode = create_watched  # type: ignore[assignment,misc]

    def render(T_world_cam: Any, K_px: Any, hw: tuple[int, int]) -> tuple[Any, Any]:
        return np.full((*hw, 3), 128, np.uint8), np.full(hw, 3.0, np.float32)

    def load(parameters: Any) -> LoadedModel:
        model = OracleSynthesizer(render)
        return LoadedModel(model, {"backend": "oracle"}, HW, fault_of, release=lambda: None)

    arguments = ["--ros-args", "-p", "autostart:=true", "-p", "policy.type:=none"]
    arguments += ["-p", "depth.source:=model"]  # measuring is another cost than listening
    return process.main(arguments, model_factory=load)


def _print_counts(node: Any) -> None:
    while True:
        session = node.session
        if session is not None and session.active:
            camera = next(iter(session.cameras.values()))
            counts = {
                "received": camera.received,
                "infos": camera.infos_received,
                "reported_lost": camera.lost,
            }
            print(json.dumps(counts), flush=True)
        time.sleep(1.0)


def run_bare_node() -> int:
    """Hear the same topics in a node of plain rclpy that does nothing with them."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from gld_ros.messages.types import rclpy_type

    counts = {"received": 0, "infos": 0, "reported_lost": 0}
    rclpy.init(signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = rclpy.create_node("listening_bare")

    def count(name: str) -> None:
        counts[name] += 1

    image, info = rclpy_type("sensor_msgs/msg/Image"), rclpy_type("sensor_msgs/msg/CameraInfo")
    node.create_subscription(image, "camera/image", lambda _: count("received"), 10)
    node.create_subscription(info, "camera/camera_info", lambda _: count("infos"), 10)
    node.create_subscription(rclpy_type("tf2_msgs/msg/TFMessage"), "/tf", lambda _: None, 100)
    node.create_timer(1.0, lambda: print(json.dumps(counts), flush=True))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin()
    return 0


def run_feeder() -> int:
    """Publish images, CameraInfo and TF without end; print how many images, once a second."""
    import rclpy

    from gld_ros.messages.camera_info import camera_info_message
    from gld_ros.messages.images import image_message
    from gld_ros.messages.stamps import make_header
    from gld_ros.messages.transforms import transform_message
    from gld_ros.messages.types import rclpy_type

    rclpy.init(signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = rclpy.create_node("listening_feeder")
    images = node.create_publisher(rclpy_type("sensor_msgs/msg/Image"), "camera/image", 10)
    infos = node.create_publisher(
        rclpy_type("sensor_msgs/msg/CameraInfo"), "camera/camera_info", 10
    )
    tf_type = rclpy_type("tf2_msgs/msg/TFMessage")
    tf = node.create_publisher(tf_type, "/tf", 100)
    message = image_message(np.zeros((*HW, 3), np.uint8), "rgb8", make_header(0, "", rclpy_type))
    while not images.get_subscription_count() or not tf.get_subscription_count():
        time.sleep(0.05)
    T, sent, ticks, start_s = np.eye(4), 0, 0, time.monotonic()
    paused = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: paused.clear() if paused.is_set() else paused.set())
    while True:
        if paused.is_set():
            print(json.dumps({"sent": sent}), flush=True)
            while paused.is_set():
                time.sleep(0.01)
            start_s = time.monotonic() - ticks / TF_HZ
        ticks += 1
        time.sleep(max(0.0, start_s + ticks / TF_HZ - time.monotonic()))
        if not rclpy.ok():
            return 0
        stamp_ns = node.get_clock().now().nanoseconds
        T[0, 3] = 0.002 * ticks
        tf.publish(
            tf_type(
                transforms=[transform_message(T, "odom", "camera_optical", stamp_ns, rclpy_type)]
            )
        )
        if ticks * CAMERA_HZ / TF_HZ >= sent + 1:
            sent += 1
            message.header = make_header(stamp_ns, "camera_optical", rclpy_type)
            infos.publish(camera_info_message(K_PX, HW, message.header, rclpy_type))
            images.publish(message)
        if ticks % int(TF_HZ) == 0:
            print(json.dumps({"sent": sent}), flush=True)


class Child:
    """One role of this script as a process; `counts` is the last line it printed."""

    def __init__(self, role: str, checkout: Path = HERE) -> None:
        self.counts: dict[str, int] = {}
        paths = f"{checkout}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--role", role],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.counts = json.loads(line)

    def processor_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def counts_at_rest(node: Child, feeder: Child) -> dict[str, int]:
    """Pause the feeder and return what was sent and received until now."""
    feeder.process.send_signal(signal.SIGUSR1)
    time.sleep(PAUSE_S)
    return {**node.counts, **feeder.counts}


def measure(node: Child, seconds: float) -> dict[str, float]:
    """Return a node's share of a core and what was sent and received meanwhile."""
    feeder = Child("feeder")
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not node.counts.get("received"):
            if time.monotonic() > deadline_s or node.process.poll() is not None:
                raise SystemExit("the node heard no image")
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        before = counts_at_rest(node, feeder)
        feeder.process.send_signal(signal.SIGUSR1)
        processor_s, start_s = node.processor_s(), time.monotonic()
        time.sleep(seconds)
        share = (node.processor_s() - processor_s) / (time.monotonic() - start_s)
        after = counts_at_rest(node, feeder)
        counts = {name: after[name] - before.get(name, 0) for name in after}
        heard = max(1, counts["received"] + counts["infos"])
        return {
            "share_of_core": round(share, 3),
            "ms_per_image_or_info": round(1000 * share * seconds / heard, 1),
            **counts,
            "uncounted": counts["sent"] - counts["received"] - counts["reported_lost"],
            "load_average": round(os.getloadavg()[0], 1),
        }
    finally:
        feeder.close()
        node.close()


def main() -> int:
    """Measure each checkout in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout")
    parser.add_argument("--role", choices=tuple(ROLES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role is not None:
        return ROLES[args.role]()
    print("plain rclpy", json.dumps(measure(Child("bare"), args.seconds)), flush=True)
    for checkout in [HERE] if args.against is None else [args.against.resolve(), HERE]:
        counts = measure(Child("node", checkout), args.seconds)
        print(checkout.name, json.dumps(counts), flush=True)
    return 0


ROLES = {"node": run_node, "bare": run_bare_node, "feeder": run_feeder}


if __name__ == "__main__":
    sys.exit(main())
