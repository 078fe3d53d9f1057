"""The demonstration from start to end: processes, goals, products, figures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gld_ros.bags.reader import BagReader
from gld_ros.demo.graph import DemoFailed, DemoGraph
from gld_ros.demo.result_images import GridRow, write_grid, write_recording
from gld_ros.demo.tour import room_tour
from gld_ros.evaluation.withheld import SplitBag, depth_error, nearest_shown, psnr_db, split_bag
from gld_ros.geometry.poses import distance_m
from gld_ros.mapping.ply import write_ply
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.images import mono8_from_image, rgb_from_message
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.ros.distribution.point_clouds import read_cloud

GOAL_WAIT_S = 120.0
MOST_BEHIND = 1  # keyframes that wait to be measured before the bag waits for them
STANDSTILL_S = 120.0
SCALE_UNRESOLVED = 906
# Of the embedded bundle on its own tour: worse means that something is broken.
MIN_GAIN_DB = 3.0
MAX_DEPTH_ERROR = 0.07
SPARSE_M = 1.0  # from a withheld image to the nearest shown one


@dataclass(frozen=True)
class DemoOptions:
    """What `gld-ros demo` was asked for."""

    bag: Path | None
    out: Path
    bundle: str
    goals: int
    rate: float


def run_demo(options: DemoOptions) -> int:
    """Run the demonstration; returns 0 only if every goal was answered and all arrived sane."""
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.bag or room_tour(options.out / "tour")
    played = options.out / "played"
    shutil.rmtree(played, ignore_errors=True)
    split = split_bag(source, played, options.goals)
    print(
        f"bag {source}: {len(split.shown)} images shown, {len(split.withheld)} withheld, "
        f"{split.duration_s:.1f} s, fixed frame {split.fixed_frame!r}"
    )
    node = player = None
    graph = DemoGraph()
    started_s = time.monotonic()
    try:
        graph.require_unique_node_name()
        node = _start_node(split, options)
        graph.configure_and_activate(timeout_s=180.0)
        player = _start_player(split, options.rate)
        play_at_measuring_pace(player, graph)
        rows, figures = _goals(split, graph)
    finally:
        graph.close()
        node_code = _end(node) if node is not None else 0
        if player is not None:
            _end(player)
    return _report(options, split, graph, rows, figures, node_code, time.monotonic() - started_s)


def _start_node(split: SplitBag, options: DemoOptions) -> subprocess.Popen[bytes]:
    parameters = {
        "use_sim_time": "true",
        "model.bundle": f'"{options.bundle}"',
        "fixed_frame": f'"{split.fixed_frame}"',
        "image_transport": "compressed" if split.compressed else "raw",
        "policy.type": "look_around",
        "policy.rate": "0.1",
        "policy.yaw_offsets": "[-0.3, 0.3]",
        "sampler.reference_views": "2",
        "sampler.max_targets": "2",
        # Recordings move faster than robots, and goals may come minutes after the last image.
        "keyframes.max_angular_velocity": "6.0",
        "keyframes.max_age": "600.0",
        "keyframes.capacity": "256",
        "tf.cache_time": "300.0",
        "tf.timeout": "3.0",  # a busy machine plays transforms late
        "product.max_age": "0.0",
        "diagnostics.period": "0.2",  # whose status paces the bag
        "scale.hold_time": "60.0",
        "depth.min_confidence": "0.05",
        # The rendered tour's depth is the truth; only a recording's is a sensor's.
        "depth.source": "stereo" if options.bag is None else "auto",
        **_guard(split),
        **_lossless(split),
    }
    command = [sys.executable, "-m", "gld_ros.ros.main", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    command += ["-r", f"camera/image:={split.image_topic}"]
    command += ["-r", f"camera/camera_info:={split.info_topic}"]
    if split.depth_topic is not None:
        command += ["-r", f"camera/depth:={split.depth_topic}"]
    log = (options.out / "node.log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_environment())


def _lossless(split: SplitBag) -> dict[str, str]:
    """QoS that lets no image of the bag get lost, where a slow machine falls behind for a while."""
    parameters = {}
    with BagReader(split.path) as bag:
        for name in (split.image_topic, split.info_topic, split.depth_topic):
            topic = f"{name}/compressed" if split.compressed and name == split.image_topic else name
            if topic in bag.topics and bag.topics[topic].reliable:
                parameters[f"qos_overrides.{topic}.subscription.reliability"] = "reliable"
                parameters[f"qos_overrides.{topic}.subscription.depth"] = "100"
    return parameters


def _guard(split: SplitBag) -> dict[str, str]:
    """The guard's parameters: wide for recordings in which every image is far from the next.

    Those with poses of unknown scale are such; the guard would refuse every goal.
    """
    far = max(
        distance_m(withheld.T_fixed_cam, nearest_shown(split, withheld).T_fixed_cam)
        for withheld in split.withheld
    )
    if far <= SPARSE_M:
        return {"guard.max_translation": "3.0", "guard.min_overlap": "0.1"}
    print(f"a sparse recording: images up to {far:.1f} apart; goals are not guarded")
    return {
        "guard.max_translation": "10.0",
        "guard.max_rotation": "3.15",
        "guard.min_overlap": "0.0",
    }


def _start_player(split: SplitBag, rate: float) -> subprocess.Popen[bytes]:
    images = f"{split.image_topic}/compressed" if split.compressed else split.image_topic
    command = [sys.executable, "-m", "gld_ros.cli.main", "play", str(split.path), "--clock"]
    command += ["--rate", str(rate), "--wait-for", images, split.info_topic]
    return subprocess.Popen(command, env=_environment())


def play_at_measuring_pace(player: subprocess.Popen[bytes], graph: DemoGraph) -> None:
    """Wait for the player and for the last keyframe to be measured.

    A robot's time cannot wait and a bag's can: it stands still while keyframes wait to be measured,
    so that slow and fast machines give the same results. Raises DemoFailed if there is no progress.
    """
    held, last, since_s = False, None, time.monotonic()
    while player.poll() is None or _behind(graph) > 0:
        hold = _behind(graph) > MOST_BEHIND
        if hold != held and player.poll() is None and graph.hold_bag(hold):
            held = hold
        status = graph.arrived.status
        now = (status.images_received, status.keyframes_measured) if status else None
        if now != last:
            last, since_s = now, time.monotonic()
        elif time.monotonic() - since_s > STANDSTILL_S:
            raise DemoFailed(
                f"for {STANDSTILL_S:.0f} s no image arrived and no keyframe was measured; "
                "node.log says more"
            )
        time.sleep(0.05)


def _behind(graph: DemoGraph) -> int:
    return int(graph.arrived.status.keyframes_behind) if graph.arrived.status else 0


def _environment() -> dict[str, str]:
    # The guard of the ROS wheels would keep a child from finding their libraries.
    return {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}


def _end(process: subprocess.Popen[bytes]) -> int:
    """Stop a process as an operator would, and the hard way if it does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def _goals(split: SplitBag, graph: DemoGraph) -> tuple[list[GridRow], list[dict[str, Any]]]:
    """Ask for a view at the camera of every withheld frame."""
    rows, figures = [], []
    for withheld in tqdm(split.withheld, desc="goals", unit="goal", disable=None):
        started_s = time.monotonic()
        before = graph.arrived.counts["predicted/provenance/image"]
        result = graph.imagine(withheld, split.fixed_frame, GOAL_WAIT_S, lambda feedback: None)
        seconds = time.monotonic() - started_s
        figure: dict[str, Any] = {
            "stamp_ns": withheld.stamp_ns,
            "error_code": int(result.error_code),
            "error_msg": result.error_msg,
            "seconds": round(seconds, 2),
        }
        figures.append(figure)
        if not result.images:
            continue
        imagined = rgb_from_message(result.images[0]).rgb
        nearest = nearest_shown(split, withheld)
        figure["psnr_db"] = round(psnr_db(imagined, withheld.image), 2)
        figure["copy_nearest_psnr_db"] = round(psnr_db(nearest.image, withheld.image), 2)
        view = result.views.views[0]
        figure["provenance"] = {
            "measured": round(view.measured_fraction, 3),
            "corroborated": round(view.corroborated_fraction, 3),
            "hallucinated": round(view.hallucinated_fraction, 3),
            "contradicted": round(view.contradicted_fraction, 3),
        }
        figure["scale"] = {
            "metric": bool(result.views.scale.metric),
            "metres_per_unit": round(result.views.scale.scale, 4),
            "dispersion": round(result.views.scale.relative_dispersion, 4),
        }
        times = result.views.times
        figure["stage_s"] = {
            name: round(getattr(times, name), 3)
            for name in ("queue", "encode", "sample", "decode", "postprocess", "total")
        }
        deadline_s = time.monotonic() + 5.0
        while (
            graph.arrived.counts["predicted/provenance/image"] == before
            and time.monotonic() < deadline_s
        ):
            time.sleep(0.02)
        reference_stamps_ns = {stamp_to_ns(s) for s in view.conditioning_stamps}
        references = [p.image for p in split.shown if p.stamp_ns in reference_stamps_ns]
        depth_m = depth_m_from_message(result.depths[0]) if result.depths else None
        provenance = graph.arrived.latest.get("predicted/provenance/image")
        if depth_m is not None and withheld.depth_m is not None:
            figure["depth"] = depth_error(depth_m, withheld.depth_m)
        rows.append(
            GridRow(
                withheld,
                tuple(references or [nearest.image]),
                nearest.image,
                imagined,
                depth_m,
                None if provenance is None else mono8_from_image(provenance),
                figure["psnr_db"],
                figure["copy_nearest_psnr_db"],
            )
        )
    return rows, figures


