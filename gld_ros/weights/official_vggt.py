"""The published GLD files (VGGT backbone) turned into a bundle, nothing left over.

Owns the folder layout of this family, the sizes of its backbone, and the two readings of the
published cascade. What it shares with Depth Anything 3 is `published_files`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.flow import time_shift
from gld_ros.weights.bundle import BackboneSpec, BundleConfig, DenoiserSpec, save_bundle
from gld_ros.weights.checkpoint_file import read_checkpoint, unwrap
from gld_ros.weights.errors import CoverageError, WeightsError
from gld_ros.weights.published_files import (
    PUBLISHED_SIZES,
    Conversion,
    Progress,
    UnstoredSizes,
    count_indexed,
    denoiser_tensors,
    infer_denoiser_config,
    infer_rgb_decoder_config,
    level_statistics,
    locate_files,
    rgb_decoder_tensors,
    shape_of,
    with_progress,
)

VGGT_FILES: dict[str, tuple[str, ...]] = {
    "encoder": ("facebook/VGGT-1B/model.safetensors", "facebook/VGGT-1B/model.pt"),
    "mae_decoder": ("pretrained_models/vggt/mae_decoder.pt",),
    "level1": ("checkpoints/vggt_level1.pt",),
    "cascade": ("checkpoints/vggt_cascade.pt",),
    "statistics_level0": ("model_stats/vggt/normalization_stats_level0.pt",),
    "statistics_level1": ("model_stats/vggt/normalization_stats_level1.pt",),
    "statistics_special0": ("model_stats/vggt/special_stats_level0.pt",),
    "statistics_special1": ("model_stats/vggt/special_stats_level1.pt",),
}
LICENCE = "CC-BY-NC-4.0 (facebook/VGGT-1B), Apache-2.0 (Geometric Latent Diffusion)"

Variant = Literal["full", "reference"]
SpecialStatistics = Literal["own", "level1"]

_WHERE_FROM = (
    "The encoder is model.safetensors of facebook/VGGT-1B on the Hugging Face hub, for "
    "non-commercial use only; the statistics come with the code repository of GLD"
)
# The taps are not stored in any tensor; these are those of the published model, by its depth.
_TAP_LAYERS = {24: (4, 11, 17, 23)}
# The released evaluation has no use for the camera head. Here it reads the cameras of generated
# views, by which metric scale is measured.
_USED_WITH_DIFFUSION = ("aggregator.", "depth_head.", "camera_head.")
_OTHER_HEADS = ("point_head.",)
_NEVER_USED = ("track_head.",)
# The released evaluation builds a cascade of two head blocks, whatever the file has.
_REFERENCE_HEAD_BLOCKS = 2
# It shifts time for 518-pixel pictures and 8 views, whatever the image size.
_SHIFT_GRID, _NUM_VIEWS = 37, 8


def convert_official_vggt(
    root: str | Path,
    folder: str | Path,
    *,
    encoder_file: str | Path | None = None,
    statistics_folder: str | Path | None = None,
    variant: Variant = "full",
    special_statistics: SpecialStatistics | None = None,
    name: str = "gld-vggt",
    dtype: torch.dtype = torch.float32,
    sizes: UnstoredSizes = PUBLISHED_SIZES,
    random_weights: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Turn the published GLD (VGGT) files under `root` into a bundle at `folder`.

    variant: "full" runs every head block of the cascade file, presumably as trained; "reference"
        the first two, which is what the released evaluation computes: its configuration says two,
        and it drops the others without a word.
    special_statistics: with which statistics the special tokens of level 0 are normalised: their
        "own", as in training, or those of "level1", as in the released evaluation. None follows
        the variant: own for full, level1 for reference.

    Other arguments and errors as `official.convert_official`; `encoder_file` is the model file of
    facebook/VGGT-1B, of which aggregator, depth head and camera head are used. The bundle is marked
    as non-commercial.
    """
    if variant not in ("full", "reference"):
        raise ValueError(f"variant is {variant!r}; use 'full' or 'reference'")
    if special_statistics not in (None, "own", "level1"):
        raise ValueError(f"special_statistics is {special_statistics!r}; use 'own' or 'level1'")
    given = {} if encoder_file is None else {"encoder": Path(encoder_file)}
    if statistics_folder is not None:
        given |= _statistics_in(Path(statistics_folder))
    paths = locate_files(Path(root), VGGT_FILES, given, _WHERE_FROM)
    notes: list[str] = []

    backbone = _backbone_tensors(paths["encoder"], _USED_WITH_DIFFUSION, notes)
    rgb_decoder = rgb_decoder_tensors(paths["mae_decoder"], notes)
    level1 = denoiser_tensors(paths["level1"])
    cascade = denoiser_tensors(paths["cascade"])
    in_file = infer_denoiser_config(cascade, heads=sizes.cascade_heads, cascade=True)
    cascade, cascade_config = _cascade_variant(cascade, in_file, variant, notes)
    own = special_statistics or ("own" if variant == "full" else "level1")
    statistics = _statistics(paths, own, notes)

    vggt = infer_vggt_config(backbone, camera_heads=sizes.camera_heads)
    shift = time_shift(vggt.channels, _SHIFT_GRID, _SHIFT_GRID, _NUM_VIEWS)
    level1_config = infer_denoiser_config(level1, heads=sizes.level1_heads)
    config = BundleConfig(
        name=name,
        backbone=BackboneSpec("vggt", vggt),
        rgb_decoder=infer_rgb_decoder_config(rgb_decoder, heads=sizes.rgb_decoder_heads),
        denoisers={
            "level1": DenoiserSpec(level1_config, shift),
            "cascade": DenoiserSpec(cascade_config, shift),
        },
        boundary_level=1,
        num_views=_NUM_VIEWS,
        num_euler_points=100,
        guidance_scale=1.5,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((504, 504), (378, 504), (336, 504), (280, 504)),
        licence=LICENCE,
        origin="SeonghuJeon/GLD and facebook/VGGT-1B on the Hugging Face hub",
        non_commercial=True,
        random_weights=random_weights,
        training_notes=f"Published weights, converted without training. {' '.join(notes)}",
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
        with_progress(modules, progress),
        statistics,
        dtype=dtype,
        overwrite=overwrite,
    )
    return Conversion(bundle, tuple(notes))


