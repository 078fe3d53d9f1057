"""Micro models in the published layout, and in bundles."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import official_key
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.weights.bundle import (
    BackboneSpec,
    Bundle,
    BundleConfig,
    DenoiserSpec,
    save_bundle,
)
from gld_ros.weights.official import UnstoredSizes

DA3 = Da3Config(
    embed_dim=16,
    depth=12,
    num_heads=2,
    image_size=42,
    alt_start=4,
    qknorm_start=4,
    rope_start=4,
    tap_layers=(5, 7, 9, 11),
    head_features=8,
    head_out_channels=(4, 8, 8, 12),
    camera_heads=2,
    camera_depth=1,
)
RGB_DECODER = RgbDecoderConfig(in_channels=128, width=16, depth=2, heads=2, mlp=24, table_hw=(3, 3))
LEVEL1 = DenoiserConfig(channels=32, hidden=(16, 32), depth=(2, 1), heads=(2, 2), time_features=8)
CASCADE = DenoiserConfig(
    channels=32,
    hidden=(16, 32),
    depth=(1, 1),
    heads=(2, 2),
    time_features=8,
    separate_embedders=False,
    source_conditioned=True,
    prope_image_hw=(504, 504),
)
SIZES = UnstoredSizes(
    camera_heads=2, rgb_decoder_heads=2, level1_heads=(2, 2), cascade_heads=(2, 2)
)


@pytest.fixture(scope="session")
def micro_sizes() -> UnstoredSizes:
    return SIZES


@pytest.fixture(scope="session")
def micro_config() -> BundleConfig:
    return BundleConfig(
        name="micro",
        backbone=BackboneSpec("da3", DA3),
        rgb_decoder=RGB_DECODER,
        denoisers={"level1": DenoiserSpec(LEVEL1, 4.5), "cascade": DenoiserSpec(CASCADE, None)},
        boundary_level=1,
        num_views=4,
        num_euler_points=6,
        guidance_scale=1.5,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((42, 42), (28, 56)),
        licence="Apache-2.0",
        origin="made by a test",
        non_commercial=False,
        random_weights=True,
        training_notes="none",
    )


@pytest.fixture(scope="session")
def micro_modules(micro_config):
    """Modules by name; shared between tests, so not to be changed."""
    torch.manual_seed(0)
    return {name: micro_config.build_module(name) for name in micro_config.module_names}


@pytest.fixture(scope="session")
def micro_statistics():
    generator = torch.Generator().manual_seed(1)
    return {
        f"level{level}.{quantity}": torch.rand(32, generator=generator) + 0.5
        for level in (0, 1)
        for quantity in ("mean", "var")
    }


@pytest.fixture(scope="session")
def micro_bundle(tmp_path_factory, micro_config, micro_modules, micro_statistics) -> Path:
    """A complete float32 bundle; read only (see `saved`)."""
    folder = tmp_path_factory.mktemp("bundles") / "micro"
    return save_bundle(folder, micro_config, micro_modules, micro_statistics).folder


@pytest.fixture
def saved(micro_bundle, tmp_path) -> Bundle:
    """A copy of the bundle that a test may spoil."""
    return Bundle.open(shutil.copytree(micro_bundle, tmp_path / "micro"))


def random_state(module, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(values.shape, generator=generator)
        for name, values in module.state_dict().items()
    }


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """The published layout with random micro weights; read only (see `official`)."""
    root = tmp_path_factory.mktemp("published")

    def place(name):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    da3 = DepthAnything3(DA3)
    for seed, name in ((1, "depth-anything/DA3-Base"), (2, "pretrained_models/da3")):
        state = {official_key(key): values for key, values in random_state(da3, seed).items()}
        save_file(state, place(f"{name}/model.safetensors"))
    head = {f"decoder.{key}": values for key, values in random_state(da3.head, 3).items()}
    torch.save({"model": head, "epoch": 3}, place("checkpoints/dpt_decoder.pt"))
    mae = {f"decoder.{k}": v for k, v in random_state(RgbDecoder(RGB_DECODER), 4).items()}
    torch.save({"ema": mae}, place("checkpoints/mae_decoder.pt"))
    level1 = {f"module.{k}": v for k, v in random_state(Denoiser(LEVEL1), 5).items()}
    wrong = {"x": torch.zeros(1)}
    torch.save({"model": wrong, "ema": level1}, place("checkpoints/da3_level1.pt"))
    torch.save(random_state(Denoiser(CASCADE), 6), place("checkpoints/da3_cascade.pt"))
    for level in (0, 1):
        values = torch.full((1, 32, 1, 1), 2.0 + level)
        torch.save(
            {"mean": values, "var": values, "std": values.sqrt(), "count": 5, "level": level},
            place(f"model_stats/normalization_stats_level{level}.pt"),
        )
    return root


@pytest.fixture
def official(published, tmp_path) -> Path:
    """A copy of `published` that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "official"))
