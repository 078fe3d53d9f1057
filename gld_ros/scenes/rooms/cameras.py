"""Camera paths through a room: smooth curves of poses, and pinhole intrinsics.

World: metres, z up, floor at z = 0. Cameras: OpenCV axes, pixel centres at integer coordinates.
"""

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class CameraPath:
    """A circular arc (or straight line) of camera poses; s in [0, 1] runs along it.

    The camera turns by `yaw_change` in all and moves at the angle `travel_offset` to its view
    direction: 0 drives forward, 90 degrees steps sideways or orbits. Radians and metres.
    """

    start: tuple[float, float, float]
    yaw: float
    yaw_change: float
    travel_offset: float
    length: float
    rise: float
    pitch: float
    roll: float
    horizontal_fov: float

    def positions(self, s: np.ndarray) -> np.ndarray:
        """Camera centres (n, 3) at path parameters s (n,)."""
        heading, turn = self.yaw + self.travel_offset, self.yaw_change
        if abs(turn) < 1e-6:
            east, north = s * math.cos(heading), s * math.sin(heading)
        else:
            east = (np.sin(heading + turn * s) - math.sin(heading)) / turn
            north = (math.cos(heading) - np.cos(heading + turn * s)) / turn
        x, y, z = self.start
        return np.stack((x + self.length * east, y + self.length * north, z + self.rise * s), -1)

    def poses(self, s: np.ndarray) -> np.ndarray:
        """Camera-to-world poses T_world_cam (n, 4, 4) at path parameters s (n,)."""
        yaw = self.yaw + self.yaw_change * s
        pitch, roll = np.full_like(s, self.pitch), np.full_like(s, self.roll)
        return camera_to_world(self.positions(s), yaw, pitch, roll)

    def centred_on(self, middle_xy: np.ndarray) -> "CameraPath":
        """The same path, for one that starts at x = y = 0, with its middle at (2,) metres."""
        x, y = middle_xy - self.positions(np.array([0.5]))[0, :2]
        return replace(self, start=(float(x), float(y), self.start[2]))


def camera_to_world(
    position: np.ndarray, yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray
) -> np.ndarray:
    """T_world_cam (n, 4, 4) of cameras at position (n, 3) that look along yaw and pitch (n,).

    Yaw turns from world x towards y, positive pitch looks up, roll turns about the view direction.
    Radians.
    """
    cos_pitch = np.cos(pitch)
    forward = np.stack((cos_pitch * np.cos(yaw), cos_pitch * np.sin(yaw), np.sin(pitch)), -1)
    level_right = np.stack((np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)), -1)
    level_down = np.cross(forward, level_right)
    cos_roll, sin_roll = np.cos(roll)[:, None], np.sin(roll)[:, None]
    T_world_cam = np.zeros((len(yaw), 4, 4))
    T_world_cam[:, :3, 0] = cos_roll * level_right + sin_roll * level_down
    T_world_cam[:, :3, 1] = cos_roll * level_down - sin_roll * level_right
    T_world_cam[:, :3, 2] = forward
    T_world_cam[:, :3, 3] = position
    T_world_cam[:, 3, 3] = 1.0
    return T_world_cam


def pinhole_from_fov(horizontal_fov: float, image_hw: tuple[int, int]) -> np.ndarray:
    """K_px (3, 3) with square pixels and a centred principal point; horizontal_fov in radians."""
    height, width = image_hw
    focal = 0.5 * width / math.tan(0.5 * horizontal_fov)
    return np.array(
        [[focal, 0.0, 0.5 * (width - 1)], [0.0, focal, 0.5 * (height - 1)], [0.0, 0.0, 1.0]]
    )


def reference_views(
    num_views: int, reference_target_split: tuple[float, float] | None
) -> tuple[int, ...]:
    """Indices of the views that paths are accepted with as references."""
    if reference_target_split is None:
        return (0, num_views - 1) if num_views > 1 else (0,)
    return tuple(range(max(1, num_views // 2)))


def view_parameters(
    num_views: int, num_references: int, reference_target_split: tuple[float, float] | None
) -> np.ndarray:
    """Where on the path the views are taken, (num_views,) in [0, 1].

    Without a split they are spread evenly. With one, the references (first views) share
    [0, split[0]] and the targets share [split[1], 1].
    """
    if reference_target_split is None:
        return np.linspace(0.0, 1.0, num_views) if num_views > 1 else np.array([0.5])
    end, begin = reference_target_split
    references = np.linspace(0.0, end, num_references) if num_references > 1 else np.array([end])
    num_targets = num_views - num_references
    targets = np.linspace(begin, 1.0, num_targets) if num_targets > 1 else np.array([1.0])
    return np.concatenate((references, targets[:num_targets]))