def convert_vggt_model(
    model_file: str | Path,
    folder: str | Path,
    *,
    name: str = "vggt",
    dtype: torch.dtype = torch.float32,
    sizes: UnstoredSizes = PUBLISHED_SIZES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Turn the model file of facebook/VGGT-1B into a bundle that holds the backbone alone.

    It keeps the point head too, which novel views do not use. Raises as `convert_official_vggt`
    does.
    """
    notes: list[str] = []
    tensors = _backbone_tensors(Path(model_file), _USED_WITH_DIFFUSION + _OTHER_HEADS, notes)
    config = BundleConfig(
        name=name,
        backbone=BackboneSpec("vggt", infer_vggt_config(tensors, camera_heads=sizes.camera_heads)),
        rgb_decoder=None,
        denoisers={},
        boundary_level=1,
        num_views=_NUM_VIEWS,
        num_euler_points=100,
        guidance_scale=1.0,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((518, 518), (392, 518), (294, 518)),
        licence="CC-BY-NC-4.0 (facebook/VGGT-1B)",
        origin="facebook/VGGT-1B on the Hugging Face hub",
        non_commercial=True,
        random_weights=False,
        training_notes="Published weights, converted without training.",
    )
    modules = with_progress({"backbone": tensors}, progress)
    bundle = save_bundle(folder, config, modules, {}, dtype=dtype, overwrite=overwrite)
    return Conversion(bundle, tuple(notes))


def infer_vggt_config(tensors: Mapping[str, Tensor], *, camera_heads: int) -> VggtConfig:
    """Sizes of a VGGT model from its tensors; WeightsError if they fit no model."""
    embed_dim = shape_of(tensors, "aggregator.camera_token")[-1]
    depth = count_indexed(tensors, "aggregator.frame_blocks.")
    if depth not in _TAP_LAYERS:
        known = ", ".join(map(str, _TAP_LAYERS))
        raise WeightsError(
            f"the aggregator has {depth} frame blocks; the published model has {known}"
        )
    num_heads = embed_dim // shape_of(tensors, "aggregator.frame_blocks.0.attn.q_norm.weight")[0]
    patch_size = shape_of(tensors, "aggregator.patch_embed.patch_embed.proj.weight")[-1]
    table_side = math.isqrt(shape_of(tensors, "aggregator.patch_embed.pos_embed")[1] - 1)
    stages = [shape_of(tensors, f"depth_head.projects.{stage}.weight")[0] for stage in range(4)]
    has_camera_head = "camera_head.token_norm.weight" in tensors
    try:
        return VggtConfig(
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            image_depth=count_indexed(tensors, "aggregator.patch_embed.blocks."),
            image_heads=num_heads,
            tap_layers=_TAP_LAYERS[depth],
            head_features=shape_of(tensors, "depth_head.scratch.layer1_rn.weight")[0],
            head_out_channels=(stages[0], stages[1], stages[2], stages[3]),
            num_registers=shape_of(tensors, "aggregator.register_token")[2],
            image_size=table_side * patch_size,
            patch_size=patch_size,
            mlp_ratio=shape_of(tensors, "aggregator.frame_blocks.0.mlp.fc1.bias")[0] / embed_dim,
            point_head="point_head.norm.weight" in tensors,
            camera_head=has_camera_head,
            camera_heads=camera_heads,
            camera_depth=count_indexed(tensors, "camera_head.trunk.") if has_camera_head else 4,
        )
    except ValueError as error:
        raise WeightsError(f"the backbone's tensors describe no valid model: {error}") from error


def _backbone_tensors(path: Path, wanted: tuple[str, ...], notes: list[str]) -> dict[str, Tensor]:
    """The wanted parts of VGGT-1B; parts that are known and not wanted are noted."""
    tensors = unwrap(read_checkpoint(path), (), path)
    known = _USED_WITH_DIFFUSION + _OTHER_HEADS + _NEVER_USED
    strangers = sorted(name for name in tensors if not name.startswith(known))
    if strangers:
        raise CoverageError(f"{path}: unexpected tensor(s) {', '.join(strangers[:10])}")
    kept = {name: values for name, values in tensors.items() if name.startswith(wanted)}
    left_out = sorted({name.split(".")[0] for name in tensors.keys() - kept.keys()})
    if left_out:
        count = len(tensors) - len(kept)
        notes.append(f"{path.name}: {count} tensors of {', '.join(left_out)} are not used.")
    return kept


def _cascade_variant(
    tensors: dict[str, Tensor], in_file: DenoiserConfig, variant: Variant, notes: list[str]
) -> tuple[dict[str, Tensor], DenoiserConfig]:
    """The cascade with all head blocks of the file, or with the first two of them."""
    encoder_blocks, head_blocks = in_file.depth
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
    end = encoder_blocks + _REFERENCE_HEAD_BLOCKS
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


def _statistics(
    paths: Mapping[str, Path], special: SpecialStatistics, notes: list[str]
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for level in (0, 1):
        tensors |= level_statistics(paths[f"statistics_level{level}"], level)
        tensors |= level_statistics(paths[f"statistics_special{level}"], level, "special")
    if special == "level1":
        for quantity in ("mean", "var"):
            tensors[f"special0.{quantity}"] = tensors[f"special1.{quantity}"].clone()
        notes.append("Special tokens of level 0 are normalised with the statistics of level 1.")
    return tensors


def _statistics_in(folder: Path) -> dict[str, Path]:
    """Statistics files in a folder `model_stats`, or in its `vggt`."""
    parts = {part: Path(places[0]) for part, places in VGGT_FILES.items() if "statistics" in part}
    inner = folder / "vggt" if (folder / "vggt").is_dir() else folder
    return {part: inner / path.name for part, path in parts.items()}
