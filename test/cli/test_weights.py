"""`gld-ros weights`: listing, verifying, converting, and the licence gate before any download."""

import dataclasses
import re

import pytest
import torch
from safetensors.torch import save_file

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import official_key
from gld_ros.cli.main import main
from gld_ros.weights import hub
from gld_ros.weights.bundle import Bundle

MICRO = Da3Config(
    embed_dim=16,
    depth=12,
    num_heads=2,
    image_size=28,
    alt_start=4,
    qknorm_start=4,
    rope_start=4,
    tap_layers=(5, 7, 9, 11),
    head_features=8,
    head_out_channels=(4, 8, 8, 12),
    camera_heads=16,
    camera_depth=1,
)


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub.HuggingFaceHub, "repository", refuse)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    state = DepthAnything3(MICRO).state_dict()
    named = {official_key(key): values.contiguous() for key, values in state.items()}
    save_file(named, folder / "model.safetensors")
    return folder


def test_list_shows_what_is_here_and_the_licences_of_what_is_not(capsys, model_folder, data_home):
    model = str(model_folder / "model.safetensors")
    assert main(["weights", "convert", model, str(data_home / "bundles/mine")]) == 0
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    here, there = capsys.readouterr().out.split("To be fetched")
    assert "mine" in here
    assert "facebook/VGGT-1B (encoder): CC-BY-NC-4.0" in there
    assert "level statistics: none stated for the files; MIT" in there
    assert "NON-COMMERCIAL" in there


def test_convert_and_verify_one_model_file(capsys, model_folder, tmp_path):
    model, folder = str(model_folder / "model.safetensors"), str(tmp_path / "bundle")
    assert main(["weights", "convert", model, folder, "--dtype", "float16"]) == 0
    assert Bundle.open(folder).config.backbone.config == MICRO
    assert main(["weights", "verify", folder]) == 0
    assert main(["weights", "convert", model, folder]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["weights", "convert", model, folder, "--overwrite"]) == 0
    path = tmp_path / "bundle" / "backbone.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["weights", "verify", folder]) == 1
    assert "FAILED: SHA-256" in capsys.readouterr().out


def test_head_counts_can_be_stated_and_wrong_ones_are_explained(capsys, model_folder, tmp_path):
    model, folder = str(model_folder / "model.safetensors"), str(tmp_path / "bundle")
    assert main(["weights", "convert", model, folder, "--heads", "camera=8"]) == 0
    config = Bundle.open(folder).config.backbone.config
    assert config == dataclasses.replace(MICRO, camera_heads=8)
    for wrong in ("camera", "camera=x", "level1=2", "nose=1"):
        assert main(["weights", "convert", model, folder, "--heads", wrong]) == 1
        assert f"--heads {wrong}" in capsys.readouterr().err


def test_convert_of_an_incomplete_layout_lists_what_is_missing(capsys, tmp_path):
    level1 = tmp_path / "root" / "checkpoints" / "da3_level1.pt"
    level1.parent.mkdir(parents=True)
    level1.touch()
    assert main(["weights", "convert", str(tmp_path / "root"), str(tmp_path / "b")]) == 1
    error = capsys.readouterr().err
    assert "checkpoints/da3_cascade.pt" in error
    assert "normalization_stats_level0.pt" in error
    assert not (tmp_path / "b").exists()


@pytest.mark.usefixtures("no_hub")
def test_restricted_weights_need_acceptance_and_show_their_licence_first(capsys):
    assert main(["weights", "fetch", "gld-vggt", "--download-only"]) == 1
    captured = capsys.readouterr()
    assert "CC-BY-NC-4.0" in captured.out
    assert "--accept-licence" in captured.err


def test_the_licence_is_shown_before_the_hub_is_asked(capsys, monkeypatch):
    shown = []

    def ask(self, name):
        shown.append(capsys.readouterr().out)
        raise hub.FetchError(f"{name} could not be fetched")

    monkeypatch.setattr(hub.HuggingFaceHub, "repository", ask)
    assert main(["weights", "fetch", "da3-base"]) == 1
    assert "depth-anything/DA3-BASE (encoder): Apache-2.0" in shown[0]


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gld-da3"], r"model_stats/da3/normalization_stats_level0\.pt.*\n.*--statistics-from"),
        (["gld-da3", "--statistics", "/nowhere"], r"missing statistics: /nowhere/model_stats"),
        (["gld-da3", "--statistics-from", "/nowhere"], "/nowhere does not exist"),
        (["gld-da3", "--variant", "full"], "--variant: not an option of gld-da3 files"),
        (["da3-base", "--statistics", "/"], "--statistics: not an option of da3 files"),
    ],
)
def test_every_input_is_checked_before_the_hub_is_asked(capsys, arguments, message):
    assert main(["weights", "fetch", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.usefixtures("no_hub")
def test_a_folder_of_files_serves_without_network(capsys, model_folder):
    assert main(["weights", "fetch", "da3-base", "--from-folder", str(model_folder)]) == 0
    assert "Apache-2.0" in capsys.readouterr().out
    assert Bundle.open("da3-base").config.module_names == ("backbone",)
    assert main(["weights", "fetch", "da3-base", "--from-folder", str(model_folder)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_an_unknown_name_lists_the_known_ones(capsys):
    assert main(["weights", "fetch", "gpt"]) == 1
    assert "known: gld-da3, da3-base" in capsys.readouterr().err
