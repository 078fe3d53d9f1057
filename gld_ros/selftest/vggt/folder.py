"""A folder of VGGT fixtures: which kind of file is checked by what, and running them all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gld_ros.selftest.fixture import ERRORS, checked_rows
from gld_ros.selftest.rows import Row, failed
from gld_ros.selftest.vggt.autoencoder import check_rae
from gld_ros.selftest.vggt.backbone import check_aggregator, check_camera_head, check_dpt
from gld_ros.selftest.vggt.diffusion import check_denoiser
from gld_ros.selftest.vggt.module_file import ModuleFile, read_config

CHECKS: dict[str, Callable[[ModuleFile], Iterator[Row]]] = {
    "aggregator": check_aggregator,
    "dpt": check_dpt,
    "camera_head": check_camera_head,
    "rae": check_rae,
    "dit_level1": check_denoiser,
    "dit_cascade": check_denoiser,
}
_OTHER_FILES = {"README.md"}


def recognises(folder: Path) -> bool:
    """Whether any file of this folder is a VGGT fixture."""
    return any(
        (read_config(path) or {}).get("kind") in CHECKS
        for path in sorted(folder.glob("*.safetensors"))
    )


def run_folder(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Row]:
    """Rows of every fixture in the folder; unknown files and failing checks are failed rows."""
    for path in sorted(folder.iterdir()):
        if path.name in _OTHER_FILES:
            continue
        if progress is not None:
            progress(path.name)
        kind = (read_config(path) or {}).get("kind") if path.suffix == ".safetensors" else None
        if kind not in CHECKS:
            yield failed(path.name, "-", "unknown file: nothing checks it")
            continue
        try:
            file = ModuleFile.read(path, device, dtype)
        except ERRORS as error:
            yield failed(path.stem, "-", f"unreadable: {error}")
            continue
        yield from checked_rows(file.fixture, CHECKS[kind](file))
