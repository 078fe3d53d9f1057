"""Checks of the way from images to latents and back: encode, pack, propagate, decode.

References pack a latent as (views, C, S + N, 1).
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gld_ros.backbones.interface import NUM_LEVELS, LevelTokens
from gld_ros.backbones.vggt.model import VggtBackbone
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.novel_view_stages import decode_rgb, latent_to_tokens, tokens_to_latent
from gld_ros.selftest.rows import Row
from gld_ros.selftest.vggt.backbone import aggregator_config
from gld_ros.selftest.vggt.module_file import FLOAT32, ModuleFile, grid_of
from gld_ros.weights.statistics import LevelStatistics

_DIFFUSED_LEVELS = (0, 1)
_REFERENCES = "_refs"


def check_rae(file: ModuleFile) -> Iterator[Row]:
    """Everything between images and latents, by the functions that the pipeline uses."""
    file.expect_constants(eps=1e-5)
    fixture, images = file.fixture, file.input("images")
    backbone, rgb_decoder = _models(file)
    image_hw = (int(images.shape[-2]), int(images.shape[-1]))
    grid_hw = grid_of(image_hw, backbone.patch_size)
    statistics = {level: _statistics(file, level) for level in _DIFFUSED_LEVELS}

    levels = backbone.encode_levels(images, range(NUM_LEVELS))
    for level, tokens in levels.items():
        yield from fixture.check(f"all/level{level}", tokens.patches.flatten(0, 1), FLOAT32)
    for level in _DIFFUSED_LEVELS:
        yield from _check_packed(file, backbone, statistics[level], level, images)

    scenes = images.shape[0]
    packed = {
        "propagate_enc": (1, fixture.outputs.get("encode/level1_packed")),
        "propagate_gen": (1, fixture.inputs.get("gen/l1")),
        "propagate_l0": (0, fixture.outputs.get("encode/level0_packed")),
    }
    for name, (start, latent) in packed.items():
        if latent is None or not fixture.expects(f"{name}/"):
            continue
        tokens = _unpacked(latent.to(file.device), statistics[start], grid_hw, scenes)
        for level, later in backbone.propagate(tokens, start, grid_hw).items():
            yield from fixture.check(f"{name}/level{level}", later.patches, FLOAT32)

    yield from _check_decoded(file, "decode_true", backbone, rgb_decoder, levels, image_hw)
    if fixture.expects("cascade/"):
        yield from _check_cascade(file, backbone, rgb_decoder, statistics, scenes, image_hw)


def _check_packed(
    file: ModuleFile,
    backbone: VggtBackbone,
    statistics: LevelStatistics,
    level: int,
    images: Tensor,
) -> Iterator[Row]:
    """Latents of views seen together, of the first views alone, of every view alone; raw again."""
    fixture, name = file.fixture, f"encode/level{level}"
    image_hw = (int(images.shape[-2]), int(images.shape[-1]))
    grid_hw = grid_of(image_hw, backbone.patch_size)
    one_view_scenes = images.flatten(0, 1)[:, None]
    variants = {f"{name}_packed": images, f"{name}_packed_singleview": one_view_scenes}
    for quantity in fixture.outputs:
        count = quantity.removeprefix(f"{name}_packed{_REFERENCES}")
        if count.isdecimal():
            variants[quantity] = images[:, : int(count)]
    for quantity, views in variants.items():
        if quantity in fixture.outputs:
            tokens = backbone.encode_levels(views, [level])[level]
            latent = tokens_to_latent(tokens, statistics, grid_hw[0])
            yield from fixture.check(quantity, latent.flatten(0, 1)[..., None], FLOAT32)
    if fixture.expects(f"{name}_patches_raw") or fixture.expects(f"{name}_special_raw"):
        latent = fixture.outputs[f"{name}_packed"].to(file.device)
        raw = _unpacked(latent, statistics, grid_hw, images.shape[0])
        patches = raw.patches.flatten(0, 1).mT.unflatten(2, grid_hw)
        yield from fixture.check(f"{name}_patches_raw", patches, FLOAT32)
        yield from fixture.check(f"{name}_special_raw", raw.special.flatten(0, 1), FLOAT32)


def _check_cascade(
    file: ModuleFile,
    backbone: VggtBackbone,
    rgb_decoder: RgbDecoder,
    statistics: Mapping[int, LevelStatistics],
    scenes: int,
    image_hw: tuple[int, int],
) -> Iterator[Row]:
    """What is made of latents from both diffusion models."""
    grid_hw = grid_of(image_hw, backbone.patch_size)
    generated: dict[int, LevelTokens] = {}
    for level in _DIFFUSED_LEVELS:
        latent = file.input(f"gen/l{level}")
        generated[level] = _unpacked(latent, statistics[level], grid_hw, scenes)
        # The reference scales the special tokens in front with the statistics of the patches.
        whole = statistics[level].denormalise(latent[..., 0].mT, channel_dim=-1)
        yield from file.fixture.check(
            f"cascade/level{level}_raw_with_special", whole.unflatten(0, (scenes, -1)), FLOAT32
        )
    levels = generated | backbone.propagate(generated[1], 1, grid_hw)
    yield from _check_decoded(file, "cascade", backbone, rgb_decoder, levels, image_hw)


def _check_decoded(
    file: ModuleFile,
    case: str,
    backbone: VggtBackbone,
    rgb_decoder: RgbDecoder,
    levels: Mapping[int, LevelTokens],
    image_hw: tuple[int, int],
) -> Iterator[Row]:
    inputs = [backbone.decoder_input(levels[level]) for level in range(NUM_LEVELS)]
    geometry = backbone.decode_geometry(inputs, image_hw)
    maps = {"depth": geometry.depth, "depth_conf": geometry.depth_confidence}
    for name, values in maps.items():
        yield from file.fixture.check(f"{case}/{name}", values.flatten(0, 1)[:, None], FLOAT32)
    rgb = decode_rgb(rgb_decoder, inputs, image_hw)
    yield from file.fixture.check(f"{case}/rgb", rgb.flatten(0, 1), file.limit)


def _models(file: ModuleFile) -> tuple[VggtBackbone, RgbDecoder]:
    sizes = file.config["mae"]
    side = sizes["base"] // sizes["patch"]
    with torch.device("meta"):
        backbone = VggtBackbone(aggregator_config(file))
        rgb_decoder = RgbDecoder(
            RgbDecoderConfig(
                in_channels=sizes["in_dim"],
                width=sizes["hidden"],
                depth=sizes["layers"],
                heads=sizes["heads"],
                mlp=sizes["intermediate"],
                table_hw=(side, side),
                patch_size=sizes["patch"],
            )
        )
    file.fill(backbone.aggregator, "aggregator.")
    file.fill(backbone.depth_head, "depth_head.")
    file.fill(rgb_decoder, "decoder.", file.dtype)
    return backbone, rgb_decoder


def _statistics(file: ModuleFile, level: int) -> LevelStatistics:
    def of(group: str, special: LevelStatistics | None = None) -> LevelStatistics:
        inputs = file.fixture.inputs
        mean, var = (inputs[f"stats/{group}{level}_{name}"].flatten() for name in ("mean", "var"))
        return LevelStatistics(mean, var, special)

    return of("level", of("special"))


def _unpacked(
    latent: Tensor, statistics: LevelStatistics, grid_hw: tuple[int, int], scenes: int
) -> LevelTokens:
    return latent_to_tokens(latent.squeeze(-1).unflatten(0, (scenes, -1)), statistics, grid_hw)
