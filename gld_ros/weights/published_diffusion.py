"""Parts common to the GLD files of both backbones: denoisers, RGB decoder, statistics.

Owns unpacking them and reading sizes off their tensors. Backbones are `published_da3` and
`published_vggt`, which files a family has is `families`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.weights.checkpoint_file import read_checkpoint, unwrap
from gld_ros.weights.errors import CoverageError, WeightsError
from gld_ros.weights.tensor_file import open_tensor_file

Variant = Literal["full", "reference"]
SpecialStatistics = Literal["own", "level1"]

# The published layout with shared embedders normalises intrinsics by this, whatever the image size.
_SHARED_EMBEDDERS_PROPE_HW = (504, 504)
# The released evaluation builds a cascade of two head blocks, whatever the file has.
_REFERENCE_HEAD_BLOCKS = 2


def rgb_decoder_tensors(path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Parameters of the published RGB decoder; tensors beside it are noted and left out."""
    tensors = unwrap(read_checkpoint(path), ("ema", "model", "state_dict"), path)
    kept = {k.replace("decoder.", ""): v for k, v in tensors.items() if k.startswith("decoder.")}
    if not kept:
        raise CoverageError(f'{path}: no name begins with "decoder."')
    if len(kept) < len(tensors):
        count = len(tensors) - len(kept)
        notes.append(f"{path.name}: {count} tensors outside decoder.* are not used")
    return kept


def denoiser_tensors(path: Path) -> dict[str, Tensor]:
    """Parameters of a published denoiser under our names, which are the same."""
    tensors = unwrap(read_checkpoint(path), ("ema", "model"), path)
    return {key.replace("module.", ""): value for key, value in tensors.items()}


def read_statistics(paths: Mapping[str, Path], levels: tuple[str, ...]) -> dict[str, Tensor]:
    """`{group}.mean` and `.var` of every group of `levels` ("level0", "special1", ...).

    `paths` holds a published file per group ("statistics_level0"), or under "statistics" one
    safetensors file of all of them, as bundles have. Raises CoverageError naming what is missing.
    """
    tables: dict[str, Tensor] = {}
    if "statistics" in paths:
        with open_tensor_file(paths["statistics"]) as file:
            wanted = [f"{group}.{part}" for group in levels for part in ("mean", "var")]
            missing = sorted(set(wanted) - set(file.keys()))
            if missing:
                raise CoverageError(f"{paths['statistics']}: missing {', '.join(missing)}")
            return {name: file.get_tensor(name) for name in wanted}
    for group in levels:
        path, level = paths[f"statistics_{group}"], int(group[-1])
        content = read_checkpoint(path)
        for quantity in ("mean", "var"):
            if not isinstance(content.get(quantity), Tensor):
                raise CoverageError(f"{path}: missing tensor {quantity}; it has {sorted(content)}")
            tables[f"{group}.{quantity}"] = content[quantity]
        if content.get("level", level) != level:
            raise WeightsError(f"{path} is of level {content['level']}, expected {level}")
    return tables


def check_statistics_width(
    tables: Mapping[str, Tensor], channels: int, paths: Mapping[str, Path]
) -> None:
    """Raise CoverageError unless every table has one value per channel of the backbone."""
    for name, values in tables.items():
        where = paths.get(f"statistics_{name.partition('.')[0]}") or paths["statistics"]
        if values.numel() != channels:
            raise CoverageError(
                f"{where}: {name} has {values.numel()} values, the backbone has {channels} "
                "channels; these are the statistics of another backbone"
            )


