"""From a command line to a training job: opens data and bundles, builds the stage, runs it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import ConfigError, RunConfig, load_run_config, parse
from gld_ros.training.data import SceneSource, open_scenes
from gld_ros.training.distributed import join_ranks
from gld_ros.training.latent_codec import FeatureCodec
from gld_ros.training.loop import Stage, train
from gld_ros.training.stages.decoder import DecoderOptions, DecoderStage
from gld_ros.training.stages.encoder import EncoderOptions, EncoderStage
from gld_ros.training.stages.level1 import DiffusionOptions, DiffusionStage
from gld_ros.training.stages.statistics import (
    StatisticsOptions,
    feature_statistics,
    statistics_tensors,
)

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
    bundle = WorkingBundle.open(args.bundle, args.model)
    source = open_scenes(config.data, config.data.paths)
    if config.stage == "statistics":
        return _run_statistics(config, bundle, source, args.run_folder, device)
    held_out = open_scenes(config.data, config.data.held_out_paths)
    stage = build_stage(config, bundle, source, held_out, device)
    ranks = join_ranks(device)
    outcome = train(
        stage, config, args.run_folder, device=device, ranks=ranks, max_minutes=args.max_minutes
    )
    if ranks.is_first:
        log.info(
            "%s: step %d of %d after %.1f min; %d batches skipped, %d steps dropped; bundle: %s",
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
    bundle: WorkingBundle,
    source: SceneSource,
    held_out: SceneSource,
    device: torch.device,
) -> Stage:
    """Return the stage that `config.stage` names; raises ConfigError for bad options."""
    torch.manual_seed(config.seed)
    where = f"options of {config.stage}"
    if config.stage == "encoder":
        encoder = parse(EncoderOptions, config.options, where)
        return EncoderStage(config, encoder, bundle, source, held_out, device)
    if config.stage == "decoder":
        decoder = parse(DecoderOptions, config.options, where)
        return DecoderStage(config, decoder, bundle, source, held_out, device)
    if config.stage in ("level1", "cascade"):
        diffusion = parse(DiffusionOptions, config.options, where)
        cascade = config.stage == "cascade"
        codec = FeatureCodec(bundle, device, level=0 if cascade else 1)
        side = FeatureCodec(bundle, device, level=1) if cascade else None
        return DiffusionStage(
            config, diffusion, bundle, config.stage, codec, side, source, held_out, device
        )
    raise ConfigError(f"unknown stage {config.stage!r}")


def _run_statistics(
    config: RunConfig,
    bundle: WorkingBundle,
    source: SceneSource,
    folder: Path,
    device: torch.device,
) -> int:
    options = parse(StatisticsOptions, config.options, "options of statistics")
    backbone = bundle.frozen("backbone", device)
    summaries = feature_statistics(
        backbone,  # type: ignore[arg-type]
        source,
        scenes=options.scenes,
        batch_size=config.batch_size,
        device=device,
    )
    dead = {level: s.dead_channels for level, s in summaries.items() if s.dead_channels}
    if dead:
        log.warning("dead channels per level: %s; the encoder does not use its whole width", dead)
    bundle.write(folder / "export", statistics=statistics_tensors(summaries))
    return 0
