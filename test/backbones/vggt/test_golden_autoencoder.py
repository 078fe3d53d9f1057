"""Images to latents and back through VGGT, statistics and decoders, against reference numbers.

The reference packs a latent as (views, C, 5 + N, 1): special tokens, then patches, each normalised
with their own statistics.
"""

import pytest
import torch

from gld_ros.backbones.interface import LevelTokens
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.model import VggtBackbone
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.weights.statistics import LevelStatistics

HW, GRID = (42, 56), (3, 4)
IMAGES = "in/images"


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def backbone(golden):
    config, head = golden.config, golden.config["depth_head"]
    model = VggtBackbone(
        VggtConfig(
            embed_dim=config["embed_dim"],
            depth=config["depth"],
            num_heads=config["num_heads"],
            image_depth=config["dino_depth"],
            image_heads=config["dino_heads"],
            tap_layers=config["out_layers"],
            head_features=head["features"],
            head_out_channels=head["out_channels"],
            image_size=config["img_size"],
        )
    )
    params = golden.params()
    model.load_state_dict({k: v for k, v in params.items() if not k.startswith("decoder.")})
    return model.eval()


@pytest.fixture
def rgb_decoder(golden):
    config = golden.config["mae"]
    side = config["base"] // config["patch"]
    decoder = RgbDecoder(
        RgbDecoderConfig(
            in_channels=config["in_dim"],
            width=config["hidden"],
            depth=config["layers"],
            heads=config["heads"],
            mlp=config["intermediate"],
            table_hw=(side, side),
        )
    )
    decoder.load_state_dict(golden.params("decoder."))
    return decoder.eval()


def statistics(golden, group, level):
    mean, var = (golden[f"in/stats/{group}{level}_{name}"].flatten() for name in ("mean", "var"))
    return LevelStatistics(mean, var)


def pack(golden, tokens: LevelTokens, level):
    special = statistics(golden, "special", level).normalise(tokens.special, channel_dim=-1)
    patches = statistics(golden, "level", level).normalise(tokens.patches, channel_dim=-1)
    return torch.cat([special, patches], dim=2).flatten(0, 1).mT[..., None]


def unpack(golden, packed, level):
    tokens = packed[..., 0].mT[None]
    special = statistics(golden, "special", level).denormalise(tokens[:, :, :5], channel_dim=-1)
    patches = statistics(golden, "level", level).denormalise(tokens[:, :, 5:], channel_dim=-1)
    return LevelTokens(patches, special)


rae = pytest.mark.parametrize("golden", ["vggt_rae"], indirect=True)


@rae
def test_raw_levels(golden, backbone, close):
    for level, tokens in backbone.encode_levels(golden[IMAGES], range(4)).items():
        close(tokens.patches.flatten(0, 1), golden[f"out/all/level{level}"])


@rae
def test_packed_latents(golden, backbone, close):
    images = golden[IMAGES]
    joint = backbone.encode_levels(images, [0, 1])
    alone = backbone.encode_levels(images.transpose(0, 1), [0])
    references = backbone.encode_levels(images[:, :2], [1])
    close(pack(golden, joint[0], 0), golden["out/encode/level0_packed"])
    close(pack(golden, joint[1], 1), golden["out/encode/level1_packed"])
    close(pack(golden, alone[0], 0), golden["out/encode/level0_packed_singleview"])
    close(pack(golden, references[1], 1), golden["out/encode/level1_packed_refs2"])
    raw = unpack(golden, golden["out/encode/level1_packed"], 1)
    close(raw.special.flatten(0, 1), golden["out/encode/level1_special_raw"])
    close(raw.patches.flatten(0, 1).mT.unflatten(2, GRID), golden["out/encode/level1_patches_raw"])


@rae
def test_propagation_from_packed_latents(golden, backbone, close):
    for name, packed, start in (
        ("propagate_enc", golden["out/encode/level1_packed"], 1),
        ("propagate_gen", golden["in/gen/l1"], 1),
        ("propagate_l0", golden["out/encode/level0_packed"], 0),
    ):
        later = backbone.propagate(unpack(golden, packed, start), start, GRID)
        compared = [level for level in range(4) if f"out/{name}/level{level}" in golden.tensors]
        assert compared
        for level in compared:
            close(later[level].patches, golden[f"out/{name}/level{level}"])


@rae
def test_decoding_true_levels(golden, backbone, rgb_decoder, close):
    levels = backbone.encode_levels(golden[IMAGES], range(4))
    check_decoded(golden, "decode_true", backbone, rgb_decoder, levels, close)


@rae
def test_decoding_what_both_stages_of_the_diffusion_generated(golden, backbone, rgb_decoder, close):
    generated = {level: unpack(golden, golden[f"in/gen/l{level}"], level) for level in (0, 1)}
    levels = {0: generated[0]} | backbone.propagate(generated[1], 1, GRID)
    check_decoded(golden, "cascade", backbone, rgb_decoder, levels, close)


def check_decoded(golden, case, backbone, rgb_decoder, levels, close):
    inputs = [backbone.decoder_input(levels[level]) for level in range(4)]
    geometry = backbone.decode_geometry(inputs, HW)
    assert geometry.ray is None
    close(geometry.depth.flatten(0, 1)[:, None], golden[f"out/{case}/depth"])
    close(geometry.depth_confidence.flatten(0, 1)[:, None], golden[f"out/{case}/depth_conf"])
    rgb = rgb_decoder(torch.cat(inputs, dim=-1).flatten(0, 1), GRID)
    close(rgb, golden[f"out/{case}/rgb"])
