"""Is this graph fit for gld_node: topics, rates, QoS, stamps, CameraInfo and TF, looked at live.

`watch` subscribes for some seconds and returns what it received; `judge` turns that into a table
and the faults, the one to fix first at the top. It changes nothing on the graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gld_ros.measuring.agreement import DISAGREE, Agreement, image_pose_agreement
from gld_ros.measuring.frames import PosedImage
from gld_ros.messages.camera_info import (
    CameraInfoError,
    CameraInfoValues,
    camera_info_values,
    pinhole_camera,
)
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.images import ImageError, rgb_from_message
from gld_ros.messages.stamps import age_in_words, stamp_to_ns
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.tf_buffer import make_tf_buffer

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
MAX_AGE_S = 2.0  # of an image when it arrives
MAX_AHEAD_S = 0.05
MAX_STAMPS = 200
CALL_TIMEOUT_S = 2.0
# Images that are compared with TF: this far apart, and no more than these.
COMPARED_STEP_S, MAX_COMPARED, MAX_COMPARED_BYTES = 0.08, 40, 256_000_000


@dataclass
class TopicSeen:
    """What came on one topic, and who sits at its two ends."""

    topic: str
    type: str
    publishers: list[Any] = field(default_factory=list)  # rclpy TopicEndpointInfo
    subscriptions: list[Any] = field(default_factory=list)
    count: int = 0
    span_s: float = 0.0
    ages_s: list[float] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    frame_id: str = ""
    newest: Any = None
    compared: list[Any] = field(default_factory=list)  # images
    agreement: Agreement | None = None  # of images with TF

    @property
    def rate_hz(self) -> float:
        """Messages per second between the first and the last that came; 0 for fewer than two."""
        return (self.count - 1) / self.span_s if self.count > 1 and self.span_s > 0 else 0.0

    @property
    def age_s(self) -> float | None:
        """Median of arrival time minus stamp, by the clock in use."""
        return float(np.median(self.ages_s)) if self.ages_s else None


@dataclass
class GraphSeen:
    """Everything that `watch` saw."""

    node_name: str
    node_state: str  # "" when there is no such node
    fixed_frame: str
    rectification: str
    sim_time: bool
    clock_runs: bool
    cameras: list[tuple[TopicSeen, TopicSeen]]  # image, CameraInfo
    others: list[TopicSeen]  # /tf, /tf_static, /clock
    tf_placed: int = 0
    tf_asked: int = 0
    tf_problem: str = ""
    tf_rejected: int = 0


@dataclass(frozen=True)
class Fault:
    """Something wrong: on what, what, and what to do."""

    subject: str
    problem: str
    fix: str
    fatal: bool = True


def watch(
    node: Any,
    *,
    target: str = "/gld",
    cameras: Sequence[str] = (),
    fixed_frame: str = "",
    seconds: float = 5.0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> GraphSeen:
    """Listen for some seconds with `node`, which somebody else spins, and return what was seen.

    `cameras` names cameras as the node's `camera_names` does (`front` is front/image); empty: what
    the node at `target` subscribes to, or would by its parameters.
    """
    tf = make_tf_buffer(node, cache_time_s=seconds + 10.0)
    deadline_s = time.monotonic() + CALL_TIMEOUT_S
    while time.monotonic() < deadline_s and not _is_there(node, target):
        time.sleep(0.05)
    state = _lifecycle_state(node, target) if _is_there(node, target) else ""
    names = ["camera_names", "fixed_frame", "image_transport", "cameras.rectification"]
    values = _parameters(node, target, [*names, "use_sim_time"]) if state else {}
    sim_time = bool(values.get("use_sim_time"))
    if sim_time:
        from rclpy.parameter import Parameter

        node.set_parameters([Parameter("use_sim_time", value=True)])
    pairs = [
        (
            _listen(node, image, COMPRESSED if image.endswith("/compressed") else IMAGE),
            _listen(node, info, INFO),
        )
        for image, info in _camera_topics(node, target, cameras, values)
    ]
    others = [
        TopicSeen("/tf", "tf2_msgs/msg/TFMessage"),
        TopicSeen("/tf_static", "tf2_msgs/msg/TFMessage"),
    ]
    if sim_time:
        others.append(_listen(node, "/clock", "rosgraph_msgs/msg/Clock"))
    started_s = time.monotonic()
    while (elapsed_s := time.monotonic() - started_s) < seconds:
        progress(elapsed_s / seconds)
        time.sleep(0.05)
    progress(1.0)
    seen = GraphSeen(
        node_name=target,
        node_state=state,
        fixed_frame=fixed_frame or str(values.get("fixed_frame") or "odom"),
        rectification=str(values.get("cameras.rectification") or "auto"),
        sim_time=sim_time,
        clock_runs=not sim_time or bool(others[-1].count),
        cameras=pairs,
        others=others,
        tf_rejected=sum(tf.rejected.values()),
    )
    for topic in [t for pair in pairs for t in pair] + others:
        own = node.get_fully_qualified_name()
        topic.publishers = list(node.get_publishers_info_by_topic(topic.topic))
        topic.subscriptions = [
            info
            for info in node.get_subscriptions_info_by_topic(topic.topic)
            if f"{info.node_namespace.rstrip('/')}/{info.node_name}" != own
        ]
    _ask_tf(seen, tf.buffer)
    for image, info in seen.cameras:
        image.agreement = _agreement(image, info, seen, tf.buffer)
        image.compared.clear()
    tf.close()
    return seen


def _is_there(node: Any, target: str) -> bool:
    return any(
        f"{namespace.rstrip('/')}/{name}" == target
        for name, namespace in node.get_node_names_and_namespaces()
    )


def _camera_topics(
    node: Any, target: str, cameras: Sequence[str], values: dict[str, Any]
) -> list[tuple[str, str]]:
    """Return (image, CameraInfo) topics: as asked, as subscribed, else by the node's parameters."""
    namespace, _, name = target.rpartition("/")
    suffix = "/compressed" if values.get("image_transport") == "compressed" else ""
    if not cameras and values:
        types = dict(node.get_subscriber_names_and_types_by_node(name, namespace or "/"))
        infos = sorted(topic for topic, kinds in types.items() if INFO in kinds)
        images = sorted(t for t, kinds in types.items() if IMAGE in kinds or COMPRESSED in kinds)
        found = []
        for info in infos:
            beside = [t for t in images if t.startswith(f"{info.rpartition('/')[0]}/image")]
            if beside:
                found.append((beside[0], info))
        if found:
            return found
    if not cameras:
        cameras = list(values.get("camera_names") or ["camera"])
    roots = [c if c.startswith("/") else f"{namespace}/{c}" for c in cameras]
    return [(f"{root}/image{suffix}", f"{root}/camera_info") for root in roots]


