"""From a request of any image size to a run on the model's grid: checked, resampled, seeded.

Owns the check of a request against a bundle and a pipeline's limits, the choice of the model's size
and the start noise. Running the plan is `gld_ros.pipeline`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.diffusion.flow import draw_noise
from gld_ros.diffusion.guidance import Branches
from gld_ros.geometry.crop_resize import (
    choose_model_hw,
    model_intrinsics_around,
    model_intrinsics_inside,
    resample_image,
)
from gld_ros.measured_latents import RenderedMeasurements, render_measurements
from gld_ros.novel_view_stages import Sampling, latent_shape, sampling_of
from gld_ros.view_request import MAX_SEED, ViewRequest
from gld_ros.weights.bundle_config import BundleConfig

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RunLimits:
    """What a pipeline grants every run.

    sizes_hw: the model's sizes to choose from. branches: how guidance runs its two.
    decoded_together: views in the decoders at once, None for all.
    """

    max_references: int
    max_targets: int
    sizes_hw: Sizes
    branches: Branches
    decoded_together: int | None


@dataclass(frozen=True)
class ViewPlan:
    """A checked request on the model's grid; V views, references first."""

    request: ViewRequest
    image_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    images: Tensor  # (1, R, 3, H, W) in [0, 1], on the device
    view_K_px: NDArray[np.float64]  # (V, 3, 3) as requested
    view_hw: Sizes
    T_world_cam: NDArray[np.float64]  # (V, 4, 4) as requested
    model_K_px: NDArray[np.float64]  # (V, 3, 3) on the model's grid
    camera_map: Tensor  # (1, V, 7, H, W)
    viewmats: Tensor  # (1, V, 4, 4)
    length_scale: Tensor  # (1,) units of the scaled positions per unit of the poses
    measured: RenderedMeasurements | None  # of the targets; None: nothing, or nothing reads it
    sampling: Sampling
    seed: int
    noises: Mapping[str, Tensor]  # denoiser -> (samples, *latent_shape)
    branches: Branches
    decoded_together: int | None  # views in the decoders at once; None is all

    @property
    def num_references(self) -> int:
        """R."""
        return self.images.shape[1]


def plan_views(
    request: ViewRequest, config: BundleConfig, limits: RunLimits, device: torch.device
) -> ViewPlan:
    """Check a request and bring it to the model's grid; raises ValueError naming what is wrong."""
    request.validate()
    assert config.rgb_decoder is not None  # the pipeline asks for one
    patch, references = config.rgb_decoder.patch_size, len(request.images)
    view_hw = (
        *((int(i.shape[0]), int(i.shape[1])) for i in request.images),
        *((int(h), int(w)) for h, w in request.target_hw),
    )
    _require_views(view_hw, references, patch, limits)
    K = np.concatenate([request.K_px_ref, request.K_px_target]).astype(np.float64)
    T = np.concatenate([request.T_world_cam_ref, request.T_world_cam_target]).astype(np.float64)

    image_hw = _model_hw(request, K, view_hw, patch, limits.sizes_hw)
    grid_hw = image_hw[0] // patch, image_hw[1] // patch
    model_K = np.stack(
        [
            (model_intrinsics_inside if i < references else model_intrinsics_around)(
                K[i], view_hw[i], image_hw
            )
            for i in range(len(view_hw))
        ]
    )
    camera_map, viewmats, length_scale = camera_conditions(
        torch.from_numpy(T)[None],
        torch.from_numpy(model_K)[None],
        image_hw,
        references,
        ray_grid=config.ray_grid,
        pose_scale=config.pose_scale,
    )
    images = np.stack(
        [
            resample_image(image, K[i], model_K[i], image_hw)
            for i, image in enumerate(request.images)
        ]
    )
    measured = None
    if request.surfaces and config.reads_measurements:
        cameras = model_K[references:], T[references:]
        measured = render_measurements(request.surfaces, *cameras, image_hw)
    seed = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed
    return ViewPlan(
        request=request,
        image_hw=image_hw,
        grid_hw=grid_hw,
        images=torch.from_numpy(images).permute(0, 3, 1, 2)[None].to(device),
        view_K_px=K,
        view_hw=view_hw,
        T_world_cam=T,
        model_K_px=model_K,
        camera_map=camera_map.float().to(device),
        viewmats=viewmats.to(device),
        length_scale=length_scale.to(device),
        measured=measured,
        sampling=sampling_of(config, request.preset, request.num_steps, request.guidance_scale),
        seed=seed,
        noises=_noises(request, config, seed, len(view_hw), grid_hw),
        branches=limits.branches,
        decoded_together=limits.decoded_together,
    )


def _require_views(view_hw: Sizes, references: int, patch: int, limits: RunLimits) -> None:
    for count, limit, name in (
        (references, limits.max_references, "reference images"),
        (len(view_hw) - references, limits.max_targets, "targets"),
    ):
        if count > limit:
            raise ValueError(f"{count} {name} were given; at most {limit} are allowed")
    for i, hw in enumerate(view_hw):
        if min(hw) < patch:
            name = f"images[{i}]" if i < references else f"target_hw[{i - references}]"
            raise ValueError(
                f"{name} has size {hw[0]}x{hw[1]} (height x width); the smallest the model can "
                f"look at is one patch, {patch}x{patch}"
            )


def _model_hw(
    request: ViewRequest, K: NDArray[np.float64], view_hw: Sizes, patch: int, sizes_hw: Sizes
) -> tuple[int, int]:
    if request.model_hw is not None:
        height, width = request.model_hw
        if height % patch or width % patch:
            raise ValueError(f"model_hw is {(height, width)}; both must be multiples of {patch}")
        return int(height), int(width)
    views = list(zip(K, view_hw, strict=True))
    references = len(request.images)
    return choose_model_hw(sizes_hw, views[:references], views[references:])


def _noises(
    request: ViewRequest, config: BundleConfig, seed: int, views: int, grid_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """Start noise (samples, *latent_shape) of each denoiser, drawn or as given."""
    names, samples = config.denoiser_names, request.samples
    shape = latent_shape(config.denoisers[names[0]].config, views, grid_hw)
    if request.noise is None:
        generators = [torch.Generator().manual_seed((seed + k) % MAX_SEED) for k in range(samples)]
        return {name: torch.stack([draw_noise(shape, g) for g in generators]) for name in names}
    if not isinstance(request.noise, Mapping) or set(request.noise) != set(names):
        raise ValueError(f"noise must map each of {', '.join(names)} to an array")
    expected = shape if samples == 1 else (samples, *shape)
    noises = {name: torch.as_tensor(request.noise[name]).float() for name in names}
    for name, noise in noises.items():
        if tuple(noise.shape) != expected or not bool(torch.isfinite(noise).all()):
            raise ValueError(
                f"noise[{name!r}] must be finite with shape {expected}, "
                f"got shape {tuple(noise.shape)}"
            )
    return {name: noise.reshape(samples, *shape) for name, noise in noises.items()}
