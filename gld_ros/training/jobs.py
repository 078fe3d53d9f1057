"""From a command line to a training job: opens data and bundles, builds the stage, runs it."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from gld_ros.diffusion.denoiser import Denoiser, that_reads_measurements
from gld_ros.diffusion.flow import time_shift
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import ConfigError, RunConfig, load_run_config, parse, with_recordings
from gld_ros.training.data import ScenePool, open_held_out, open_scenes
from gld_ros.training.distributed import Ranks, join_ranks
from gld_ros.training.latent_codec import FeatureCodec
from gld_ros.training.loop import Stage, train
from gld_ros.training.run_lock import run_folder_lock
from gld_ros.training.stages.decoder import DecoderOptions, DecoderStage
from gld_ros.training.stages.distill import DistillOptions, DistillStage
from gld_ros.training.stages.encoder import EncoderOptions, EncoderStage
from gld_ros.training.stages.level1 import DiffusionModel, DiffusionOptions, DiffusionStage
from gld_ros.training.stages.statistics import (
    StatisticsOptions,
    feature_statistics,
    statistics_tensors,
)
from gld_ros.weights.bundle_config import DenoiserSpec, student_name

log = logging.getLogger(__name__)


def choose_device(requested: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; ConfigError when CUDA is not there."""
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {requested!r} was asked for, but this torch sees no CUDA device")
    return torch.device(requested)


BuildStage = Callable[
    [RunConfig, str | Path | None, Path | None, ScenePool, ScenePool | None, torch.device], Stage
]


