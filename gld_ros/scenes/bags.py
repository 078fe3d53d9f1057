"""ROS 2 bags (MCAP or SQLite) as recordings: pictures, CameraInfo, depth and interpolated TF.

Reads without ROS. A bag gives one recording per colour camera. What cannot be used (no CameraInfo,
no transform at the stamp, an encoding outside the list) is left out and counted by reason.
The ROS nodes have their own, fuller reading of messages; this one serves data sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation, Slerp

from gld_ros.messages.camera_info import (
    TRANSPORT_SUFFIXES,
    CameraInfoError,
    CameraInfoValues,
    PinholeCamera,
    camera_info_values,
    pinhole_camera,
)
from gld_ros.scenes.recording import FloatArray, Frame, Recording, RecordingError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO, TF_MESSAGE = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage"
# Channels of the colour encodings read here, and what brings them to RGB.
_COLOUR = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
}
# Type of the depth encodings read here, and metres per unit.
_DEPTH: dict[str, tuple[np.dtype[Any], float]] = {
    "16UC1": (np.dtype("<u2"), 1e-3),
    "mono16": (np.dtype("<u2"), 1e-3),
    "32FC1": (np.dtype("<f4"), 1.0),
}
# Transforms farther apart than this are not interpolated between.
MAX_TF_GAP_NS = 1_000_000_000


def open_bag(path: Path, fixed_frame: str | None = None) -> list[Recording]:
    """The recordings of a bag folder or file, one per colour camera, sorted by topic.

    Poses are those of the picture's frame in fixed_frame (default: the root of its transform
    tree), interpolated at the picture's stamp, never extrapolated. TF is taken to be in metres, as
    REP-103 says it is. Raises RecordingError for an
    unreadable bag, a bag without colour pictures, or one in which no picture can be placed.
    """
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    try:
        bag = _OpenBag(path)
        index = bag.read_index()
    except (AnyReaderError, OSError, KeyError, ValueError, AssertionError) as error:
        raise RecordingError(f"{path} is no readable ROS 2 bag: {error}") from error
    cameras = [topic for topic, pictures in index.pictures.items() if not pictures.is_depth]
    cameras = [t for t in cameras if not _has_raw_twin(t, cameras)]
    if not cameras:
        raise RecordingError(f"{path} has no colour pictures; topics: {', '.join(bag.topics)}")
    recordings = [_camera_recording(path, bag, index, topic, fixed_frame) for topic in cameras]
    usable = [recording for recording in recordings if len(recording)]
    if not usable:
        reasons = Counter[str]()
        for recording in recordings:
            reasons.update(recording.dropped)
        said = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise RecordingError(f"{path}: none of the pictures can be used ({said})")
    return usable


# --- reading ----------------------------------------------------------------------------------


@dataclass
class _Pictures:
    """Where the pictures of one topic are: header stamps, bag times, frame."""

    connection: Connection
    is_depth: bool
    stamps_ns: list[int] = field(default_factory=list)
    bag_times_ns: list[int] = field(default_factory=list)
    frame_ids: list[str] = field(default_factory=list)
    sizes_hw: list[tuple[int, int]] = field(default_factory=list)
    unreadable: Counter[str] = field(default_factory=Counter)


@dataclass
class _Index:
    pictures: dict[str, _Pictures] = field(default_factory=dict)
    infos: dict[str, list[tuple[int, CameraInfoValues]]] = field(default_factory=dict)
    transforms: _Transforms = field(default_factory=lambda: _Transforms())


class _OpenBag:
    """A bag kept open for reading pictures one by one."""

    def __init__(self, path: Path) -> None:
        self.reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))
        self.reader.open()
        self.topics = sorted({connection.topic for connection in self.reader.connections})

    def read_index(self) -> _Index:
        """Read everything but pixels."""
        index = _Index()
        wanted = (IMAGE, COMPRESSED, CAMERA_INFO, TF_MESSAGE)
        connections = [c for c in self.reader.connections if c.msgtype in wanted]
        for connection, bag_time, raw in self.reader.messages(connections=connections):
            message: Any = self.reader.deserialize(raw, connection.msgtype)
            if connection.msgtype == TF_MESSAGE:
                static = connection.topic.endswith("tf_static")
                for transform in message.transforms:
                    index.transforms.add(transform, static)
            elif connection.msgtype == CAMERA_INFO:
                stamped = (_stamp_ns(message), camera_info_values(message))
                index.infos.setdefault(connection.topic, []).append(stamped)
            else:
                _index_picture(index, connection, bag_time, message)
        return index

    def picture(self, pictures: _Pictures, i: int) -> Any:
        """Read the i-th message of a topic again."""
        start = pictures.bag_times_ns[i]
        for connection, _, raw in self.reader.messages(
            connections=[pictures.connection], start=start, stop=start + 1
        ):
            message: Any = self.reader.deserialize(raw, connection.msgtype)
            if _stamp_ns(message) == pictures.stamps_ns[i]:
                return message
        raise RecordingError(f"{pictures.connection.topic}: picture {i} is gone from the bag")


def _index_picture(index: _Index, connection: Connection, bag_time: int, message: Any) -> None:
    compressed = connection.msgtype == COMPRESSED
    if compressed and "compresseddepth" in message.format.lower().replace(" ", ""):
        return
    is_depth = not compressed and message.encoding in _DEPTH
    pictures = index.pictures.setdefault(connection.topic, _Pictures(connection, is_depth))
    if not compressed and not is_depth and message.encoding not in _COLOUR:
        pictures.unreadable[f"encoding {message.encoding!r} is not read"] += 1
        return
    pictures.stamps_ns.append(_stamp_ns(message))
    pictures.bag_times_ns.append(bag_time)
    pictures.frame_ids.append(message.header.frame_id)
    pictures.sizes_hw.append((0, 0) if compressed else (message.height, message.width))


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


# --- one camera -------------------------------------------------------------------------------


def _base_topic(topic: str) -> str:
    base, _, last = topic.rpartition("/")
    return base if last in TRANSPORT_SUFFIXES else topic


def _has_raw_twin(topic: str, topics: list[str]) -> bool:
    return _base_topic(topic) != topic and _base_topic(topic) in topics


def _camera_recording(
    path: Path, bag: _OpenBag, index: _Index, topic: str, fixed_frame: str | None
) -> Recording:
    pictures = index.pictures[topic]
    base = _base_topic(topic)
    infos = index.infos.get(f"{base.rpartition('/')[0]}/camera_info", [])
    depth = _depth_of(index, pictures)
    dropped: Counter[str] = Counter(pictures.unreadable)
    placed: list[tuple[int, FloatArray, CameraInfoValues]] = []
    for i, stamp in enumerate(pictures.stamps_ns):
        if not infos:
            dropped[f"no CameraInfo beside {base}"] += 1
            continue
        pose = index.transforms.pose(pictures.frame_ids[i], stamp, fixed_frame)
        if isinstance(pose, str):
            dropped[pose] += 1
            continue
        info = min(infos, key=lambda stamped: abs(stamped[0] - stamp))[1]
        placed.append((i, pose, info))
    cameras: dict[tuple[CameraInfoValues, tuple[int, int]], PinholeCamera] = {}

    def load(k: int) -> Frame:
        i, pose, info = placed[k]
        where = f"{path.name}{topic} at {pictures.stamps_ns[i]} ns"
        rgb = _rgb(bag.picture(pictures, i), where)
        size = (rgb.shape[0], rgb.shape[1])
        try:
            if (info, size) not in cameras:
                cameras[info, size] = pinhole_camera(info, size, topic=base)
        except CameraInfoError as error:
            raise RecordingError(f"{where}: {error}") from error
        camera = cameras[info, size]
        depth_m = None
        if depth is not None and pictures.stamps_ns[i] in depth[1] and not camera.remaps:
            message = bag.picture(depth[0], depth[1][pictures.stamps_ns[i]])
            depth_m = _depth_m(message, where)
            depth_m = depth_m if depth_m.shape == size else None
        rgb = camera.rectify(rgb)
        return Frame(rgb, camera.K_px, pose, depth_m, pictures.stamps_ns[i])

    poses = np.array([pose for _, pose, _ in placed], dtype=np.float64).reshape(-1, 4, 4)
    stamps = np.array([pictures.stamps_ns[i] for i, _, _ in placed], dtype=np.int64)
    return Recording(f"{path.name}{base}", True, poses, stamps, load, dropped=dict(dropped))


def _depth_of(index: _Index, colour: _Pictures) -> tuple[_Pictures, dict[int, int]] | None:
    """The depth topic in the same optical frame with the most stamps in common, by stamp."""
    best: tuple[_Pictures, dict[int, int]] | None = None
    for pictures in index.pictures.values():
        if pictures.is_depth and set(pictures.frame_ids) & set(colour.frame_ids):
            shared = set(colour.stamps_ns)
            by_stamp = {s: i for i, s in enumerate(pictures.stamps_ns) if s in shared}
            if by_stamp and (best is None or len(by_stamp) > len(best[1])):
                best = (pictures, by_stamp)
    return best


def _rgb(message: Any, where: str) -> NDArray[np.uint8]:
    if hasattr(message, "format"):
        decoded = cv2.imdecode(np.asarray(message.data, dtype=np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            raise RecordingError(f"{where}: the compressed picture cannot be decoded")
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    channels, conversion = _COLOUR[message.encoding]
    pixels = _pixels(message, np.dtype("u1"), channels, where)
    return np.ascontiguousarray(pixels if conversion is None else cv2.cvtColor(pixels, conversion))


def _depth_m(message: Any, where: str) -> NDArray[np.float32]:
    kind, scale = _DEPTH[message.encoding]
    depth = _pixels(message, kind, 1, where)[..., 0].astype(np.float32) * np.float32(scale)
    depth[~np.isfinite(depth) | (depth < 0)] = 0.0
    return depth


def _pixels(message: Any, kind: np.dtype[Any], channels: int, where: str) -> NDArray[Any]:
    row_bytes = message.width * channels * kind.itemsize
    data = np.asarray(message.data, dtype=np.uint8)
    if message.step < row_bytes or data.size < message.step * message.height or not row_bytes:
        raise RecordingError(
            f"{where}: {data.size} bytes with step {message.step} do not hold a "
            f"{message.width}x{message.height} picture of {message.encoding}"
        )
    rows = data[: message.step * message.height].reshape(message.height, message.step)
    kind = kind.newbyteorder(">") if message.is_bigendian else kind
    pixels = np.ascontiguousarray(rows[:, :row_bytes]).view(kind)
    return pixels.reshape(message.height, message.width, channels)


# --- transforms -------------------------------------------------------------------------------


@dataclass
class _Edge:
    parent: str
    static: bool
    samples: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    slerp: tuple[NDArray[np.int64], FloatArray, Rotation] | None = None


class _Transforms:
    """The bag's transform tree over time."""

    def __init__(self) -> None:
        self.edges: dict[str, _Edge] = {}

    def add(self, transform: Any, static: bool) -> None:
        """Keep one geometry_msgs/TransformStamped; unusable numbers are left out."""
        t, q = transform.transform.translation, transform.transform.rotation
        values = (t.x, t.y, t.z, q.x, q.y, q.z, q.w)
        norm = float(np.linalg.norm(values[3:]))
        if not np.all(np.isfinite(values)) or abs(norm - 1.0) > 0.01:
            return
        child, parent = (
            name.lstrip("/") for name in (transform.child_frame_id, transform.header.frame_id)
        )
        edge = self.edges.setdefault(child, _Edge(parent, static))
        edge.samples.append((_stamp_ns(transform), values))
        edge.slerp = None

    def pose(self, frame: str, stamp_ns: int, fixed_frame: str | None) -> FloatArray | str:
        """T_fixed_frame (4, 4) at a stamp, or why there is none."""
        T_here_frame = np.eye(4)
        here, seen = frame.lstrip("/"), set[str]()
        for edge in self._upwards(here, fixed_frame):
            if here in seen:
                return f"transforms of {here} run in a circle"
            seen.add(here)
            T_parent_here = _interpolated(edge, stamp_ns)
            if T_parent_here is None:
                return f"no transform {edge.parent} -> {here} at the stamp"
            T_here_frame = T_parent_here @ T_here_frame
            here = edge.parent
        if fixed_frame is not None and here != fixed_frame:
            return f"no transform from {frame} up to {fixed_frame}"
        if not seen:
            return f"no transform of frame {frame!r}"
        return T_here_frame

    def _upwards(self, frame: str, fixed_frame: str | None) -> Iterator[_Edge]:
        while frame != fixed_frame and frame in self.edges:
            yield self.edges[frame]
            frame = self.edges[frame].parent


