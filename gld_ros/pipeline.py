"""The library's front door: pictures and cameras in, views from other cameras out.

Owns requests of any picture size, the choice of the model's size, precision, seeds, and which
weights are in memory when. The computation itself is `novel_view_stages`, the crop and resize
`geometry.crop_resize`, the request and result types `view_request`.

    pipeline = NovelViewPipeline.from_pretrained("tiny")
    views = pipeline(ViewRequest(...))
"""

from __future__ import annotations

import gc
import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gld_ros.backbones.interface import NUM_LEVELS, Geometry, GeometryBackbone, LevelTokens
from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.diffusion.flow import draw_noise
from gld_ros.diffusion.guidance import Branches
from gld_ros.geometry.crop_resize import (
    choose_model_hw,
    model_intrinsics_around,
    model_intrinsics_inside,
    resample_confidence,
    resample_depth,
    resample_image,
    rescale_intrinsics,
)
from gld_ros.geometry.rays import RecoveredCameras
from gld_ros.memory_estimate import MemoryEstimate, RunShape, estimate_memory
from gld_ros.novel_view_stages import (
    DecodedViews,
    EncodedReferences,
    decode,
    decoder_inputs,
    encode_references,
    latent_shape,
    level_tokens,
    sample,
    sampling_conditions,
    unit_confidence,
    view_confidence,
)
from gld_ros.view_request import MAX_SEED, NovelViews, Progress, View, ViewRequest
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.statistics import LevelStatistics

__all__ = ["NovelViewPipeline", "NovelViews", "Progress", "View", "ViewRequest"]

Dtype = torch.dtype | Literal["auto", "float32", "bfloat16", "float16", "fp32", "bf16", "fp16"]

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
# Weights up to this size stay in memory; larger ones are loaded stage by stage on a CPU.
SMALL_BUNDLE_BYTES = 1_000_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """A validated request on the model's grid; V views, references first."""

    request: ViewRequest
    image_hw: tuple[int, int]
    images: Tensor  # (1, R, 3, H, W) in [0, 1], on the device
    view_K_px: NDArray[np.float64]  # (V, 3, 3) as requested
    view_hw: tuple[tuple[int, int], ...]
    T_world_cam: NDArray[np.float64]  # (V, 4, 4) as requested
    model_K_px: NDArray[np.float64]  # (V, 3, 3) on the model's grid
    camera_map: Tensor  # (1, V, 7, H, W)
    viewmats: Tensor  # (1, V, 4, 4)
    num_steps: int
    guidance_scale: float
    seed: int
    noises: Mapping[str, Tensor]  # denoiser -> (samples, *latent_shape)
    branches: Branches
    decoded_together: int | None  # views in the decoders at once; None is all

    @property
    def num_references(self) -> int:
        return self.images.shape[1]


