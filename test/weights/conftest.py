"""Micro models in the published layout, and in bundles."""

import shutil
from pathlib import Path

import pytest
import torch

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.weights.bundle import Bundle, save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig, DenoiserSpec
from gld_ros.weights.convert import UnstoredSizes

from .published_layout import write_gld_da3

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


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """The published layout with random micro weights; read only (see `official`)."""
    root = tmp_path_factory.mktemp("published")
    return write_gld_da3(root, DA3, RGB_DECODER, LEVEL1, CASCADE)


@pytest.fixture
def official(published, tmp_path) -> Path:
    """A copy of `published` that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "official"))