def infer_rgb_decoder_config(tensors: Mapping[str, Tensor], *, heads: int) -> RgbDecoderConfig:
    """Sizes of an RGB decoder from its tensors; the position table is taken to be square."""
    width, in_channels = shape_of(tensors, "decoder_embed.weight")
    side = math.isqrt(shape_of(tensors, "decoder_pos_embed")[1] - 1)
    return RgbDecoderConfig(
        in_channels=in_channels,
        width=width,
        depth=count_indexed(tensors, "decoder_layers."),
        heads=heads,
        mlp=shape_of(tensors, "decoder_layers.0.intermediate.dense.weight")[0],
        table_hw=(side, side),
        patch_size=math.isqrt(shape_of(tensors, "decoder_pred.weight")[0] // 3),
    )


def infer_denoiser_config(
    tensors: Mapping[str, Tensor], *, heads: tuple[int, int], cascade: bool = False
) -> DenoiserConfig:
    """Sizes of a denoiser from its tensors: encoder blocks are those of the encoder's width."""
    width = shape_of(tensors, "t_embedder.mlp.2.weight")[0]
    channels, head_width = shape_of(tensors, "final_layer.linear.weight")
    if width == head_width:
        raise WeightsError(
            f"encoder and head of this denoiser are both {width} wide, so the tensors do not tell "
            "where one ends; the published files have different widths"
        )
    blocks = count_indexed(tensors, "blocks.")
    widths = [shape_of(tensors, f"blocks.{i}.norm1.weight")[0] for i in range(blocks)]
    encoder_depth = widths.count(width)
    if widths != [width] * encoder_depth + [head_width] * (blocks - encoder_depth):
        raise WeightsError(
            f"the blocks of this denoiser are {widths} wide; expected {width} for the encoder, "
            f"then {head_width} for the head"
        )
    separate_embedders = "x_embedder_ref.proj.weight" in tensors
    special = tensors.get("special_pos_embed_s")
    try:
        return DenoiserConfig(
            channels=channels,
            hidden=(width, head_width),
            depth=(encoder_depth, blocks - encoder_depth),
            heads=heads,
            separate_embedders=separate_embedders,
            source_conditioned=cascade,
            prope_image_hw=None if separate_embedders else _SHARED_EMBEDDERS_PROPE_HW,
            special_tokens=special.shape[1] if special is not None else 0,
            time_features=shape_of(tensors, "t_embedder.W")[0],
            camera_patch=shape_of(tensors, "camera_embedder.proj.weight")[-1],
        )
    except ValueError as error:
        raise WeightsError(
            f"{error}. The number of heads is not stored in the tensors; state it"
        ) from error


def without_aliases(tensors: dict[str, Tensor], path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Drop `s_embedder_ref/_tgt.*`, `x_embedder_ref/_tgt.*` where they repeat the shared embedder.

    The current trainer registers the two shared embedders three times each. Copies that differ
    mean a model of the other layout, which is an error.
    """
    if "x_embedder.proj.weight" not in tensors:
        return tensors
    aliases = [key for key in tensors if re.match(r"[sx]_embedder_(ref|tgt)\.", key)]
    for alias in aliases:
        original = re.sub(r"_(ref|tgt)\.", ".", alias, count=1)
        if original not in tensors or not torch.equal(tensors[alias], tensors[original]):
            raise CoverageError(f"{path}: unexpected {alias}: it is not a copy of {original}")
    if aliases:
        notes.append(f"{path.name}: {len(aliases)} copies of the shared embedders are left out")
    return {key: value for key, value in tensors.items() if key not in aliases}


def cascade_variant(
    tensors: dict[str, Tensor], in_file: DenoiserConfig, variant: Variant, notes: list[str]
) -> tuple[dict[str, Tensor], DenoiserConfig]:
    """The cascade with all head blocks of the file, or with the first two of them."""
    head_blocks = in_file.depth[1]
    if head_blocks == _REFERENCE_HEAD_BLOCKS:
        notes.append(f"Cascade: all {head_blocks} head blocks of the file, as configured.")
        return tensors, in_file
    if variant == "full":
        notes.append(
            f"Cascade, variant full: all {head_blocks} head blocks of the file; the released "
            f"evaluation runs the first {_REFERENCE_HEAD_BLOCKS} only."
        )
        return tensors, in_file
    if head_blocks < _REFERENCE_HEAD_BLOCKS:
        raise WeightsError(
            f"the cascade has {head_blocks} head block(s); variant 'reference' needs "
            f"{_REFERENCE_HEAD_BLOCKS}"
        )
    end = sum(reference_depth(in_file.depth))
    kept = {
        name: values
        for name, values in tensors.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < end
    }
    notes.append(
        f"Cascade, variant reference: the first {_REFERENCE_HEAD_BLOCKS} of {head_blocks} head "
        f"blocks, as the released evaluation; {len(tensors) - len(kept)} tensors are left out."
    )
    config = infer_denoiser_config(kept, heads=in_file.heads, cascade=True)
    return kept, config


def reference_depth(in_file: tuple[int, int]) -> tuple[int, int]:
    """Blocks of encoder and head that the released evaluation runs of a cascade."""
    return in_file[0], _REFERENCE_HEAD_BLOCKS


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Shape of a tensor that sizes are read from; CoverageError if it is not there."""
    if name not in tensors:
        raise CoverageError(f"missing {name}, which sizes are read from")
    return tuple(tensors[name].shape)


def count_indexed(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of consecutive indices 0, 1, ... that follow `prefix` in the names."""
    indices = {
        int(key.removeprefix(prefix).split(".", 1)[0]) for key in tensors if key.startswith(prefix)
    }
    count = 0
    while count in indices:
        count += 1
    return count
