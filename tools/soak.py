"""Soak one node in bad cables, restarted drivers and looping bags, and see whether it grows.

    python tools/soak.py --minutes 3 --json soak.json
    python tools/soak.py --minutes 30

A gld_node with an oracle for a model runs in this process. A 30 Hz camera and 100 Hz TF feed it
over DDS, with random faults (damaged, late, missing, mis-stamped input, jumps of time), lifecycle
cycles, and goals in storms, half of them cancelled. Memory, threads, file handles and latency are
sampled; the first fifth is warm-up. Memory is what is in use: the allocator first gives back what
it keeps, and large pages, which round up by 2 MB each, are off. Latency is not judged when the host
took the processors away more in the last third than in the first. Exit status 0: all flat, nothing
unanswered, every goal's end known. What the oracle costs is not measured here, `gld-ros bench` does
that. Another node /gld in the same ROS domain would answer goals of this one: give the soak a
ROS_DOMAIN_ID of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from gld_ros.action import SynthesizeViews
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header
from gld_ros.messages.transforms import pose_message, transform_message
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.node import GldNode

HW = (84, 112)
K_PX = np.array([[80.0, 0.0, 55.5], [0.0, 80.0, 41.5], [0.0, 0.0, 1.0]])
CAMERA_HZ, TF_HZ = 30.0, 100.0
FAULTS = (
    "cut image",
    "unknown encoding",
    "stamp zero",
    "stamp back",
    "stamp ahead",
    "no frame_id",
    "zero intrinsics",
    "other intrinsics",
    "clock loop",
)
FRAME_FAULTS = {f"fault {name}" for name in FAULTS}
WARM_UP = 0.2  # of the samples
ANSWER_TIMEOUT_S = 30.0
# On a busy host a step can wait several seconds for a processor without hanging.
SHUTDOWN_TIMEOUT_S = 20.0
MAX_GROWTH = {"resident_mb": 0.05, "threads": 0.0, "file_handles": 0.0, "latency_s": 0.5}
SLACK = {"resident_mb": 10.0, "threads": 2.0, "file_handles": 8.0, "latency_s": 0.5}
LIBC = ctypes.CDLL("libc.so.6", use_errno=True)
PR_SET_THP_DISABLE = 41  # linux/prctl.h
STEAL_FIELD = 7  # of the first line of /proc/stat
# In less, other work on a shared machine looks like growth of the latency.
LATENCY_FROM_MINUTES = 10.0
MAX_STOLEN_MORE = 0.1  # of processor time; beyond, latency speaks of the host


class Soak:
    """The node, what feeds it, and what was counted."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.samples: list[dict[str, float | None]] = []
        self.latencies_s: list[float] = []
        self.stop = threading.Event()
        self.hold_goals = threading.Event()
        self.lock = threading.Lock()
        self.open_goals: dict[int, float] = {}
        self.ticks = [0] * 8
        self.shift_ns = 0  # of the driver's clock: a bag that loops
        self.x_m = 0.0
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        values = {
            "policy.type": "look_around",
            "policy.rate": 5.0,
            "keyframes.min_interval": 0.0,
            "depth.min_confidence": 0.0,
            "diagnostics.period": 1.0,
            "shutdown_timeout": SHUTDOWN_TIMEOUT_S,
        }
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = GldNode(_oracle, context=self.context, parameter_overrides=overrides)
        self.peer = rclpy.create_node("soak_peer", context=self.context)
        self.executor = MultiThreadedExecutor(num_threads=6, context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.images = self._publisher("sensor_msgs/msg/Image", "camera/image")
        self.infos = self._publisher("sensor_msgs/msg/CameraInfo", "camera/camera_info")
        self.tf = self._publisher("tf2_msgs/msg/TFMessage", "/tf", 100)
        self.client = ActionClient(self.peer, SynthesizeViews, "/gld/synthesize_views")
        for topic in ("predicted/points", "observed/points"):
            self.peer.create_subscription(
                rclpy_type("sensor_msgs/msg/PointCloud2"),
                f"/gld/{topic}",
                lambda message, topic=topic: self.counts.update([f"received {topic}"]),
                10,
            )
        self.threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._spin, self._camera, self._transforms, self._goals)
        ]

    def _publisher(self, kind: str, topic: str, depth: int = 10) -> Any:
        return self.peer.create_publisher(rclpy_type(kind), topic, depth)

    def run(self, minutes: float, cycle_s: float, sample_s: float) -> None:
        """Soak for some minutes, then wait for the answers that are still owed."""
        self._transition("configure")
        self._transition("activate")
        for thread in self.threads:
            thread.start()
        started_s = time.monotonic()
        next_cycle_s = started_s + cycle_s
        while (now_s := time.monotonic()) < started_s + 60 * minutes:
            if now_s >= next_cycle_s:
                next_cycle_s += cycle_s
                self._cycle()
            self._sample(now_s - started_s)
            if sys.stderr.isatty():
                done = (now_s - started_s) / (60 * minutes)
                print(f"\rsoaking {done:4.0%}\033[K", end="", file=sys.stderr, flush=True)
            time.sleep(sample_s)
        self.stop.set()
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while self.open_goals and time.monotonic() < deadline_s:
            time.sleep(0.1)
        self.node.close()
        self.executor.shutdown(timeout_sec=5.0)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.counts[f"harness thread died: {work.__name__}: {error!r}"] += 1
            raise

    def _spin(self) -> None:
        while not (self.stop.is_set() and not self.open_goals):
            # Deactivate and cleanup destroy what this thread may be waiting on.
            with contextlib.suppress(InvalidHandle, RCLError, ExternalShutdownException):
                self.executor.spin_once(timeout_sec=0.1)

    def _stamp_ns(self) -> int:
        return int(self.peer.get_clock().now().nanoseconds) + self.shift_ns

    def _camera(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
        while not self.stop.wait(1 / CAMERA_HZ):
            stamp_ns, frame, encoding, K = self._stamp_ns(), "camera_optical", "rgb8", K_PX
            fault = self.rng.choice(FAULTS) if self.rng.random() < 0.05 else ""
            self.counts[f"fault {fault}" if fault else "good frames"] += 1
            if fault == "stamp zero":
                stamp_ns = 0
            elif fault == "stamp back":
                stamp_ns -= 50_000_000
            elif fault == "stamp ahead":
                stamp_ns += 5_000_000_000
            elif fault == "no frame_id":
                frame = ""
            elif fault == "zero intrinsics":
                K = np.zeros((3, 3))
            elif fault == "other intrinsics":
                K = K_PX * np.array([[1.01], [1.01], [1.0]])
            elif fault == "clock loop" and self.rng.random() < 0.2:
                # Back by ten seconds or to the present: as a bag does that begins again.
                self.shift_ns = 0 if self.shift_ns else -10_000_000_000
                self.counts["clock jumps"] += 1
            header = make_header(stamp_ns, frame, rclpy_type)
            self.infos.publish(camera_info_message(K, HW, header, rclpy_type))
            message = image_message(noise, encoding, header)
            if fault == "cut image":
                message.data = message.data[: self.rng.randrange(1000)]
            elif fault == "unknown encoding":
                message.encoding = "fantasy"
            self.images.publish(message)

    def _transforms(self) -> None:
        silent_until_s = 0.0
        while not self.stop.wait(1 / TF_HZ):
            self.x_m = (self.x_m + 0.005) % 2.0
            now_s = time.monotonic()
            if self.rng.random() < 0.0005:
                silent_until_s = now_s + self.rng.uniform(0.1, 2.0)
                self.counts["fault tf silence"] += 1
            if now_s < silent_until_s:
                continue
            T = np.eye(4)
            T[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
            T[:3, 3] = (self.x_m, 0.0, 1.2)
            sent = transform_message(T, "odom", "camera_optical", self._stamp_ns(), rclpy_type)
            if self.rng.random() < 0.001:
                sent.transform.rotation.w = float("nan")
                self.counts["fault tf nan"] += 1
            self.tf.publish(rclpy_type("tf2_msgs/msg/TFMessage")(transforms=[sent]))

    def _goals(self) -> None:
        number = 0
        while not self.stop.wait(self.rng.uniform(0.5, 3.0)):
            for _ in range(self.rng.choice((1, 1, 1, 8))):
                number += 1
                self._send_goal(number)

    def _send_goal(self, number: int) -> None:
        if self.hold_goals.is_set() or not self.client.server_is_ready():
            self.counts["goals not sent"] += 1
            return
        goal = SynthesizeViews.Goal()
        goal.pose_convention = goal.CONVENTION_OPTICAL
        goal.targets.header.frame_id = self.rng.choice(("odom", "odom", "odom", "nowhere"))
        T = np.eye(4)
        T[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
        T[:3, 3] = (self.x_m, 0.1, 1.2)
        targets = self.rng.choice((1, 1, 2, 99))
        goal.targets.poses = [pose_message(T, rclpy_type)] * targets
        goal.max_wait.sec = self.rng.choice((0, 1, 5))
        sent_s = time.monotonic()
        with self.lock:
            self.open_goals[number] = sent_s
        self.counts["goals sent"] += 1

        def answered(future: Any) -> None:
            with self.lock:
                self.open_goals.pop(number, None)
                result = future.result().result
                self.counts[f"goals answered {result.error_code}"] += 1
                if result.error_code == 0:
                    self.latencies_s.append(time.monotonic() - sent_s)

        def accepted(future: Any) -> None:
            handle = future.result()
            if not handle.accepted:
                with self.lock:
                    self.open_goals.pop(number, None)
                self.counts["goals rejected"] += 1
                return
            handle.get_result_async().add_done_callback(answered)
            if self.rng.random() < 0.5:
                handle.cancel_goal_async()
                self.counts["goals cancelled"] += 1

        self.client.send_goal_async(goal).add_done_callback(accepted)

    def _cycle(self) -> None:
        self._transition("deactivate")
        if self.rng.random() < 0.3:
            # Cleanup takes the action server away; by then every goal must have its answer.
            self.hold_goals.set()
            deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
            while self.open_goals and time.monotonic() < deadline_s:
                time.sleep(0.05)
            self._transition("cleanup")
            self._transition("configure")
            self.hold_goals.clear()
            self.counts["configured again"] += 1
        self._transition("activate")
        self.counts["lifecycle cycles"] += 1

    def _transition(self, name: str) -> None:
        if getattr(self.node, f"trigger_{name}")() != TransitionCallbackReturn.SUCCESS:
            self.counts[f"failed transition {name}"] += 1

    def _sample(self, at_s: float) -> None:
        gc.collect()
        LIBC.malloc_trim(0)
        status = Path("/proc/self/status").read_text()
        resident_kb = int(status.split("VmRSS:")[1].split()[0])
        with self.lock:
            recent = self.latencies_s[-20:]
        self.samples.append(
            {
                "at_s": round(at_s, 1),
                "resident_mb": resident_kb / 1024,
                "threads": threading.active_count(),
                "file_handles": sum(1 for _ in Path("/proc/self/fd").iterdir()),
                "latency_s": float(np.median(recent)) if recent else None,
                "stolen_share": self._stolen_share(),
            }
        )

    def _stolen_share(self) -> float:
        """Share of processor time since the last call that the host gave to others."""
        line = Path("/proc/stat").read_text().splitlines()[0]
        ticks = [int(word) for word in line.split()[1:9]]
        before, self.ticks = self.ticks, ticks
        spent = [now - then for now, then in zip(ticks, before, strict=True)]
        return spent[STEAL_FIELD] / max(1, sum(spent))

    def _frames(self) -> list[int]:
        return [n for name, n in self.counts.items() if name in {"good frames", *FRAME_FAULTS}]

    def report(self, minutes: float) -> dict[str, Any]:
        """Return everything measured and the verdict."""
        kept = self.samples[int(WARM_UP * len(self.samples)) :]
        third = max(1, len(kept) // 3)
        stolen = [
            float(np.mean([s["stolen_share"] for s in p])) for p in (kept[:third], kept[-third:])
        ]
        judged = minutes >= LATENCY_FROM_MINUTES and stolen[1] - stolen[0] <= MAX_STOLEN_MORE
        quantities = {}
        for name, share in MAX_GROWTH.items():
            early, late = (
                _median([sample[name] for sample in part]) for part in (kept[:third], kept[-third:])
            )
            allowed = share * early + SLACK[name]
            # A latency without any finished goal is no proof of flatness.
            flat = bool(late - early <= allowed) or (name == "latency_s" and not judged)
            quantities[name] = {
                "early": round(early, 3),
                "late": round(late, 3),
                "allowed_growth": round(allowed, 3),
                "flat": flat,
            }
        broken = [name for name in self.counts if name.startswith(("harness", "failed"))]
        ok = (
            all(q["flat"] for q in quantities.values())
            and not self.open_goals
            and not broken
            and self.counts["goals sent"] > 0
        )
        return {
            "minutes": minutes,
            "flat": quantities,
            "stolen_share": {
                "early": round(stolen[0], 3),
                "late": round(stolen[1], 3),
                "latency_judged": judged,
            },
            "unanswered_goals": len(self.open_goals),
            "broken": broken,
            "counts": dict(sorted(self.counts.items())),
            "camera_hz": round(sum(self._frames()) / (60 * minutes), 1),
            "load_average": os.getloadavg(),
            "samples": self.samples,
            "ok": ok,
        }


def _median(values: list[float | None]) -> float:
    """Return the median of what was measured; NaN, which is never flat, if nothing was."""
    return float(np.median([value for value in values if value is not None] or [np.nan]))


def _oracle(parameters: Any) -> LoadedModel:
    def render(T_world_cam: Any, K_px: Any, hw: tuple[int, int]) -> tuple[Any, Any]:
        return np.full((*hw, 3), 128, np.uint8), np.full(hw, 3.0, np.float32)

    synthesizer = OracleSynthesizer(render, step_delay_s=0.01)
    return LoadedModel(synthesizer, {"backend": "oracle"}, HW, fault_of, release=lambda: None)


def main() -> int:
    """Soak; 0 when everything stayed flat and every goal was answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="default: 30")
    parser.add_argument("--cycle", type=float, default=15.0, help="seconds between restarts")
    parser.add_argument("--sample", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the whole report here")
    args = parser.parse_args()
    # Not before the imports: large pages make those of torch several times faster.
    LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    soak = Soak(args.seed)
    soak.run(args.minutes, args.cycle, args.sample)
    report = soak.report(args.minutes)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "samples"}, indent=1))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # rclpy's threads may outlive their executor; the report is out.
    os._exit(status)
