"""Stage `encoder`: train a small geometry backbone from nothing, on scenes with true depth.

The targets are what the backbone predicts (z-depth; ray directions and origins and cameras, if it
has them), in units of the scene's mean point distance. An auxiliary linear read-out of the image
from levels 0 and 1 keeps colour and texture in the features; without it neither the RGB decoder nor
diffusion could recover them. A second one, of the cameras' motion from the patches of levels 1 to
3, does the same for poses: the rays alone teach them too weakly, because centres are a tenth of
the unit of length. The read-outs are thrown away after training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.geometry.rigid import invert_rigid, quaternion_xyzw_from_matrix
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import ConfigError, RunConfig
from gld_ros.training.data import ScenePool
from gld_ros.training.geometry_targets import (
    geometry_losses,
    median_scaled_abs_rel,
    relative_cameras,
    true_camera_tokens,
    weighted_geometry_loss,
)
from gld_ros.training.loop import Stage
from gld_ros.training.randomness import generator_for

MOTION_LEVELS = (1, 2, 3)  # views have met each other there, also in diffused features
MOTION_NUMBERS = 6
MOTION_UNIT = 10.0


@dataclass(frozen=True)
class EncoderOptions:
    """Loss weights and draws of the encoder stage.

    Weights of what the backbone does not predict (rays, points, cameras) count for nothing, nor
    does `posed_probability` where it takes no known cameras.
    """

    image_weight: float = 1.0
    motion_weight: float = 0.5
    point_weight: float = 1.0
    ray_weight: float = 1.0
    origin_weight: float = 0.05
    gradient_weight: float = 0.5
    camera_weight: float = 0.5
    posed_probability: float = 0.5
    drop_level0_probability: float = 0.5
    validation_scenes: int = 32


class ImageReadout(nn.Module):
    """Linear map from the tokens of one level to the pixels of their patches."""

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.linear = nn.Linear(channels, 3 * patch_size * patch_size)

    def forward(self, patches: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Turn (B, V, N, C) tokens into (B·V, 3, H, W) images."""
        pixels = self.linear(patches).flatten(0, 1).transpose(1, 2)
        height, width = (n * self.patch_size for n in grid_hw)
        return F.fold(pixels, (height, width), self.patch_size, stride=self.patch_size)


def motion_numbers(T_view0_cam: Tensor) -> Tensor:
    """Return camera centre and rotation of relative poses (B, V, 4, 4) as (B, V, 6), near one.

    The rotation is the vector part of its quaternion. Both are tenths where views overlap.
    """
    rotation = quaternion_xyzw_from_matrix(T_view0_cam[..., :3, :3])[..., :3]
    return MOTION_UNIT * torch.cat([T_view0_cam[..., :3, 3], rotation], dim=-1)


