"""Published files turned into a bundle, completely or not at all.

Every tensor is accounted for in both directions; tensors pass one at a time from the mapped files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.flow import time_shift
from gld_ros.weights.bundle import Bundle, TensorSource, save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig, DenoiserSpec
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.families import FAMILIES, NUM_VIEWS, Family, find_inputs, recognise
from gld_ros.weights.published_diffusion import (
    SpecialStatistics,
    Variant,
    cascade_variant,
    check_statistics_width,
    denoiser_tensors,
    infer_denoiser_config,
    infer_rgb_decoder_config,
    read_statistics,
    rgb_decoder_tensors,
    without_aliases,
)
from gld_ros.weights.tensor_file import PlannedTensor

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


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    kind: str | None = None,
    name: str | None = None,
    encoder_file: Path | None = None,
    statistics: Path | None = None,
    variant: Variant | None = None,
    special_statistics: SpecialStatistics | None = None,
    dtype: torch.dtype = torch.float32,
    sizes: UnstoredSizes = PUBLISHED_SIZES,
    random_weights: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Turn the published files at `source` into a bundle at `folder`.

    kind: a name of `FAMILIES`; None recognises it. encoder_file, statistics: where these inputs
        are if not in their place below `source` (`families.find_inputs`).
    variant: of gld-vggt: "full" (default) runs every head block of the cascade file, presumably as
        trained; "reference" the first two, which is what the released evaluation computes: its
        configuration says two, and it drops the others without a message.
    special_statistics: of gld-vggt: with which statistics the special tokens of level 0 are
        normalised: their "own", as in training, or those of "level1", as in the released
        evaluation. None follows the variant: own for full, level1 for reference.
    sizes: what no tensor shows. progress: called per tensor with (module, done, total).

    Raises WeightsError for a missing or unreadable file, UnsafeCheckpointError for a pickle with
    code, CoverageError naming any tensor that is missing, unexpected or misshapen.
    """
    source = Path(source)
    kind = kind or recognise(source)
    if kind not in FAMILIES:
        raise WeightsError(f"kind is {kind!r}; use one of {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    check_options(kind, encoder_file, statistics, variant, special_statistics)
    paths = find_inputs(family, source, encoder_file, statistics)
    notes: list[str] = []
    modules = {"backbone": family.read(paths, notes)}
    backbone = family.infer(modules["backbone"], camera_heads=sizes.camera_heads)
    rgb_decoder = None
    denoisers: dict[str, DenoiserConfig] = {}
    tables: dict[str, Tensor] = {}
    if family.imagines:
        tables = read_statistics(paths, family.statistics)
        check_statistics_width(tables, backbone.channels, paths)
        modules["rgb_decoder"] = rgb_decoder_tensors(paths["mae_decoder"], notes)
        rgb_decoder = infer_rgb_decoder_config(
            modules["rgb_decoder"], heads=sizes.rgb_decoder_heads
        )
        modules["level1"] = denoiser_tensors(paths["level1"])
        level1 = infer_denoiser_config(modules["level1"], heads=sizes.level1_heads)
        modules["cascade"], cascade = _cascade(family, paths["cascade"], sizes, variant, notes)
        own = special_statistics or ("level1" if variant == "reference" else "own")
        if family.has_variants and own == "level1":
            for quantity in ("mean", "var"):
                tables[f"special0.{quantity}"] = tables[f"special1.{quantity}"].clone()
            notes.append("Special tokens of level 0 are normalised with the statistics of level 1.")
        denoisers = {"level1": level1, "cascade": cascade}
    config = converted_config(family, name or kind, backbone, rgb_decoder, denoisers)
    config = replace(
        config,
        random_weights=random_weights,
        training_notes=" ".join([config.training_notes, *notes]),
    )
    ordered = {name: modules[name] for name in config.module_names}
    planned = _one_at_a_time(ordered, progress)
    bundle = save_bundle(folder, config, planned, tables, dtype=dtype, overwrite=overwrite)
    return Conversion(bundle, tuple(notes))


def converted_config(
    family: Family,
    name: str,
    backbone: Any,
    rgb_decoder: RgbDecoderConfig | None,
    denoisers: Mapping[str, DenoiserConfig],
) -> BundleConfig:
    """The configuration of a family's bundle, by the sizes of its networks."""
    shift = time_shift(backbone.channels, family.shift_grid, family.shift_grid, NUM_VIEWS)
    return BundleConfig(
        name=name,
        backbone=BackboneSpec(family.backbone, backbone),
        rgb_decoder=rgb_decoder,
        denoisers={part: DenoiserSpec(config, shift) for part, config in denoisers.items()},
        boundary_level=1,
        num_views=NUM_VIEWS,
        num_euler_points=family.num_euler_points,
        guidance_scale=1.5 if family.imagines else 1.0,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=family.resolutions_hw,
        licence=family.licence,
        origin=family.origin,
        non_commercial=family.non_commercial,
        random_weights=False,
        training_notes="Published weights, converted without training.",
    )


def check_options(
    kind: str,
    encoder_file: Path | None,
    statistics: Path | None,
    variant: str | None,
    special_statistics: str | None,
) -> None:
    """Raise ValueError for an option of `convert` that files of this family do not have."""
    family = FAMILIES[kind]
    given: dict[str, object] = {}
    if not family.imagines:
        given |= {"--encoder": encoder_file, "--statistics": statistics}
    if not family.has_variants:
        given |= {"--variant": variant, "--special-statistics": special_statistics}
    unusable = [flag for flag, value in given.items() if value is not None]
    if unusable:
        raise ValueError(f"{', '.join(unusable)}: not an option of {kind} files")
    if variant not in (None, "full", "reference"):
        raise ValueError(f"variant is {variant!r}; use 'full' or 'reference'")
    if special_statistics not in (None, "own", "level1"):
        raise ValueError(f"special_statistics is {special_statistics!r}; use 'own' or 'level1'")


def _cascade(
    family: Family, path: Path, sizes: UnstoredSizes, variant: Variant | None, notes: list[str]
) -> tuple[dict[str, Tensor], DenoiserConfig]:
    tensors = without_aliases(denoiser_tensors(path), path, notes)
    config = infer_denoiser_config(tensors, heads=sizes.cascade_heads, cascade=True)
    if not family.has_variants:
        return tensors, config
    return cascade_variant(tensors, config, variant or "full", notes)


def _one_at_a_time(
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
