"""How a live node keeps up: keyframes measured and goals answered while a bag plays in real time.

    python benchmark/live_rate.py out/demo/tour --camera /camera/image_raw --frame map

Starts a node (`gld-ros node`, stereo, no policy) and a player (`gld-ros play --clock 20`) as
processes, and sends a goal beside the camera `--goals` times a second, each with a second to wait.
Prints JSON: keyframes made, measured and left waiting, goals by their result, times from goal to
answer, ages of products. All seconds are the bag's. On a machine that other work shares, `--rate`
slows the bag, and `node_processor_s_per_s` tells what the node took of its cores in a second of
the bag; `--cores 0 1` keeps all of it on these.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

START_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 30.0  # after the last image, for what is still under way
GOAL_WAIT_S = 1
SIDEWAYS_M = 0.1  # from the newest camera to the view that a goal asks for
OK = 0


class Watcher:
    """Sends goals at a rate, and keeps what the node tells of itself; spun by its own thread."""

    def __init__(self, camera: str, goals_hz: float, rate: float) -> None:
        import rclpy
        from lifecycle_msgs.srv import GetState
        from rclpy.action import ActionClient
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        from gld_ros.action import SynthesizeViews
        from gld_ros.messages.types import rclpy_type

        self.results: Counter[str] = Counter()
        self.answer_s: list[float] = []
        self.ages_s: list[float] = []
        self.statuses: list[Any] = []
        self.sent, self._rate = 0, rate
        self.is_sending = threading.Event()
        self._goal_type, self._frame_id = SynthesizeViews.Goal, ""
        rclpy.init(signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = rclpy.create_node("live_rate")
        self._node.create_subscription(
            rclpy_type("gld_ros/msg/GldStatus"), "/gld/status", self._keep_status, 10
        )
        self._node.create_subscription(
            rclpy_type("sensor_msgs/msg/CameraInfo"),
            f"{camera.rpartition('/')[0]}/camera_info",
            self._keep_frame,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        self._state = self._node.create_client(GetState, "/gld/get_state")
        self._goals = ActionClient(self._node, SynthesizeViews, "/gld/synthesize_views")
        if goals_hz:
            self._node.create_timer(1.0 / (goals_hz * rate), self._send)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        import rclpy

        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown()

    @property
    def open_goals(self) -> int:
        """Goals without an answer yet."""
        return self.sent - self.results.total()

    def wait_until_active(self, node: subprocess.Popen[bytes]) -> None:
        """Return when the node takes goals; exits when it does not come."""
        from lifecycle_msgs.msg import State
        from lifecycle_msgs.srv import GetState

        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and node.poll() is None:
            if self._state.service_is_ready() and self._goals.server_is_ready():
                answer = self._state.call_async(GetState.Request())
                while not answer.done() and time.monotonic() < deadline_s:
                    time.sleep(0.05)
                if answer.done() and answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                    return
            time.sleep(0.2)
        raise SystemExit("the node did not become active")

    def _keep_status(self, status: Any) -> None:
        self.statuses.append(status)
        if np.isfinite(status.product_age):
            self.ages_s.append(float(status.product_age))

    def _keep_frame(self, info: Any) -> None:
        self._frame_id = info.header.frame_id

    def _send(self) -> None:
        from gld_ros.messages.transforms import pose_message
        from gld_ros.messages.types import rclpy_type
        from gld_ros.ros.goal_client import offset_pose

        if not self._frame_id or not self.is_sending.is_set():
            return
        goal = self._goal_type()
        goal.targets.header.frame_id = self._frame_id
        goal.targets.poses = [pose_message(offset_pose(0.0, SIDEWAYS_M, 0.0), rclpy_type)]
        goal.pose_convention = goal.CONVENTION_OPTICAL
        goal.max_wait.sec = GOAL_WAIT_S
        goal.publish = True
        sent_s = time.monotonic()
        self.sent += 1
        future = self._goals.send_goal_async(goal)
        future.add_done_callback(lambda done: self._acknowledged(done.result(), sent_s))

    def _acknowledged(self, handle: Any, sent_s: float) -> None:
        if not handle.accepted:
            self.results["rejected"] += 1
            return
        handle.get_result_async().add_done_callback(
            lambda done: self._answered(done.result().result, sent_s)
        )

    def _answered(self, result: Any, sent_s: float) -> None:
        if result.error_code == OK:
            self.answer_s.append(self._rate * (time.monotonic() - sent_s))
            self.results["answered"] += 1
        else:
            self.results[f"error {result.error_code}"] += 1


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 95 % and largest of values, in seconds."""
    if not values:
        return {}
    middle, most = np.quantile(values, (0.5, 0.95))
    return {
        "median_s": round(float(middle), 2),
        "p95_s": round(float(most), 2),
        "max_s": round(max(values), 2),
    }


