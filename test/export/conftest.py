"""A micro-bundle of Depth Anything 3 with a cascade and measurements, all weights random."""

from dataclasses import replace

import pytest
import torch

from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import DenoiserSpec


@pytest.fixture(scope="session")
def da3_bundle(tmp_path_factory, micro_da3):
    denoiser = DenoiserConfig(
        channels=32, hidden=(16, 32), depth=(1, 1), heads=(2, 2), time_features=8
    )
    config = replace(
        micro_da3,
        rgb_decoder=RgbDecoderConfig(
            in_channels=128, width=16, depth=1, heads=2, mlp=24, table_hw=(3, 3)
        ),
        denoisers={
            "level1": DenoiserSpec(replace(denoiser, measured=True), 4.5),
            "cascade": DenoiserSpec(replace(denoiser, source_conditioned=True), 4.5),
        },
    )
    torch.manual_seed(2)
    modules = {name: config.build_module(name) for name in config.module_names}
    for module in modules.values():
        for parameter in module.parameters():
            if not parameter.abs().max() > 0:
                torch.nn.init.normal_(parameter, std=0.05)
    statistics = {
        f"level{level}.{name}": 0.5 + torch.rand(32) for level in (0, 1) for name in ("mean", "var")
    }
    return save_bundle(tmp_path_factory.mktemp("da3") / "bundle", config, modules, statistics)
