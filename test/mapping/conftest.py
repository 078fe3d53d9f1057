"""An analytic room with true depth and colours, and cameras in it, for all robot-logic tests."""

import numpy as np
import pytest

from gld_ros.geometry.poses import (
    T_BODY_OPTICAL,
    invert_rigid,
    rigid_transform,
    rotation_z,
    transform_points,
)
from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.jobs import JobKind, JobRequest

SECOND = 1_000_000_000


class BoxRoom:
    """A room of 6 x 5 x 2.6 m seen from inside, with a pillar that hides part of it; z is up."""

    room = np.array([[-3.0, -2.5, 0.0], [3.0, 2.5, 2.6]])
    pillar = np.array([[1.2, -0.4, 0.0], [1.7, 0.3, 1.8]])

    def __call__(self, T_world_cam, K_px, image_hw):
        """Colours in [0, 1] and z-depth, as an oracle's renderer."""
        height, width = image_hw
        v, u = np.mgrid[0:height, 0:width].astype(np.float64)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_px).T  # z component is 1
        directions = rays @ T_world_cam[:3, :3].T
        depth = self.distance(T_world_cam[:3, 3], directions)
        points = T_world_cam[:3, 3] + directions * depth[..., None]
        return self.colour(points).astype(np.float32), depth.astype(np.float32)

    def distance(self, origin, directions):
        """How many `directions` (..., 3) it takes from `origin` to the first surface."""
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1.0 / directions
            to_walls = np.max((self.room[:, None] - origin) * inverse.reshape(1, -1, 3), axis=0)
            slabs = np.sort((self.pillar[:, None] - origin) * inverse.reshape(1, -1, 3), axis=0)
        nearest = to_walls.min(axis=-1)
        enter, leave = slabs[0].max(axis=-1), slabs[1].min(axis=-1)
        hit = (enter > 1e-9) & (enter < leave)
        return np.where(hit, np.minimum(enter, nearest), nearest).reshape(directions.shape[:-1])

    @staticmethod
    def colour(points):
        return 0.5 + 0.4 * np.sin(points * [2.1, 1.7, 2.6] + [0.3, 1.1, 2.0])

    def surface_distance(self, points):
        """Distance (N,) of points to the nearest wall or pillar face."""
        inside = np.minimum(points - self.room[0], self.room[1] - points)
        to_walls = np.abs(inside).min(axis=-1)
        outside = np.maximum(self.pillar[0] - points, points - self.pillar[1])
        to_pillar = np.where(
            (outside > 0).any(axis=-1),
            np.linalg.norm(np.maximum(outside, 0), axis=-1),
            np.abs(outside).min(axis=-1),
        )
        return np.minimum(to_walls, to_pillar)

    def sees(self, T_world_cam, K_px, image_hw, points, rel_tolerance=1e-6):
        """Ray-traced truth (N,): inside the image, and nothing in between beyond tolerance."""
        cam = transform_points(invert_rigid(T_world_cam), points) @ K_px.T
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = cam[:, 0] / cam[:, 2], cam[:, 1] / cam[:, 2]
        height, width = image_hw
        inside = (cam[:, 2] > 0) & (u >= -0.5) & (u < width - 0.5)
        inside &= (v >= -0.5) & (v < height - 0.5)
        reached = self.distance(T_world_cam[:3, 3], points - T_world_cam[:3, 3])
        return inside & (reached * (1 + rel_tolerance) >= 1)


def level_camera(x, y, z=1.2, yaw=0.0):
    """`T_fixed_cam` of a camera that looks horizontally."""
    return rigid_transform(rotation_z(yaw), [x, y, z]) @ T_BODY_OPTICAL


def pinhole(image_hw, focal_px=None):
    height, width = image_hw
    focal = focal_px or 0.8 * width
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


@pytest.fixture(scope="session")
def room():
    return BoxRoom()


@pytest.fixture(scope="session")
def camera_at():
    return level_camera


@pytest.fixture(scope="session")
def pinhole_of():
    return pinhole


@pytest.fixture(scope="session")
def keyframe_of(room):
    """Make a keyframe of the room: pose, stamp in seconds, and what tests vary."""

    def make(T_fixed_cam, stamp_s=1.0, *, camera="front", hw=(60, 80), K_px=None, **changes):
        K = pinhole(hw) if K_px is None else K_px
        rgb, _ = room(T_fixed_cam, K, hw)
        image = np.round(rgb * 255).astype(np.uint8)
        return Keyframe(
            camera=camera,
            stamp_ns=round(stamp_s * SECOND),
            frame_id=f"{camera}_optical",
            image=image,
            K_px=K,
            T_fixed_cam=T_fixed_cam,
            epoch=changes.pop("epoch", 0),
            **changes,
        )

    return make


@pytest.fixture(scope="session")
def target_of():
    def make(T_fixed_cam, hw=(60, 80), K_px=None):
        return TargetCamera(T_fixed_cam, pinhole(hw) if K_px is None else K_px, hw)

    return make


@pytest.fixture(scope="session")
def job_of(keyframe_of, target_of):
    """Make a job with two keyframes and some targets."""

    def make(job_id=1, kind=JobKind.AUTOMATIC, num_targets=1, **changes):
        keyframes = (
            keyframe_of(level_camera(-1.0, 0.4), 2.0, hw=(12, 16)),
            keyframe_of(level_camera(-1.0, 0.0), 1.0, hw=(12, 16)),
        )
        targets = tuple(
            target_of(level_camera(-1.0, 0.1 * i), hw=(12, 16)) for i in range(num_targets)
        )
        options = {"policy": "look_around", "epoch": 0, "keyframes": keyframes, "targets": targets}
        return JobRequest(job_id=job_id, kind=kind, **(options | changes))

    return make