def report(watcher: Watcher, seconds: float, processor_s: float) -> dict[str, Any]:
    """What was kept up with while the bag played for `seconds`."""
    last = watcher.statuses[-1]
    return {
        "bag_s": round(seconds, 1),
        "images": last.images_received,
        "keyframes": last.keyframes,
        "keyframes_measured": last.keyframes_measured,
        "keyframes_behind_at_most": max(s.keyframes_behind for s in watcher.statuses),
        "measured_per_s": round(last.keyframes_measured / seconds, 2),
        "goals_sent": watcher.sent,
        "goals": dict(watcher.results),
        "answered_per_s": round(watcher.results["answered"] / seconds, 2),
        "goal_to_answer": quantiles(watcher.answer_s),
        "product_age": quantiles(watcher.ages_s),
        "node_processor_s_per_s": round(processor_s / seconds, 2),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
    }


def processor_s(process: subprocess.Popen[bytes]) -> float:
    """User and system time so far of a process and of those that it has started."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            if process.pid in (int(stat.parent.name), int(fields[1])):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that this script has started."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(*words: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a command of gld-ros as a process."""
    command = [sys.executable, "-m", "gld_ros.cli.main", *words]
    return subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)


def main() -> int:
    """Play the bag once and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path)
    parser.add_argument("--camera", default="/camera/image_raw", help="its image topic")
    parser.add_argument("--frame", default="map", help="fixed frame of the bag")
    parser.add_argument("--goals", type=float, default=10.0, metavar="HZ", help="0: none")
    parser.add_argument("--rate", type=float, default=1.0, help="playback speed, 1 is real time")
    parser.add_argument("--cores", type=int, nargs="+", help="processors to stay on")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE"
    )
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, args.cores)
    # Every keyframe of the bag is kept, so that they can be counted at the end.
    settings = ["depth.source=stereo", "keyframes.capacity=256", "keyframes.max_age=600.0"]
    settings += ["diagnostics.period=0.2", *args.overrides]
    words = [word for setting in settings for word in ("--set", setting)]
    logs = Path(tempfile.mkdtemp(prefix="live_rate_"))
    watcher = Watcher(args.camera, args.goals, args.rate)
    node = ["node", "--camera", args.camera, "--frame", args.frame, "--sim-time", *words]
    processes = [start(*node, "--policy", "none", log=logs / "node.log")]
    try:
        watcher.wait_until_active(processes[0])
        played = ["play", str(args.bag), "--clock", "20", "--rate", str(args.rate)]
        processes.append(start(*played, log=logs / "player.log"))
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (watcher.statuses and watcher.statuses[-1].images_received):
            if time.monotonic() > deadline_s:
                raise SystemExit(f"the node heard no image; logs are in {logs}")
            time.sleep(0.05)
        start_s, before_s = time.monotonic(), processor_s(processes[0])
        watcher.is_sending.set()
        processes[1].wait()
        watcher.is_sending.clear()
        seconds = (time.monotonic() - start_s) * args.rate
        report_now = report(watcher, seconds, processor_s(processes[0]) - before_s)
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while watcher.open_goals and time.monotonic() < deadline_s:
            time.sleep(0.1)
        print(json.dumps(report_now | {"goals_open_at_the_end": watcher.open_goals}, indent=1))
    finally:
        for process in processes:
            end(process)
        watcher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
