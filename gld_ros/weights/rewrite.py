"""A bundle written again, under another name, in another precision: what training ends with."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from gld_ros.weights.bundle import STATISTICS, Bundle, save_bundle


def rewrite_bundle(
    bundle: Bundle,
    folder: Path,
    *,
    dtype: torch.dtype,
    name: str,
    origin: str,
    licence: str,
    overwrite: bool = False,
) -> Bundle:
    """Write the weights of `bundle` to `folder` in `dtype`; statistics stay in float32.

    Raises BundleError if `folder` exists without `overwrite`.
    """
    files = {n: load_file(bundle.folder / f"{n}.safetensors") for n in bundle.config.module_names}
    statistics = {}
    if bundle.has(STATISTICS):
        statistics = load_file(bundle.folder / f"{STATISTICS}.safetensors")
    config = replace(bundle.config, name=name, origin=origin, licence=licence, random_weights=False)
    return save_bundle(folder, config, files, statistics, dtype=dtype, overwrite=overwrite)
