"""Textured planes seen by posed cameras, rendered exactly."""

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from gld_ros.measuring.frames import FloatArray, PosedImage

HW = (96, 128)
K_PX = np.array([[110.0, 0.0, 63.5], [0.0, 110.0, 47.5], [0.0, 0.0, 1.0]])
_TEXELS_PER_M = 60.0
_TEXTURE_M = 12.0


@cache
def texture(seed: int = 0) -> FloatArray:
    """Grey values 0..255 with detail at several scales."""
    rng = np.random.default_rng(seed)
    size = int(_TEXTURE_M * _TEXELS_PER_M)
    noise = sum(s * gaussian_filter(rng.standard_normal((size, size)), s) for s in (1.5, 4.0, 10.0))
    noise = (noise - noise.mean()) / noise.std()
    return np.clip(128 + 40 * noise, 0, 255)


def camera_at(x_m: float = 0.0, y_m: float = 0.0, z_m: float = 0.0, yaw_deg: float = 0.0):
    """T_fixed_cam (4, 4) of a camera whose axes are the fixed frame's but for a turn about y."""
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    T = np.eye(4)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    T[:3, 3] = x_m, y_m, z_m
    return T


def plane_depth(T_fixed_cam: FloatArray, depth_m: float, slope_y: float = 0.0) -> FloatArray:
    """Z-depth (H, W) of the plane z = depth_m + slope_y * y of the fixed frame."""
    origin, rays = _rays(T_fixed_cam)
    along = (depth_m + slope_y * origin[1] - origin[2]) / (rays[..., 2] - slope_y * rays[..., 1])
    return along  # rays have z = 1 in the camera


def plane_image(
    T_fixed_cam: FloatArray, depth_m: float, values: FloatArray, slope_y: float = 0.0
) -> PosedImage:
    """What a camera sees of the textured plane."""
    origin, rays = _rays(T_fixed_cam)
    points = origin + rays * plane_depth(T_fixed_cam, depth_m, slope_y)[..., None]
    at = (points[..., 1::-1] + _TEXTURE_M / 2) * _TEXELS_PER_M  # row from y, column from x
    grey = map_coordinates(values, [at[..., 0], at[..., 1]], order=1, mode="reflect")
    image = np.repeat(np.round(grey)[..., None], 3, axis=2).astype(np.uint8)
    stamp_ns = int(abs(T_fixed_cam[0, 3]) * 1e9)
    return PosedImage(image, K_PX, T_fixed_cam, stamp_ns, "camera")


def _rays(T_fixed_cam: FloatArray) -> tuple[FloatArray, FloatArray]:
    v, u = np.mgrid[0 : HW[0], 0 : HW[1]].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_PX).T
    return T_fixed_cam[:3, 3], rays @ T_fixed_cam[:3, :3].T