def _report(
    options: DemoOptions,
    split: SplitBag,
    graph: DemoGraph,
    rows: list[GridRow],
    figures: list[dict[str, Any]],
    node_code: int,
    seconds: float,
) -> int:
    """Write images, clouds, recording and summary; returns the exit status."""
    arrived = graph.arrived
    metric = any(f.get("scale", {}).get("metric") for f in figures)
    problems = [
        f"goal {i}: error {f['error_code']} {f['error_msg']}"
        for i, f in enumerate(figures)
        if f["error_code"] not in (0, SCALE_UNRESOLVED)
    ]
    problems += [f"goal {i}: no image" for i, f in enumerate(figures) if "psnr_db" not in f]
    needed = ["predicted/color/image", "predicted/color/camera_info", "views"]
    if metric:
        needed += [
            "predicted/depth/image",
            "predicted/points",
            "observed/depth/image",
            "observed/points",
        ]
    problems += [
        f"nothing arrived on /gld/{topic}" for topic in needed if not arrived.counts[topic]
    ]
    if node_code != 0:
        problems.append(f"gld_node ended with exit code {node_code}; see node.log")
    if options.bag is None and options.bundle == "tiny":
        problems += below_floors(figures)
    clouds = {}
    for topic, messages in arrived.clouds.items():
        points = np.concatenate([read_cloud(m).reshape(-1) for m in messages[-8:]])
        points = points[np.isfinite(points["z"])]
        name = topic.replace("/", "_")
        clouds[name] = points
        write_ply(points, options.out / f"{name}.ply")
    weights = "RANDOM weights: these views mean nothing" if _is_random(options.bundle) else ""
    if rows:
        title = f"bundle {options.bundle}. {weights}"
        write_grid(rows, options.out / "grid.png", title)
    note = write_recording(rows, clouds, options.out / "recording.rrd")
    with_views = [f for f in figures if "psnr_db" in f]
    means = {
        name: round(float(np.mean([f[name] for f in with_views])), 2) if with_views else None
        for name in ("psnr_db", "copy_nearest_psnr_db")
    }
    summary = {
        "bag": str(options.bag or "procedural room"),
        "bundle": options.bundle,
        "weights": weights or "trained",
        "seconds": round(seconds, 1),
        "mean": means,
        "goals": figures,
        "messages": dict(arrived.counts),
        "jobs_done": int(arrived.status.jobs_done) if arrived.status else 0,
        "keyframes": int(arrived.status.keyframes) if arrived.status else 0,
        "images_played": len(split.shown),
        "images_received": int(arrived.status.images_received) if arrived.status else 0,
        "images_dropped": int(arrived.status.images_dropped) if arrived.status else 0,
        "last_age_s": round(arrived.ages_s[-1], 2) if arrived.ages_s else None,
        "problems": problems,
    }
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    _print(summary, options.out, note, metric)
    return 1 if problems else 0


