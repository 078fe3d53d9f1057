"""Every parameter of the published checkpoints has its place here, and none is left over."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gld_ros.backbones.da3.config import DA3_BASE, Da3Config
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import key_from_official, official_key

KEYS = Path(__file__).resolve().parents[2] / "data" / "official_keys"
DA3_SMALL = replace(
    DA3_BASE, embed_dim=384, num_heads=6, head_features=64, head_out_channels=(48, 96, 192, 384)
)
DA3_LARGE = Da3Config(
    embed_dim=1024,
    depth=24,
    num_heads=16,
    alt_start=8,
    qknorm_start=8,
    rope_start=8,
    tap_layers=(11, 15, 19, 23),
    head_features=256,
    head_out_channels=(256, 512, 1024, 1024),
)
# The published Giant also has a Gaussian head, which these modules do not cover.
DA3_GIANT = replace(
    DA3_LARGE,
    embed_dim=1536,
    depth=40,
    num_heads=24,
    alt_start=13,
    qknorm_start=13,
    rope_start=13,
    tap_layers=(19, 27, 33, 39),
    ffn="swiglu",
)


def build_on_meta(config):
    with torch.device("meta"):
        return DepthAnything3(config)


@pytest.mark.parametrize(
    ("name", "config"), [("small", DA3_SMALL), ("base", DA3_BASE), ("large", DA3_LARGE)]
)
def test_names_and_shapes_are_the_published_ones(name, config):
    published = {
        k: tuple(v) for k, v in json.loads((KEYS / f"da3_{name}.json").read_text()).items()
    }
    ours = {key: tuple(value.shape) for key, value in build_on_meta(config).state_dict().items()}
    assert {official_key(key): shape for key, shape in ours.items()} == published
    assert {key_from_official(key): shape for key, shape in published.items()} == ours


def test_parameter_counts_are_the_published_ones():
    millions = {
        name: sum(p.numel() for p in build_on_meta(config).parameters()) / 1e6
        for name, config in (("small", DA3_SMALL), ("base", DA3_BASE), ("large", DA3_LARGE))
    }
    assert millions == pytest.approx({"small": 34.3, "base": 135.4, "large": 410.9}, abs=0.05)


def test_giant_has_a_gated_feed_forward_of_matching_cost():
    shapes = {k: tuple(v.shape) for k, v in build_on_meta(DA3_GIANT).state_dict().items()}
    assert shapes["backbone.blocks.0.mlp.w12.weight"] == (8192, 1536)
    assert shapes["backbone.blocks.0.mlp.w3.weight"] == (1536, 4096)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"optimizer\.step.*backbone\."):
        official_key("optimizer.step")
    with pytest.raises(ValueError, match=r"model\.head\."):
        key_from_official("head.norm.weight")
