"""The stages of novel view synthesis as free functions on tensors, for batches of scenes.

    encode_references -> sample (level 1) -> sample (cascade, optional) -> level_tokens
    -> decoder_inputs -> decode

Owns how backbone, denoisers and RGB decoder are put together. Images of any size, files, memory
and requests are `pipeline`; the networks and the mathematics of sampling are in their folders.

Shapes: B scenes, V views (references first), C latent channels, N = h x w patches, S special
tokens. A latent is a map (B, V, C, h, w), or packed (B, V, C, S + N) where special tokens are
diffused along with the patches. Networks run in the precision of their weights; latents between the
stages are float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gld_ros.backbones.interface import NUM_LEVELS, Geometry, GeometryBackbone, LevelTokens
from gld_ros.decoders.rgb import RgbDecoder
from gld_ros.diffusion.conditioning import DenoiserConditions
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.flow import time_shift
from gld_ros.diffusion.guidance import Branches, Guidance, guided_velocity
from gld_ros.diffusion.presets import PresetName, SolverSteps, solver_steps
from gld_ros.diffusion.solvers import SamplingStep, Solver, integrate, sampling_grid
from gld_ros.weights.bundle_config import BundleConfig, student_name
from gld_ros.weights.statistics import LevelStatistics


@dataclass(frozen=True)
class EncodedReferences:
    """What the reference images contribute: latents, and special tokens for propagation."""

    latents: Mapping[int, Tensor]  # level -> normalised latent of the references, seen together
    # (B, 1, S, C) raw tokens of reference 0 encoded alone, at the boundary level; None where the
    # latents hold the special tokens themselves
    special: Tensor | None


@dataclass(frozen=True)
class DecodedViews:
    """What the decoders make of all views, float32."""

    rgb: Tensor  # (B, V, 3, H, W), nominally [0, 1], not clamped
    geometry: Geometry


@dataclass(frozen=True)
class Sampling:
    """How denoisers are run: solver, number of steps, guidance, and whether by their students."""

    solver: Solver
    num_steps: int
    guidance: Guidance
    by_student: bool = False

    def module_of(self, denoiser: str) -> str:
        """Name of the bundle's module that runs in the place of `denoiser`."""
        return student_name(denoiser) if self.by_student else denoiser


def sampling_of(
    config: BundleConfig,
    preset: PresetName,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
) -> Sampling:
    """What a preset means for a bundle; None takes the preset's steps and the bundle's scale.

    Raises ValueError for "fastest" from a bundle without students, or with steps or guidance that
    these do not have.
    """
    if preset == "fastest":
        return _by_students(config, num_steps, guidance_scale)
    how = solver_steps(preset, SolverSteps(config.solver, config.num_euler_points - 1))
    steps = how.steps if num_steps is None else num_steps
    scale = config.guidance_scale if guidance_scale is None else guidance_scale
    return Sampling(how.solver, steps, Guidance(scale))


def _by_students(
    config: BundleConfig, num_steps: int | None, guidance_scale: float | None
) -> Sampling:
    missing = [n for n in config.denoiser_names if student_name(n) not in config.denoisers]
    if missing:
        raise ValueError(
            f"preset is 'fastest', but bundle {config.name!r} has no student of "
            f"{' and '.join(missing)}; make one with `gld-ros train distill`, or use preset "
            "'published' or 'fast'"
        )
    calls = config.denoisers[config.student_names[0]].calls
    assert calls is not None  # a bundle config checks that
    if num_steps not in (None, calls):
        raise ValueError(
            f"num_steps is {num_steps}, but with preset 'fastest' the student of bundle "
            f"{config.name!r} takes {calls}; leave the number of steps out"
        )
    if guidance_scale is not None and guidance_scale > 1:
        raise ValueError(
            f"guidance_scale is {guidance_scale:g}, but with preset 'fastest' guidance is built "
            "into the student; leave it out"
        )
    return Sampling("euler", calls, Guidance(), by_student=True)


@torch.no_grad()
def encode_references(
    backbone: GeometryBackbone,
    statistics: Mapping[int, LevelStatistics],
    images: Tensor,
    boundary_level: int = 1,
) -> EncodedReferences:
    """Encode reference images (B, R, 3, H, W), RGB in [0, 1]; view 0 is the model's origin.

    Gives the latents of every level in `statistics`. One run over all references yields all
    levels; one over reference 0 alone yields the special tokens that propagation needs, unless the
    diffusion makes those.
    """
    together = backbone.encode_levels(images, sorted(statistics))
    rows = images.shape[-2] // backbone.patch_size
    latents = {
        level: tokens_to_latent(together[level], level_statistics, rows)
        for level, level_statistics in statistics.items()
    }
    if backbone.diffused_special_tokens:
        return EncodedReferences(latents, None)
    alone = backbone.encode_levels(images[:, :1], [boundary_level])[boundary_level]
    return EncodedReferences(latents, alone.special.float())