class NovelViewPipeline:
    """Imagines views of a scene from 1-4 posed pictures; holds a bundle's weights.

    Results are a function of request and seed: on a CPU they repeat bit for bit. The last target is
    the origin of the camera inputs (as in the published model), so other targets may be listed in
    any order, but which one is last matters a little. With `pose_scale` "max" of the bundle the
    unit of the poses does not matter; with "metric" they must be metres.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | torch.device = "auto",
        dtype: Dtype = "auto",
        keep_weights: bool | None = None,
        branches: Branches = "together",
        max_references: int = 4,
        max_targets: int = 7,
    ) -> None:
        """Prepare to run `bundle`; weights are read on the first request.

        device "auto" is CUDA where there is one. dtype is that of denoisers and RGB decoder
        ("auto": float32 on a CPU, bfloat16 or else float16 on a GPU); the geometry backbone and its
        heads always run in float32. keep_weights says whether weights stay in memory between
        stages and requests; None keeps those of small bundles, and on a GPU all that fill at most
        half of its free memory. branches "in turn" halves the memory of guidance for some time.
        Raises ValueError for a bundle without diffusion weights and for unknown options.
        """
        config = bundle.config
        if config.rgb_decoder is None or not config.denoisers:
            raise ValueError(
                f"bundle {config.name!r} holds a geometry backbone alone; novel views need one "
                "with diffusion and RGB decoder weights"
            )
        self.bundle = bundle
        self.device = _resolve_device(device)
        self.dtype = _resolve_dtype(dtype, self.device)
        self.branches = branches
        self.max_references = max_references
        self.max_targets = max_targets
        self.patch_size = config.rgb_decoder.patch_size
        self.keep_weights = self._fits() if keep_weights is None else keep_weights
        self._chunk_decoder = self._smallest_bucket = False
        self._kept: dict[str, Any] = {}
        self._denoisers = [n for n in (config.base_denoiser, "cascade") if n in config.denoisers]
        levels = {self._level_of(name) for name in self._denoisers}
        self._statistics: Mapping[int, LevelStatistics] = {
            level: bundle.statistics(level) for level in sorted(levels)
        }

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | Path = "tiny",
        *,
        device: str | torch.device = "auto",
        dtype: Dtype = "auto",
        **options: Any,
    ) -> NovelViewPipeline:
        """Pipeline of a bundle folder, a fetched bundle's name, or the embedded "tiny".

        Other options are those of the constructor. Raises BundleError that says what is missing.
        """
        return cls(Bundle.open(bundle), device=device, dtype=dtype, **options)

    def __call__(
        self, request: ViewRequest, progress: Callable[[Progress], None] | None = None
    ) -> NovelViews:
        """Run a request to its end, calling `progress` after every step; raises as `run` does."""
        steps = self.run(request)
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                result: NovelViews = stop.value
                return result
            if progress is not None:
                progress(step)

    def run(self, request: ViewRequest) -> Generator[Progress, None, NovelViews]:
        """Generator of `Progress` after every finished step; its return value is the result.

        The request is checked before the generator is returned: ValueError for wrong shapes or
        types, singular intrinsics, poses that are not rigid, too few or too many views, pictures
        smaller than one patch, and cameras that all share one centre (`pose_scale` "max"). Closing
        the generator cancels. Sample k of a seed equals sample 0 of seed + k.
        """
        return self._synthesise(self._plan(request))

    def limit_memory(self, *, chunk_decoder: bool, smallest_bucket: bool) -> None:
        """Trade time or resolution for memory, or stop doing so, from the next request on.

        chunk_decoder: decode one view at a time, and run the branches of guidance in turn.
        smallest_bucket: compute at the smallest of the bundle's sizes (`has_smaller_bucket`)
        whatever suits the pictures; views come back in the size that was asked for. A request's own
        `model_hw` still holds.
        """
        self._chunk_decoder, self._smallest_bucket = chunk_decoder, smallest_bucket

    @property
    def has_smaller_bucket(self) -> bool:
        """Whether the bundle has sizes to choose from, so that a smallest one can save memory."""
        return len({height * width for height, width in self.bundle.config.resolutions_hw}) > 1

    def estimate(
        self,
        num_references: int,
        num_targets: int,
        *,
        samples: int = 1,
        guidance_scale: float | None = None,
        image_hw: tuple[int, int] | None = None,
    ) -> MemoryEstimate:
        """Memory that such a request needs at its worst moment, under the limits in force.

        `image_hw` is the model's size, None for the largest that a request can lead to;
        `guidance_scale` None is the bundle's. See `memory_estimate` for what is not counted.
        """
        config = self.bundle.config
        guidance = config.guidance_scale if guidance_scale is None else guidance_scale
        sizes = self._sizes_hw()
        shape = RunShape(
            num_references,
            num_targets,
            max(sizes, key=lambda hw: hw[0] * hw[1]) if image_hw is None else image_hw,
            samples=samples,
            guided=guidance > 1,
            branches=self._branches(),
            decoded_together=self._decoded_together(),
        )
        return estimate_memory(config, shape, dtype=self.dtype, keep_weights=self.keep_weights)

    def _branches(self) -> Branches:
        return "in turn" if self._chunk_decoder else self.branches

    def _decoded_together(self) -> int | None:
        return 1 if self._chunk_decoder else None

    def _sizes_hw(self) -> tuple[tuple[int, int], ...]:
        """The model's sizes that a request may lead to."""
        sizes = self.bundle.config.resolutions_hw
        return (min(sizes, key=lambda hw: hw[0] * hw[1]),) if self._smallest_bucket else sizes

    def release(self) -> None:
        """Drop all weights from memory; the next request reads them again."""
        self._kept.clear()
        _free_memory(self.device)

    def _synthesise(self, plan: _Plan) -> Generator[Progress, None, NovelViews]:
        # Every stage is a generator of its own: when it ends, its weights have no owner left.
        config, seconds = self.bundle.config, _StageSeconds()
        backbone = self._load("backbone")
        with seconds.of("encoding"):
            encoded = encode_references(
                backbone, self._statistics, plan.images, config.boundary_level
            )
        yield Progress("encoding", 1, 1)

        latents: list[dict[int, Tensor]] = [{} for _ in range(plan.request.samples)]
        for number, name in enumerate(self._denoisers):
            for step in self._denoise(plan, name, encoded, latents, seconds):
                total = len(self._denoisers) * step.total_steps
                yield Progress("sampling", number * step.total_steps + step.step, total)
            self._release_stage()

        decoded: list[DecodedViews] = []
        cameras = yield from self._decode(plan, backbone, encoded, latents, decoded, seconds)
        del backbone
        self._release_stage()
        with seconds.of("decoding"):
            views = _views(plan, decoded, cameras)
        yield Progress("decoding", len(decoded) + 1, len(decoded) + 1)

        return NovelViews(
            references=tuple(views[: plan.num_references]),
            targets=tuple(views[plan.num_references :]),
            seed=plan.seed,
            stage_seconds=seconds.total,
        )

    def _denoise(
        self,
        plan: _Plan,
        name: str,
        encoded: EncodedReferences,
        latents: list[dict[int, Tensor]],
        seconds: _StageSeconds,
    ) -> Iterator[Progress]:
        """Run one denoiser for all samples; puts the result of its level into `latents`."""
        config = self.bundle.config
        level = self._level_of(name)
        with seconds.of("sampling"):
            denoiser = self._load(name)
        for k, sample_latents in enumerate(latents):
            conditions = sampling_conditions(
                denoiser,
                encoded.latents[level],
                plan.camera_map,
                plan.viewmats,
                torch.from_numpy(plan.model_K_px)[None].float().to(self.device),
                source=sample_latents[config.boundary_level] if name == "cascade" else None,
            )
            with seconds.of("sampling"):
                steps = sample(
                    denoiser,
                    conditions,
                    plan.noises[name][k : k + 1].to(self.device),
                    num_steps=plan.num_steps,
                    shift=config.denoisers[name].time_shift,
                    guidance_scale=plan.guidance_scale,
                    branches=plan.branches,
                )
            for index in range(1, plan.num_steps + 1):
                with seconds.of("sampling"):
                    sample_latents[level] = next(steps).latent
                done = k * plan.num_steps + index
                yield Progress("sampling", done, len(latents) * plan.num_steps)

    def _decode(
        self,
        plan: _Plan,
        backbone: Any,
        encoded: EncodedReferences,
        latents: list[dict[int, Tensor]],
        decoded: list[DecodedViews],
        seconds: _StageSeconds,
    ) -> Generator[Progress, None, RecoveredCameras | None]:
        """Decode all samples into `decoded`; returns the cameras that the first one describes."""
        level = self.bundle.config.boundary_level
        cameras = None
        with seconds.of("decoding"):
            rgb_decoder = self._load("rgb_decoder")
        for k, sample_latents in enumerate(latents):
            with seconds.of("decoding"):
                tokens = level_tokens(
                    backbone,
                    self._statistics,
                    sample_latents,
                    encoded.special,
                    level,
                    self._grid_hw(plan.image_hw),
                )
                inputs = decoder_inputs(backbone, tokens)
                decoded.append(
                    decode(backbone, rgb_decoder, inputs, plan.image_hw, plan.decoded_together)
                )
                if k == 0:
                    last = tokens[NUM_LEVELS - 1]
                    cameras = _cameras(backbone, decoded[0].geometry, last, plan.image_hw)
            yield Progress("decoding", k + 1, len(latents) + 1)
        return cameras

    def _plan(self, request: ViewRequest) -> _Plan:
        request.validate()
        config = self.bundle.config
        references, targets = len(request.images), len(request.target_hw)
        for count, limit, name in (
            (references, self.max_references, "reference pictures"),
            (targets, self.max_targets, "targets"),
        ):
            if count > limit:
                raise ValueError(f"{count} {name} were given; at most {limit} are allowed")
        view_hw = (
            *((int(i.shape[0]), int(i.shape[1])) for i in request.images),
            *((int(h), int(w)) for h, w in request.target_hw),
        )
        for i, hw in enumerate(view_hw):
            if min(hw) < self.patch_size:
                name = f"images[{i}]" if i < references else f"target_hw[{i - references}]"
                raise ValueError(
                    f"{name} has size {hw[0]}x{hw[1]} (height x width); the smallest the model can "
                    f"look at is one patch, {self.patch_size}x{self.patch_size}"
                )
        K = np.concatenate([request.K_px_ref, request.K_px_target]).astype(np.float64)
        T = np.concatenate([request.T_world_cam_ref, request.T_world_cam_target]).astype(np.float64)

        image_hw = self._model_hw(request, K, view_hw)
        model_K = np.stack(
            [
                (model_intrinsics_inside if i < references else model_intrinsics_around)(
                    K[i], view_hw[i], image_hw
                )
                for i in range(references + targets)
            ]
        )
        camera_map, viewmats, _ = camera_conditions(
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
        num_steps, guidance = request.num_steps, request.guidance_scale
        seed = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed
        return _Plan(
            request=request,
            image_hw=image_hw,
            images=torch.from_numpy(images).permute(0, 3, 1, 2)[None].to(self.device),
            view_K_px=K,
            view_hw=view_hw,
            T_world_cam=T,
            model_K_px=model_K,
            camera_map=camera_map.float().to(self.device),
            viewmats=viewmats.to(self.device),
            num_steps=config.num_euler_points - 1 if num_steps is None else num_steps,
            guidance_scale=config.guidance_scale if guidance is None else guidance,
            seed=seed,
            noises=self._noises(request, seed, len(view_hw), image_hw),
            branches=self._branches(),
            decoded_together=self._decoded_together(),
        )

    def _model_hw(
        self, request: ViewRequest, K: NDArray[np.float64], view_hw: tuple[tuple[int, int], ...]
    ) -> tuple[int, int]:
        if request.model_hw is not None:
            height, width = request.model_hw
            if height % self.patch_size or width % self.patch_size:
                raise ValueError(
                    f"model_hw is {(height, width)}; both must be multiples of {self.patch_size}"
                )
            return int(height), int(width)
        pictures = list(zip(K, view_hw, strict=True))
        references = len(request.images)
        return choose_model_hw(self._sizes_hw(), pictures[:references], pictures[references:])

    def _noises(
        self, request: ViewRequest, seed: int, views: int, image_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Start noise (samples, *latent_shape) of each denoiser, drawn or as given."""
        names, samples = self._denoisers, request.samples
        config = self.bundle.config.denoisers[names[0]].config
        shape = latent_shape(config, views, self._grid_hw(image_hw))
        if request.noise is None:
            generators = [
                torch.Generator().manual_seed((seed + k) % MAX_SEED) for k in range(samples)
            ]
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

    def _grid_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        return image_hw[0] // self.patch_size, image_hw[1] // self.patch_size

    def _level_of(self, denoiser: str) -> int:
        return 0 if denoiser == "cascade" else self.bundle.config.boundary_level

    def _load(self, name: str) -> Any:
        """Module `name` of the bundle, from memory if it is kept there."""
        if name in self._kept:
            return self._kept[name]
        # The features of the foundation model are defined in float32.
        dtype = torch.float32 if name == "backbone" else self.dtype
        module = self.bundle.load_module(name, self.device, dtype)
        if self.keep_weights:
            self._kept[name] = module
        return module

    def _release_stage(self) -> None:
        if not self.keep_weights:
            _free_memory(self.device)

    def _fits(self) -> bool:
        needed = sum(self.bundle.parameter_count().values()) * self.dtype.itemsize
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return needed <= free // 2
        return needed <= SMALL_BUNDLE_BYTES


class _StageSeconds:
    """Time spent working in each stage; what the caller does between steps is not counted."""

    def __init__(self) -> None:
        self.total = {"encoding": 0.0, "sampling": 0.0, "decoding": 0.0}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.total[stage] += time.monotonic() - start


def _views(
    plan: _Plan, decoded: list[DecodedViews], cameras: RecoveredCameras | None
) -> list[View]:
    """All views of the first sample on the grids that were asked for, with its cameras."""
    first = decoded[0]
    confidence = _numpy(view_confidence(first.geometry))[0]
    rgb = _numpy(first.rgb.clamp(0, 1).permute(0, 1, 3, 4, 2))[0]
    depth = _numpy(first.geometry.depth)[0]
    spreads = _spreads(decoded, plan.num_references)
    ray_confidence = first.geometry.ray_confidence
    views = []
    for i, hw in enumerate(plan.view_hw):
        K_model, K_view = plan.model_K_px[i], plan.view_K_px[i]
        views.append(
            View(
                rgb=resample_image(rgb[i], K_model, K_view, hw),
                depth=resample_depth(depth[i], K_model, K_view, hw),
                confidence=resample_confidence(confidence[i], K_model, K_view, hw),
                K_px=K_view,
                T_world_cam=plan.T_world_cam[i],
                T_model_cam=None if cameras is None else _numpy(cameras.T_model_cam[0, i]),
                recovered_K_px=None
                if cameras is None
                else rescale_intrinsics(_numpy(cameras.K_px_per_view[0, i]), K_model, K_view),
                ray_confidence_mean=None
                if ray_confidence is None
                else float(unit_confidence(ray_confidence[0, i]).mean()),
                **{
                    name: resample_confidence(_numpy(maps[0, i]), K_model, K_view, hw)
                    for name, maps in spreads.items()
                    if i >= plan.num_references
                },
            )
        )
    return views


@torch.no_grad()
def _cameras(
    backbone: GeometryBackbone,
    geometry: Geometry,
    last_level: LevelTokens,
    image_hw: tuple[int, int],
) -> RecoveredCameras | None:
    try:
        return backbone.recover_cameras(geometry, last_level, image_hw)
    except ValueError as error:
        _log.warning("no cameras recovered: %s", error)
        return None


def _spreads(decoded: list[DecodedViews], num_references: int) -> dict[str, Tensor]:
    """Standard deviation (1, V, H, W) over samples of log-depth and colour; empty for one sample.

    Every sample has its own unit of length; the median depth of the reference views, which all
    samples share, removes it.
    """
    if len(decoded) < 2:
        return {}
    log_depth = torch.stack([d.geometry.depth.clamp(min=1e-12).log() for d in decoded])
    unit = log_depth[:, :, :num_references].flatten(1).median(dim=1).values
    rgb = torch.stack([d.rgb.clamp(0, 1) for d in decoded])
    return {
        "spread": (log_depth - unit[:, None, None, None, None]).std(0),
        "rgb_spread": rgb.std(0).mean(2),
    }


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def _resolve_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; use 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device; use 'cpu'")
    return resolved


def _resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        if dtype not in _DTYPES.values():
            raise ValueError(f"dtype is {dtype}; use float32, bfloat16 or float16")
        return dtype
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; use 'auto' or one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
