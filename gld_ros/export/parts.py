"""The parts of a bundle as modules of tensors alone: named inputs, named outputs, one fixed size.

Owns which parts there are, what goes in and out of each, and example inputs. What they compute is
`novel_view_stages` and the networks; the computation is unchanged. What lies between the parts
stays with the caller: the loop over steps, guidance, cameras (`diffusion.conditioning`).

One scene, R reference and T target views, V = R + T, references first; C latent channels on h x w
patches of the bundle, N = h * w. Parts follow each other by the names of their tensors:

    encoder        images -> level{n}_latent per diffused level, special (where not diffused)
    level1 ...     noisy, t, reference_latent, camera_map, viewmats, K_px, ... -> velocity
    propagation    level{n}_latent of all views, special -> level0 .. level3
    rgb_decoder    level0 .. level3 -> rgb
    geometry_head  level0 .. level3 -> depth, depth_confidence, ray, ray_confidence
    features       images -> level0 .. level3 of real images, for depth without diffusion
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from gld_ros.backbones.interface import NUM_LEVELS, GeometryBackbone
from gld_ros.decoders.rgb import RgbDecoder
from gld_ros.diffusion.conditioning import (
    MEASURED_CHANNELS,
    DenoiserConditions,
    camera_conditions,
)
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.flow import to_velocity
from gld_ros.novel_view_stages import (
    decode_rgb,
    decoder_inputs,
    encode_references,
    latent_shape,
    level_tokens,
)
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.bundle_config import BundleConfig
from gld_ros.weights.statistics import LevelStatistics

LEVELS = tuple(f"level{level}" for level in range(NUM_LEVELS))
BASELINE = 0.1  # between neighbouring example cameras, in the unit of the poses


@dataclass(frozen=True)
class RunSize:
    """What an export is fixed to: image height and width in pixels, numbers of views."""

    image_hw: tuple[int, int]
    references: int
    targets: int

    @property
    def views(self) -> int:
        """References and targets together."""
        return self.references + self.targets


@dataclass(frozen=True)
class Part:
    """One network: a module of tensors, example inputs by name in order, names of its outputs."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]

    def eager(self) -> list[Tensor]:
        """Outputs of the module for the example inputs."""
        with torch.no_grad():
            out = self.module(*self.inputs.values())
        return [out] if isinstance(out, Tensor) else list(out)


def part_names(config: BundleConfig) -> tuple[str, ...]:
    """The parts that a bundle has, in the order of a run."""
    if not config.imagines:
        return "features", "geometry_head"
    denoisers = (*config.denoiser_names, *config.student_names)
    return "encoder", *denoisers, "propagation", "rgb_decoder", "geometry_head", "features"


def check_size(config: BundleConfig, size: RunSize) -> None:
    """Raise ValueError unless a bundle can run at this size."""
    patch = config.backbone.config.patch_size
    if any(side < patch or side % patch for side in size.image_hw):
        raise ValueError(
            f"--size is {size.image_hw[1]}x{size.image_hw[0]}; both sides must be multiples of "
            f"{patch} pixels"
        )
    if size.references < 1 or size.targets < 0:
        raise ValueError(
            f"--views is {size.references} {size.targets} (references, targets); at least one "
            "reference is needed, and targets cannot be negative"
        )


