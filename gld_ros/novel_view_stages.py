"""The stages of novel view synthesis as free functions on tensors, for batches of scenes.

    encode_references -> sample (level 1) -> sample (cascade, optional) -> decoder_inputs -> decode

Owns how backbone, denoisers and RGB decoder are put together. Pictures of any size, files, memory
and requests are `pipeline`; the networks and the mathematics of sampling are in their folders.

Shapes: B scenes, V views (references first), C latent channels, h x w patches. Networks run in the
precision of their weights; latents between the stages are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gld_ros.backbones.interface import Geometry, GeometryBackbone, LevelTokens
from gld_ros.decoders.rgb import RgbDecoder
from gld_ros.diffusion.denoiser import Denoiser, DenoiserConditions
from gld_ros.diffusion.flow import SamplingStep, sample_euler, time_grid, time_shift
from gld_ros.diffusion.guidance import guided_velocity
from gld_ros.geometry.rays import RecoveredCameras, cameras_from_rays
from gld_ros.weights.statistics import LevelStatistics


@dataclass(frozen=True)
class EncodedReferences:
    """What the reference pictures contribute: latents, and special tokens for propagation."""

    latents: Mapping[int, Tensor]  # level -> (B, R, C, h, w) normalised, references seen together
    special: Tensor  # (B, 1, S, C) raw tokens of reference 0 encoded alone, at the boundary level


@dataclass(frozen=True)
class DecodedViews:
    """What the decoders make of all views, float32."""

    rgb: Tensor  # (B, V, 3, H, W), nominally [0, 1], not clamped
    geometry: Geometry


@torch.no_grad()
def encode_references(
    backbone: GeometryBackbone,
    statistics: Mapping[int, LevelStatistics],
    images: Tensor,
    boundary_level: int = 1,
) -> EncodedReferences:
    """Encode reference images (B, R, 3, H, W), RGB in [0, 1]; view 0 is the model's origin.

    Gives the latents of every level in `statistics`. One run over all references yields all
    levels; one over reference 0 alone yields the tokens that propagation needs.
    """
    rows = images.shape[-2] // backbone.patch_size
    together = backbone.encode_levels(images, sorted(statistics))
    latents = {
        level: tokens_to_latent(
            level_statistics.normalise(together[level].patches.float(), channel_dim=-1), rows
        )
        for level, level_statistics in statistics.items()
    }
    alone = backbone.encode_levels(images[:, :1], [boundary_level])[boundary_level]
    return EncodedReferences(latents, alone.special.float())


def sampling_conditions(
    denoiser: Denoiser,
    reference_latent: Tensor,
    camera_map: Tensor,
    viewmats: Tensor,
    K_px: Tensor,
    source: Tensor | None = None,
) -> DenoiserConditions:
    """Conditions of one run: latents (B, R, C, h, w) of the references, zeros for the targets.

    camera_map (B, V, 7, H, W) and viewmats (B, V, 4, 4) from `camera_conditions`, K_px
    (B, V, 3, 3); source (B, V, C, h, w) for a cascade. Features are cast to the precision of the
    denoiser, camera matrices stay float32.
    """
    dtype = denoiser.final_layer.linear.weight.dtype
    views, references = camera_map.shape[1], reference_latent.shape[1]
    padded = F.pad(reference_latent, (0, 0, 0, 0, 0, 0, 0, views - references))
    return DenoiserConditions(
        reference_latent=padded.to(dtype),
        num_references=references,
        camera_map=camera_map.to(dtype),
        viewmats=viewmats.float(),
        K_px=K_px.float(),
        image_hw=(camera_map.shape[-2], camera_map.shape[-1]),
        source=None if source is None else source.to(dtype),
    )


def sample(
    denoiser: Denoiser,
    conditions: DenoiserConditions,
    noise: Tensor,
    *,
    num_steps: int,
    shift: float | None,
    guidance_scale: float,
    branches: Literal["together", "in turn"] = "together",
) -> Iterator[SamplingStep]:
    """Denoise all views from `noise` (B, V, C, h, w), yielding after each of `num_steps` steps.

    The last yielded latent is the result, normalised, float32. `shift` None takes the one of this
    latent's size. Stop iterating to cancel.
    """
    if noise.shape != conditions.reference_latent.shape:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; this run needs "
            f"{tuple(conditions.reference_latent.shape)} (scenes, views, channels, rows, columns)"
        )
    if not bool(torch.isfinite(noise).all()):
        raise ValueError("noise has values that are not finite")
    if shift is None:
        _, views, channels, rows, columns = noise.shape
        shift = time_shift(channels, rows, columns, views)
    grid = time_grid(num_steps + 1, shift)
    dtype = conditions.reference_latent.dtype
    velocity = guided_velocity(
        denoiser, conditions, guidance_scale=guidance_scale, times=grid[:-1], branches=branches
    )
    return sample_euler(lambda x, t: velocity(x.to(dtype), t).float(), noise.float(), grid)


@torch.no_grad()
def decoder_inputs(
    backbone: GeometryBackbone,
    statistics: Mapping[int, LevelStatistics],
    latents: Mapping[int, Tensor],
    special: Tensor,
    boundary_level: int = 1,
) -> list[Tensor]:
    """What the decoders read, levels 0 to 3, each (B, V, N, C).

    `latents` maps levels to normalised (B, V, C, h, w); levels above the boundary are propagated
    from it with the special tokens (B, 1, S, C) for every view. A level 0 that no cascade made is
    zeros: models without a cascade are trained so.
    """
    boundary = latents[boundary_level]
    views, grid_hw = boundary.shape[1], (boundary.shape[-2], boundary.shape[-1])
    tokens = {
        level: LevelTokens(
            statistics[level].denormalise(latent_to_tokens(latent), channel_dim=-1),
            special.expand(-1, views, -1, -1),
        )
        for level, latent in latents.items()
    }
    tokens |= backbone.propagate(tokens[boundary_level], boundary_level, grid_hw)
    inputs = {level: backbone.decoder_input(level_tokens) for level, level_tokens in tokens.items()}
    inputs.setdefault(0, torch.zeros_like(inputs[boundary_level]))
    return [inputs[level] for level in range(4)]


@torch.no_grad()
def decode_rgb(
    rgb_decoder: RgbDecoder, inputs: Sequence[Tensor], image_hw: tuple[int, int]
) -> Tensor:
    """RGB (B, V, 3, H, W) float32, not clamped, from the four decoder inputs (B, V, N, C)."""
    dtype = rgb_decoder.decoder_embed.weight.dtype
    patch = rgb_decoder.config.patch_size
    grid_hw = (image_hw[0] // patch, image_hw[1] // patch)
    views = inputs[0].shape[:2]
    # One scene's views at a time: they are independent, and memory is that of one scene.
    scenes = [
        rgb_decoder(torch.cat([level[i] for level in inputs], dim=-1).to(dtype), grid_hw).float()
        for i in range(views[0])
    ]
    return torch.stack(scenes)


@torch.no_grad()
def decode(
    backbone: GeometryBackbone,
    rgb_decoder: RgbDecoder,
    inputs: Sequence[Tensor],
    image_hw: tuple[int, int],
) -> DecodedViews:
    """RGB, depth and rays of all views from the four decoder inputs."""
    return DecodedViews(
        decode_rgb(rgb_decoder, inputs, image_hw), backbone.decode_geometry(inputs, image_hw)
    )


def recover_cameras(geometry: Geometry, image_hw: tuple[int, int]) -> RecoveredCameras | None:
    """Cameras that the predicted rays describe; None for a backbone that predicts no rays.

    Raises ValueError when there are rays but they determine no camera.
    """
    if geometry.ray is None or geometry.ray_confidence is None:
        return None
    return cameras_from_rays(geometry.ray, geometry.ray_confidence, image_hw)


def view_confidence(geometry: Geometry) -> Tensor:
    """Confidence (B, V, H, W) in (0, 1]: how sure the model is of each pixel's geometry.

    A raw confidence c >= 1 becomes 1 - 1/c, which rises monotonically and is the logistic function
    of what the network put out; depth and (where there are any) ray confidence are joined by their
    geometric mean. It orders pixels of one model; it is no probability.
    """
    confidence = unit_confidence(geometry.depth_confidence)
    if geometry.ray_confidence is not None:
        ray = F.interpolate(
            unit_confidence(geometry.ray_confidence),
            size=confidence.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        confidence = (confidence * ray).sqrt()
    return confidence


def unit_confidence(raw: Tensor) -> Tensor:
    """Raw confidence (>= 1) to (0, 1]: 1 - 1/c, not below 1e-6; 1e-6 where it is not a number."""
    return torch.nan_to_num(1 - 1 / raw, nan=0.0).clamp(1e-6, 1.0)


def tokens_to_latent(tokens: Tensor, rows: int) -> Tensor:
    """Row-major tokens (B, V, h*w, C) as a map (B, V, C, h, w)."""
    return rearrange(tokens, "b v (h w) c -> b v c h w", h=rows)


def latent_to_tokens(latent: Tensor) -> Tensor:
    """A map (B, V, C, h, w) as row-major tokens (B, V, h*w, C)."""
    return rearrange(latent, "b v c h w -> b v (h w) c")


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, also of a module on the meta device."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())
