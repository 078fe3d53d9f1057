"""Runs every fixture of a folder; the kind of folder determines which checks apply.

Adding a kind (another backbone) is one entry in `FOLDER_KINDS`: a module with

    recognises(folder) -> bool
    run_folder(folder, device, dtype, progress) -> Iterator[Row]
"""

from collections.abc import Callable
from pathlib import Path

import torch

from gld_ros.selftest.da3 import folder as da3
from gld_ros.selftest.rows import Row
from gld_ros.selftest.vggt import folder as vggt

DEFAULT_FOLDERS = tuple(Path(__file__).parent / "fixtures" / name for name in ("da3", "vggt"))
FOLDER_KINDS = (da3, vggt)


def run_selftest(
    folder: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """One row per stored quantity of `folder` (default: the sets in the package).

    What cannot be checked (an unknown file, a quantity that no check computes, an error on the
    way) is a failed row. `progress` is called with the name of each file before it is run.
    Raises ValueError when the folder is missing or of no known kind.
    """
    folders = DEFAULT_FOLDERS if folder is None else (Path(folder),)
    return [row for path in folders for row in _rows(path, torch.device(device), dtype, progress)]


def _rows(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[str], None] | None,
) -> list[Row]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of fixtures")
    for kind in FOLDER_KINDS:
        if kind.recognises(folder):
            # Full float32 in convolutions too: cuDNN rounds their inputs to 10 bits by default.
            with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
                return list(kind.run_folder(folder, device, dtype, progress))
    raise ValueError(
        f"{folder} is not a folder of fixtures: it has neither the files of a Depth Anything 3 set "
        "(config.json, weights_da3.safetensors) nor any VGGT fixture (safetensors files with their "
        "sizes in the metadata)"
    )
