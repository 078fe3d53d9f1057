"""Colours of a view whose depth is known, looked up in images that see the same points.

Owns visibility in the images, the weights by angle, resolution and border, and the matching of
exposures. The caller supplies the view's depth.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.sources import Source
from gld_ros.measuring.surfaces import (
    MIN_Z_M,
    SAME_SURFACE,
    FloatArray,
    FloatImage,
    direction_weight,
)

_GAIN_LIMIT = 2.0  # beyond, colours differ by more than exposure
_MIN_SHARED = 64  # pixels that two images must share before their exposures are compared
_SAMPLES = 4000  # pixels that exposures are compared on
_BORDER = 0.03  # of the width: images fade out towards their border
NEAREST_EXPOSURE = 4.0  # power of its weight, with which an image decides the exposure of the view

Gain = tuple[FloatArray, FloatArray]  # (3,) and (3,): color * gain + offset


def blended_colour(
    sources: Sequence[Source],
    depth_m: FloatImage,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
) -> tuple[NDArray[np.uint8], FloatImage]:
    """Colours (H, W, 3) of a view with depth, and the sum of weights (0: no image sees the point).

    The view gets the exposure of the images that show most of it from nearby. An image contributes
    only where its own depth agrees.
    """
    looks = [_look(s, depth_m, K_px, T_fixed_cam) for s in sources]
    gains = matched_exposures([c for c, _ in looks], [w for _, w in looks])
    total = np.zeros((3, *depth_m.shape), np.float32)
    weight = np.zeros(depth_m.shape, np.float32)
    for (color, w), (gain, offset) in zip(looks, gains, strict=True):
        total += w * (color * gain[:, None, None] + offset[:, None, None])
        weight += w
    mean = total / np.maximum(weight, np.float32(1e-9))
    rounded = np.clip(mean + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(1, 2, 0)), weight


def _look(
    source: Source, depth_m: FloatImage, K_px: FloatArray, T_fixed_cam: FloatArray
) -> tuple[FloatImage, FloatImage]:
    """What one image shows at every pixel of a view with depth: colours (3, H, W) and weights."""
    surface = source.surface
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
    color = cv2.remap(surface.image, u, v, cv2.INTER_LINEAR)
    scale_x = np.float32(source.inverse.shape[1] / width)
    scale_y = np.float32(source.inverse.shape[0] / height)
    at = ((u + 0.5) * scale_x - 0.5, (v + 0.5) * scale_y - 0.5)
    own = cv2.remap(source.inverse, *at, cv2.INTER_NEAREST)
    ratio = z * own  # 1 on the surface; 0 where it measured nothing
    weight *= np.clip(2.0 - np.abs(ratio - 1) / np.float32(SAME_SURFACE / 2), 0.0, 1.0)
    border = np.minimum(np.minimum(u, width - 1 - u), np.minimum(v, height - 1 - v))
    weight *= np.clip(border / np.float32(_BORDER * width), 0.02, 1.0)
    planes = np.ascontiguousarray(color.transpose(2, 0, 1), np.float32)
    return planes, np.where(seen, weight, np.float32(0.0))


def matched_exposures(colors: Sequence[FloatImage], weights: Sequence[FloatImage]) -> list[Gain]:
    """Gain and offset per image that bring all of them to one exposure.

    Colours (3, H, W) of the same points, weights (H, W). Each is fitted to the mean of all by a
    line per channel, regularised towards no change; then all are brought to the exposure of the
    images with most weight. Images that share too little are not changed.
    """
    gains: list[Gain] = [(np.ones(3, np.float32), np.zeros(3, np.float32))] * len(colors)
    if len(colors) < 2:
        return gains
    shared = np.sum([w > 0 for w in weights], axis=0) >= 2
    at = np.flatnonzero(shared.ravel())
    if at.size < _MIN_SHARED:
        return gains
    at = at[:: max(1, at.size // _SAMPLES)]
    # (3, images, N)
    samples = np.stack([c.reshape(3, -1).take(at, axis=1) for c in colors], axis=1)
    parts = np.stack([w.ravel()[at] for w in weights])
    shares = parts / np.maximum(parts.sum(0), np.float32(1e-9))
    shares_of_mean = samples * shares
    used = [np.flatnonzero(w > 0) for w in parts]
    fitted = [samples[:, i].take(at_used, axis=1) for i, at_used in enumerate(used)]
    for _ in range(3):
        gain, offset = (np.stack(of_all, axis=1) for of_all in zip(*gains, strict=True))
        mean = (gain[:, None] @ shares_of_mean)[:, 0] + offset @ shares
        gains = [
            _line(c, mean.take(at_used, axis=1), g)
            for c, at_used, g in zip(fitted, used, gains, strict=True)
        ]
    return _towards_nearest(gains, [float(w.sum()) for w in weights])


def _line(color: FloatImage, mean: FloatImage, otherwise: Gain) -> Gain:
    """The line from colours (3, N) to the mean of all images, without the worst fifth."""
    count = color.shape[1]
    if count < _MIN_SHARED:
        return otherwise
    difference = np.abs(mean - color).sum(0)
    kept = int(0.8 * count) - 1
    near = (difference <= np.partition(difference, kept)[kept]).astype(np.float32)
    share = near / near.sum()
    mean_c, mean_m = color @ share, mean @ share
    color, mean = color - mean_c[:, None], mean - mean_m[:, None]
    prior = np.float32(20.0**2)  # variance of colours at which the slope has half its weight
    gain = ((color * mean) @ share + prior) / ((color * color) @ share + prior)
    gain = np.clip(gain, 1 / _GAIN_LIMIT, _GAIN_LIMIT).astype(np.float32)
    return gain, mean_m - gain * mean_c


def _towards_nearest(gains: Sequence[Gain], weights: Sequence[float]) -> list[Gain]:
    """The same gains followed by one more that undoes those of the images with most weight."""
    power = np.array(weights) ** NEAREST_EXPOSURE
    if not power.sum() > 0:
        return list(gains)
    power = power / power.sum()
    gain = np.sum([p * g for p, (g, _) in zip(power, gains, strict=True)], axis=0)
    offset = np.sum([p * o for p, (_, o) in zip(power, gains, strict=True)], axis=0)
    return [(g / gain, (o - offset) / gain) for g, o in gains]
