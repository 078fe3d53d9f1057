"""Every parameter of the published VGGT-1B has its place here, and none is left over."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gld_ros.backbones.vggt.config import VGGT_1B
from gld_ros.backbones.vggt.model import VggtBackbone
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig

KEYS = Path(__file__).resolve().parents[2] / "data" / "official_keys" / "vggt_1b.json"


@pytest.mark.parametrize(
    ("config", "dropped"),
    [
        (VGGT_1B, ("track_head.", "point_head.", "camera_head.")),
        (replace(VGGT_1B, point_head=True, camera_head=True), ("track_head.",)),
    ],
    ids=["aggregator and depth head", "all heads"],
)
def test_names_and_shapes_are_the_published_ones(config, dropped):
    published = {key: tuple(shape) for key, shape in json.loads(KEYS.read_text()).items()}
    wanted = {key: shape for key, shape in published.items() if not key.startswith(dropped)}
    with torch.device("meta"):
        model = VggtBackbone(config)
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert ours == wanted


def test_the_rgb_decoder_differs_from_that_of_da3_in_its_input_alone():
    published = json.loads(KEYS.with_name("mae_decoder.json").read_text())
    expected = {key.removeprefix("decoder."): tuple(shape) for key, shape in published.items()}
    expected["decoder_embed.weight"] = (1152, 4 * VGGT_1B.channels)
    with torch.device("meta"):
        decoder = RgbDecoder(RgbDecoderConfig(in_channels=4 * VGGT_1B.channels))
    assert {key: tuple(value.shape) for key, value in decoder.state_dict().items()} == expected
