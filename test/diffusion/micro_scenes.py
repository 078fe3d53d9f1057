"""Small random scenes and denoisers for the tests of this folder."""

import math

import torch
from torch import Tensor

from gld_ros.diffusion.conditioning import DenoiserConditions, camera_conditions
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser

CHANNELS = 16
GRID_HW = (2, 3)
IMAGE_HW = (28, 42)
VIEWS = 4


def random_poses(batch: int = 1, views: int = VIEWS, seed: int = 0) -> Tensor:
    """Camera-to-world poses (B, V, 4, 4) with small rotations and spread-out centres."""
    generator = torch.Generator().manual_seed(seed)
    T_world_cam = torch.eye(4).repeat(batch, views, 1, 1)
    skew = torch.zeros(batch, views, 3, 3)
    a, b, c = 0.3 * torch.randn(3, batch, views, generator=generator)
    skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2] = -a, b, -c
    T_world_cam[..., :3, :3] = torch.linalg.matrix_exp(skew - skew.mT)
    T_world_cam[..., :3, 3] = torch.randn(batch, views, 3, generator=generator)
    return T_world_cam


def intrinsics(batch: int = 1, views: int = VIEWS) -> Tensor:
    K_px = torch.tensor([[33.0, 0.0, 20.0], [0.0, 31.0, 13.0], [0.0, 0.0, 1.0]])
    return K_px.repeat(batch, views, 1, 1)


def conditions_of(
    T_world_cam: Tensor,
    *,
    references: int = 2,
    source: bool = False,
    special_tokens: int = 0,
    **camera_options,
) -> DenoiserConditions:
    """Random latents for the poses, maps or packed; equal for equal numbers of scenes and views."""
    batch, views = T_world_cam.shape[:2]
    generator = torch.Generator().manual_seed(1)
    patches = (special_tokens + math.prod(GRID_HW),) if special_tokens else GRID_HW
    shape = (batch, views, CHANNELS, *patches)
    reference_latent = torch.randn(shape, generator=generator)
    reference_latent[:, references:] = 0.0
    K_px = intrinsics(batch, views)
    camera_map, viewmats, _ = camera_conditions(
        T_world_cam, K_px, IMAGE_HW, references, **camera_options
    )
    return DenoiserConditions(
        reference_latent,
        references,
        camera_map,
        viewmats,
        K_px,
        IMAGE_HW,
        torch.randn(shape, generator=generator) if source else None,
    )


def micro_denoiser(layout: str = "level1", **options) -> Denoiser:
    """A tiny denoiser of either published layout in which every parameter matters."""
    if layout == "cascade":
        options = {
            "separate_embedders": False,
            "source_conditioned": True,
            "prope_image_hw": (504, 504),
        } | options
    torch.manual_seed(2)
    denoiser = Denoiser(
        DenoiserConfig(CHANNELS, hidden=(32, 48), depth=(2, 2), heads=(2, 2), **options)
    )
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return denoiser.eval()


def noise_for(conditions: DenoiserConditions, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(conditions.reference_latent.shape, generator=generator)