def build_part(bundle: Bundle, name: str, size: RunSize, device: torch.device) -> Part:
    """Part `name` (of `part_names`) in float32 on `device`, with inputs drawn from a fixed seed."""
    config = bundle.config
    check_size(config, size)
    if name not in part_names(config):
        raise ValueError(
            f"bundle {config.name!r} has no part {name!r}; it has {', '.join(part_names(config))}"
        )
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    if name in config.denoisers:
        return _denoiser_step(bundle, name, size, device, generator)
    patch = config.backbone.config.patch_size
    grid_hw = (size.image_hw[0] // patch, size.image_hw[1] // patch)
    decoded = {
        level: normal(1, size.views, grid_hw[0] * grid_hw[1], config.backbone.config.channels)
        for level in LEVELS
    }
    if name == "rgb_decoder":
        decoder = bundle.load_module("rgb_decoder", device)
        return Part(name, _RgbDecoder(decoder, size.image_hw), decoded, ("rgb",))
    backbone = bundle.load_module("backbone", device)
    if name == "geometry_head":
        geometry = ["depth", "depth_confidence"]
        if config.backbone.kind == "da3":
            geometry += ["ray", "ray_confidence"]
        return Part(name, _GeometryHead(backbone, size.image_hw), decoded, tuple(geometry))
    views = size.references if config.imagines else size.views
    images = torch.rand((1, views, 3, *size.image_hw), generator=generator).to(device)
    if name == "features":
        return Part(name, _Features(backbone), {"images": images}, LEVELS)

    diffused = {
        0 if denoiser == "cascade" else config.boundary_level for denoiser in config.denoiser_names
    }
    statistics = {level: _on_device(bundle.statistics(level), device) for level in sorted(diffused)}
    latents = tuple(f"level{level}_latent" for level in statistics)
    special = () if backbone.diffused_special_tokens else ("special",)
    if name == "encoder":
        encoder = _Encoder(backbone, statistics, config.boundary_level)
        return Part(name, encoder, {"images": images}, latents + special)
    shape = latent_shape(config.denoisers[config.base_denoiser].config, size.views, grid_hw)
    given = {latent: normal(1, *shape) for latent in latents}
    if special:
        tokens = backbone.encode_levels(images[:, :1], [config.boundary_level])
        given["special"] = tokens[config.boundary_level].special.detach()
    propagation = _Propagation(backbone, statistics, config.boundary_level, grid_hw)
    return Part(name, propagation, given, LEVELS)


class _Encoder(nn.Module):
    def __init__(
        self, backbone: nn.Module, statistics: Mapping[int, LevelStatistics], boundary_level: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.statistics = statistics
        self.boundary_level = boundary_level

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        backbone = cast("GeometryBackbone", self.backbone)
        encoded = encode_references(backbone, self.statistics, images, self.boundary_level)
        special = () if encoded.special is None else (encoded.special,)
        return *encoded.latents.values(), *special


class _Features(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        backbone = cast("GeometryBackbone", self.backbone)
        return tuple(decoder_inputs(backbone, backbone.encode_levels(images, range(NUM_LEVELS))))


class _DenoiserStep(nn.Module):
    def __init__(self, denoiser: Denoiser, given: Sequence[str], size: RunSize) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.given = tuple(given)
        self.size = size

    def forward(self, noisy: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        conditions = DenoiserConditions(
            num_references=self.size.references,
            image_hw=self.size.image_hw,
            **dict(zip(self.given, given, strict=True)),
        )
        output = self.denoiser(noisy, t, conditions)
        return to_velocity(output, noisy, t, self.denoiser.config.prediction)


class _Propagation(nn.Module):
    def __init__(
        self,
        backbone: nn.Module,
        statistics: Mapping[int, LevelStatistics],
        boundary_level: int,
        grid_hw: tuple[int, int],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.statistics = statistics
        self.boundary_level = boundary_level
        self.grid_hw = grid_hw

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        backbone = cast("GeometryBackbone", self.backbone)
        latents = dict(zip(self.statistics, given, strict=False))
        special = given[len(latents)] if len(given) > len(latents) else None
        tokens = level_tokens(
            backbone, self.statistics, latents, special, self.boundary_level, self.grid_hw
        )
        return tuple(decoder_inputs(backbone, tokens))


class _GeometryHead(nn.Module):
    def __init__(self, backbone: nn.Module, image_hw: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_hw = image_hw

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        backbone = cast("GeometryBackbone", self.backbone)
        geometry = backbone.decode_geometry(levels, self.image_hw)
        made = (
            geometry.depth,
            geometry.depth_confidence,
            geometry.ray,
            geometry.ray_confidence,
        )
        return tuple(output for output in made if output is not None)


class _RgbDecoder(nn.Module):
    def __init__(self, decoder: RgbDecoder, image_hw: tuple[int, int]) -> None:
        super().__init__()
        self.decoder = decoder
        self.image_hw = image_hw

    def forward(self, *levels: Tensor) -> Tensor:
        return decode_rgb(self.decoder, levels, self.image_hw)


def _denoiser_step(
    bundle: Bundle, name: str, size: RunSize, device: torch.device, generator: torch.Generator
) -> Part:
    config = bundle.config
    denoiser = bundle.load_module(name, device)
    sizes, views, (height, width) = denoiser.config, size.views, size.image_hw
    patch = config.backbone.config.patch_size
    shape = (1, *latent_shape(sizes, views, (height // patch, width // patch)))
    T_world_cam = torch.eye(4).repeat(1, views, 1, 1)
    T_world_cam[0, :, 0, 3] = BASELINE * torch.arange(views)
    focal_px = 0.8 * width
    K_px = torch.tensor(
        [[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]]
    ).repeat(1, views, 1, 1)
    # Positions divided by their largest need two cameras.
    pose_scale = config.pose_scale if views > 1 else "metric"
    camera_map, viewmats, _ = camera_conditions(
        T_world_cam,
        K_px,
        size.image_hw,
        size.references,
        ray_grid=config.ray_grid,
        pose_scale=pose_scale,
    )
    reference_latent = torch.randn(shape, generator=generator)
    reference_latent[:, size.references :] = 0
    inputs = {
        "noisy": torch.randn(shape, generator=generator),
        "t": torch.tensor([0.5]),
        "reference_latent": reference_latent,
        "camera_map": camera_map,
        "viewmats": viewmats,
        "K_px": K_px,
    }
    if sizes.source_conditioned:
        inputs["source"] = torch.randn(shape, generator=generator)
    if sizes.measured:  # zeros where nothing is measured
        map_shape = (1, views, MEASURED_CHANNELS, height, width)
        inputs["measured_latent"] = torch.randn(shape, generator=generator)
        inputs["measured_map"] = torch.rand(map_shape, generator=generator)
    step = _DenoiserStep(denoiser, list(inputs)[2:], size)
    return Part(name, step, {key: x.to(device) for key, x in inputs.items()}, ("velocity",))


def _on_device(statistics: LevelStatistics, device: torch.device) -> LevelStatistics:
    special = statistics.special
    return replace(
        statistics,
        mean=statistics.mean.to(device),
        var=statistics.var.to(device),
        special=None if special is None else _on_device(special, device),
    )