def feature_encoder(
    backbone: GeometryBackbone, statistics: LevelStatistics, level: int
) -> Callable[[Tensor], Tensor]:
    """What takes images (B, V, 3, H, W), seen together, to normalised latents of a level."""

    def encode(images: Tensor) -> Tensor:
        rows = images.shape[-2] // backbone.patch_size
        return tokens_to_latent(backbone.encode_levels(images, [level])[level], statistics, rows)

    return encode


def sampling_conditions(
    denoiser: Denoiser,
    reference_latent: Tensor,
    camera_map: Tensor,
    viewmats: Tensor,
    K_px: Tensor,
    source: Tensor | None = None,
) -> DenoiserConditions:
    """Conditions of one run: latents of the R references, zeros for the targets.

    camera_map (B, V, 7, H, W) and viewmats (B, V, 4, 4) from `camera_conditions`, K_px
    (B, V, 3, 3); source is the latent of all V views that a cascade starts from. Features are cast
    to the precision of the denoiser, camera matrices stay float32.
    """
    dtype = denoiser.final_layer.linear.weight.dtype
    views, references = camera_map.shape[1], reference_latent.shape[1]
    padding = (0, 0) * (reference_latent.ndim - 2) + (0, views - references)
    padded = F.pad(reference_latent, padding)
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
    guidance: Guidance = Guidance(),  # noqa: B008 (immutable)
    branches: Branches = "together",
    solver: Solver = "euler",
) -> Iterator[SamplingStep]:
    """Denoise all views from a latent of `noise`, yielding after each of `num_steps` steps.

    The last yielded latent is the result, normalised, float32. `shift` None takes the one of this
    latent's size. Stop iterating to cancel.
    """
    if noise.shape != conditions.reference_latent.shape:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; this run needs "
            f"{tuple(conditions.reference_latent.shape)} (scenes, views, channels, then rows and "
            "columns, or tokens)"
        )
    if not bool(torch.isfinite(noise).all()):
        raise ValueError("noise has values that are not finite")
    if shift is None:
        patch = denoiser.config.camera_patch
        rows, columns = (side // patch for side in conditions.image_hw)
        shift = time_shift(noise.shape[2], rows, columns, noise.shape[1])
    grid, shift = sampling_grid(num_steps, shift, solver)
    dtype = conditions.reference_latent.dtype
    velocity = guided_velocity(denoiser, conditions, guidance, times=grid[:-1], branches=branches)
    return integrate(
        lambda x, t: velocity(x.to(dtype), t).float(),
        noise.float(),
        grid,
        solver=solver,
        shift=shift,
    )


@torch.no_grad()
def level_tokens(
    backbone: GeometryBackbone,
    statistics: Mapping[int, LevelStatistics],
    latents: Mapping[int, Tensor],
    special: Tensor | None,
    boundary_level: int = 1,
    grid_hw: tuple[int, int] | None = None,
) -> dict[int, LevelTokens]:
    """Raw tokens of all views, by level: those of the latents and those that follow from them.

    `latents` maps levels to normalised latents; levels above the boundary are propagated from it
    with its special tokens, or with `special` (B, 1, S, C) for every view if it has none. `grid_hw`
    is the patch grid of packed latents; a map has its own. A level 0 that no cascade made is
    absent.
    """
    boundary = latents[boundary_level]
    if boundary.ndim == 5:
        grid_hw = (boundary.shape[-2], boundary.shape[-1])
    if grid_hw is None:
        raise ValueError("packed latents do not know their patch grid; give grid_hw")
    tokens = {
        level: latent_to_tokens(latent, statistics[level], grid_hw, special)
        for level, latent in latents.items()
    }
    return tokens | backbone.propagate(tokens[boundary_level], boundary_level, grid_hw)


@torch.no_grad()
def decoder_inputs(backbone: GeometryBackbone, tokens: Mapping[int, LevelTokens]) -> list[Tensor]:
    """What the decoders read of raw tokens by level: levels 0 to 3, each (B, V, N, C).

    An absent level 0 is zeros: models without a cascade are trained so.
    """
    inputs = {level: backbone.decoder_input(one) for level, one in tokens.items()}
    inputs.setdefault(0, torch.zeros_like(inputs[NUM_LEVELS - 1]))
    return [inputs[level] for level in range(NUM_LEVELS)]


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
    views_together: int | None = None,
    colourless: int = 0,
) -> DecodedViews:
    """RGB, depth and rays of all views from the four decoder inputs, each (B, V, N, C).

    `views_together`: how many views are in the decoders at once, None for all. Decoders treat views
    one by one, so this changes the memory that is needed and, but for rounding, nothing else. The
    colours of the first `colourless` views are not decoded, and are NaN.
    """
    views = inputs[0].shape[1]
    step = views_together or views
    parts = []
    for i in range(0, views, step):
        some = [level[:, i : i + step] for level in inputs]
        parts.append((_colours(rgb_decoder, some, image_hw, max(0, colourless - i)), some))
    rgb = [colours for colours, _ in parts]
    geometry = [backbone.decode_geometry(some, image_hw) for _, some in parts]
    if len(parts) == 1:
        return DecodedViews(rgb[0], geometry[0])
    return DecodedViews(torch.cat(rgb, dim=1), _side_by_side(geometry))


