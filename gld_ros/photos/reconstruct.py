"""Photos in, depth, cameras and coloured points out: the entry point `gld_ros.reconstruct`.

Owns the order of the steps and what is made of known cameras. Reading is `sources`, whether the
photos fit into memory `preflight`, running the network `network`, the scale of known cameras
`known_scale`, keeping the result `result`.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gld_ros.geometry.intrinsics import require_intrinsics
from gld_ros.geometry.reconstruction import DA3_PERCENTILES
from gld_ros.geometry.reconstruction import reconstruct as points_of_views
from gld_ros.geometry.rigid import require_rigid
from gld_ros.measuring.measure import search_device
from gld_ros.photos.known_scale import scale_of_known_cameras
from gld_ros.photos.network import Backbone, NetworkViews, own_longest_side_px, run_network
from gld_ros.photos.preflight import require_memory
from gld_ros.photos.result import UNSCALED, PhotoReconstruction
from gld_ros.photos.sources import Source, open_photos
from gld_ros.pretrained import load_backbone

ONE_PLACE = 0.03  # of the median depth: cameras no farther apart show no parallax to speak of


def reconstruct(
    images: Source | Iterable[Source],
    bundle: str | Path | Backbone = "tiny",
    *,
    K_px: ArrayLike | None = None,
    T_world_cam: ArrayLike | None = None,
    unit: str = "m",
    longest_side_px: int | None = None,
    device: str | torch.device = "auto",
) -> PhotoReconstruction:
    """Depth, cameras and coloured points of one photo or several of one place.

    images: one of, or several of: image files, a folder, arrays (H, W, 3) uint8 RGB, PIL images.
    bundle: a bundle's name or folder, or a network of `DepthAnything3.from_pretrained` or
        `Vggt.from_pretrained`, which saves reading the weights again.
    K_px (3, 3) or (V, 3, 3), in pixels of the images, and T_world_cam (V, 4, 4), camera-to-world
        with OpenCV axes, give cameras that are known; both or neither. `unit` names the unit of
        their positions. Rows of the images are then taken as they are stored; without cameras they
        are turned as their EXIF orientation says.
    longest_side_px: of the images as the network sees them; None for what it was made for.
    device: where a bundle is loaded to; a network that is given stays where it is.

    Without cameras, depth and positions share one unknown unit (`unit` of the result is
    "unscaled") and the first photo's camera is the world. With known cameras they are in the
    cameras' unit and world; where nothing tells the scale, the cameras are the network's own, and
    `notes` of the result says why. Raises ValueError for images or cameras that are not what is
    described and for more images than fit into memory together, and BundleError for a bundle that
    is not here.
    """
    if (K_px is None) != (T_world_cam is None):
        raise ValueError("K_px and T_world_cam go together: give both or neither")
    photos = open_photos(images, upright=K_px is None)
    K = T = None
    if K_px is not None and T_world_cam is not None:
        K, T = _checked_cameras(K_px, T_world_cam, len(photos))
    network = load_backbone(bundle, device=device) if isinstance(bundle, str | Path) else bundle
    side_px = own_longest_side_px(network) if longest_side_px is None else longest_side_px
    require_memory(network, photos.sizes_hw, side_px)
    views = run_network(network, photos, K, T, side_px)

    depth, T_out, unit_out, notes = views.depth, views.T_model_cam, UNSCALED, []
    if K is not None and T is not None:
        measuring_device = search_device(next(network.parameters()).device)
        known = scale_of_known_cameras(photos, K, T, views, measuring_device)
        notes.append(known.reason)
        if math.isfinite(known.scale):
            depth, T_out, unit_out = depth * np.float32(known.scale), T, unit
        else:
            notes.append("cameras and points are the network's own, the known cameras are not used")
    if len(photos) > 1 and T_out is views.T_model_cam and _at_one_place(views):
        notes.append(
            "the network puts all cameras at almost one place: either the camera only turned, or "
            "the network cannot tell; points of different photos then do not join"
        )
    points = points_of_views(
        torch.from_numpy(views.images).permute(0, 3, 1, 2).float() / 255,
        torch.from_numpy(depth),
        torch.from_numpy(views.confidence),
        torch.from_numpy(views.K_px),
        torch.from_numpy(T_out),
        percentiles=DA3_PERCENTILES,
    )
    kept = points.kept.numpy()
    confidence = (1.0 - 1.0 / views.confidence).astype(np.float32)
    return PhotoReconstruction(
        names=photos.names,
        images=views.images,
        depth=depth,
        confidence=confidence,
        K_px=views.K_px,
        T_world_cam=T_out,
        unit=unit_out,
        notes=tuple(notes),
        points=points.points_world.numpy(),
        colours=points.colors.numpy(),
        point_confidence=confidence[kept],
        point_view=np.nonzero(kept)[0],
        T_gltf_world=points.T_gltf_world.numpy(),
    )


def _at_one_place(views: NetworkViews) -> bool:
    """Whether no predicted camera is farther from the first than a small share of the depth."""
    farthest = np.linalg.norm(views.T_model_cam[:, :3, 3], axis=1).max()
    return bool(farthest < ONE_PLACE * np.median(views.depth))


def _checked_cameras(
    K_px: ArrayLike, T_world_cam: ArrayLike, num_views: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    K, T = np.asarray(K_px, np.float64), np.asarray(T_world_cam, np.float64)
    if K.shape == (3, 3):
        K = np.tile(K, (num_views, 1, 1))
    if K.shape != (num_views, 3, 3) or T.shape != (num_views, 4, 4):
        raise ValueError(
            f"{num_views} images need K_px (3, 3) or ({num_views}, 3, 3) and T_world_cam "
            f"({num_views}, 4, 4), got {K.shape} and {T.shape}"
        )
    require_intrinsics(torch.from_numpy(K), "K_px")
    require_rigid(torch.from_numpy(T), "T_world_cam")
    return K, T