def below_floors(figures: list[dict[str, Any]]) -> list[str]:
    """What is worse than the embedded bundle does on its own tour, in words."""
    found = []
    views = [f for f in figures if "psnr_db" in f]
    gain_db = np.mean([f["psnr_db"] - f["copy_nearest_psnr_db"] for f in views]) if views else 0.0
    if gain_db < MIN_GAIN_DB:
        found.append(f"views are {gain_db:.1f} dB above copying; {MIN_GAIN_DB:g} are expected")
    errors = [f["depth"]["abs_rel"] for f in views if f.get("depth")]
    if len(errors) < len(figures):
        found.append(f"{len(errors)} of {len(figures)} goals have metric depth")
    if errors and np.mean(errors) > MAX_DEPTH_ERROR:
        found.append(
            f"depth is off by {np.mean(errors):.1%}; {MAX_DEPTH_ERROR:.0%} at most are expected"
        )
    return found


def _is_random(bundle: str) -> bool:
    from gld_ros.weights.bundle import Bundle

    return Bundle.open(bundle).config.random_weights


def _print(summary: dict[str, Any], out: Path, note: str, metric: bool) -> None:
    if summary["weights"] != "trained":
        print(f"\n{summary['weights']}")
    print(
        f"\n{summary['jobs_done']} jobs, {summary['keyframes']} keyframes, "
        f"{summary['images_received']} of {summary['images_played']} images received, "
        f"{summary['images_dropped']} dropped"
    )
    if summary["images_received"] < 0.7 * summary["images_played"]:
        print("this machine was too slow for the bag; --rate 0.3 leaves it more time")
    for index, figure in enumerate(summary["goals"]):
        if "psnr_db" in figure:
            stages = ", ".join(f"{k} {v:.2f}" for k, v in figure["stage_s"].items())
            print(
                f"goal {index}: {figure['psnr_db']:.1f} dB, copy nearest "
                f"{figure['copy_nearest_psnr_db']:.1f} dB; seconds: {stages}"
            )
            if figure.get("depth"):
                print(
                    f"        depth against the bag's: off by {figure['depth']['abs_rel']:.1%}, "
                    f"median ratio {figure['depth']['median_ratio']:.3f}"
                )
        else:
            print(f"goal {index}: error {figure['error_code']}: {figure['error_msg']}")
    mean = summary["mean"]
    if mean["psnr_db"] is not None:
        print(f"mean: {mean['psnr_db']} dB, copy nearest {mean['copy_nearest_psnr_db']} dB")
    if not metric:
        print("the scale was not resolved: colours were published, depth and clouds withheld")
    if note:
        print(note)
    print(f"look at {out / 'grid.png'}; figures in {out / 'summary.json'}")
    for problem in summary["problems"]:
        print(f"PROBLEM: {problem}")
