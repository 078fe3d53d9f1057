"""A room that the package renders, and bundles of random backbones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.scenes.rooms import render_rooms
from gld_ros.weights.bundle import BackboneSpec, BundleConfig, save_bundle

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
VGGT = VggtConfig(
    embed_dim=16,
    depth=4,
    num_heads=2,
    image_depth=1,
    image_heads=2,
    tap_layers=(0, 1, 2, 3),
    head_features=8,
    head_out_channels=(8, 8, 12, 12),
    image_size=56,
    camera_head=True,
    camera_heads=4,
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


def random_bundle(folder: Path, kind: str, sizes) -> Path:
    """A bundle with a random backbone alone."""
    torch.manual_seed(0)
    config = BundleConfig(
        name=folder.name,
        backbone=BackboneSpec(kind, sizes),
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
    return save_bundle(folder, config, {"backbone": config.build_module("backbone")}, {}).folder


@pytest.fixture(scope="session")
def da3_bundle(tmp_path_factory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "random-da3", "da3", DA3)


@pytest.fixture(scope="session")
def vggt_bundle(tmp_path_factory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "random-vggt", "vggt", VGGT)
