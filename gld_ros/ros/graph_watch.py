"""Observes a live graph around gld_node: topics, rates, QoS, stamps, CameraInfo and TF.

`watch` subscribes for some seconds and returns what it received, `rows` is the table of it. It
changes nothing on the graph; what of it is wrong is judged in `graph_faults`.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gld_ros.measuring.agreement import Agreement, image_pose_agreement
from gld_ros.measuring.frames import PosedImage
from gld_ros.messages.camera_info import CameraInfoError, camera_info_values, pinhole_camera
from gld_ros.messages.fixed_frame import AUTO, NoFixedFrame, find_fixed_frame
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.images import ImageError, rgb_from_message
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.messages.types import rclpy_type
from gld_ros.ros.tf_buffer import make_tf_buffer

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
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
    local_only: bool = False  # DDS looks at this machine alone


def watch(
    node: Any,
    *,
    target: str = "/gld",
    cameras: Sequence[str] = (),
    fixed_frame: str = "",
    seconds: float = 5.0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> GraphSeen:
    """Listen for some seconds with `node`, which the caller spins, and return what was seen.

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
        fixed_frame=fixed_frame or str(values.get("fixed_frame") or AUTO),
        rectification=str(values.get("cameras.rectification") or "auto"),
        sim_time=sim_time,
        clock_runs=not sim_time or bool(others[-1].count),
        cameras=pairs,
        others=others,
        tf_rejected=sum(tf.rejected.values()),
        local_only=os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "LOCALHOST"
        or os.environ.get("ROS_LOCALHOST_ONLY") == "1",
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
    """Count for how many image stamps TF knows the camera; the newest may still be on their way.

    A fixed frame that is to be found is found by the rule of the node.
    """
    frame_ids = [image.frame_id for image, _ in seen.cameras if image.frame_id]
    if seen.fixed_frame == AUTO and frame_ids:
        try:
            seen.fixed_frame = find_fixed_frame(buffer, frame_ids).name
        except NoFixedFrame as error:
            seen.tf_problem = str(error)
            seen.tf_asked = sum(image.count for image, _ in seen.cameras)
            return
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
