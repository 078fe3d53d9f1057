"""`gld-ros bench` on a micro bundle: every stage is timed, and the figures are of one piece."""

import json
from dataclasses import replace

import pytest
import torch

from gld_ros.cli.main import main
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import DenoiserSpec


@pytest.fixture
def micro_bundle(tmp_path, micro_da3):
    denoiser = DenoiserConfig(
        channels=32, hidden=(16, 32), depth=(1, 1), heads=(2, 2), time_features=8
    )
    config = replace(
        micro_da3,
        rgb_decoder=RgbDecoderConfig(
            in_channels=128, width=16, depth=1, heads=2, mlp=24, table_hw=(3, 3)
        ),
        denoisers={"level1": DenoiserSpec(denoiser, 4.5)},
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
