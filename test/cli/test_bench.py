"""`gld-ros bench` on a micro bundle: every stage is timed, and the figures are of one piece."""

import json

import pytest
import torch

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.cli.main import main
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig, DenoiserSpec


@pytest.fixture
def micro_bundle(tmp_path):
    config = BundleConfig(
        name="micro",
        backbone=BackboneSpec(
            "da3",
            Da3Config(
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
            ),
        ),
        rgb_decoder=RgbDecoderConfig(
            in_channels=128, width=16, depth=1, heads=2, mlp=24, table_hw=(3, 3)
        ),
        denoisers={
            "level1": DenoiserSpec(
                DenoiserConfig(
                    channels=32, hidden=(16, 32), depth=(1, 1), heads=(2, 2), time_features=8
                ),
                4.5,
            )
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
    modules = {name: config.build_module(name) for name in config.module_names}
    statistics = {f"level1.{quantity}": torch.ones(32) for quantity in ("mean", "var")}
    return save_bundle(tmp_path / "micro", config, modules, statistics).folder


def test_stages_are_timed(micro_bundle, capsys):
    assert main(["bench", "--bundle", str(micro_bundle), "--repeats", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    seconds = report["seconds"]
    assert {"encoding", "total"} < set(seconds)
    for spread in seconds.values():
        assert 0 <= spread["fastest"] <= spread["median"] <= spread["slowest"]
    stages = sum(spread["fastest"] for name, spread in seconds.items() if name != "total")
    assert stages <= seconds["total"]["slowest"] * 1.01
    assert report["width_height"] == [56, 42]
    assert report["steps"] == 2
    assert report["peak_resident_bytes"] > report["estimated_peak_bytes"] > 10**5


def test_no_repeats_is_refused(capsys):
    assert main(["bench", "--repeats", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


def test_the_depth_of_images_is_timed_where_there_are_no_views(backbone_alone, capsys):
    arguments = ["bench", "--bundle", str(backbone_alone.folder), "--size", "80x60"]
    assert main([*arguments, "--repeats", "2", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mode"] == "depth"
    assert report["width_height"] == [80, 60]
    assert report["model_width_height"] == [56, 42]
    assert report["images_per_second"] * report["seconds"]["total"]["median"] == pytest.approx(
        1.0, rel=0.05
    )
    assert report["peak_resident_bytes"] > report["estimated_peak_bytes"] > 10**4
    assert main([*arguments, "--mode", "views"]) == 1
    assert "only a geometry backbone" in capsys.readouterr().err


def test_any_bundle_can_be_timed_in_mode_depth(micro_bundle, capsys):
    assert main(["bench", "--bundle", str(micro_bundle), "--mode", "depth", "--repeats", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["images_per_second"] > 0
