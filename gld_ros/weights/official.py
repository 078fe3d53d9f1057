"""The published GLD files (Depth Anything 3 backbone) turned into a bundle, nothing left over.

Owns the official folder layout, the containers, the tensor names and how sizes are read off the
tensors. Reading the files safely is `checkpoint_file`, the bundle format is `bundle`. Every tensor
is accounted for in both directions: the official loader skips what does not fit and keeps random
values there, this one names it and stops.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.official_keys import key_from_official
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.denoiser import DenoiserConfig
from gld_ros.diffusion.flow import time_shift
from gld_ros.weights.bundle import (
    BackboneSpec,
    Bundle,
    BundleConfig,
    DenoiserSpec,
    TensorSource,
    save_bundle,
)
from gld_ros.weights.checkpoint_file import read_checkpoint, unwrap
from gld_ros.weights.errors import CoverageError, WeightsError
from gld_ros.weights.tensor_file import PlannedTensor

# Where each file lies below the root; the repository and its documentation differ for two of them.
OFFICIAL_FILES: dict[str, tuple[str, ...]] = {
    "encoder": ("depth-anything/DA3-Base/model.safetensors",),
    "head": ("pretrained_models/da3/model.safetensors",),
    "dpt_decoder": ("checkpoints/dpt_decoder.pt", "pretrained_models/da3/dpt_decoder.pt"),
    "mae_decoder": (
        "checkpoints/mae_decoder.pt",
        "pretrained_models/mae_decoder.pt",
        "pretrained_models/da3/mae_decoder.pt",
    ),
    "level1": ("checkpoints/da3_level1.pt",),
    "cascade": ("checkpoints/da3_cascade.pt",),
    "statistics_level0": ("model_stats/normalization_stats_level0.pt",),
    "statistics_level1": ("model_stats/normalization_stats_level1.pt",),
}
# The taps are not stored in any tensor; these are the published models by number of blocks.
_TAP_LAYERS = {12: (5, 7, 9, 11), 24: (11, 15, 19, 23), 40: (19, 27, 33, 39)}
_CASCADE_PROPE_HW = (504, 504)
# The evaluation that made the published figures shifts time for 252-pixel latents and 8 views,
# whatever the image size.
_SHIFT_GRID, _NUM_VIEWS = 18, 8

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


def convert_official(
    root: str | Path,
    folder: str | Path,
    *,
    encoder_file: str | Path | None = None,
    statistics_folder: str | Path | None = None,
    name: str = "gld-da3",
    dtype: torch.dtype = torch.float32,
    sizes: UnstoredSizes = PUBLISHED_SIZES,
    random_weights: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Turn the published GLD (DA3) files under `root` into a bundle at `folder`.

    `encoder_file` is the `model.safetensors` of the hub snapshot depth-anything/DA3-Base and
    `statistics_folder` the `model_stats` folder, if they are not in their place below `root`.
    Layer sizes are read off the tensors. Tensors pass one at a time from the mapped files.
    `progress(module, done, total)` is called per tensor. Raises WeightsError for a missing or
    unreadable file, UnsafeCheckpointError for a pickle with code, CoverageError naming any tensor
    that is missing, unexpected or misshapen.
    """
    paths = _locate(Path(root), encoder_file, statistics_folder)
    notes: list[str] = []

    backbone = _backbone_tensors(paths, notes)
    rgb_decoder = _rgb_decoder_tensors(paths["mae_decoder"], notes)
    level1 = _denoiser_tensors(paths["level1"])
    cascade = _without_aliases(_denoiser_tensors(paths["cascade"]), paths["cascade"], notes)
    statistics = _statistics(paths)

    da3 = infer_da3_config(backbone, camera_heads=sizes.camera_heads)
    level1_config = infer_denoiser_config(level1, heads=sizes.level1_heads)
    cascade_config = infer_denoiser_config(cascade, heads=sizes.cascade_heads, cascade=True)
    shift = time_shift(da3.channels, _SHIFT_GRID, _SHIFT_GRID, _NUM_VIEWS)
    config = BundleConfig(
        name=name,
        backbone=BackboneSpec("da3", da3),
        rgb_decoder=infer_rgb_decoder_config(rgb_decoder, heads=sizes.rgb_decoder_heads),
        denoisers={
            "level1": DenoiserSpec(level1_config, shift),
            "cascade": DenoiserSpec(cascade_config, shift),
        },
        boundary_level=1,
        num_views=_NUM_VIEWS,
        num_euler_points=50,
        guidance_scale=1.5,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((504, 504), (336, 504), (280, 504)),
        licence="Apache-2.0 (Depth Anything 3 Base and Geometric Latent Diffusion)",
        origin="SeonghuJeon/GLD and depth-anything/DA3-Base on the Hugging Face hub",
        non_commercial=False,
        random_weights=random_weights,
        training_notes="Published weights, converted without training.",
    )
    modules = {
        "backbone": backbone,
        "level1": level1,
        "cascade": cascade,
        "rgb_decoder": rgb_decoder,
    }
    bundle = save_bundle(
        folder,
        config,
        _with_progress(modules, progress),
        statistics,
        dtype=dtype,
        overwrite=overwrite,
    )
    return Conversion(bundle, tuple(notes))


