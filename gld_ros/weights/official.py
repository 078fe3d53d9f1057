"""The published GLD files (Depth Anything 3 backbone) turned into a bundle, nothing left over.

Owns the folder layout of this family and the sizes of its backbone. What it shares with VGGT is
`published_files`, reading files safely `checkpoint_file`, the bundle format `bundle`. Every tensor
is accounted for in both directions: the official loader skips what does not fit and keeps random
values there, this one names it and stops.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.official_keys import key_from_official
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
_WHERE_FROM = (
    "The encoder is model.safetensors of depth-anything/DA3-Base on the Hugging Face hub; the "
    "statistics come with the code repository of GLD"
)
# The taps are not stored in any tensor; these are the published models by number of blocks.
_TAP_LAYERS = {12: (5, 7, 9, 11), 24: (11, 15, 19, 23), 40: (19, 27, 33, 39)}
# The evaluation that made the published figures shifts time for 252-pixel latents and 8 views,
# whatever the image size.
_SHIFT_GRID, _NUM_VIEWS = 18, 8


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
    given = {} if encoder_file is None else {"encoder": Path(encoder_file)}
    if statistics_folder is not None:
        given |= {
            part: Path(statistics_folder) / Path(OFFICIAL_FILES[part][0]).name
            for part in ("statistics_level0", "statistics_level1")
        }
    paths = locate_files(Path(root), OFFICIAL_FILES, given, _WHERE_FROM)
    notes: list[str] = []

    backbone = _backbone_tensors(paths, notes)
    rgb_decoder = rgb_decoder_tensors(paths["mae_decoder"], notes)
    level1 = denoiser_tensors(paths["level1"])
    cascade = _without_aliases(denoiser_tensors(paths["cascade"]), paths["cascade"], notes)
    statistics = {
        name: values
        for level in (0, 1)
        for name, values in level_statistics(paths[f"statistics_level{level}"], level).items()
    }

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
        with_progress(modules, progress),
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
    modules = with_progress({"backbone": tensors}, progress)
    return Conversion(
        save_bundle(folder, config, modules, {}, dtype=dtype, overwrite=overwrite), ()
    )


def infer_da3_config(tensors: Mapping[str, Tensor], *, camera_heads: int) -> Da3Config:
    """Sizes of a DA3 model from its tensors under our names; WeightsError if they fit no model."""
    embed_dim = shape_of(tensors, "backbone.cls_token")[-1]
    depth = count_indexed(tensors, "backbone.blocks.")
    normalised = [i for i in range(depth) if f"backbone.blocks.{i}.attn.q_norm.weight" in tensors]
    if not normalised or depth not in _TAP_LAYERS:
        raise WeightsError(
            f"the backbone has {depth} blocks, {len(normalised)} of them with normalised queries; "
            f"known any-view models have {', '.join(map(str, _TAP_LAYERS))} blocks"
        )
    first = normalised[0]
    head_dim = shape_of(tensors, f"backbone.blocks.{first}.attn.q_norm.weight")[0]
    patch_size = shape_of(tensors, "backbone.patch_embed.proj.weight")[-1]
    table_side = math.isqrt(shape_of(tensors, "backbone.pos_embed")[1] - 1)
    stages = [shape_of(tensors, f"head.projects.{stage}.weight")[0] for stage in range(4)]
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
            head_features=shape_of(tensors, "head.scratch.layer1_rn.weight")[0],
            head_out_channels=(stages[0], stages[1], stages[2], stages[3]),
            camera_heads=camera_heads,
            camera_depth=count_indexed(tensors, "camera_encoder.trunk."),
            patch_size=patch_size,
            ffn="swiglu" if "backbone.blocks.0.mlp.w12.weight" in tensors else "mlp",
        )
    except ValueError as error:
        raise WeightsError(f"the backbone's tensors describe no valid model: {error}") from error


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