def _call(node: Any, kind: Any, name: str, request: Any) -> Any:
    client = node.create_client(kind, name)
    try:
        if not client.wait_for_service(timeout_sec=CALL_TIMEOUT_S):
            return None
        future = client.call_async(request)
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        while not future.done() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return future.result() if future.done() else None
    finally:
        node.destroy_client(client)


def _lifecycle_state(node: Any, target: str) -> str:
    from lifecycle_msgs.srv import GetState

    answer = _call(node, GetState, f"{target}/get_state", GetState.Request())
    return str(answer.current_state.label) if answer is not None else "silent"


def _parameters(node: Any, target: str, names: list[str]) -> dict[str, Any]:
    from rcl_interfaces.srv import GetParameters
    from rclpy.parameter import parameter_value_to_python

    request = GetParameters.Request(names=names)
    answer = _call(node, GetParameters, f"{target}/get_parameters", request)
    if answer is None or len(answer.values) != len(names):
        return {}
    return {n: parameter_value_to_python(v) for n, v in zip(names, answer.values, strict=True)}


def _listen(node: Any, topic: str, type_name: str) -> TopicSeen:
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    seen = TopicSeen(topic, type_name)
    first_s = 0.0

    def keep(message: Any) -> None:
        nonlocal first_s
        now_s = time.monotonic()
        first_s = first_s or now_s
        seen.count, seen.span_s, seen.newest = seen.count + 1, now_s - first_s, message
        if hasattr(message, "header") and len(seen.stamps_ns) < MAX_STAMPS:
            stamp_ns = stamp_to_ns(message.header.stamp)
            seen.frame_id = message.header.frame_id
            seen.stamps_ns.append(stamp_ns)
            seen.ages_s.append((node.get_clock().now().nanoseconds - stamp_ns) * 1e-9)
            if type_name in (IMAGE, COMPRESSED):
                _keep_to_compare(seen.compared, message)

    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(rclpy_type(type_name), topic, keep, qos)
    return seen