def convert_da3_model(
    model_file: str | Path,
    folder: str | Path,
    *,
    name: str = "da3",
    dtype: torch.dtype = torch.float32,
    sizes: UnstoredSizes = PUBLISHED_SIZES,
    origin: str = "depth-anything on the Hugging Face hub",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Turn one Depth Anything 3 `model.safetensors` into a bundle that holds the backbone alone.

    Raises as `convert_official` does.
    """
    tensors = _model_tensors(Path(model_file))
    da3 = infer_da3_config(tensors, camera_heads=sizes.camera_heads)
    config = BundleConfig(
        name=name,
        backbone=BackboneSpec("da3", da3),
        rgb_decoder=None,
        denoisers={},
        boundary_level=1,
        num_views=_NUM_VIEWS,
        num_euler_points=50,
        guidance_scale=1.0,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((280, 504), (378, 504), (504, 504)),
        licence="Apache-2.0 (Depth Anything 3)",
        origin=origin,
        non_commercial=False,
        random_weights=False,
        training_notes="Published weights, converted without training.",
    )
    modules = _with_progress({"backbone": tensors}, progress)
    return Conversion(
        save_bundle(folder, config, modules, {}, dtype=dtype, overwrite=overwrite), ()
    )


# Kind of a catalog entry -> what turns its files into a bundle.
CONVERTERS = {"gld-da3": convert_official, "da3": convert_da3_model}


def infer_da3_config(tensors: Mapping[str, Tensor], *, camera_heads: int) -> Da3Config:
    """Sizes of a DA3 model from its tensors under our names; WeightsError if they fit no model."""
    embed_dim = _shape(tensors, "backbone.cls_token")[-1]
    depth = _count_indexed(tensors, "backbone.blocks.")
    normalised = [i for i in range(depth) if f"backbone.blocks.{i}.attn.q_norm.weight" in tensors]
    if not normalised or depth not in _TAP_LAYERS:
        raise WeightsError(
            f"the backbone has {depth} blocks, {len(normalised)} of them with normalised queries; "
            f"known any-view models have {', '.join(map(str, _TAP_LAYERS))} blocks"
        )
    first = normalised[0]
    head_dim = _shape(tensors, f"backbone.blocks.{first}.attn.q_norm.weight")[0]
    patch_size = _shape(tensors, "backbone.patch_embed.proj.weight")[-1]
    table_side = math.isqrt(_shape(tensors, "backbone.pos_embed")[1] - 1)
    stages = [_shape(tensors, f"head.projects.{stage}.weight")[0] for stage in range(4)]
    try:
        return Da3Config(
            embed_dim=embed_dim,
            depth=depth,
            num_heads=embed_dim // head_dim,
            image_size=table_side * patch_size,
            alt_start=first,
            qknorm_start=first,
            rope_start=first,
            tap_layers=_TAP_LAYERS[depth],
            head_features=_shape(tensors, "head.scratch.layer1_rn.weight")[0],
            head_out_channels=(stages[0], stages[1], stages[2], stages[3]),
            camera_heads=camera_heads,
            camera_depth=_count_indexed(tensors, "camera_encoder.trunk."),
            patch_size=patch_size,
            ffn="swiglu" if "backbone.blocks.0.mlp.w12.weight" in tensors else "mlp",
        )
    except ValueError as error:
        raise WeightsError(f"the backbone's tensors describe no valid model: {error}") from error


def infer_rgb_decoder_config(tensors: Mapping[str, Tensor], *, heads: int) -> RgbDecoderConfig:
    """Sizes of an RGB decoder from its tensors; the position table is taken to be square."""
    width, in_channels = _shape(tensors, "decoder_embed.weight")
    side = math.isqrt(_shape(tensors, "decoder_pos_embed")[1] - 1)
    return RgbDecoderConfig(
        in_channels=in_channels,
        width=width,
        depth=_count_indexed(tensors, "decoder_layers."),
        heads=heads,
        mlp=_shape(tensors, "decoder_layers.0.intermediate.dense.weight")[0],
        table_hw=(side, side),
        patch_size=math.isqrt(_shape(tensors, "decoder_pred.weight")[0] // 3),
    )


def infer_denoiser_config(
    tensors: Mapping[str, Tensor], *, heads: tuple[int, int], cascade: bool = False
) -> DenoiserConfig:
    """Sizes of a denoiser from its tensors: encoder blocks are those of the encoder's width."""
    width = _shape(tensors, "t_embedder.mlp.2.weight")[0]
    channels, head_width = _shape(tensors, "final_layer.linear.weight")
    if width == head_width:
        raise WeightsError(
            f"encoder and head of this denoiser are both {width} wide, so the tensors do not tell "
            "where one ends; the published files have different widths"
        )
    blocks = _count_indexed(tensors, "blocks.")
    widths = [_shape(tensors, f"blocks.{i}.norm1.weight")[0] for i in range(blocks)]
    encoder_depth = widths.count(width)
    if widths != [width] * encoder_depth + [head_width] * (blocks - encoder_depth):
        raise WeightsError(
            f"the blocks of this denoiser are {widths} wide; expected {width} for the encoder, "
            f"then {head_width} for the head"
        )
    try:
        return DenoiserConfig(
            channels=channels,
            hidden=(width, head_width),
            depth=(encoder_depth, blocks - encoder_depth),
            heads=heads,
            separate_embedders="x_embedder_ref.proj.weight" in tensors,
            source_conditioned=cascade,
            prope_image_hw=_CASCADE_PROPE_HW if cascade else None,
            time_features=_shape(tensors, "t_embedder.W")[0],
            camera_patch=_shape(tensors, "camera_embedder.proj.weight")[-1],
        )
    except ValueError as error:
        raise WeightsError(
            f"{error}. The number of heads is not stored in the tensors; state it"
        ) from error


def _locate(
    root: Path, encoder_file: str | Path | None, statistics_folder: str | Path | None
) -> dict[str, Path]:
    """Every file of `OFFICIAL_FILES`; WeightsError that lists all that are missing."""
    if not root.is_dir():
        raise WeightsError(f"{root} is no folder")
    candidates = {part: [root / name for name in names] for part, names in OFFICIAL_FILES.items()}
    if encoder_file is not None:
        candidates["encoder"] = [Path(encoder_file)]
    if statistics_folder is not None:
        for part in ("statistics_level0", "statistics_level1"):
            candidates[part] = [Path(statistics_folder) / candidates[part][0].name]
    paths = {
        part: next((path for path in places if path.is_file()), None)
        for part, places in candidates.items()
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
            + "\nThe encoder is model.safetensors of depth-anything/DA3-Base on the Hugging Face "
            "hub; the statistics come with the code repository of GLD"
        )
    return {part: path for part, path in paths.items() if path is not None}


def _model_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a flat DA3 model file under our names; foreign names are an error."""
    renamed: dict[str, Tensor] = {}
    for key, value in unwrap(read_checkpoint(path), (), path).items():
        try:
            renamed[key_from_official(key)] = value
        except ValueError as error:
            raise CoverageError(f"{path}: unexpected tensor: {error}") from error
    return renamed


def _backbone_tensors(paths: Mapping[str, Path], notes: list[str]) -> dict[str, Tensor]:
    """Encoder and camera parts of the hub model, the head of the repository, then the fine-tuned.

    Each later source replaces what the earlier one gave for the head.
    """
    tensors = _model_tensors(paths["encoder"])
    head_model = _model_tensors(paths["head"])
    head = {name: values for name, values in head_model.items() if name.startswith("head.")}
    _expect_same_names(tensors, head, "head.", paths["head"])
    path = paths["dpt_decoder"]
    content = read_checkpoint(path)
    if "model" not in content:
        raise WeightsError(f'{path} has no entry "model"; it has {", ".join(content)}')
    fine_tuned: dict[str, Tensor] = {}
    ignored = 0
    for key, value in unwrap(content, ("model",), path).items():
        prefix = next((p for p in ("decoder.", "pred.") if key.startswith(p)), None)
        if prefix is None:
            ignored += 1
        else:
            fine_tuned[f"head.{key.removeprefix(prefix)}"] = value
    if not fine_tuned:
        raise CoverageError(f'{path}: no name begins with "decoder." or "pred."')
    _expect_known_names(tensors, fine_tuned, path)
    if ignored:
        notes.append(f"{path.name}: {ignored} tensors outside decoder.* are not used")
    kept = sorted(head.keys() - fine_tuned.keys())
    if kept:
        notes.append(f"{path.name} lacks {len(kept)} head tensors: taken from {paths['head'].name}")
    return tensors | head | fine_tuned


def _expect_same_names(
    tensors: Mapping[str, Tensor], given: Mapping[str, Tensor], prefix: str, path: Path
) -> None:
    wanted = {name for name in tensors if name.startswith(prefix)}
    missing = sorted(wanted - given.keys())
    if missing:
        raise CoverageError(f"{path}: missing tensor(s) {', '.join(missing[:10])}")
    _expect_known_names(tensors, given, path)


def _expect_known_names(
    tensors: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path
) -> None:
    unknown = sorted(given.keys() - tensors.keys())
    if unknown:
        raise CoverageError(f"{path}: unexpected tensor(s) {', '.join(unknown[:10])}")
    misshapen = [
        f"{name}: {tuple(value.shape)}, expected {tuple(tensors[name].shape)}"
        for name, value in given.items()
        if value.shape != tensors[name].shape
    ]
    if misshapen:
        raise CoverageError(f"{path}: misshapen tensor(s) {'; '.join(misshapen[:10])}")


def _rgb_decoder_tensors(path: Path, notes: list[str]) -> dict[str, Tensor]:
    tensors = unwrap(read_checkpoint(path), ("ema", "model"), path)
    kept = {k.replace("decoder.", ""): v for k, v in tensors.items() if k.startswith("decoder.")}
    if not kept:
        raise CoverageError(f'{path}: no name begins with "decoder."')
    if len(kept) < len(tensors):
        count = len(tensors) - len(kept)
        notes.append(f"{path.name}: {count} tensors outside decoder.* are not used")
    return kept


def _denoiser_tensors(path: Path) -> dict[str, Tensor]:
    tensors = unwrap(read_checkpoint(path), ("ema", "model"), path)
    return {key.replace("module.", ""): value for key, value in tensors.items()}


def _without_aliases(tensors: dict[str, Tensor], path: Path, notes: list[str]) -> dict[str, Tensor]:
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
            raise CoverageError(f"{path}: unexpected {alias}: it is no copy of {original}")
    if aliases:
        notes.append(f"{path.name}: {len(aliases)} copies of the shared embedders are left out")
    return {key: value for key, value in tensors.items() if key not in aliases}


def _statistics(paths: Mapping[str, Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for level in (0, 1):
        path = paths[f"statistics_level{level}"]
        content = read_checkpoint(path)
        for quantity in ("mean", "var"):
            values = content.get(quantity)
            if not isinstance(values, Tensor):
                raise CoverageError(f"{path}: missing tensor {quantity}; it has {sorted(content)}")
            tensors[f"level{level}.{quantity}"] = values
        if content.get("level", level) != level:
            raise WeightsError(f"{path} is of level {content['level']}, expected {level}")
    return tensors


def _with_progress(
    modules: Mapping[str, Mapping[str, Tensor]], progress: Progress | None
) -> dict[str, TensorSource]:
    total = sum(len(tensors) for tensors in modules.values())
    done = 0

    def plan(module: str, name: str, values: Tensor) -> PlannedTensor:
        def read() -> Tensor:
            nonlocal done
            done += 1
            if progress is not None:
                progress(module, done, total)
            return values

        return PlannedTensor(name, tuple(values.shape), values.dtype, read)

    return {
        module: [plan(module, name, values) for name, values in tensors.items()]
        for module, tensors in modules.items()
    }


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CoverageError(f"missing {name}, which sizes are read from")
    return tuple(tensors[name].shape)


def _count_indexed(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of consecutive indices 0, 1, ... that follow `prefix` in the names."""
    indices = {
        int(key.removeprefix(prefix).split(".", 1)[0]) for key in tensors if key.startswith(prefix)
    }
    count = 0
    while count in indices:
        count += 1
    return count
