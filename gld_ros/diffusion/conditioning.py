"""What a denoiser is conditioned on: reference latents, ray maps and scaled view matrices.

Owns: `DenoiserConditions`, how poses and intrinsics become its camera inputs, its check, and its
unconditional version. Leaves to others: the network, and how latents are made.

Shapes: B scenes, V views (references first), C latent channels, N = h x w patches, S special
tokens. Cameras are OpenCV (x right, y down, z forward); poses are camera-to-world; K is in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.geometry.intrinsics import require_intrinsics
from gld_ros.geometry.rays import RayGrid, plucker_map
from gld_ros.geometry.rigid import invert_rigid, relative_transform, require_rigid

PoseScale = Literal["max", "metric"]

CAMERA_CHANNELS = 7  # mask, ray direction (3), ray moment (3)
MEASURED_CHANNELS = 2  # coverage, inverse depth
MIN_EXTENT = 1e-6  # below this, positions are rounding errors


class CoincidentCamerasError(ValueError):
    """All cameras share one centre, so the scene has no length to measure positions by."""


@dataclass(frozen=True)
class DenoiserConditions:
    """What one sampling run (or training batch) holds constant.

    reference_latent: (B, V, C, h, w), or packed (B, V, C, S + N): clean normalised latent of views
        0..num_references-1, zeros for the targets.
    camera_map: (B, V, 7, H, W); viewmats: (B, V, 4, 4) scaled world-to-camera; K_px: (B, V, 3, 3)
        in pixels of image_hw. See `conditioning.camera_conditions`.
    source: latent a cascade starts from, shaped as reference_latent, or None. Its special tokens
        have no influence.
    measured_latent (B, V, C, h, w), measured_map (B, V, 2, H, W): features of the targets' rendered
        measurements times their coverage, and coverage and inverse depth (in the unit of the camera
        positions) of every pixel; zero for references and where nothing is measured. None, both,
        without measurements. See `measured_latents`.
    """

    reference_latent: Tensor
    num_references: int
    camera_map: Tensor
    viewmats: Tensor
    K_px: Tensor
    image_hw: tuple[int, int]
    source: Tensor | None = None
    measured_latent: Tensor | None = None
    measured_map: Tensor | None = None


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

    T_world_cam: (B, V, 4, 4) camera-to-world of views ordered references first; float64 is used at
    full precision, which matters far from the world origin. K_px: (B, V, 3, 3) in pixels of
    image_hw.

    All positions are relative to the last view, which becomes the origin; attention depends on
    relative poses only. pose_scale "max" divides them by the largest absolute coordinate, which
    makes the result independent of the unit of length; "metric" keeps the unit (metres) and is the
    choice for a single view or a robot that turns in place. Map channels: 0 for references and 1
    for targets, then the Plücker coordinates of `geometry.rays`.

    Raises CoincidentCamerasError for pose_scale "max" and cameras at one place, ValueError for
    wrong shapes and cameras that are not finite, rigid and invertible.
    """
    _check_cameras(T_world_cam, K_px, image_hw, num_references)
    world = T_world_cam.double()
    T_last_cam = relative_transform(world[:, -1:], world)
    scale = _position_scale(T_last_cam[..., :3, 3], pose_scale)
    T_last_cam[..., :3, 3] *= scale[:, None, None]

    rays = plucker_map(T_last_cam.float(), K_px.float(), image_hw, ray_grid)
    mask = torch.zeros_like(rays[:, :, :1])
    mask[:, num_references:] = 1.0
    return torch.cat((mask, rays), dim=2), invert_rigid(T_last_cam).float(), scale.float()


