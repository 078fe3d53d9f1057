"""The library's entry point: images and cameras in, views from other cameras out.

Owns device and precision, the order of the stages, and which weights are in memory when. A request
becomes a run on the model's grid in `pipeline_plan`, and results become views in
`pipeline_results`; the computation itself is `novel_view_stages`, the request and result types
`view_request`.

    pipeline = NovelViewPipeline.from_pretrained("tiny")
    views = pipeline(ViewRequest(...))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gld_ros.backbones.blocks import GATED_MULTIPLE, pad_gated_widths
from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.guidance import Branches
from gld_ros.geometry.rays import RecoveredCameras
from gld_ros.measured_latents import with_measurements
from gld_ros.memory_estimate import MemoryEstimate, RunShape, memory_bound
from gld_ros.novel_view_stages import (
    DecodedViews,
    EncodedReferences,
    decode,
    decoder_inputs,
    encode_references,
    feature_encoder,
    level_tokens,
    sample,
    sampling_conditions,
)
from gld_ros.pipeline_device import (
    Dtype,
    StageSeconds,
    free_memory,
    resolve_device,
    resolve_dtype,
)
from gld_ros.pipeline_plan import RunLimits, ViewPlan, plan_views
from gld_ros.pipeline_results import recovered_cameras, views_of
from gld_ros.remembered_estimates import remembered_estimate
from gld_ros.view_request import NovelViews, Progress, View, ViewRequest, run_to_end
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.statistics import LevelStatistics

__all__ = ["NovelViewPipeline", "NovelViews", "Progress", "View", "ViewRequest"]

# Weights up to this size stay in memory; larger ones are loaded stage by stage on a CPU.
SMALL_BUNDLE_BYTES = 1_000_000_000


class NovelViewPipeline:
    """Imagines views of a scene from 1-4 posed images; holds a bundle's weights.

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
        compile_blocks: bool = False,
        max_references: int = 4,
        max_targets: int = 7,
    ) -> None:
        """Prepare to run `bundle`; weights are read on the first request.

        device "auto" is CUDA where there is one. dtype is that of denoisers and RGB decoder
        ("auto": bfloat16 where the processor or GPU has products of it, else float32 on a CPU and
        float16 on a GPU); the geometry backbone and its heads always run in float32. keep_weights
        says whether weights stay in memory between stages and requests; None keeps those of small
        bundles, and on a GPU all that fill at most half of its free memory. branches "in turn"
        halves the memory of guidance at the cost of run time. compile_blocks has torch compile the
        blocks of the denoisers: the first requests take up to minutes longer, later ones less time;
        a CPU needs a C++ compiler for it. Raises ValueError for a bundle without diffusion weights
        and for unknown options.
        """
        config = bundle.config
        if config.rgb_decoder is None or not config.imagines:
            raise ValueError(
                f"bundle {config.name!r} has only a geometry backbone; novel views need one "
                "with diffusion and RGB decoder weights, and it gives depth (`depth_pipeline`)"
            )
        self.bundle = bundle
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.branches = branches
        self.compile_blocks = compile_blocks
        self.max_references = max_references
        self.max_targets = max_targets
        self.patch_size = config.rgb_decoder.patch_size
        self.keep_weights = self._fits() if keep_weights is None else keep_weights
        self._chunk_decoder = self._smallest_bucket = False
        self._kept: dict[str, Any] = {}
        self._denoisers = config.denoiser_names
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
        return run_to_end(self.run(request), progress)

    def run(self, request: ViewRequest) -> Generator[Progress, None, NovelViews]:
        """Generator of `Progress` after every finished step; its return value is the result.

        The request is checked before the generator is returned: ValueError for wrong shapes or
        types, singular intrinsics, poses that are not rigid, too few or too many views, images
        smaller than one patch, and cameras that all share one centre (`pose_scale` "max"). Closing
        the generator cancels. Sample k of a seed equals sample 0 of seed + k.
        """
        limits = RunLimits(
            self.max_references,
            self.max_targets,
            self._sizes_hw(),
            self._branches(),
            self._decoded_together(),
        )
        return self._synthesise(plan_views(request, self.bundle.config, limits, self.device))

    @property
    def reads_measurements(self) -> bool:
        """Whether results depend on the `surfaces` of a request."""
        return self.bundle.config.reads_measurements

    def limit_memory(self, *, chunk_decoder: bool, smallest_bucket: bool) -> None:
        """Trade time or resolution for memory, or stop doing so, from the next request on.

        chunk_decoder: decode one view at a time, and run the branches of guidance in turn.
        smallest_bucket: compute at the smallest of the bundle's sizes (`has_smaller_bucket`)
        whatever suits the images; views come back in the size that was asked for. A request's own
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
        return remembered_estimate(
            self.bundle.config,
            self._shape(num_references, num_targets, samples, guidance_scale, image_hw),
            dtype=self.dtype,
            keep_weights=self.keep_weights,
        )

    def memory_bound(
        self,
        num_references: int,
        num_targets: int,
        *,
        samples: int = 1,
        guidance_scale: float | None = None,
    ) -> int:
        """Bytes that no such request needs, found at once; `estimate` is near what it needs."""
        return memory_bound(
            self.bundle.config,
            self._shape(num_references, num_targets, samples, guidance_scale, None),
        )

    def _shape(
        self,
        num_references: int,
        num_targets: int,
        samples: int,
        guidance_scale: float | None,
        image_hw: tuple[int, int] | None,
    ) -> RunShape:
        config = self.bundle.config
        guidance = config.guidance_scale if guidance_scale is None else guidance_scale
        sizes = self._sizes_hw()
        return RunShape(
            num_references,
            num_targets,
            max(sizes, key=lambda hw: hw[0] * hw[1]) if image_hw is None else image_hw,
            samples=samples,
            guided=guidance > 1,
            branches=self._branches(),
            decoded_together=self._decoded_together(),
        )

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
        free_memory(self.device)

    def _synthesise(self, plan: ViewPlan) -> Generator[Progress, None, NovelViews]:
        # Every stage is a generator of its own: when it ends, its weights have no owner left.
        config, seconds = self.bundle.config, StageSeconds()
        backbone = self._load("backbone")
        with seconds.of("encoding"):
            encoded = encode_references(
                backbone, self._statistics, plan.images, config.boundary_level
            )
        yield Progress("encoding", 1, 1)

        latents: list[dict[int, Tensor]] = [{} for _ in range(plan.request.samples)]
        for number, name in enumerate(self._denoisers):
            for step in self._denoise(plan, name, backbone, encoded, latents, seconds):
                total = len(self._denoisers) * step.total_steps
                yield Progress("sampling", number * step.total_steps + step.step, total)
            self._release_stage()

        decoded: list[DecodedViews] = []
        cameras = yield from self._decode(plan, backbone, encoded, latents, decoded, seconds)
        del backbone
        self._release_stage()
        with seconds.of("decoding"):
            views = views_of(plan, decoded, cameras)
        yield Progress("decoding", len(decoded) + 1, len(decoded) + 1)

        return NovelViews(
            references=tuple(views[: plan.num_references]),
            targets=tuple(views[plan.num_references :]),
            seed=plan.seed,
            stage_seconds=seconds.total,
        )

    def _denoise(
        self,
        plan: ViewPlan,
        name: str,
        backbone: Any,
        encoded: EncodedReferences,
        latents: list[dict[int, Tensor]],
        seconds: StageSeconds,
    ) -> Iterator[Progress]:
        """Run one denoiser for all samples; puts the result of its level into `latents`."""
        config, num_steps = self.bundle.config, plan.sampling.num_steps
        level, module = self._level_of(name), plan.sampling.module_of(name)
        with seconds.of("sampling"):
            denoiser = self._load(module)
        conditions = sampling_conditions(
            denoiser,
            encoded.latents[level],
            plan.camera_map,
            plan.viewmats,
            torch.from_numpy(plan.model_K_px)[None].float().to(self.device),
        )
        if plan.measured is not None and denoiser.config.measured:
            encode = feature_encoder(backbone, self._statistics[level], level)
            with seconds.of("encoding"):
                conditions = with_measurements(
                    conditions, plan.measured, plan.images, encode, plan.length_scale
                )
        for k, sample_latents in enumerate(latents):
            if name == "cascade":
                source = sample_latents[config.boundary_level].to(conditions.reference_latent)
                conditions = replace(conditions, source=source)
            with seconds.of("sampling"):
                steps = sample(
                    denoiser,
                    conditions,
                    plan.noises[name][k : k + 1].to(self.device),
                    num_steps=num_steps,
                    shift=config.denoisers[module].time_shift,
                    guidance=plan.sampling.guidance,
                    branches=plan.branches,
                    solver=plan.sampling.solver,
                )
            for index in range(1, num_steps + 1):
                with seconds.of("sampling"):
                    sample_latents[level] = next(steps).latent
                done = k * num_steps + index
                yield Progress("sampling", done, len(latents) * num_steps)

    def _decode(
        self,
        plan: ViewPlan,
        backbone: Any,
        encoded: EncodedReferences,
        latents: list[dict[int, Tensor]],
        decoded: list[DecodedViews],
        seconds: StageSeconds,
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
                    plan.grid_hw,
                )
                inputs = decoder_inputs(backbone, tokens)
                colourless = 0 if plan.request.reference_colours else plan.num_references
                decoded.append(
                    decode(
                        backbone,
                        rgb_decoder,
                        inputs,
                        plan.image_hw,
                        plan.decoded_together,
                        colourless,
                    )
                )
                if k == 0:
                    cameras = recovered_cameras(
                        backbone, decoded[0].geometry, tokens[NUM_LEVELS - 1], plan.image_hw
                    )
            yield Progress("decoding", k + 1, len(latents) + 1)
        return cameras

    def _level_of(self, denoiser: str) -> int:
        return 0 if denoiser == "cascade" else self.bundle.config.boundary_level

    def _load(self, name: str) -> Any:
        """Module `name` of the bundle, from memory if it is kept there."""
        if name in self._kept:
            return self._kept[name]
        # The features of the foundation model are defined in float32.
        dtype = torch.float32 if name == "backbone" else self.dtype
        module = self.bundle.load_module(name, self.device, dtype)
        if self.device.type == "cuda":
            pad_gated_widths(module, GATED_MULTIPLE)
        if self.compile_blocks and isinstance(module, Denoiser):
            for block in module.blocks:  # all of one width share what is compiled
                block.compile(fullgraph=True, dynamic=True)
        if self.keep_weights:
            self._kept[name] = module
        return module

    def _release_stage(self) -> None:
        if not self.keep_weights:
            free_memory(self.device)

    def _fits(self) -> bool:
        needed = sum(self.bundle.parameter_count().values()) * self.dtype.itemsize
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return needed <= free // 2
        return needed <= SMALL_BUNDLE_BYTES
