"""What the published files of both backbone families have in common.

Owns finding the files of a layout, unpacking denoisers, RGB decoder and statistics, and reading
sizes off tensors. The families' own layouts are `official` (Depth Anything 3) and `official_vggt`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.weights.bundle import Bundle, TensorSource
from gld_ros.weights.checkpoint_file import read_checkpoint, unwrap
from gld_ros.weights.errors import CoverageError, WeightsError
from gld_ros.weights.tensor_file import PlannedTensor

# The published layout with shared embedders normalises intrinsics by this, whatever the image size.
_SHARED_EMBEDDERS_PROPE_HW = (504, 504)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class UnstoredSizes:
    """Sizes that leave no trace in the tensors; the defaults are those of the published files."""

    camera_heads: int = 16
    rgb_decoder_heads: int = 16
    level1_heads: tuple[int, int] = (16, 16)
    cascade_heads: tuple[int, int] = (16, 16)


PUBLISHED_SIZES = UnstoredSizes()


@dataclass(frozen=True)
class Conversion:
    """What a conversion made: the bundle, and what it left out and why, in words."""

    bundle: Bundle
    notes: tuple[str, ...]


def locate_files(
    root: Path,
    places: Mapping[str, Sequence[str]],
    given: Mapping[str, Path],
    where_from: str,
) -> dict[str, Path]:
    """The file of every part: the one `given`, else the first of its `places` below `root`.

    Raises WeightsError that lists all that are missing and ends with `where_from`.
    """
    if not root.is_dir():
        raise WeightsError(f"{root} is no folder")
    candidates = {part: [root / name for name in names] for part, names in places.items()}
    candidates |= {part: [path] for part, path in given.items()}
    paths = {
        part: next((path for path in options if path.is_file()), None)
        for part, options in candidates.items()
    }
    missing = [
        f"{part}: " + " or ".join(map(str, candidates[part]))
        for part, path in paths.items()
        if path is None
    ]
    if missing:
        raise WeightsError(
            f"{root} lacks files of the official layout:\n  "
            + "\n  ".join(missing)
            + f"\n{where_from}"
        )
    return {part: path for part, path in paths.items() if path is not None}


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


def level_statistics(path: Path, level: int, group: str = "level") -> dict[str, Tensor]:
    """`{group}{level}.mean` and `.var` of one statistics file; the rest of it is not used."""
    content = read_checkpoint(path)
    for quantity in ("mean", "var"):
        if not isinstance(content.get(quantity), Tensor):
            raise CoverageError(f"{path}: missing tensor {quantity}; it has {sorted(content)}")
    if content.get("level", level) != level:
        raise WeightsError(f"{path} is of level {content['level']}, expected {level}")
    return {f"{group}{level}.{quantity}": content[quantity] for quantity in ("mean", "var")}


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


def with_progress(
    modules: Mapping[str, dict[str, Tensor]], progress: Progress | None
) -> dict[str, TensorSource]:
    """Modules to be written one tensor at a time, each of which is reported.

    Takes the tensors over: the dictionaries are emptied, and each tensor is let go once it is
    written, so that a mapped file leaves memory with its last one.
    """
    total = sum(len(tensors) for tensors in modules.values())
    done = 0

    def plan(module: str, name: str, values: Tensor) -> PlannedTensor:
        held = [values]

        def read() -> Tensor:
            nonlocal done
            done += 1
            if progress is not None:
                progress(module, done, total)
            return held.pop()

        return PlannedTensor(name, tuple(values.shape), values.dtype, read)

    planned: dict[str, TensorSource] = {
        module: [plan(module, name, values) for name, values in tensors.items()]
        for module, tensors in modules.items()
    }
    for tensors in modules.values():
        tensors.clear()
    return planned


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
