"""Cameras from a predicted ray map by DA3's own routine: robust homographies, one per view.

The diffusion pipeline uses GLD's deterministic routine instead, `gld_ros.geometry.rays`. This one
gives every view its own focal length and principal point, and survives outliers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.geometry.rigid import rigid_transform

MIN_RAY_Z = 1e-4
RANSAC_ITERATIONS = 100
RANSAC_CHUNK = 10
SAMPLE_POINTS = 8
SAMPLED_FRACTION = 0.3
INLIER_DISTANCE = 0.2  # on the image plane at z = 1 of a camera with a 90 degree field of view


@dataclass(frozen=True)
class RayCameras:
    """T_world_cam (B, V, 4, 4); K_px (B, V, 3, 3) in pixels; inlier_fraction (B, V)."""

    T_world_cam: Tensor
    K_px: Tensor
    inlier_fraction: Tensor


def cameras_from_ray_map(
    ray: Tensor, ray_confidence: Tensor, image_hw: tuple[int, int], *, seed: int = 0
) -> RayCameras:
    """Fit one camera per view to a ray map (B, V, h, w, 6) with confidence (B, V, h, w).

    A homography from the image plane to the ray directions is found by RANSAC on the most
    confident points, refitted to its inliers and decomposed into a rotation and intrinsics; the
    centre is the weighted mean of the ray origins. The seed fixes the random samples, which all
    views share. Raises ValueError for maps of other shapes, or to which no camera can be fitted.
    """
    if ray.ndim != 5 or ray.shape[-1] != 6 or ray_confidence.shape != ray.shape[:-1]:
        raise ValueError(
            "expected ray (B, V, h, w, 6) and ray_confidence (B, V, h, w), got "
            f"{tuple(ray.shape)} and {tuple(ray_confidence.shape)}"
        )
    leading, (rows, columns) = ray.shape[:2], ray.shape[2:4]
    num_points = rows * columns
    if int(SAMPLED_FRACTION * num_points) < SAMPLE_POINTS:
        raise ValueError(
            f"a ray map of {rows}x{columns} is too small; {SAMPLE_POINTS} points are sampled from "
            f"its most confident {SAMPLED_FRACTION:.0%}"
        )
    rays = ray.double().reshape(-1, num_points, 6)
    plane_xy = _plane_grid(rows, columns, ray.device)
    z = rays[..., 2]
    usable = (z.abs() > MIN_RAY_Z) & torch.isfinite(rays).all(-1)
    weight = ray_confidence.double().reshape(-1, num_points) * usable
    if bool((usable.sum(-1) < SAMPLE_POINTS).any()):
        raise ValueError(f"a view has fewer than {SAMPLE_POINTS} rays that point out of its plane")
    direction_xy = torch.where(
        usable[..., None], rays[..., :2] / torch.where(usable, z, 1.0)[..., None], 0.0
    )
    homography, inlier = _fit_homographies(plane_xy, direction_xy, weight, seed)

    homography = homography * torch.linalg.det(homography).sign()[:, None, None]
    R_world_cam, lower = _ql(homography)
    lower = lower / lower[:, 2:, 2:]
    focal = 1 / torch.stack([lower[:, 0, 0], lower[:, 1, 1]], dim=-1)
    principal = lower[:, 2, :2] + 1
    origins = torch.where(usable[..., None], rays[..., 3:], 0.0)
    centre = (origins * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)

    fitted = torch.isfinite(lower).all(-1).all(-1) & (focal > 0).all(-1)
    if not bool(fitted.all()):
        views = [divmod(i, leading[1]) for i in (~fitted).nonzero()[:, 0].tolist()]
        raise ValueError(f"no camera fits the ray map of (scene, view) {views}")

    half_size_xy = rays.new_tensor([image_hw[1], image_hw[0]]) / 2
    K_px = torch.zeros(len(rays), 3, 3, dtype=rays.dtype, device=rays.device)
    K_px[:, [0, 1], [0, 1]] = focal * half_size_xy
    K_px[:, :2, 2] = principal * half_size_xy
    K_px[:, 2, 2] = 1
    return RayCameras(
        T_world_cam=rigid_transform(R_world_cam, centre).to(ray.dtype).unflatten(0, leading),
        K_px=K_px.to(ray.dtype).unflatten(0, leading),
        inlier_fraction=inlier.double().mean(-1).to(ray.dtype).unflatten(0, leading),
    )


def _plane_grid(rows: int, columns: int, device: torch.device) -> Tensor:
    """Cell centres (rows * columns, 2) of the plane [-1, 1] x [-1, 1], x then y."""
    x = torch.linspace(-1 + 1 / columns, 1 - 1 / columns, columns, dtype=torch.float64)
    y = torch.linspace(-1 + 1 / rows, 1 - 1 / rows, rows, dtype=torch.float64)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1).to(device)


def _fit_homographies(
    source: Tensor, target: Tensor, weight: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Robust H (M, 3, 3) from source (n, 2) to target (M, n, 2), and its inliers (M, n)."""
    num_views, num_points = weight.shape
    num_candidates = int(SAMPLED_FRACTION * num_points)
    confident = weight.argsort(dim=-1, descending=True)[:, :num_candidates]
    generator = torch.Generator().manual_seed(seed)
    samples = torch.rand(RANSAC_ITERATIONS, num_candidates, generator=generator)
    samples = samples.topk(SAMPLE_POINTS, dim=-1).indices.to(weight.device)
    chosen = confident[:, samples]  # (M, iterations, points)
    view = torch.arange(num_views, device=weight.device)[:, None, None]
    hypotheses = _weighted_homography(source[chosen], target[view, chosen], weight[view, chosen])

    best_score = torch.full((num_views,), -1.0, dtype=weight.dtype, device=weight.device)
    best = hypotheses[:, 0]
    for chunk in hypotheses.split(RANSAC_CHUNK, dim=1):  # bounds the memory of full-size maps
        inlier = _is_inlier(chunk, source, target[:, None])
        score, index = (inlier * weight[:, None]).sum(-1).max(dim=1)
        better = score > best_score
        best_score = torch.where(better, score, best_score)
        best = torch.where(better[:, None, None], chunk[view[:, 0, 0], index], best)

    # Every inlier takes part: their normal equations cost less than choosing a subset would.
    inlier = _is_inlier(best, source, target) & (weight > 0)
    refitted = _weighted_homography(source.expand_as(target), target, weight * inlier)
    return refitted, inlier


