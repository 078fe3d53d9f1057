"""A ROS 2 bag (MCAP) of a tour through one procedural room, with everything a robot publishes.

Topics: /camera/image_raw (rgb8), /camera/camera_info, /camera/depth/image_raw (32FC1, metres),
/camera/depth/camera_info, /tf at 100 Hz (map -> base_link, a planar drive) and /tf_static
(base_link -> camera_link -> camera_optical_frame).
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from gld_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPE, TF_TYPE
from gld_ros.bags.writer import BagWriter
from gld_ros.geometry.poses import (
    T_BODY_OPTICAL,
    pose_from_quaternion,
    rigid_transform,
    rotation_z,
)
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header
from gld_ros.messages.transforms import transform_message
from gld_ros.scenes.rooms.cameras import pinhole_from_fov
from gld_ros.scenes.rooms.domains import SPLIT_IDS
from gld_ros.scenes.rooms.generate import render_room_views
from gld_ros.scenes.rooms.tour import Tour, find_tour

START_NS = 1_700_000_000_000_000_000
TF_RATE_HZ = 100.0
OPTICAL_FRAME = "camera_optical_frame"
_FRAMES_AT_ONCE = 8

FloatArray = NDArray[np.floating[Any]]


def first_room_with_tour(domain: str) -> int:
    """The first scene id of split demo whose furniture has room for a closed tour."""
    for scene_id in SPLIT_IDS["demo"]:
        if find_tour(domain, scene_id) is not None:
            return scene_id
    raise RuntimeError(f"no demo room of domain {domain!r} has room for a closed tour")


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
    """Render the tour of a room into a bag folder and return the number of images.

    The bag appears under its name only when it is complete. Raises ValueError when the path is
    taken, the room leaves no way round or the times make no sense.
    """
    count = math.floor(seconds * rate_hz)
    if count < 2 or not math.isfinite(seconds * rate_hz):
        raise ValueError(f"{seconds} s at {rate_hz} Hz gives fewer than 2 images")
    tour = find_tour(domain, scene_id)
    if tour is None:
        raise ValueError(
            f"room {scene_id} of domain {domain!r} has no room for a closed tour; try another id"
        )
    with BagWriter(path) as bag:
        bag.add_topic("/tf_static", TF_TYPE, latched=True)
        bag.add_topic("/tf", TF_TYPE)
        for namespace in ("/camera", "/camera/depth") if with_depth else ("/camera",):
            bag.add_topic(f"{namespace}/camera_info", CAMERA_INFO_TYPE)
            bag.add_topic(f"{namespace}/image_raw", IMAGE_TYPE)
        _write(bag, domain, scene_id, tour, image_hw, count, rate_hz, with_depth)
    return count


def _write(
    bag: BagWriter,
    domain: str,
    scene_id: int,
    tour: Tour,
    image_hw: tuple[int, int],
    count: int,
    rate_hz: float,
    with_depth: bool,
) -> None:
    period_ns = round(1e9 / rate_hz)
    duration_ns = period_ns * (count - 1)
    nose_down = (0.0, math.sin(-tour.pitch / 2), 0.0, math.cos(-tour.pitch / 2))  # about y
    mount = pose_from_quaternion((0.0, 0.0, tour.height), nose_down)
    _write_tf(
        bag,
        "/tf_static",
        START_NS,
        ("base_link", "camera_link", mount),
        ("camera_link", OPTICAL_FRAME, T_BODY_OPTICAL),
    )

    K_px = pinhole_from_fov(tour.horizontal_fov, image_hw)
    tf_step_ns = round(1e9 / TF_RATE_HZ)
    next_tf_ns = 0
    with tqdm(total=count, desc=f"tour of {domain}/{scene_id}", unit="image", disable=None) as bar:
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
                    _write_base_pose(bag, tour, next_tf_ns, next_tf_ns / duration_ns)
                    next_tf_ns += tf_step_ns
                _write_image(bag, "/camera", START_NS + stamp, image, "rgb8", K_px)
                if with_depth:
                    _write_image(bag, "/camera/depth", START_NS + stamp, depth, "32FC1", K_px)
                bar.update()
    # One more, so that the last image's stamp lies inside the transforms at any rate.
    _write_base_pose(bag, tour, duration_ns + 1, 1.0)


def _write_base_pose(bag: BagWriter, tour: Tour, offset_ns: int, s: float) -> None:
    position, yaw = tour.position_and_yaw(np.array([min(s, 1.0)]))
    T_map_base = rigid_transform(rotation_z(float(yaw[0])), (*position[0, :2], 0.0))
    _write_tf(bag, "/tf", START_NS + offset_ns, ("map", "base_link", T_map_base))


def _write_tf(
    bag: BagWriter, topic: str, stamp_ns: int, *edges: tuple[str, str, FloatArray]
) -> None:
    types = bag.types.__getitem__
    transforms = [
        transform_message(T_parent_child, parent, child, stamp_ns, types)
        for parent, child, T_parent_child in edges
    ]
    bag.write(topic, stamp_ns, types(TF_TYPE)(transforms=transforms))


def _write_image(
    bag: BagWriter,
    namespace: str,
    stamp_ns: int,
    pixels: np.ndarray,
    encoding: Literal["rgb8", "32FC1"],
    K_px: FloatArray,
) -> None:
    types = bag.types.__getitem__
    header = make_header(stamp_ns, OPTICAL_FRAME, types)
    hw = (pixels.shape[0], pixels.shape[1])
    info = camera_info_message(K_px, hw, header, types)
    bag.write(f"{namespace}/camera_info", stamp_ns, info)
    image = image_message(pixels, encoding, header, types(IMAGE_TYPE))
    bag.write(f"{namespace}/image_raw", stamp_ns, image)
