"""From a command line to a training job: opens data and bundles, builds the stage, runs it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import ConfigError, RunConfig, load_run_config, parse
from gld_ros.training.data import ScenePool, open_held_out, open_scenes
from gld_ros.training.distributed import Ranks, join_ranks
from gld_ros.training.latent_codec import FeatureCodec
from gld_ros.training.loop import Stage, train
from gld_ros.training.stages.decoder import DecoderOptions, DecoderStage
from gld_ros.training.stages.encoder import EncoderOptions, EncoderStage
from gld_ros.training.stages.level1 import DiffusionModel, DiffusionOptions, DiffusionStage
from gld_ros.training.stages.level1_vae import VaeDiffusionOptions, diffusion_on_vae
from gld_ros.training.stages.statistics import (
    StatisticsOptions,
    feature_statistics,
    statistics_tensors,
)
from gld_ros.training.stages.vae import VaeOptions, VaeStage

log = logging.getLogger(__name__)


def choose_device(requested: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; ConfigError when CUDA is not there."""
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {requested!r} was asked for, but this torch sees no CUDA device")
    return torch.device(requested)


def run_job(args: argparse.Namespace) -> int:
    """Run the job that `gld-ros train` was called with; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = load_run_config(args.config, args.overrides)
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
    stage = build_stage(config, args.bundle, args.model, source, open_held_out(config.data), device)
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
    if config.stage == "vae":
        vae_options = parse(VaeOptions, config.options, where)
        return VaeStage(config, vae_options, source, held_out, device)
    bundle = WorkingBundle.open(bundle_name, plan_folder)
    _check_picture_sizes(config, bundle)
    if config.stage == "encoder":
        encoder = parse(EncoderOptions, config.options, where)
        return EncoderStage(config, encoder, bundle, source, held_out, device)
    if config.stage == "decoder":
        decoder = parse(DecoderOptions, config.options, where)
        return DecoderStage(config, decoder, bundle, source, held_out, device)
    if config.stage == "level1-vae":
        on_vae = parse(VaeDiffusionOptions, config.options, where)
        return diffusion_on_vae(config, on_vae, bundle.plan, source, held_out, device)
    if config.stage in ("level1", "cascade"):
        diffusion = parse(DiffusionOptions, config.options, where)
        return _diffusion(config, diffusion, bundle, source, held_out, device)
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
    model = DiffusionModel(name, denoiser, plan.denoisers[name].time_shift, plan, bundle.write)
    return DiffusionStage(config, options, model, codec, side, source, held_out, device)


def _check_picture_sizes(config: RunConfig, bundle: WorkingBundle) -> None:
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
    summaries = feature_statistics(
        bundle.frozen_backbone(device),
        source,
        scenes=options.scenes,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
    )
    dead = {name: s.dead_channels for name, s in summaries.items() if s.dead_channels}
    if dead:
        log.warning("dead channels: %s; the encoder does not use its whole width", dead)
    bundle.write(args.run_folder / "export", statistics=statistics_tensors(summaries))
    log.info("statistics of %d groups: %s", len(summaries), args.run_folder / "export")
    return 0
