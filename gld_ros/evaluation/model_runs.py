"""The model's part of an evaluation: batches of scenes through the stages of novel view synthesis.

Scenes are on the model's grid already (held_out.py), so nothing is cropped here. Images of any
size, one request at a time, are `gld_ros.pipeline`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gld_ros.backbones.interface import NUM_LEVELS, Geometry, LevelTokens
from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.diffusion.flow import draw_noise
from gld_ros.measured_latents import RenderedMeasurements, with_measurements
from gld_ros.novel_view_stages import (
    EncodedReferences,
    Sampling,
    decode_rgb,
    decoder_inputs,
    encode_references,
    feature_encoder,
    latent_shape,
    level_tokens,
    sample,
    sampling_conditions,
)
from gld_ros.training.geometry_targets import true_camera_tokens
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.statistics import LevelStatistics


@dataclass(frozen=True)
class ImaginedViews:
    """All views of a batch as the model makes them, references first.

    `T_model_cam` and `K_px` are NaN for scenes in which the backbone recovers no cameras.
    """

    rgb: Tensor  # (B, V, 3, H, W) clipped to [0, 1]
    depth: Tensor  # (B, V, H, W) model units
    T_model_cam: Tensor  # (B, V, 4, 4)
    K_px: Tensor  # (B, V, 3, 3)


class EvaluatedModel:
    """A bundle's modules, all in memory, on one device.

    dtype is that of denoisers and RGB decoder; the backbone runs in float32. A bundle without
    diffusion has `can_imagine` False and can only be used for true features.
    """

    def __init__(self, bundle: Bundle, device: torch.device, dtype: torch.dtype) -> None:
        config = bundle.config
        self.bundle, self.device = bundle, device
        self.can_imagine = bool(config.denoisers) and config.rgb_decoder is not None
        self.reads_measurements = config.reads_measurements
        self.backbone: Any = bundle.load_module("backbone", device, torch.float32)
        self.rgb_decoder: Any = None
        if config.rgb_decoder is not None:
            self.rgb_decoder = bundle.load_module("rgb_decoder", device, dtype)
        self.denoisers: dict[str, Any] = {}
        self.students: dict[str, Any] = {}  # by their own names
        self.statistics: Mapping[int, LevelStatistics] = {}
        if self.can_imagine:
            names = config.denoiser_names
            self.denoisers = {name: bundle.load_module(name, device, dtype) for name in names}
            self.students = {
                name: bundle.load_module(name, device, dtype) for name in config.student_names
            }
            self.statistics = {
                level: bundle.statistics(level) for level in sorted(map(self._level_of, names))
            }

    def encode(self, reference_images: Tensor) -> EncodedReferences:
        """Encode references (B, R, 3, H, W): what all runs on a batch share."""
        return encode_references(
            self.backbone, self.statistics, reference_images, self.bundle.config.boundary_level
        )

    def noise(
        self, scene_numbers: Sequence[int], seed: int, views: int, hw: tuple[int, int]
    ) -> Any:
        """Start noise per denoiser; that of a scene depends on its number and the seed alone."""
        shape = self._latent_shape(views, hw)
        noises: dict[str, list[Tensor]] = {name: [] for name in self.denoisers}
        for number in scene_numbers:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            for name in self.denoisers:
                noises[name].append(draw_noise(shape, generator))
        return {name: torch.stack(drawn).to(self.device) for name, drawn in noises.items()}

    def imagine(
        self,
        encoded: EncodedReferences,
        T_world_cam: Tensor,
        K_px: Tensor,
        image_hw: tuple[int, int],
        noise: Mapping[str, Tensor],
        *,
        num_references: int,
        sampling: Sampling,
        after_step: Callable[[], None] = lambda: None,
        measured: RenderedMeasurements | None = None,
        reference_images: Tensor | None = None,
    ) -> ImaginedViews:
        """Sample and decode all views of a batch; the cameras may be other than the true ones.

        With measurements of the targets, which denoisers that read none ignore, the reference
        images are needed again.
        Raises ValueError for cameras the model cannot work with (all at one place).
        """
        config = self.bundle.config
        camera_map, viewmats, length_scale = camera_conditions(
            T_world_cam,
            K_px,
            image_hw,
            num_references,
            ray_grid=config.ray_grid,
            pose_scale=config.pose_scale,
        )
        latents: dict[int, Tensor] = {}
        for name in self.denoisers:
            level, module = self._level_of(name), sampling.module_of(name)
            denoiser = (self.denoisers | self.students)[module]
            conditions = sampling_conditions(
                denoiser,
                encoded.latents[level],
                camera_map,
                viewmats,
                K_px,
                source=latents[config.boundary_level] if name == "cascade" else None,
            )
            if measured is not None and reference_images is not None and denoiser.config.measured:
                encode = feature_encoder(self.backbone, self.statistics[level], level)
                conditions = with_measurements(
                    conditions, measured, reference_images, encode, length_scale
                )
            for step in sample(
                denoiser,
                conditions,
                noise[name],
                num_steps=sampling.num_steps,
                shift=config.denoisers[module].time_shift,
                guidance=sampling.guidance,
                solver=sampling.solver,
            ):
                latents[level] = step.latent
                after_step()
        tokens = level_tokens(
            self.backbone,
            self.statistics,
            latents,
            encoded.special,
            config.boundary_level,
            self._grid_hw(image_hw),
        )
        return self._decoded(tokens, image_hw)

    @torch.no_grad()
    def from_true_features(
        self, images: Tensor, image_hw: tuple[int, int], *, keep_level0: bool
    ) -> ImaginedViews:
        """Decode the features of real images, seen together: what perfect diffusion would give.

        Level 0 is zeroed unless kept: a bundle without a cascade decodes so.
        """
        return self._decoded(self._true_tokens(images, None, keep_level0), image_hw)

    @torch.no_grad()
    def posed_depth(
        self, images: Tensor, K_px: Tensor, T_world_cam: Tensor, depth_m: Tensor
    ) -> Any:
        """Depth (B, V, H, W) from true features that know the cameras, all levels kept.

        None for a backbone that takes no cameras. True depth is used only to scale the poses to
        their unit in training (mean distance of the scene's points).
        """
        image_hw = (images.shape[-2], images.shape[-1])
        tokens = true_camera_tokens(self.backbone, depth_m, K_px, T_world_cam, image_hw)
        if tokens is None:
            return None
        levels = self._true_tokens(images, tokens, True)
        inputs = decoder_inputs(self.backbone, levels)
        return self.backbone.decode_geometry(inputs, image_hw).depth.float()

    def _true_tokens(
        self, images: Tensor, camera_tokens: Tensor | None, keep_level0: bool
    ) -> dict[int, LevelTokens]:
        levels: dict[int, LevelTokens] = self.backbone.encode_levels(
            images, range(NUM_LEVELS), camera_tokens
        )
        return {i: tokens for i, tokens in levels.items() if i or keep_level0}

    @torch.no_grad()
    def _decoded(
        self, tokens: Mapping[int, LevelTokens], image_hw: tuple[int, int]
    ) -> ImaginedViews:
        inputs = decoder_inputs(self.backbone, tokens)
        geometry: Geometry = self.backbone.decode_geometry(inputs, image_hw)
        batch, views = geometry.depth.shape[:2]
        if self.rgb_decoder is None:
            rgb = torch.full((batch, views, 3, *image_hw), torch.nan, device=self.device)
        else:
            rgb = decode_rgb(self.rgb_decoder, inputs, image_hw).clamp(0, 1)
        T_model_cam, K_px = self._recovered(geometry, tokens[NUM_LEVELS - 1], image_hw)
        return ImaginedViews(rgb, geometry.depth.float(), T_model_cam, K_px)

    def _recovered(
        self, geometry: Geometry, last_level: LevelTokens, image_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Poses and intrinsics, scene by scene, so that an unusable one does not affect others."""
        batch, views = geometry.depth.shape[:2]
        poses = torch.full((batch, views, 4, 4), torch.nan, dtype=torch.float64)
        intrinsics = torch.full((batch, views, 3, 3), torch.nan, dtype=torch.float64)
        for i in range(batch):
            one = Geometry(
                geometry.depth[i : i + 1],
                geometry.depth_confidence[i : i + 1],
                None if geometry.ray is None else geometry.ray[i : i + 1],
                None if geometry.ray_confidence is None else geometry.ray_confidence[i : i + 1],
            )
            last = LevelTokens(last_level.patches[i : i + 1], last_level.special[i : i + 1])
            try:
                cameras = self.backbone.recover_cameras(one, last, image_hw)
            except ValueError:
                continue  # stays NaN, and is counted as a scene without recovered cameras
            if cameras is not None:
                poses[i], intrinsics[i] = cameras.T_model_cam[0], cameras.K_px_per_view[0]
        return poses, intrinsics

    def _level_of(self, name: str) -> int:
        return 0 if name == "cascade" else self.bundle.config.boundary_level

    def _grid_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        patch = self.backbone.patch_size
        return image_hw[0] // patch, image_hw[1] // patch

    def _latent_shape(self, views: int, image_hw: tuple[int, int]) -> tuple[int, ...]:
        config = self.bundle.config.denoisers[self.bundle.config.base_denoiser].config
        return latent_shape(config, views, self._grid_hw(image_hw))
