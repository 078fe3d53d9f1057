"""A ROS 2 bag (MCAP) of a tour through one procedural room, with everything a robot publishes.

Topics: /camera/image_raw (rgb8), /camera/camera_info, /camera/depth/image_raw (32FC1, metres),
/camera/depth/camera_info, /tf at 100 Hz (map -> base_link, a planar drive) and /tf_static
(base_link -> camera_link -> camera_optical_frame).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from gld_ros.scenes.rooms.cameras import pinhole_from_fov
from gld_ros.scenes.rooms.domains import SPLIT_IDS
from gld_ros.scenes.rooms.generate import render_room_views
from gld_ros.scenes.rooms.tour import Tour, find_tour

START_NS = 1_700_000_000_000_000_000
TF_RATE_HZ = 100.0
OPTICAL_FRAME = "camera_optical_frame"
_FRAMES_AT_ONCE = 8
# camera_link (x forward, y left, z up) to optical axes (x right, y down, z forward), REP-103
_OPTICAL_XYZW = (-0.5, 0.5, -0.5, 0.5)


def first_room_with_tour(domain: str) -> int:
    """The first scene id of split demo whose furniture leaves a way round."""
    for scene_id in SPLIT_IDS["demo"]:
        if find_tour(domain, scene_id) is not None:
            return scene_id
    raise RuntimeError(f"no demo room of domain {domain!r} leaves a way round")


def write_tour_bag(
    path: Path,
    domain: str,
    scene_id: int,
    *,
    image_hw: tuple[int, int] = (240, 320),
    seconds: float = 20.0,
    rate_hz: float = 10.0,
    with_depth: bool = True,
) -> int:
    """Render the tour of a room into a bag folder and return the number of pictures.

    The bag appears under its name only when it is complete. Raises FileExistsError when the path
    is taken, ValueError when the room leaves no way round or the times make no sense.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another folder or remove it")
    count = math.floor(seconds * rate_hz)
    if count < 2 or not math.isfinite(seconds * rate_hz):
        raise ValueError(f"{seconds} s at {rate_hz} Hz gives fewer than 2 pictures")
    tour = find_tour(domain, scene_id)
    if tour is None:
        raise ValueError(
            f"room {scene_id} of domain {domain!r} leaves no way round; try another id"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove_folder(partial)
    writer = Writer(partial, version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        _write(writer, domain, scene_id, tour, image_hw, count, rate_hz, with_depth)
    _name_files_after(partial, path)
    partial.rename(path)
    return count


def _remove_folder(folder: Path) -> None:
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _name_files_after(partial: Path, path: Path) -> None:
    """Rename the data file, which the writer named after the partial folder."""
    metadata = partial / "metadata.yaml"
    old, new = f"{partial.name}.mcap", f"{path.name}.mcap"
    (partial / old).rename(partial / new)
    metadata.write_text(metadata.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


class _Topics:
    """The bag's connections; `write` serialises a message to one of them."""

    def __init__(self, writer: Writer, with_depth: bool) -> None:
        self.typestore = get_typestore(Stores.LATEST)
        self._writer = writer
        names = {
            "/tf_static": "tf2_msgs/msg/TFMessage",
            "/tf": "tf2_msgs/msg/TFMessage",
            "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
            "/camera/image_raw": "sensor_msgs/msg/Image",
        }
        if with_depth:
            names["/camera/depth/camera_info"] = "sensor_msgs/msg/CameraInfo"
            names["/camera/depth/image_raw"] = "sensor_msgs/msg/Image"
        self._connections = {
            topic: writer.add_connection(
                topic,
                kind,
                typestore=self.typestore,
                offered_qos_profiles=[_qos(latched=topic == "/tf_static")],
            )
            for topic, kind in names.items()
        }

    def message(self, kind: str, **values: Any) -> Any:
        """Make a message, `kind` as in "sensor_msgs/Image"."""
        return self.typestore.types[kind.replace("/", "/msg/")](**values)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """Make a std_msgs/Header."""
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = self.message("builtin_interfaces/Time", sec=sec, nanosec=nanosec)
        return self.message("std_msgs/Header", stamp=stamp, frame_id=frame_id)

    def transform(
        self, stamp_ns: int, parent: str, child: str, xyz: Sequence[float], xyzw: Sequence[float]
    ) -> Any:
        """Make a geometry_msgs/TransformStamped."""
        x, y, z, w = (float(v) for v in xyzw)
        translation = self.message(
            "geometry_msgs/Vector3", x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2])
        )
        rotation = self.message("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)
        return self.message(
            "geometry_msgs/TransformStamped",
            header=self.header(stamp_ns, parent),
            child_frame_id=child,
            transform=self.message(
                "geometry_msgs/Transform", translation=translation, rotation=rotation
            ),
        )

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Write one message."""
        connection = self._connections[topic]
        data = self.typestore.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, stamp_ns, data)


def _qos(*, latched: bool) -> Qos:
    forever = QosTime(sec=0, nsec=0)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


def _write(
    writer: Writer, domain: str, scene_id: int, tour: Tour, image_hw: tuple[int, int], count: int,
    rate_hz: float, with_depth: bool,
) -> None:  # fmt: skip
    topics = _Topics(writer, with_depth)
    period_ns = round(1e9 / rate_hz)
    duration_ns = period_ns * (count - 1)
    mount = (0.0, math.sin(-tour.pitch / 2), 0.0, math.cos(-tour.pitch / 2))  # nose down: + about y
    static = [
        topics.transform(START_NS, "base_link", "camera_link", (0, 0, tour.height), mount),
        topics.transform(START_NS, "camera_link", OPTICAL_FRAME, (0, 0, 0), _OPTICAL_XYZW),
    ]
    tf_message = topics.message("tf2_msgs/TFMessage", transforms=static)
    topics.write("/tf_static", START_NS, tf_message)

    K_px = pinhole_from_fov(tour.horizontal_fov, image_hw)
    tf_step_ns = round(1e9 / TF_RATE_HZ)
    next_tf_ns = 0
    with tqdm(total=count, desc=f"tour of {domain}/{scene_id}", unit="picture") as bar:
        for first in range(0, count, _FRAMES_AT_ONCE):
            stamps = period_ns * np.arange(first, min(first + _FRAMES_AT_ONCE, count))
            poses = torch.from_numpy(tour.poses(stamps / duration_ns)).float()
            views = render_room_views(
                scene_id, domain, poses, torch.from_numpy(K_px).float(), image_hw
            )
            images = (views["images"].permute(0, 2, 3, 1) * 255).round().byte().numpy()
            for stamp, image, depth in zip(
                stamps.tolist(), images, views["depth_m"].numpy(), strict=True
            ):
                while next_tf_ns <= stamp:
                    _write_base_pose(topics, tour, next_tf_ns, next_tf_ns / duration_ns)
                    next_tf_ns += tf_step_ns
                _write_picture(topics, "/camera", START_NS + stamp, image, "rgb8", K_px)
                if with_depth:
                    at = START_NS + stamp
                    _write_picture(topics, "/camera/depth", at, depth, "32FC1", K_px)
                bar.update()
    # One more, so that the last picture's stamp lies inside the transforms at any rate.
    _write_base_pose(topics, tour, duration_ns + 1, 1.0)


def _write_base_pose(topics: _Topics, tour: Tour, offset_ns: int, s: float) -> None:
    position, yaw = tour.position_and_yaw(np.array([min(s, 1.0)]))
    half = 0.5 * float(yaw[0])
    rotation = (0.0, 0.0, math.sin(half), math.cos(half))
    place = (float(position[0, 0]), float(position[0, 1]), 0.0)
    stamp_ns = START_NS + offset_ns
    transform = topics.transform(stamp_ns, "map", "base_link", place, rotation)
    topics.write("/tf", stamp_ns, topics.message("tf2_msgs/TFMessage", transforms=[transform]))


def _write_picture(
    topics: _Topics, namespace: str, stamp_ns: int, pixels: np.ndarray, encoding: str,
    K_px: np.ndarray,
) -> None:  # fmt: skip
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    header = topics.header(stamp_ns, OPTICAL_FRAME)
    info = topics.message(
        "sensor_msgs/CameraInfo",
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=K_px.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.concatenate((K_px, np.zeros((3, 1))), axis=1).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=topics.message(
            "sensor_msgs/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        ),
    )
    picture = topics.message(
        "sensor_msgs/Image",
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=pixels.view(np.uint8).reshape(-1),
    )
    topics.write(f"{namespace}/camera_info", stamp_ns, info)
    topics.write(f"{namespace}/image_raw", stamp_ns, picture)
