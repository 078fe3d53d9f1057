"""Stage `diffusion`: GLD's diffusion transformer on latents of a convolutional autoencoder.

Same network, data, cameras, order and noise as stage `level1`; only the latent differs, and with it
the first and last layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from autoencoder import AutoencoderCodec
from torch import Tensor

from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.training.config import ConfigError, RunConfig
from gld_ros.training.data import ScenePool
from gld_ros.training.stages.level1 import DiffusionModel, DiffusionOptions, DiffusionStage
from gld_ros.weights.atomic_folder import new_folder
from gld_ros.weights.bundle_config import BundleConfig
from gld_ros.weights.config_json import config_to_json
from gld_ros.weights.tensor_file import PlannedTensor, write_tensor_file

NAME = "diffusion"


@dataclass(frozen=True)
class AutoencoderDiffusionOptions(DiffusionOptions):
    """Options of `level1`, the folder of the autoencoder, and the time shift.

    `time_shift` None takes that of the latent's size; to be fair to the autoencoder, run also with
    the shift of GLD's latents and report the better one.
    """

    autoencoder: str = ""
    time_shift: float | None = None


def diffusion_on_autoencoder(
    config: RunConfig,
    options: AutoencoderDiffusionOptions,
    plan: BundleConfig,
    source: ScenePool,
    held_out: ScenePool | None,
    device: torch.device,
) -> DiffusionStage:
    """Return the stage; the sizes are those of the plan's first denoiser."""
    if plan.base_denoiser not in plan.denoisers:
        raise ConfigError(f"the model plan has no denoiser {plan.base_denoiser!r} to compare with")
    if not options.autoencoder:
        raise ConfigError(
            "options.autoencoder is not given; name the export folder of stage `autoencoder`"
        )
    codec = AutoencoderCodec(Path(options.autoencoder), device)
    sizes = replace(
        plan.denoisers[plan.base_denoiser].config,
        channels=codec.autoencoder.config.token_channels,
        camera_patch=codec.autoencoder.config.token_pixels,
        special_tokens=0,
    )

    def export(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        with new_folder(folder, overwrite=True) as partial:
            planned = [PlannedTensor.of(name, value) for name, value in tensors[NAME].items()]
            write_tensor_file(partial / f"{NAME}.safetensors", planned)
            description = {"denoiser": config_to_json(sizes), "autoencoder": options.autoencoder}
            text = json.dumps(description, indent=1) + "\n"
            (partial / f"{NAME}.json").write_text(text)

    model = DiffusionModel(NAME, Denoiser(sizes).to(device), options.time_shift, plan, export)
    shared = {f.name: getattr(options, f.name) for f in fields(DiffusionOptions)}
    return DiffusionStage(
        config, DiffusionOptions(**shared), model, codec, None, source, held_out, device
    )
