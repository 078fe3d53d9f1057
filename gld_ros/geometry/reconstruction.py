"""Point clouds from generated views: confidence filter, unprojection, glTF axes.

Owns the reconstruction of the official pipeline (similarity alignment, depth confidence, export
frame). What a robot may do with the points is decided in `gld_ros.mapping`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gld_ros.geometry.intrinsics import unproject
from gld_ros.geometry.rigid import invert_rigid, transform_points
from gld_ros.geometry.similarity import Similarity, umeyama

GLD_PERCENTILES = (0.0, 100.0)
DA3_PERCENTILES = (40.0, 90.0)


@dataclass(frozen=True)
class Reconstruction:
    """Coloured points of all views, in the frame of the given poses and in the glTF frame."""

    points_world: Tensor  # (P, 3) float32, view-major, row-major within a view
    kept: Tensor  # (V, H, W) bool: the pixels that are points
    colors: Tensor  # (P, 3) uint8
    points_gltf: Tensor  # (P, 3) float64
    T_gltf_world: Tensor  # (4, 4) float64
    confidence_threshold: float
    scene_scale: float  # norm of the 5-95 percentile extents of the glTF points


def confidence_threshold(
    confidence: Tensor,
    *,
    base: float = 1.05,
    percentiles: tuple[float, float] = GLD_PERCENTILES,
) -> float:
    """Smallest confidence a point needs: `base`, held between two percentiles of all values."""
    values = confidence.detach().cpu().numpy()
    low, high = np.percentile(values, percentiles)
    return float(min(max(base, float(low)), float(high)))


def align_to_known_cameras(T_model_cam: Tensor, T_world_cam: Tensor) -> tuple[Similarity, Tensor]:
    """Similarity from model to world by camera centres, and the model cameras moved by it.

    Both (V, 4, 4). Raises ValueError when the centres do not determine it (see `umeyama`).
    """
    similarity = umeyama(T_world_cam[:, :3, 3], T_model_cam[:, :3, 3])
    return similarity, similarity.transform_poses(T_model_cam.double())


def reconstruct(
    rgb: Tensor,
    depth: Tensor,
    depth_confidence: Tensor,
    K_px: Tensor,
    T_world_cam: Tensor,
    *,
    base_threshold: float = 1.05,
    percentiles: tuple[float, float] = GLD_PERCENTILES,
) -> Reconstruction:
    """Points of V views; pixel (u, v) is unprojected at integer coordinates.

    rgb (V, 3, H, W) in [0, 1]; depth and depth_confidence (V, H, W); K_px (3, 3) or (V, 3, 3);
    T_world_cam (V, 4, 4) with translations in depth's unit. A point is kept when its depth is
    finite and positive and its confidence reaches the threshold. Raises ValueError if none is.
    """
    confidence = depth_confidence.clamp(min=1e-8)
    threshold = confidence_threshold(confidence, base=base_threshold, percentiles=percentiles)
    views = depth.shape[0]
    points_cam = unproject(depth.double(), K_px.double().expand(views, 3, 3)).flatten(1, 2)
    points = transform_points(T_world_cam.double(), points_cam).float()
    keep = torch.isfinite(depth) & (depth > 0) & (confidence >= threshold)
    if not bool(keep.any()):
        raise ValueError(
            f"no point reaches the confidence threshold {threshold:.4g} with a positive depth"
        )
    points = points.unflatten(1, depth.shape[1:])[keep]
    colors = (rgb.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1)[keep]

    T_gltf_world = gltf_alignment(points, T_world_cam[0])
    points_gltf = transform_points(T_gltf_world, points.double())
    low, high = np.percentile(points_gltf.cpu().numpy(), (5, 95), axis=0)
    scene_scale = float(np.linalg.norm(high - low))
    return Reconstruction(points, keep, colors, points_gltf, T_gltf_world, threshold, scene_scale)


def gltf_alignment(points_world: Tensor, T_world_first: Tensor) -> Tensor:
    """`T_gltf_world` (4, 4) float64: first camera's frame, y up and z backwards, median at zero."""
    flip = torch.diag(points_world.new_tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    T_flipped_world = flip @ invert_rigid(T_world_first.double())
    flipped = transform_points(T_flipped_world, points_world.double())
    # numpy's median averages the two middle values of an even count; torch's takes the lower.
    median = torch.from_numpy(np.median(flipped.cpu().numpy(), axis=0)).to(flipped)
    T_gltf_world = T_flipped_world.clone()
    T_gltf_world[:3, 3] -= median
    return T_gltf_world
