"""Train one job of the autoencoder's side: `gld-ros train` with two more stages.

    cd benchmark/convergence
    python train.py autoencoder --config autoencoder.yaml --run RUNS/autoencoder
    python train.py diffusion --config diffusion.yaml --model ../../config/train/tiny/model \
        --set options.autoencoder=RUNS/autoencoder/export --run RUNS/diffusion

Loop, data, checkpoints and arguments are those of `gld-ros train`.
"""

import argparse
import sys
from pathlib import Path

import torch
from autoencoder_stage import AutoencoderOptions, AutoencoderStage
from diffusion_stage import AutoencoderDiffusionOptions, diffusion_on_autoencoder

from gld_ros.cli.train import add_stage_arguments
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import RunConfig, parse
from gld_ros.training.data import ScenePool
from gld_ros.training.environment import restart_with_tuned_allocator
from gld_ros.training.jobs import run_job
from gld_ros.training.loop import Stage

STAGES = {
    "autoencoder": "the autoencoder that GLD's latent is compared with",
    "diffusion": "GLD's diffusion transformer on that autoencoder's latents",
}


def build_stage(
    config: RunConfig,
    bundle_name: str | Path | None,
    plan_folder: Path | None,
    source: ScenePool,
    held_out: ScenePool | None,
    device: torch.device,
) -> Stage:
    """The stage that `config.stage` names; arguments as `gld_ros.training.jobs.build_stage`."""
    torch.manual_seed(config.seed)
    where = f"options of {config.stage}"
    if config.stage == "autoencoder":
        options = parse(AutoencoderOptions, config.options, where)
        return AutoencoderStage(config, options, source, held_out, device)
    plan = WorkingBundle.open(bundle_name, plan_folder).plan
    on_autoencoder = parse(AutoencoderDiffusionOptions, config.options, where)
    return diffusion_on_autoencoder(config, on_autoencoder, plan, source, held_out, device)


def main() -> int:
    """Run or resume the job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stage", choices=list(STAGES), help="; ".join(f"{k}: {v}" for k, v in STAGES.items())
    )
    add_stage_arguments(parser)
    args = parser.parse_args()
    restart_with_tuned_allocator(sys.argv)
    return run_job(args, build_stage)


if __name__ == "__main__":
    sys.exit(main())
