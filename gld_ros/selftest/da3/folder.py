"""A folder of Depth Anything 3 fixtures: which file is checked by what, and running them all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gld_ros.selftest.da3.diffusion import (
    check_dit_cascade,
    check_dit_level1,
    check_prope,
    check_sampler,
)
from gld_ros.selftest.da3.geometry_backbone import (
    check_backbone,
    check_camera,
    check_dualdpt,
    check_from_layer,
)
from gld_ros.selftest.da3.models import WEIGHT_FILES, Da3Models
from gld_ros.selftest.da3.novel_views import check_e2e, check_preprocess, check_recon, check_stats
from gld_ros.selftest.da3.rgb_decoder import check_mae
from gld_ros.selftest.fixture import ERRORS, Fixture, checked_rows
from gld_ros.selftest.rows import Row, failed

Check = Callable[[Fixture, Da3Models], Iterator[Row]]

CHECKS: dict[str, Check] = {
    "backbone": check_backbone,
    "from_layer": check_from_layer,
    "dualdpt": check_dualdpt,
    "camera": check_camera,
    "mae": check_mae,
    "prope": check_prope,
    "dit_level1": check_dit_level1,
    "dit_cascade": check_dit_cascade,
    "sampler": check_sampler,
    "e2e": check_e2e,
    "preprocess": check_preprocess,
    "recon": check_recon,
    "stats": check_stats,
}
_OTHER_FILES = {"README.md", "config.json"}


def recognises(folder: Path) -> bool:
    """Whether this is a folder of Depth Anything 3 fixtures."""
    return (folder / "config.json").is_file() and (folder / "weights_da3.safetensors").is_file()


def run_folder(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Row]:
    """Rows of every fixture in the folder; unknown files and failing checks are failed rows.

    Raises ValueError for a config that is no JSON, or a precision that is not offered.
    """
    models = Da3Models(folder, device, dtype)
    for path in sorted(folder.iterdir()):
        if path.name in _OTHER_FILES or (
            path.suffix == ".safetensors" and path.stem in WEIGHT_FILES - CHECKS.keys()
        ):
            continue
        if progress is not None:
            progress(path.name)
        if path.suffix != ".safetensors" or path.stem not in CHECKS:
            yield failed(path.name, "-", "unknown file: nothing checks it")
            continue
        yield from _run_fixture(path, models)


def _run_fixture(path: Path, models: Da3Models) -> Iterator[Row]:
    try:
        fixture = Fixture.read(path)
    except ERRORS as error:
        yield failed(path.stem, "-", f"unreadable: {error}")
        return
    yield from checked_rows(fixture, CHECKS[path.stem](fixture, models))