def run_job(args: argparse.Namespace, build: BuildStage | None = None) -> int:
    """Run the job that `gld-ros train` was called with; returns the exit status.

    `build` takes the place of `build_stage` for stages from elsewhere.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = with_recordings(
        load_run_config(args.config, args.overrides), args.recordings, args.held_out
    )
    if config.stage != args.stage:
        raise ConfigError(
            f"{args.config} is a configuration of {config.stage!r}, not {args.stage!r}"
        )
    device = choose_device(args.device)
    ranks = join_ranks(device)
    if device.type == "cuda" and ranks.size > 1:
        device = torch.device("cuda", ranks.local)
        torch.cuda.set_device(device)
    source = open_scenes(config.data)
    if config.stage == "statistics":
        return _run_statistics(config, args, source, ranks, device)
    held_out = open_held_out(config.data)
    stage = (build or build_stage)(config, args.bundle, args.model, source, held_out, device)
    outcome = train(
        stage, config, args.run_folder, device=device, ranks=ranks, max_minutes=args.max_minutes
    )
    if ranks.is_first:
        log.info(
            "%s: step %d of %d after %.1f min; %d batches skipped, %d steps dropped; result: %s",
            config.stage,
            outcome.progress.step,
            config.steps,
            outcome.progress.seconds / 60,
            outcome.progress.skipped_batches,
            outcome.progress.dropped_steps,
            args.run_folder / "export",
        )
    return 0


def build_stage(
    config: RunConfig,
    bundle_name: str | Path | None,
    plan_folder: Path | None,
    source: ScenePool,
    held_out: ScenePool | None,
    device: torch.device,
) -> Stage:
    """Return the stage that `config.stage` names; raises ConfigError for bad options.

    `bundle_name` is what to continue from, `plan_folder` the sizes of a new model.
    """
    torch.manual_seed(config.seed)
    where = f"options of {config.stage}"
    bundle = WorkingBundle.open(bundle_name, plan_folder)
    _check_image_sizes(config, bundle)
    if config.stage == "encoder":
        encoder = parse(EncoderOptions, config.options, where)
        return EncoderStage(config, encoder, bundle, source, held_out, device)
    if config.stage == "decoder":
        decoder = parse(DecoderOptions, config.options, where)
        return DecoderStage(config, decoder, bundle, source, held_out, device)
    if config.stage in ("level1", "cascade"):
        diffusion = parse(DiffusionOptions, config.options, where)
        return _diffusion(config, diffusion, bundle, source, held_out, device)
    if config.stage == "distill":
        distill = parse(DistillOptions, config.options, where)
        return _distill(config, distill, bundle, source, held_out, device)
    raise ConfigError(f"unknown stage {config.stage!r}")


def _diffusion(
    config: RunConfig,
    options: DiffusionOptions,
    bundle: WorkingBundle,
    source: ScenePool,
    held_out: ScenePool | None,
    device: torch.device,
) -> DiffusionStage:
    plan = bundle.plan
    cascade = config.stage == "cascade"
    name = "cascade" if cascade else plan.base_denoiser
    if name not in plan.denoisers:
        raise ConfigError(
            f"the model plan has no denoiser {name!r} (it has {', '.join(plan.denoisers) or 'none'}"
            "); give one with --model FOLDER (config.json)"
        )
    codec = FeatureCodec(bundle, device, level=0 if cascade else plan.boundary_level)
    side = FeatureCodec(bundle, device, level=plan.boundary_level) if cascade else None
    denoiser = bundle.trainable(name, device)
    assert isinstance(denoiser, Denoiser)  # what plans build under these names
    if options.measured_probability > 0 or plan.denoisers[name].config.measured:
        bundle = bundle.that_reads_measurements(name)
        denoiser = that_reads_measurements(denoiser)
    model = DiffusionModel(name, denoiser, plan.denoisers[name].time_shift, plan, bundle.write)
    return DiffusionStage(config, options, model, codec, side, source, held_out, device)


def _distill(
    config: RunConfig,
    options: DistillOptions,
    bundle: WorkingBundle,
    source: ScenePool,
    held_out: ScenePool | None,
    device: torch.device,
) -> DistillStage:
    plan = bundle.plan
    name = "cascade" if options.cascade else plan.base_denoiser
    teacher = bundle.frozen(name, device)
    assert isinstance(teacher, Denoiser)  # what bundles hold under these names
    if options.measured_probability > 0 and not teacher.config.measured:
        raise ConfigError(
            f"measured_probability is {options.measured_probability}, but {name!r} does not read "
            "measurements; use 0, or train it with measurements first"
        )
    shift = options.time_shift or plan.denoisers[name].time_shift
    if shift is None:  # fixed, unlike the teacher's: the student's calls are tied to its grid
        patch = teacher.config.camera_patch
        width, height = max(config.data.sizes_wh, key=lambda wh: wh[0] * wh[1])
        shift = time_shift(
            teacher.config.channels, height // patch, width // patch, config.data.views
        )
    student = student_name(name)
    spec = DenoiserSpec(teacher.config, shift, options.calls)
    plan = replace(plan, denoisers={**plan.denoisers, student: spec})
    with_student = WorkingBundle(plan, bundle.present)
    denoiser = with_student.trainable(student, device)
    assert isinstance(denoiser, Denoiser)
    if bundle.present is not None and not bundle.present.has(student):
        denoiser.load_state_dict(teacher.state_dict())
    model = DiffusionModel(student, denoiser, shift, plan, with_student.write)
    codec = FeatureCodec(bundle, device, level=0 if options.cascade else plan.boundary_level)
    side = FeatureCodec(bundle, device, level=plan.boundary_level) if options.cascade else None
    scale = plan.guidance_scale if options.guidance_scale is None else options.guidance_scale
    return DistillStage(
        config, options, model, teacher, scale, codec, side, source, held_out, device
    )


def _check_image_sizes(config: RunConfig, bundle: WorkingBundle) -> None:
    patch = getattr(bundle.plan.backbone.config, "patch_size", 14)
    for size in config.data.sizes_wh:
        if size[0] % patch or size[1] % patch:
            raise ConfigError(
                f"data.sizes_wh has {list(size)}; both sides must be multiples of {patch} pixels"
            )


def _run_statistics(
    config: RunConfig,
    args: argparse.Namespace,
    source: ScenePool,
    ranks: Ranks,
    device: torch.device,
) -> int:
    if ranks.size > 1:
        raise ConfigError("statistics run in one process; leave torchrun out")
    options = parse(StatisticsOptions, config.options, "options of statistics")
    bundle = WorkingBundle.open(args.bundle, args.model)
    with run_folder_lock(args.run_folder, ranks, device):
        folder = args.run_folder / "export"
        write_statistics(config, options.scenes, bundle, source, folder, device)
    return 0


def write_statistics(
    config: RunConfig,
    scenes: int,
    bundle: WorkingBundle,
    source: ScenePool,
    folder: Path,
    device: torch.device,
) -> None:
    """Measure feature statistics on `scenes` samples and write the bundle with them to `folder`."""
    summaries = feature_statistics(
        bundle.frozen_backbone(device),
        source,
        scenes=scenes,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
    )
    dead = {name: s.dead_channels for name, s in summaries.items() if s.dead_channels}
    if dead:
        log.warning("dead channels: %s; the encoder does not use its whole width", dead)
    bundle.write(folder, statistics=statistics_tensors(summaries))
    log.info("statistics of %d groups: %s", len(summaries), folder)