def _colours(
    rgb_decoder: RgbDecoder, inputs: Sequence[Tensor], image_hw: tuple[int, int], colourless: int
) -> Tensor:
    """`decode_rgb`, but NaN for the first views."""
    scenes, views = inputs[0].shape[:2]
    if colourless >= views:
        return inputs[0].new_full((scenes, views, 3, *image_hw), torch.nan, dtype=torch.float32)
    rgb = decode_rgb(rgb_decoder, [level[:, colourless:] for level in inputs], image_hw)
    if not colourless:
        return rgb
    return F.pad(rgb, (0, 0, 0, 0, 0, 0, colourless, 0), value=torch.nan)


def _side_by_side(parts: Sequence[Geometry]) -> Geometry:
    """Geometry of all views from that of some views each."""
    rays = [part.ray for part in parts if part.ray is not None]
    confidences = [part.ray_confidence for part in parts if part.ray_confidence is not None]
    return Geometry(
        depth=torch.cat([part.depth for part in parts], dim=1),
        depth_confidence=torch.cat([part.depth_confidence for part in parts], dim=1),
        ray=torch.cat(rays, dim=1) if rays else None,
        ray_confidence=torch.cat(confidences, dim=1) if confidences else None,
    )


def view_confidence(geometry: Geometry) -> Tensor:
    """Confidence (B, V, H, W) in (0, 1]: how sure the model is of each pixel's geometry.

    A raw confidence c >= 1 becomes 1 - 1/c, which rises monotonically and is the logistic function
    of what the network put out; depth and (where there are any) ray confidence are joined by their
    geometric mean. It orders pixels of one model; it is not a probability.
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


def latent_shape(config: DenoiserConfig, views: int, grid_hw: tuple[int, int]) -> tuple[int, ...]:
    """Shape of one scene's latent: (V, C, h, w), or packed (V, C, S + N)."""
    rows, columns = grid_hw
    if config.special_tokens:
        return views, config.channels, config.special_tokens + rows * columns
    return views, config.channels, rows, columns


def tokens_to_latent(tokens: LevelTokens, statistics: LevelStatistics, rows: int) -> Tensor:
    """Normalised float32 latent of raw tokens: a map of `rows` rows, or packed.

    It is packed, special tokens first, if the statistics cover special tokens.
    """
    patches = statistics.normalise(tokens.patches.float(), channel_dim=-1)
    if statistics.special is None:
        return rearrange(patches, "b v (h w) c -> b v c h w", h=rows)
    special = statistics.special.normalise(tokens.special.float(), channel_dim=-1)
    return torch.cat([special, patches], dim=2).mT


def latent_to_tokens(
    latent: Tensor,
    statistics: LevelStatistics,
    grid_hw: tuple[int, int],
    special: Tensor | None = None,
) -> LevelTokens:
    """Raw tokens of a normalised latent, a map or packed.

    special: (B, 1, S, C) raw special tokens for every view, used if the latent has none. Raises
    ValueError when there are none at all, or no statistics for those of the latent.
    """
    tokens = latent.flatten(3).mT
    num_special = tokens.shape[2] - grid_hw[0] * grid_hw[1]
    patches = statistics.denormalise(tokens[:, :, num_special:], channel_dim=-1)
    if num_special:
        if statistics.special is None:
            raise ValueError(
                f"the latent has {num_special} tokens beyond its {grid_hw[0]}x{grid_hw[1]} "
                "patches, but the statistics cover no special tokens"
            )
        own = statistics.special.denormalise(tokens[:, :, :num_special], channel_dim=-1)
        return LevelTokens(patches, own)
    if special is None:
        raise ValueError("a latent without special tokens needs those of a reference")
    return LevelTokens(patches, special.expand(-1, latent.shape[1], -1, -1))
