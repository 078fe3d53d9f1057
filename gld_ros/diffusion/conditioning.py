"""Camera inputs of the denoiser: ray maps, scaled view matrices, and their removal for guidance.

Owns: turning poses and intrinsics of one set of views into what `DenoiserConditions` holds, and
the unconditional version of it. Leaves to others: the network, and everything about latents.
Cameras are OpenCV (x right, y down, z forward); poses are camera-to-world; K is in pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from gld_ros.diffusion.denoiser import DenoiserConditions
from gld_ros.geometry.rays import RayGrid, plucker_map

PoseScale = Literal["max", "metric"]

MIN_EXTENT = 1e-6
ROTATION_TOLERANCE = 1e-3


class CoincidentCamerasError(ValueError):
    """All cameras share one centre, so the scene has no length to measure positions by."""


def camera_conditions(
    T_world_cam: Tensor,
    K_px: Tensor,
    image_hw: tuple[int, int],
    num_references: int,
    *,
    ray_grid: RayGrid = "official",
    pose_scale: PoseScale = "max",
) -> tuple[Tensor, Tensor, Tensor]:
    """Camera map (B, V, 7, H, W), scaled world-to-camera (B, V, 4, 4) and scale (B,), float32.

    T_world_cam: (B, V, 4, 4) camera-to-world of views ordered references first. K_px: (B, V, 3, 3)
    in pixels of image_hw. Float64 poses are used at full precision.

    All positions are relative to the last view, which becomes the origin; attention depends on
    relative poses only. pose_scale "max" divides them by the largest absolute coordinate, which
    makes the result independent of the unit of length; "metric" keeps the unit (metres) and is the
    choice for one view or a robot that turns in place. Map channels: 0 for references and 1 for
    targets; ray direction d (unit length); moment o x d of the camera centre o.

    Raises CoincidentCamerasError for pose_scale "max" and cameras at one place, ValueError for
    cameras that are not finite, rigid and invertible.
    """
    _check_cameras(T_world_cam, K_px, image_hw, num_references)
    views = T_world_cam.shape[1]

    relative = torch.linalg.solve(T_world_cam[:, -1:].double(), T_world_cam.double())
    centre = relative[..., :3, 3]
    scale = _position_scale(centre, pose_scale)
    centre = centre * scale[:, None, None]

    rotation_inverse = relative[..., :3, :3].mT
    viewmats = torch.zeros_like(relative)
    viewmats[..., :3, :3] = rotation_inverse
    viewmats[..., :3, 3] = -(rotation_inverse @ centre[..., None])[..., 0]
    viewmats[..., 3, 3] = 1.0

    scaled = relative.clone()
    scaled[..., :3, 3] = centre
    rays = plucker_map(scaled.float(), K_px, image_hw, ray_grid)
    is_target = (torch.arange(views, device=K_px.device) >= num_references).float()
    mask = is_target[:, None, None, None].expand_as(rays[:, :, :1])
    camera_map = torch.cat((mask, rays), dim=2)
    return camera_map, viewmats.float(), scale.float()


def unconditional(
    conditions: DenoiserConditions,
    *,
    intrinsics: Literal["identity", "kept"] = "identity",
    camera_map: Literal["dropped", "kept"] = "dropped",
    scenes: Tensor | None = None,
) -> DenoiserConditions:
    """The conditions without cameras, as used for guidance; latents and the mask channel stay.

    World-to-camera becomes identity. intrinsics "identity" also replaces K by a 3x3 identity in
    pixel units (level 1 and all training), "kept" leaves it (published cascade). camera_map "kept"
    leaves the rays in. scenes: (B,) bool, True where to drop, for dropout in training; None drops
    all scenes.
    """
    batch = conditions.viewmats.shape[0]
    if scenes is not None and (scenes.shape != (batch,) or scenes.dtype != torch.bool):
        raise ValueError(
            f"scenes has shape {tuple(scenes.shape)} and type {scenes.dtype}; "
            f"expected ({batch},) torch.bool"
        )

    def drop(kept: Tensor, dropped: Tensor) -> Tensor:
        if scenes is None:
            return dropped.expand_as(kept)
        return torch.where(scenes.to(kept.device)[:, None, None, None], dropped, kept)

    viewmats, K_px, rays = conditions.viewmats, conditions.K_px, conditions.camera_map
    if camera_map == "dropped":
        mask = rays[:, :, :1]
        blank = torch.cat((mask, torch.zeros_like(rays[:, :, 1:])), dim=2)
        rays = blank if scenes is None else torch.where(_over(scenes, rays), blank, rays)
    if intrinsics == "identity":
        K_px = drop(K_px, torch.eye(3).to(K_px))
    return replace(
        conditions,
        camera_map=rays,
        viewmats=drop(viewmats, torch.eye(4).to(viewmats)),
        K_px=K_px,
    )


def _over(scenes: Tensor, like: Tensor) -> Tensor:
    return scenes.to(like.device).reshape(-1, *(1,) * (like.ndim - 1))


def _position_scale(centre: Tensor, pose_scale: PoseScale) -> Tensor:
    if pose_scale == "metric":
        return centre.new_ones(centre.shape[0])
    if pose_scale != "max":
        raise ValueError(f"pose_scale is {pose_scale!r}; use 'max' or 'metric'")
    extent = centre.abs().amax(dim=(1, 2))
    if bool((extent < MIN_EXTENT).any()):
        raise CoincidentCamerasError(
            f"all {centre.shape[1]} cameras of a scene are at the same place (largest distance "
            f"{extent.min().item():.1e}); with pose_scale='max' positions are measured by that "
            "distance. Move the camera between views, or use a model with pose_scale='metric'."
        )
    return 1.0 / (extent + 1e-8)


def _check_cameras(
    T_world_cam: Tensor, K_px: Tensor, image_hw: tuple[int, int], num_references: int
) -> None:
    if T_world_cam.ndim != 4 or T_world_cam.shape[-2:] != (4, 4) or T_world_cam.shape[1] == 0:
        raise ValueError(
            f"T_world_cam has shape {tuple(T_world_cam.shape)}; expected (B, V, 4, 4), V >= 1"
        )
    if K_px.shape != (*T_world_cam.shape[:2], 3, 3):
        raise ValueError(
            f"K_px has shape {tuple(K_px.shape)}; expected {(*T_world_cam.shape[:2], 3, 3)}"
        )
    if min(image_hw) < 1:
        raise ValueError(f"image_hw is {image_hw}; both sides must be at least 1 pixel")
    views = T_world_cam.shape[1]
    if not 1 <= num_references <= views:
        raise ValueError(f"num_references is {num_references}; expected 1 to {views} (all views)")
    for name, value in (("T_world_cam", T_world_cam), ("K_px", K_px)):
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite")

    rotation = T_world_cam[..., :3, :3].double()
    identity = torch.eye(3, dtype=torch.float64, device=rotation.device)
    error = (rotation.mT @ rotation - identity).abs().amax().item()
    if error > ROTATION_TOLERANCE or bool((torch.linalg.det(rotation) < 0).any()):
        raise ValueError(
            f"T_world_cam must hold rotations: largest deviation of R^T R from identity is "
            f"{error:.1e} (allowed {ROTATION_TOLERANCE}), determinant must be +1"
        )
    if not _is_row(T_world_cam[..., 3, :], [0.0, 0.0, 0.0, 1.0]):
        raise ValueError("T_world_cam must have the last row [0, 0, 0, 1]")
    focal = torch.stack((K_px[..., 0, 0], K_px[..., 1, 1]), dim=-1)
    if bool((focal <= 0).any()) or not _is_row(K_px[..., 2, :], [0.0, 0.0, 1.0]):
        raise ValueError(
            "K_px must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive fx, fy in pixels; "
            f"smallest focal length given is {focal.min().item():g}"
        )


def _is_row(rows: Tensor, expected: list[float]) -> bool:
    return torch.allclose(rows, rows.new_tensor(expected).expand_as(rows), rtol=0.0, atol=1e-5)