def _ask_tf(seen: GraphSeen, buffer: Any) -> None:
    """Count for how many image stamps TF knows the camera; the newest may still be on their way."""
    for image, _ in seen.cameras:
        stamps = image.stamps_ns[:-1] or image.stamps_ns
        for stamp_ns in stamps if image.frame_id else ():
            seen.tf_asked += 1
            try:
                buffer.lookup(seen.fixed_frame, image.frame_id, stamp_ns)
                seen.tf_placed += 1
            except TransformUnavailable as error:
                seen.tf_problem = f"{error.reason}: {error}"


def _keep_to_compare(kept: list[Any], message: Any) -> None:
    """Keep images that are far enough apart, as long as there is room."""
    if kept:
        step_ns = stamp_to_ns(message.header.stamp) - stamp_to_ns(kept[-1].header.stamp)
        room = len(message.data) * (len(kept) + 1) <= MAX_COMPARED_BYTES
        if step_ns < COMPARED_STEP_S * 1e9 or len(kept) >= MAX_COMPARED or not room:
            return
    kept.append(message)


def _agreement(image: TopicSeen, info: TopicSeen, seen: GraphSeen, buffer: Any) -> Agreement | None:
    """Whether the images that came fit TF; None if none could be placed or decoded."""
    if info.newest is None:
        return None
    posed = []
    values = camera_info_values(info.newest)
    for message in image.compared:
        stamp_ns = stamp_to_ns(message.header.stamp)
        try:
            T_fixed_cam = buffer.lookup(seen.fixed_frame, message.header.frame_id, stamp_ns)
            rgb = rgb_from_message(message).rgb
            hw = (rgb.shape[0], rgb.shape[1])
            rectification: Any = seen.rectification
            camera = pinhole_camera(values, hw, rectification, image.topic)
        except (TransformUnavailable, ImageError, CameraInfoError):
            continue  # counted and judged elsewhere
        pixels = np.array(camera.rectify(rgb))
        posed.append(PosedImage(pixels, camera.K_px, T_fixed_cam, stamp_ns, image.topic))
    return image_pose_agreement(posed) if posed else None


def agreement_faults(topic: str, agreement: Agreement) -> list[Fault]:
    """The warning that images and TF do not belong together, if there is evidence."""
    if not agreement.disagrees:
        return []
    what, _, fix = DISAGREE.partition(": ")
    problem = f"{what}: corners are {agreement.error_px:.1f} px off their epipolar lines"
    if agreement.time_offset_s is not None:
        problem += (
            f", {agreement.error_at_offset_px:.1f} px with image stamps shifted by "
            f"{agreement.time_offset_s * 1e3:+.0f} ms"
        )
    return [Fault(topic, problem, fix, fatal=False)]


def judge(seen: GraphSeen) -> list[Fault]:
    """Return what is wrong, in the order in which to fix it; warnings (`fatal` False) last."""
    faults = []
    if not seen.clock_runs:
        faults.append(
            Fault("/clock", "use_sim_time is set, but nothing publishes /clock",
                  "play the bag with --clock, start the simulator, or unset use_sim_time")
        )  # fmt: skip
    if seen.node_state not in ("", "active"):
        # First: it subscribes to nothing yet, and its topics are only guessed.
        faults.append(
            Fault(
                seen.node_name,
                f"the node is {seen.node_state}",
                "configure and activate it (ros2 lifecycle set, or autostart of the launch file); "
                "its log and /diagnostics tell why if it fails",
            )
        )
    for image, info in seen.cameras:
        faults += _image_faults(image)
        faults += _info_faults(image, info, seen.rectification)
        if image.agreement is not None:
            faults += agreement_faults(image.topic, image.agreement)
    if seen.tf_asked and not seen.tf_placed:
        frames = sorted({image.frame_id for image, _ in seen.cameras if image.frame_id})
        faults.append(
            Fault(
                "/tf",
                f"no image could be placed: {seen.tf_problem}",
                f"publish the chain {seen.fixed_frame} <- ... <- {', '.join(frames)} with stamps "
                "around those of the images, or set fixed_frame to a frame that exists",
            )
        )
    if not seen.node_state:
        faults.append(
            Fault(seen.node_name, "no such node",
                  "ros2 launch gld_ros gld.launch.py, or name it with --node")
        )  # fmt: skip
    if 0 < seen.tf_placed < 0.9 * seen.tf_asked:
        faults.append(
            Fault(
                "/tf",
                f"{seen.tf_asked - seen.tf_placed} of {seen.tf_asked} images could not be placed "
                f"({seen.tf_problem})",
                "publish TF faster, or synchronise the clocks of camera and odometry",
                fatal=False,
            )
        )
    if seen.tf_rejected:
        faults.append(
            Fault("/tf", f"{seen.tf_rejected} transforms are invalid (NaN or no rotation)",
                  "find the publisher and normalise its quaternions", fatal=False)
        )  # fmt: skip
    return sorted(faults, key=lambda fault: not fault.fatal)