def _is_inlier(homography: Tensor, source: Tensor, target: Tensor) -> Tensor:
    mapped = source @ homography[..., :2].mT + homography[..., None, :, 2]
    z = mapped[..., 2:]
    distance = (mapped[..., :2] / torch.where(z.abs() > 1e-12, z, 1e-12) - target).norm(dim=-1)
    return distance < INLIER_DISTANCE


def _weighted_homography(source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Direct linear transform (..., 3, 3), scaled to H33 = 1, of points (..., n, 2).

    The null vector comes from the 9 x 9 normal equations, for which float64 has digits to spare.
    """
    one, zero = torch.ones_like(source[..., :1]), torch.zeros_like(source)
    p = torch.cat([source, one], dim=-1)
    none = torch.cat([zero, zero[..., :1]], dim=-1)
    rows = torch.cat(
        [
            torch.cat([-p, none, target[..., :1] * p], dim=-1),
            torch.cat([none, -p, target[..., 1:] * p], dim=-1),
        ],
        dim=-2,
    )
    weighted = rows * torch.cat([weight, weight], dim=-1)[..., None]
    _, vectors = torch.linalg.eigh(rows.mT @ weighted)
    homography = vectors[..., 0].unflatten(-1, (3, 3))
    scale = homography[..., 2:, 2:]
    return homography / torch.where(scale.abs() > 1e-12, scale, 1e-12)


def _ql(A: Tensor) -> tuple[Tensor, Tensor]:
    """A = Q L with rotation-like Q and lower triangular L of positive diagonal, (..., 3, 3)."""
    Q, R = torch.linalg.qr(A.flip(-1))
    Q, L = Q.flip(-1), R.flip(-1, -2)
    sign = L.diagonal(dim1=-2, dim2=-1).sign()
    return Q * sign[..., None, :], L * sign[..., :, None]
