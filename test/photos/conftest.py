"""A room that the package renders, and bundles of random backbones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.scenes.rooms import render_rooms
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig

DA3 = Da3Config(
    embed_dim=16,
    depth=6,
    num_heads=2,
    image_size=42,
    alt_start=2,
    qknorm_start=2,
    rope_start=2,
    tap_layers=(2, 3, 4, 5),
    head_features=8,
    head_out_channels=(4, 8, 8, 12),
    camera_heads=2,
    camera_depth=1,
)


class Room(NamedTuple):
    """Four posed views (240, 320) of a held-out room, with true depth in metres."""

    images: list
    K_px: np.ndarray
    T_world_cam: np.ndarray
    depth_m: np.ndarray


@pytest.fixture(scope="session")
def room() -> Room:
    scene = render_rooms("narrow", [3_000_000_002], 4, (240, 320))
    images = (scene["images"][0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return Room(
        list(images),
        scene["K_px"][0].double().numpy(),
        scene["T_world_cam"][0].double().numpy(),
        scene["depth_m"][0].numpy(),
    )


@pytest.fixture(scope="session")
def da3_bundle(tmp_path_factory) -> Path:
    """A bundle of a random Depth Anything 3 alone."""
    torch.manual_seed(0)
    config = BundleConfig(
        name="random-da3",
        backbone=BackboneSpec("da3", DA3),
        rgb_decoder=None,
        denoisers={},
        boundary_level=1,
        num_views=4,
        num_euler_points=2,
        guidance_scale=1.0,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((28, 42),),
        licence="Apache-2.0",
        origin="made by a test",
        non_commercial=False,
        random_weights=True,
    )
    folder = tmp_path_factory.mktemp("bundles") / config.name
    return save_bundle(folder, config, {"backbone": config.build_module("backbone")}, {}).folder


@pytest.fixture(scope="session")
def vggt_bundle(tmp_path_factory, save_vggt_bundle) -> Path:
    """A whole bundle of a random VGGT with camera head."""
    return save_vggt_bundle(tmp_path_factory.mktemp("bundles") / "vggt", camera_head=True).folder
