"""Points of depth images: making, thinning, transforming and concatenating them.

Points are CLOUD_DTYPE, the layout of published clouds (`gld_ros.messages.clouds`).
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.provenance import Provenance
from gld_ros.messages.clouds import CLOUD_DTYPE

FloatArray = NDArray[np.floating[Any]]

_WORDS = CLOUD_DTYPE.itemsize // 4
_BAND_PIXELS = 16384


def cloud_from_depth(
    depth_m: FloatArray,
    K_px: FloatArray,
    T_frame_cam: FloatArray,
    rgb: NDArray[np.uint8],
    confidence: FloatArray,
    provenance: NDArray[np.uint8] | Provenance,
    view: int,
    *,
    stride: int = 1,
    keep: NDArray[np.bool_] | None = None,
    organized: bool = False,
) -> NDArray[Any]:
    """Points of a depth image in the frame of `T_frame_cam`, as CLOUD_DTYPE.

    Every `stride`-th row and column. Unorganised (N,): finite depth where `keep` holds, row by
    row. Organised (H', W'): everything else has NaN coordinates.
    """
    step = (slice(None, None, stride), slice(None, None, stride))
    depth = np.asarray(depth_m[step], dtype=np.float32)
    rgb, confidence = rgb[step], confidence[step]
    labels = provenance if isinstance(provenance, Provenance) else provenance[step]
    height, width = depth.shape
    chosen = np.isfinite(depth)
    if keep is not None:
        chosen &= keep[step]
    # A point is depth x (a column term + a row term) + the camera's place.
    ray = T_frame_cam[:3, :3] @ np.linalg.inv(K_px)
    columns = (ray[:, :1] * (np.arange(width) * stride)).astype(np.float32)
    rows = (ray[:, 1:2] * (np.arange(height) * stride) + ray[:, 2:]).astype(np.float32)
    origin = T_frame_cam[:3, 3].astype(np.float32)

    cloud = np.empty(height * width if organized else int(np.count_nonzero(chosen)), CLOUD_DTYPE)
    words = cloud.view("<f4").reshape(1, -1, _WORDS)
    filled = 0
    # Bands that fit into the processor's cache are several times faster than whole images.
    band_rows = max(1, _BAND_PIXELS // max(1, width))
    for top in range(0, height, band_rows):
        band = slice(top, top + band_rows)
        z = depth[band]
        picked: Any = slice(None)
        count = z.size
        if organized:
            z = np.where(chosen[band], z, np.float32(np.nan))
        else:
            picked = np.flatnonzero(chosen[band])
            count = picked.size
            if count == z.size:
                picked = slice(None)
        if count == 0:
            continue
        with np.errstate(invalid="ignore"):  # infinite depth that is not picked
            xyz = [
                ((columns[i] + rows[i, band, None]) * z + origin[i]).ravel()[picked]
                for i in range(3)
            ]
        colour = _packed_rgb(rgb[band].reshape(-1, 3)[picked])
        if isinstance(labels, Provenance):
            label = np.full(count, labels, "<u4")
        else:
            label = labels[band].ravel()[picked].astype("<u4")
        label |= np.uint32(view << 8)
        confident = confidence[band].ravel()[picked]
        channels = [*xyz, colour.view("<f4"), confident, label.view("<f4")]
        # One pass interleaves the six words of each point; it copies bits, whatever they mean.
        cv2.mixChannels(
            [np.ascontiguousarray(c, dtype="<f4").reshape(1, count) for c in channels],
            [words[:, filled : filled + count]],
            [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
        )
        filled += count
    return cloud.reshape(height, width) if organized else cloud


def _packed_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """0x00RRGGBB (N,) of colours (N, 3)."""
    bgra = cv2.cvtColor(np.ascontiguousarray(rgb).reshape(1, -1, 3), cv2.COLOR_RGB2BGRA)
    packed = np.asarray(bgra).reshape(-1).view("<u4")
    packed &= np.uint32(0x00FFFFFF)
    return packed


def voxel_filtered(cloud: NDArray[Any], voxel_size_m: float) -> NDArray[Any]:
    """One point per cubic voxel: the most confident, the first of equals; input order is kept.

    A real point and not a mean, so that it stays on its surface with its own provenance. 0 is off.
    """
    if voxel_size_m <= 0 or cloud.size == 0:
        return cloud
    index = np.stack([np.floor(cloud[axis] / voxel_size_m) for axis in "xyz"]).astype(np.int64)
    index -= index.min(axis=1, keepdims=True)
    extent = index.max(axis=1) + 1
    key = (index[0] * extent[1] + index[1]) * extent[2] + index[2]
    order = np.lexsort((-cloud["confidence"], key))
    first = np.ones(len(order), bool)
    first[1:] = key[order[1:]] != key[order[:-1]]
    return _points_at(cloud, np.sort(order[first]))


def _words(cloud: NDArray[Any]) -> NDArray[np.uint32]:
    """The six words (N, 6) of each point, to copy points with their padding.

    NumPy copies field by field and leaves padding random; the same input must give the same bytes.
    """
    return cloud.reshape(-1).view("<u4").reshape(-1, _WORDS)


def _points_at(cloud: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
    """Points (N,) of a cloud by index or mask."""
    return _words(cloud)[chosen].view(CLOUD_DTYPE).reshape(-1)


def moved_points(cloud: NDArray[Any], T_frame_cloud: FloatArray) -> NDArray[Any]:
    """The finite points (N,) of a cloud, transformed by a rigid motion (4, 4)."""
    moved = _points_at(cloud, np.isfinite(cloud["z"].ravel()))
    T = T_frame_cloud.astype(np.float32)
    xyz = T[:3, :3] @ np.stack([moved[axis] for axis in "xyz"]) + T[:3, 3:]
    for i, axis in enumerate("xyz"):
        moved[axis] = xyz[i]
    return moved


def joined_points(clouds: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The points (N,) of several clouds one after the other."""
    return np.concatenate([_words(cloud) for cloud in clouds]).view(CLOUD_DTYPE).reshape(-1)
