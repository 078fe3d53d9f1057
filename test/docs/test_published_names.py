"""The tables of published names in docs/backbones.md against converter and published files."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gld_ros.backbones.da3.config import DA3_BASE
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import key_from_official, official_key
from gld_ros.backbones.vggt.config import VGGT_1B
from gld_ros.backbones.vggt.model import VggtBackbone
from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.selftest.run import DEFAULT_FOLDERS
from gld_ros.selftest.vggt.backbone import aggregator_config
from gld_ros.selftest.vggt.module_file import ModuleFile
from gld_ros.weights.published_da3 import infer_da3_config
from gld_ros.weights.published_diffusion import infer_denoiser_config, infer_rgb_decoder_config

ROOT = Path(__file__).resolve().parents[2]
KEYS = ROOT / "test" / "data" / "official_keys"
DA3, VGGT = DEFAULT_FOLDERS
SECTION = (
    (ROOT / "docs" / "backbones.md").read_text("utf-8").split("## Published names and ours")[1]
)


def rows(title):
    """Cells of the table below a line of the section, without its heading."""
    table = SECTION.split(f"\n{title}:\n\n")[1].split("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def module_file(name):
    return ModuleFile.read(VGGT / f"{name}.safetensors", torch.device("cpu"), torch.float32)


def da3_weights(name, prefix=""):
    tensors = load_file(DA3 / f"{name}.safetensors")
    return {key.removeprefix(prefix): values for key, values in tensors.items()}


def converted_sizes(owner):
    """(what the converter reads from a fixture, its published configuration)."""
    published = json.loads((DA3 / "config.json").read_text("utf-8"))
    if owner == "Da3Config":
        tensors = {key_from_official(k): v for k, v in da3_weights("weights_da3").items()}
        return infer_da3_config(tensors, camera_heads=4), published["da3"]
    if owner == "RgbDecoderConfig":
        tensors = da3_weights("weights_mae_decoder", "decoder.")
        return infer_rgb_decoder_config(tensors, heads=4), published["mae"]
    if owner == "DenoiserConfig":
        file = module_file("vggt_dit_level1")
        return infer_denoiser_config(file.parameters, heads=(2, 2)), file.config
    if owner == "VggtConfig":
        file = module_file("vggt_aggregator")
        return aggregator_config(file), file.config
    assert owner == "GLD_DA3_CASCADE"
    return GLD_DA3_CASCADE, {"cam_input_size": [published["cam_input_size"]] * 2}


@cache
def published_files():
    return {path.stem: json.loads(path.read_text("utf-8")) for path in KEYS.glob("*.json")}


@cache
def networks_here():
    with torch.device("meta"):
        networks = {
            "da3_base": DepthAnything3(DA3_BASE),
            "vggt_1b": VggtBackbone(VGGT_1B),
            "da3_level1": Denoiser(GLD_DA3_LEVEL1),
        }
    return {name: set(network.state_dict()) for name, network in networks.items()}


@cache
def code_here():
    return "".join(path.read_text("utf-8") for path in (ROOT / "gld_ros").rglob("*.py"))


@pytest.mark.parametrize("row", rows("Sizes in configurations"), ids=lambda row: row[0])
def test_sizes_of_both_names_are_equal(row):
    (here,), (published,) = names(row[0]), names(row[1])
    owner, field = here.split(".")
    sizes, config = converted_sizes(owner)
    value = config[published]
    assert getattr(sizes, field) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("row", rows("Parameters in weights files"), ids=lambda row: row[0])
def test_parameters_of_both_names_exist(row):
    here = names(row[0])
    published = here if row[1] == "the same" else names(row[1])
    files, networks = published_files(), networks_here()
    for ours, theirs in zip(here, published, strict=True):
        (file,) = [stem for stem in networks if any(key.startswith(theirs) for key in files[stem])]
        mine = {key for key in networks[file] if key.startswith(ours)}
        renamed = {official_key(key) for key in mine} if file == "da3_base" else mine
        assert renamed == {key for key in files[file] if key.startswith(theirs)}


@pytest.mark.parametrize("row", rows("Words"), ids=lambda row: row[0])
def test_words_in_code_font_are_names_in_the_code(row):
    code = code_here()
    configs = (DA3 / "config.json").read_text("utf-8")
    for name in names(row[0]):
        assert all(re.search(rf"\b{part}\b", code) for part in re.findall(r"\w+", name)), name
    for name in names(row[1]):
        assert f'"{name}"' in code + configs or f"{name}=" in code, name