def _interpolated(edge: _Edge, stamp_ns: int) -> FloatArray | None:
    """T_parent_child (4, 4): linear in translation, along the arc in rotation; None outside."""
    if edge.static:
        values = np.array(edge.samples[-1][1])
        return _matrix(values[:3], Rotation.from_quat(values[3:]))
    if edge.slerp is None:
        ordered = dict(sorted(edge.samples))  # of equal stamps the last counts
        table = np.array(list(ordered.values()))
        times = np.array(list(ordered), dtype=np.int64)
        edge.slerp = (times, table[:, :3], Rotation.from_quat(table[:, 3:]))
    times, places, rotations = edge.slerp
    after = int(np.searchsorted(times, stamp_ns))
    if after < len(times) and times[after] == stamp_ns:
        return _matrix(places[after], rotations[after])
    if after in (0, len(times)) or times[after] - times[after - 1] > MAX_TF_GAP_NS:
        return None
    part = float(stamp_ns - times[after - 1]) / float(times[after] - times[after - 1])
    turned = Slerp([0.0, 1.0], rotations[after - 1 : after + 1])(part)
    return _matrix((1 - part) * places[after - 1] + part * places[after], turned)


def _matrix(place: FloatArray, rotation: Rotation) -> FloatArray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation.as_matrix(), place
    return T