class EncoderStage(Stage):
    """Trains every part of a geometry backbone that has a loss."""

    def __init__(
        self,
        config: RunConfig,
        options: EncoderOptions,
        bundle: WorkingBundle,
        source: ScenePool,
        held_out: ScenePool | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config, self.options, self.bundle = config, options, bundle
        self.source, self.held_out, self.device = source, held_out, device
        if not all(pool.has_depth for pool in (source, held_out) if pool is not None):
            raise ConfigError(
                "the encoder learns from true depth, but some of data.paths have none; leave them "
                "out here (decoder and diffusion stages need no depth)"
            )
        self.model = bundle.trainable_backbone(device)
        patch = self.model.patch_size
        self.readouts = nn.ModuleList(
            ImageReadout(self.model.channels, patch) for _ in range(2)
        ).to(device)
        self.motion_readouts = nn.ModuleList(
            nn.Linear(self.model.channels, MOTION_NUMBERS) for _ in MOTION_LEVELS
        ).to(device)

    def batch(self, step: int, samples: range) -> dict[str, Any]:
        """Draw scenes, one view count, and whether the true cameras are shown to the encoder."""
        seed = self.config.seed
        generator = generator_for(seed, step, "encoder views")
        views = int(torch.randint(1, self.config.data.views + 1, (), generator=generator))
        scenes = self.source.training_batch(
            seed, step, self.config.batch_size, samples, self.device
        )
        chosen = torch.randperm(scenes["images"].shape[1], generator=generator)[:views]
        batch: dict[str, Any] = {name: value[:, chosen] for name, value in scenes.items()}
        batch["posed"] = bool(torch.rand((), generator=generator) < self.options.posed_probability)
        keep = torch.stack(
            [
                torch.rand((), generator=generator_for(seed, step, i, "level 0"))
                >= self.options.drop_level0_probability
                for i in samples
            ]
        )
        batch["keep_level0"] = keep.float().to(self.device)
        return batch

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the geometry, camera and image losses of one batch."""
        images, options = batch["images"], self.options
        height, width = images.shape[-2:]
        grid_hw = (height // self.model.patch_size, width // self.model.patch_size)
        camera_tokens = None
        if batch["posed"]:
            camera_tokens = true_camera_tokens(
                self.model, batch["depth_m"], batch["K_px"], batch["T_world_cam"], (height, width)
            )
        levels = self.model.encode_levels(images, range(4), camera_tokens)
        inputs = [self.model.decoder_input(levels[i]) for i in range(4)]
        inputs[0] = inputs[0] * batch["keep_level0"].view(-1, 1, 1, 1)
        geometry = self.model.decode_geometry(inputs, (height, width))
        depth_m, K_px, T_world_cam = batch["depth_m"], batch["K_px"], batch["T_world_cam"]
        losses = geometry_losses(geometry, depth_m, K_px, T_world_cam)
        T_view0_cam, _ = relative_cameras(depth_m, K_px, T_world_cam)
        camera = self.model.camera_error(
            levels[3], invert_rigid(T_view0_cam), K_px, (height, width)
        )
        if camera is not None:
            losses["camera"] = camera
        motion = motion_numbers(T_view0_cam)[:, :, None]
        losses["motion"] = torch.stack(
            [
                (readout(levels[level].patches) - motion).abs().mean()
                for level, readout in zip(MOTION_LEVELS, self.motion_readouts, strict=True)
            ]
        ).mean()
        images = images.flatten(0, 1)
        losses["image"] = torch.stack(
            [
                (readout(levels[i].patches, grid_hw) - images).abs().mean()
                for i, readout in enumerate(self.readouts)
            ]
        ).sum()
        total = weighted_geometry_loss(
            losses,
            ray=options.ray_weight,
            points=options.point_weight,
            gradient=options.gradient_weight,
            origin=options.origin_weight,
        )
        if camera is not None:
            total = total + options.camera_weight * camera
        total = total + options.motion_weight * losses["motion"]
        losses["loss"] = total + options.image_weight * losses["image"]
        return losses

    def validate(self) -> dict[str, float]:
        """Return errors of depth and camera centres, posed and not, and PSNRs of the read-outs."""
        sums: dict[str, float] = {}
        if self.held_out is None:
            return sums
        count = min(self.options.validation_scenes, len(self.held_out))
        for first in range(0, count, 8):
            indices = list(range(first, min(first + 8, count)))
            batch = self.held_out.held_out_batch(indices, self.device)
            for name, value in self._figures(batch).items():
                sums[name] = sums.get(name, 0.0) + value * len(indices) / count
        return sums

    def _figures(self, batch: dict[str, Any]) -> dict[str, float]:
        images, depth_m = batch["images"], batch["depth_m"]
        height, width = images.shape[-2:]
        grid_hw = (height // self.model.patch_size, width // self.model.patch_size)
        tokens = true_camera_tokens(
            self.model, depth_m, batch["K_px"], batch["T_world_cam"], (height, width)
        )
        figures: dict[str, float] = {}
        runs: list[tuple[str, Tensor | None]] = [("unposed", None)]
        if tokens is not None:
            runs.append(("posed", tokens))
        for name, camera_tokens in runs:
            levels = self.model.encode_levels(images, range(4), camera_tokens)
            inputs = [self.model.decoder_input(levels[i]) for i in range(4)]
            for suffix, first in (
                ("", inputs[0]),
                ("_without_level0", torch.zeros_like(inputs[0])),
            ):
                geometry = self.model.decode_geometry([first, *inputs[1:]], (height, width))
                figures[f"abs_rel_{name}{suffix}"] = median_scaled_abs_rel(geometry.depth, depth_m)
                errors = geometry_losses(geometry, depth_m, batch["K_px"], batch["T_world_cam"])
                if "origin" in errors:
                    figures[f"origin_error_{name}{suffix}"] = float(errors["origin"])
            if name == "unposed":
                for i, readout in enumerate(self.readouts):
                    image = readout(levels[i].patches, grid_hw)
                    error = (image - images.flatten(0, 1)).square().mean((1, 2, 3))
                    figures[f"readout_psnr_level{i}"] = float((-10 * error.log10()).mean())
        return figures

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the backbone; the read-outs are thrown away."""
        return {"backbone": self.get_submodule("model")}

    def export(self, folder: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Write a bundle with the backbone."""
        self.bundle.write(folder, tensors)

    def data_counters(self) -> dict[str, float]:
        """Return how many samples the data could not give."""
        return {name: float(count) for name, count in self.source.skipped.items()}
