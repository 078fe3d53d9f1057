"""A random micro-bundle, and small scenes whose answers are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.scenes.folders import write_scene_folder
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig, DenoiserSpec

MODEL_HW = (28, 42)
CHANNELS = 32


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _plan(name, **changes):
    backbone = Da3Config(
        embed_dim=CHANNELS // 2,
        depth=5,
        num_heads=2,
        alt_start=1,
        qknorm_start=1,
        rope_start=1,
        tap_layers=(1, 2, 3, 4),
        head_features=8,
        head_out_channels=(4, 4, 8, 8),
        image_size=28,
        camera_heads=2,
        camera_depth=1,
    )
    denoiser = DenoiserConfig(
        channels=CHANNELS, hidden=(16, 32), depth=(1, 1), heads=(1, 1), time_features=8
    )
    values = {
        "rgb_decoder": RgbDecoderConfig(
            in_channels=4 * CHANNELS, width=16, depth=1, heads=2, mlp=32, table_hw=(2, 2)
        ),
        "denoisers": {"level1": DenoiserSpec(denoiser, 2.0)},
    }
    return BundleConfig(
        name=name,
        backbone=BackboneSpec("da3", backbone),
        boundary_level=1,
        num_views=4,
        num_euler_points=3,
        guidance_scale=1.0,
        ray_grid="centred",
        pose_scale="max",
        resolutions_hw=(MODEL_HW,),
        licence="Apache-2.0",
        origin="test",
        non_commercial=False,
        random_weights=True,
        **(values | changes),
    )


def _save(folder, plan):
    torch.manual_seed(5)
    modules = {}
    for name in plan.module_names:
        modules[name] = plan.build_module(name)
        for parameter in modules[name].parameters():
            if not parameter.abs().max() > 0:
                nn.init.normal_(parameter, std=0.05)
    statistics = {f"level1.{name}": 0.5 + torch.rand(CHANNELS) for name in ("mean", "var")}
    return save_bundle(folder, plan, modules, statistics)


@pytest.fixture(scope="session")
def micro_bundle(tmp_path_factory):
    """A whole bundle with random weights."""
    return _save(tmp_path_factory.mktemp("bundles") / "micro", _plan("micro"))


@pytest.fixture(scope="session")
def taught_bundle(tmp_path_factory):
    """A whole bundle with random weights, and a student of three calls."""
    plan = _plan("taught")
    student = replace(plan.denoisers["level1"], calls=3)
    plan = replace(plan, denoisers={**plan.denoisers, "level1_student": student})
    return _save(tmp_path_factory.mktemp("bundles") / "taught", plan)


@pytest.fixture(scope="session")
def measured_bundle(tmp_path_factory):
    """A bundle whose denoiser reads measurements."""
    plan = _plan("measured")
    level1 = plan.denoisers["level1"]
    measured = replace(level1, config=replace(level1.config, measured=True))
    return _save(
        tmp_path_factory.mktemp("bundles") / "measured",
        replace(plan, denoisers={"level1": measured}),
    )


@pytest.fixture(scope="session")
def backbone_bundle(tmp_path_factory):
    """A bundle with a backbone alone."""
    plan = _plan("backbone alone", rgb_decoder=None, denoisers={})
    return _save(tmp_path_factory.mktemp("bundles") / "backbone", plan)


@pytest.fixture
def wall_scene(tmp_path):
    """Write a scene folder: a camera moves along x before a textured wall, a pixel per frame."""

    def write(frames: int, *, with_depth: bool = True) -> Path:
        height, width = MODEL_HW
        focal, depth = 40.0, 2.0
        rng = np.random.default_rng(0)
        wall = rng.integers(0, 256, (height, width + frames, 3), dtype=np.uint8)
        # A whole principal point: the official crop then keeps every pixel where it is.
        K_px = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        poses = np.tile(np.eye(4), (frames, 1, 1))
        poses[:, 0, 3] = np.arange(frames) * depth / focal
        images = [wall[:, i : i + width] for i in range(frames)]
        depths = [np.full(MODEL_HW, depth, np.float32)] * frames if with_depth else None
        write_scene_folder(tmp_path / "wall", images, K_px, poses, depths, metric=True)
        return tmp_path / "wall"

    return write