def unconditional(
    conditions: DenoiserConditions,
    *,
    intrinsics: Literal["identity", "kept"] = "identity",
    camera_map: Literal["dropped", "kept"] = "dropped",
    scenes: Tensor | None = None,
) -> DenoiserConditions:
    """The conditions without cameras, as used for guidance; latents and the mask channel stay.

    So do measurements: guidance then exaggerates what the cameras tell, and not the colours that
    were measured, which are right as they are.

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

    if scenes is None:
        scenes = torch.ones(batch, dtype=torch.bool)
    scenes = scenes.to(conditions.viewmats.device)

    viewmats = conditions.viewmats.clone()
    viewmats[scenes] = torch.eye(4).to(viewmats)
    K_px = conditions.K_px
    if intrinsics == "identity":
        K_px = K_px.clone()
        K_px[scenes] = torch.eye(3).to(K_px)
    rays = conditions.camera_map
    if camera_map == "dropped":
        rays = rays.clone()
        rays[scenes, :, 1:] = 0.0
    return replace(conditions, camera_map=rays, viewmats=viewmats, K_px=K_px)


def concatenate_conditions(
    first: DenoiserConditions, second: DenoiserConditions
) -> DenoiserConditions:
    """The scenes of both along the batch axis; everything that is not a tensor must agree."""
    merged: dict[str, Any] = {}
    for name in (field.name for field in fields(DenoiserConditions)):
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            merged[name] = torch.cat((a, b))
        elif a == b:
            merged[name] = a
        else:
            raise ValueError(f"conditions to be joined differ in {name}: {a} and {b}")
    return DenoiserConditions(**merged)


def patch_grid(conditions: DenoiserConditions, patch: int) -> tuple[int, int]:
    """Patch rows and columns of the views, for square patches of `patch` pixels."""
    height, width = conditions.camera_map.shape[-2:]
    return height // patch, width // patch


def require_fitting(
    conditions: DenoiserConditions, config: DenoiserConfig, noisy: Tensor | None = None
) -> None:
    """Raise ValueError that names the first shape that a denoiser of `config` cannot take."""
    shape = tuple(conditions.reference_latent.shape)
    packed = config.special_tokens > 0 and len(shape) == 4
    if not (packed or len(shape) == 5) or shape[2] != config.channels:
        count = config.special_tokens
        forms = f"(B, V, {config.channels}, h, w)" + (
            f" or (B, V, {config.channels}, {count} + h * w)" if count else ""
        )
        raise ValueError(f"reference_latent has shape {shape}; expected {forms}")
    batch, views = shape[:2]
    rows, columns = patch_grid(conditions, config.camera_patch) if packed else shape[3:]
    if packed and shape[3] != config.special_tokens + rows * columns:
        raise ValueError(
            f"reference_latent has {shape[3]} tokens per view; a camera map of "
            f"{tuple(conditions.camera_map.shape[-2:])} pixels needs "
            f"{config.special_tokens} special tokens + {rows} * {columns} patches"
        )
    patch = config.camera_patch
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "camera_map": (
            conditions.camera_map,
            (batch, views, CAMERA_CHANNELS, rows * patch, columns * patch),
        ),
        "viewmats": (conditions.viewmats, (batch, views, 4, 4)),
        "K_px": (conditions.K_px, (batch, views, 3, 3)),
    }
    if noisy is not None:
        expected["noisy"] = (noisy, shape)
    if config.source_conditioned:
        expected["source"] = (conditions.source, shape)
    elif conditions.source is not None:
        raise ValueError("this denoiser takes no source latent, but conditions.source is set")
    if conditions.measured_latent is not None or conditions.measured_map is not None:
        if not config.measured:
            raise ValueError("this denoiser takes no measurements, but the conditions hold some")
        map_shape = (batch, views, MEASURED_CHANNELS, rows * patch, columns * patch)
        expected["measured_latent"] = (conditions.measured_latent, shape)
        expected["measured_map"] = (conditions.measured_map, map_shape)
    for name, (value, wanted) in expected.items():
        if value is None or tuple(value.shape) != wanted:
            given = None if value is None else tuple(value.shape)
            raise ValueError(f"{name} has shape {given}; expected {wanted}")
    if not 1 <= conditions.num_references <= views:
        raise ValueError(
            f"num_references is {conditions.num_references}; expected 1 to {views} (all views)"
        )


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
    if T_world_cam.ndim != 4 or T_world_cam.shape[1] == 0:
        raise ValueError(
            f"T_world_cam has shape {tuple(T_world_cam.shape)}; expected (B, V, 4, 4), V >= 1"
        )
    batch, views = T_world_cam.shape[:2]
    if K_px.shape != (batch, views, 3, 3):
        raise ValueError(f"K_px has shape {tuple(K_px.shape)}; expected {(batch, views, 3, 3)}")
    if min(image_hw) < 1:
        raise ValueError(f"image_hw is {image_hw}; both sides must be at least 1 pixel")
    if not 1 <= num_references <= views:
        raise ValueError(f"num_references is {num_references}; expected 1 to {views} (all views)")
    require_rigid(T_world_cam, "T_world_cam")
    require_intrinsics(K_px, "K_px")
