"""A micro-bundle of Depth Anything 3 with a cascade and measurements, all weights random."""

import pytest
import torch

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig, DenoiserSpec


@pytest.fixture(scope="session")
def da3_bundle(tmp_path_factory):
    backbone = Da3Config(
        embed_dim=16,
        depth=5,
        num_heads=2,
        image_size=42,
        alt_start=1,
        qknorm_start=1,
        rope_start=1,
        tap_layers=(1, 2, 3, 4),
        head_features=8,
        head_out_channels=(4, 8, 8, 12),
        camera_heads=2,
        camera_depth=1,
    )
    sizes = {
        "channels": 32,
        "hidden": (16, 32),
        "depth": (1, 1),
        "heads": (2, 2),
        "time_features": 8,
    }
    config = BundleConfig(
        name="micro",
        backbone=BackboneSpec("da3", backbone),
        rgb_decoder=RgbDecoderConfig(
            in_channels=128, width=16, depth=1, heads=2, mlp=24, table_hw=(3, 3)
        ),
        denoisers={
            "level1": DenoiserSpec(DenoiserConfig(**sizes, measured=True), 4.5),
            "cascade": DenoiserSpec(DenoiserConfig(**sizes, source_conditioned=True), 4.5),
        },
        boundary_level=1,
        num_views=4,
        num_euler_points=3,
        guidance_scale=1.0,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((42, 56),),
        licence="Apache-2.0",
        origin="made by a test",
        non_commercial=False,
        random_weights=True,
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
