"""Colours of a view whose depth is known, looked up in images that see the same points.

Owns visibility in the images, the weights by angle, resolution and border, and the matching of
exposures. The caller supplies the view's depth.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.surfaces import (
    MIN_Z_M,
    SAME_SURFACE,
    FloatArray,
    FloatImage,
    Surface,
    direction_weight,
    inverse_depth,
)

_GAIN_LIMIT = 2.0  # beyond, colours differ by more than exposure
_MIN_SHARED = 64  # pixels that two images must share before their exposures are compared
_SAMPLES = 4000  # pixels that exposures are compared on
_BORDER = 0.03  # of the width: images fade out towards their border
NEAREST_EXPOSURE = 4.0  # power of its weight, with which an image decides the exposure of the view

Gain = tuple[FloatArray, FloatArray]  # (3,) and (3,): color * gain + offset


def blended_colour(
    surfaces: Sequence[Surface],
    depth_m: FloatImage,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
) -> tuple[NDArray[np.uint8], FloatImage]:
    """Colours (H, W, 3) of a view with depth, and the sum of weights (0: no image sees the point).

    The view gets the exposure of the images that show most of it from nearby. An image contributes
    only where its own depth agrees.
    """
    looks = [_look(s, depth_m, K_px, T_fixed_cam) for s in surfaces]
    gains = matched_exposures([c for c, _ in looks], [w for _, w in looks])
    total = np.zeros((*depth_m.shape, 3), np.float32)
    weight = np.zeros(depth_m.shape, np.float32)
    for (color, w), (gain, offset) in zip(looks, gains, strict=True):
        total += w[..., None] * (color * gain + offset)
        weight += w
    mean = total / np.maximum(weight, 1e-9)[..., None]
    return np.clip(mean + 0.5, 0, 255).astype(np.uint8), weight


def _look(
    surface: Surface, depth_m: FloatImage, K_px: FloatArray, T_fixed_cam: FloatArray
) -> tuple[FloatImage, FloatImage]:
    """What one image shows at every pixel of a view with depth: colours and weights (H, W)."""
    image_hw = (depth_m.shape[0], depth_m.shape[1])
    depth = np.nan_to_num(depth_m, nan=0.0)
    T_source_target = np.linalg.inv(surface.T_fixed_cam) @ T_fixed_cam
    # Everything in the axes of the source.
    R = T_source_target[:3, :3] @ np.linalg.inv(K_px)
    t = T_source_target[:3, 3].astype(np.float32)
    columns = np.arange(image_hw[1], dtype=np.float32)
    rows = np.arange(image_hw[0], dtype=np.float32)[:, None]
    R = R.astype(np.float32)
    to_target = np.stack(
        [(R[i, 0] * columns + (R[i, 1] * rows + R[i, 2])) * depth for i in range(3)]
    )
    to_source = to_target + t[:, None, None]
    weight = direction_weight(to_target, to_source)
    K = surface.K_px.astype(np.float32)
    z = to_source[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (K[0, 0] * to_source[0] + K[0, 1] * to_source[1]) / z + K[0, 2]
        v = K[1, 1] * to_source[1] / z + K[1, 2]
    height, width = surface.image.shape[:2]
    seen = (depth > 0) & (z > MIN_Z_M) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    u, v = np.where(seen, u, np.float32(-9)), np.where(seen, v, np.float32(-9))
    color = cv2.remap(surface.image, u, v, cv2.INTER_LINEAR).astype(np.float32)
    scale_x = np.float32(surface.depth_m.shape[1] / width)
    scale_y = np.float32(surface.depth_m.shape[0] / height)
    at = ((u + 0.5) * scale_x - 0.5, (v + 0.5) * scale_y - 0.5)
    own = cv2.remap(inverse_depth(surface.depth_m), *at, cv2.INTER_NEAREST)
    ratio = z * own  # 1 on the surface; 0 where it measured nothing
    weight *= np.clip(2.0 - np.abs(ratio - 1) / np.float32(SAME_SURFACE / 2), 0.0, 1.0)
    border = np.minimum(np.minimum(u, width - 1 - u), np.minimum(v, height - 1 - v))
    weight *= np.clip(border / np.float32(_BORDER * width), 0.02, 1.0)
    return color, np.where(seen, weight, np.float32(0.0))


def matched_exposures(colors: Sequence[FloatImage], weights: Sequence[FloatImage]) -> list[Gain]:
    """Gain and offset per image that bring all of them to one exposure.

    Colours (H, W, 3) of the same points. Each is fitted to the mean of all by a line per channel,
    regularised towards no change; then all are brought to the exposure of the images with most
    weight. Images that share too little are not changed.
    """
    gains: list[Gain] = [(np.ones(3, np.float32), np.zeros(3, np.float32))] * len(colors)
    if len(colors) < 2:
        return gains
    shared = np.sum([w > 0 for w in weights], axis=0) >= 2
    at = np.flatnonzero(shared.ravel())
    if at.size < _MIN_SHARED:
        return gains
    at = at[:: max(1, at.size // _SAMPLES)]
    samples = [c.reshape(-1, 3)[at] for c in colors]
    parts = [w.ravel()[at, None] for w in weights]
    sum_of_parts = np.maximum(np.sum(parts, axis=0), 1e-9)
    for _ in range(3):
        mean = np.sum(
            [w * (c * g + o) for c, w, (g, o) in zip(samples, parts, gains, strict=True)], axis=0
        )
        mean /= sum_of_parts
        gains = [
            _line(c, mean, w[:, 0] > 0, g) for c, w, g in zip(samples, parts, gains, strict=True)
        ]
    return _towards_nearest(gains, [float(w.sum()) for w in weights])


def _line(color: FloatImage, mean: FloatArray, used: NDArray[np.bool_], otherwise: Gain) -> Gain:
    """The line from colours (N, 3) to the mean of all images, without the worst fifth."""
    if int(used.sum()) < _MIN_SHARED:
        return otherwise
    color, mean = color[used], mean[used]
    difference = np.abs(mean - color).mean(1)
    near = (
        difference
        <= np.partition(difference, int(0.8 * len(difference)) - 1)[int(0.8 * len(difference)) - 1]
    )
    color, mean = color[near], mean[near]
    mean_c, mean_m = color.mean(0), mean.mean(0)
    prior = 20.0**2  # variance of colours at which the slope has half its weight
    covariance = ((color - mean_c) * (mean - mean_m)).mean(0) + prior
    gain = covariance / (((color - mean_c) ** 2).mean(0) + prior)
    gain = np.clip(gain, 1 / _GAIN_LIMIT, _GAIN_LIMIT)
    return gain.astype(np.float32), (mean_m - gain * mean_c).astype(np.float32)


def _towards_nearest(gains: Sequence[Gain], weights: Sequence[float]) -> list[Gain]:
    """The same gains followed by one more that undoes those of the images with most weight."""
    power = np.array(weights) ** NEAREST_EXPOSURE
    if not power.sum() > 0:
        return list(gains)
    power = power / power.sum()
    gain = np.sum([p * g for p, (g, _) in zip(power, gains, strict=True)], axis=0)
    offset = np.sum([p * o for p, (_, o) in zip(power, gains, strict=True)], axis=0)
    return [(g / gain, (o - offset) / gain) for g, o in gains]