def _image_faults(image: TopicSeen) -> list[Fault]:
    faults = []
    if not image.publishers:
        return [
            Fault(image.topic, "nobody publishes images here",
                  "start the camera driver, or remap <camera>/image of the node to its topic")
        ]  # fmt: skip
    wrong = sorted({p.topic_type for p in image.publishers} - {image.type})
    if wrong:
        return [
            Fault(image.topic, f"the publisher sends {', '.join(wrong)}, not {image.type}",
                  "set image_transport to what the driver sends, or remap to the right topic")
        ]  # fmt: skip
    faults += _qos_faults(image)
    if not image.count:
        problem = "a publisher is there, but no image came"
        fix = "check that the camera streams, and the network and DDS profile for large messages"
        return [*faults, Fault(image.topic, problem, fix)]
    if 0 in image.stamps_ns:
        faults.append(
            Fault(image.topic, "image stamps are zero", "let the driver stamp its images")
        )
    elif image.age_s is not None and image.age_s > MAX_AGE_S:
        faults.append(
            Fault(
                image.topic,
                f"age of images on arrival: {age_in_words(image.age_s)}",
                "synchronise the clocks (chrony); for a bag set use_sim_time and play with --clock",
            )
        )
    elif image.age_s is not None and image.age_s < -MAX_AHEAD_S:
        faults.append(
            Fault(image.topic, f"image stamps are {-image.age_s:.1f} s in the future",
                  "synchronise the clocks (chrony); for a simulator set use_sim_time")
        )  # fmt: skip
    if not image.frame_id:
        faults.append(
            Fault(image.topic, "images have an empty frame_id",
                  "set it in the driver, or give frame_id_override.<camera>")
        )  # fmt: skip
    return faults


def _info_faults(image: TopicSeen, info: TopicSeen, rectification: Any) -> list[Fault]:
    if not info.count:
        faults = _qos_faults(info)
        who = "nobody publishes" if not info.publishers else "nothing came of the"
        return [
            *faults,
            Fault(info.topic, f"{who} CameraInfo",
                  "let the driver publish camera_info beside its images, or remap it"),
        ]  # fmt: skip
    if image.newest is None:
        return []
    try:
        rgb = rgb_from_message(image.newest).rgb
    except ImageError as error:
        return [Fault(image.topic, str(error), "change the driver's encoding")]
    values: CameraInfoValues = camera_info_values(info.newest)
    try:
        pinhole_camera(values, (rgb.shape[0], rgb.shape[1]), rectification, image.topic)
    except CameraInfoError as error:
        return [Fault(info.topic, str(error), "calibrate the camera and load the calibration")]
    return []


def _qos_faults(topic: TopicSeen) -> list[Fault]:
    from rclpy.qos import QoSCompatibility, qos_check_compatible

    for publisher in topic.publishers:
        for subscription in topic.subscriptions:
            verdict, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
            if verdict == QoSCompatibility.ERROR:
                return [
                    Fault(
                        topic.topic,
                        f"{publisher.node_name} and {subscription.node_name} cannot talk: {reason}",
                        "change the driver's QoS, or the node's with qos_overrides",
                        fatal=False,
                    )
                ]
    return []


def rows(seen: GraphSeen) -> list[dict[str, Any]]:
    """Return one row per topic for the table and for JSON."""
    topics = [topic for pair in seen.cameras for topic in pair] + seen.others
    return [
        {
            "topic": topic.topic,
            "type": topic.type,
            "publishers": [_end(end) for end in topic.publishers],
            "subscriptions": [_end(end) for end in topic.subscriptions],
            "messages": topic.count,
            "rate_hz": round(topic.rate_hz, 2),
            "age_s": None if topic.age_s is None else round(topic.age_s, 3),
            "frame_id": topic.frame_id,
        }
        for topic in topics
    ]


def _end(info: Any) -> dict[str, str]:
    profile = info.qos_profile
    return {
        "node": f"{info.node_namespace.rstrip('/')}/{info.node_name}",
        "reliability": profile.reliability.name.lower(),
        "durability": profile.durability.name.lower(),
    }
