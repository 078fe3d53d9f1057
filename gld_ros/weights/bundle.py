"""A bundle: one folder with everything a pipeline needs, `config.json` and safetensors files.

Owns the folder: opening, writing, loading modules from it. `config.json` is `bundle_config`,
checking every byte `verify`, making one from published checkpoints `convert`, from training
`gld_ros.training`.

    config.json              `BundleConfig`: sizes, sampling defaults, licence, origin, file hashes
    backbone.safetensors     geometry backbone with its heads
    rgb_decoder.safetensors  features -> RGB
    level1.safetensors       denoiser of the boundary level (level0.safetensors where that is 0)
    cascade.safetensors      denoiser of level 0 given level 1, optional
    level1_student.safetensors, ...  students of these denoisers, optional
    statistics.safetensors   level{n}.mean, level{n}.var (special{n}.* for special tokens)
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gld_ros.weights.atomic_folder import new_folder, restore_folder
from gld_ros.weights.bundle_config import (
    CONFIG_FILE,
    FORMAT_VERSION,
    BundleConfig,
    FileRecord,
    read_bundle_config,
)
from gld_ros.weights.config_json import config_to_json
from gld_ros.weights.errors import BundleError, WeightsError
from gld_ros.weights.statistics import LevelStatistics
from gld_ros.weights.storage import bundles_home
from gld_ros.weights.tensor_file import (
    DTYPE_NAMES,
    PlannedTensor,
    check_coverage,
    float32_in_storage,
    load_into,
    module_layout,
    open_tensor_file,
    read_layout,
    write_tensor_file,
)
from gld_ros.weights.without_storage import without_storage

STATISTICS = "statistics"
EMBEDDED_BUNDLES = {"tiny": Path(__file__).parent / "embedded" / "gld-tiny"}

TensorSource = nn.Module | Mapping[str, Tensor] | list[PlannedTensor]


class Bundle:
    """An opened bundle folder: its config, and modules loaded from it when asked for."""

    def __init__(self, folder: Path, config: BundleConfig) -> None:
        self.folder = folder
        self.config = config

    @classmethod
    def open(cls, path_or_name: str | Path = "tiny") -> "Bundle":
        """Open a bundle folder, the embedded bundle "tiny", or a fetched bundle by its name.

        Reads only `config.json` and checks that every file is there with its recorded size.
        Raises BundleError that says what is missing and what to do.
        """
        folder = resolve_bundle(path_or_name)
        config = read_bundle_config(folder)
        _check_files_present(folder, config)
        return cls(folder, config)

    def has(self, name: str) -> bool:
        """Whether this bundle carries module `name` (or "statistics")."""
        return f"{name}.safetensors" in self.config.files

    def load_module(
        self,
        name: str,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        """Module `name` in eval mode on `device` in `dtype`, its weights read straight into it.

        The module is built on the meta device, so nothing is initialised at random and the weights
        are in memory once. Parts that a module class declares as float32 stay so
        (`tensor_file.float32_at_run`). Raises BundleError for an unknown name, CoverageError that
        names any missing, unexpected or misshapen tensor, WeightsError for a dtype not recorded.
        """
        with without_storage():
            module = self.config.build_module(name)
        self.fill_module(module, name, device, dtype)
        return module

    def fill_module(
        self, module: nn.Module, name: str, device: str | torch.device, dtype: torch.dtype
    ) -> None:
        """Read the weights of module `name` into one built `without_storage`; as `load_module`."""
        path = self.folder / f"{name}.safetensors"
        check_dtypes(path, self.config.files[path.name].dtype, float32_in_storage(module))
        load_into(module, path, device=device, dtype=dtype)

    def statistics(self, level: int) -> LevelStatistics:
        """Mean and variance of level `level`, and of its special tokens if these are diffused.

        Float32, on the CPU. Raises BundleError naming what is not there.
        """
        diffuses_special = any(d.config.special_tokens for d in self.config.denoisers.values())
        with open_tensor_file(self.folder / f"{STATISTICS}.safetensors") as file:

            def read(group: str, special: LevelStatistics | None = None) -> LevelStatistics:
                names = set(file.keys())
                if not {f"{group}.mean", f"{group}.var"} <= names:
                    raise BundleError(
                        f"bundle {self.config.name!r} has no statistics {group!r}; "
                        f"it has {', '.join(sorted({n.split('.')[0] for n in names}))}"
                    )
                mean, var = (
                    file.get_tensor(f"{group}.{quantity}").float().reshape(-1)
                    for quantity in ("mean", "var")
                )
                return LevelStatistics(mean, var, special)

            return read(f"level{level}", read(f"special{level}") if diffuses_special else None)

    def size_bytes(self) -> dict[str, int]:
        """Bytes on disk of every file of the folder, `config.json` included."""
        names = [CONFIG_FILE, *self.config.files]
        return {name: (self.folder / name).stat().st_size for name in names}

    def parameter_count(self) -> dict[str, int]:
        """Number of parameters per module."""
        return {
            n: self.config.files[f"{n}.safetensors"].num_values for n in self.config.module_names
        }


def save_bundle(
    folder: str | Path,
    config: BundleConfig,
    modules: Mapping[str, TensorSource],
    statistics: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle; the folder appears complete or not at all.

    `modules` maps each of `config.module_names` to a module, its state dict, or a list of
    `PlannedTensor` that are read one at a time. `statistics` maps "level{n}.mean" and
    "level{n}.var" ("special{n}.*") to tensors of C values; they are stored in float32. `dtype` is
    that of the stored parameters. `config.files` is filled here. Everything is written to a
    hidden folder beside `folder`, flushed, and renamed. Raises BundleError if `folder` exists
    without `overwrite`, or modules and config do not fit together.
    """
    folder = Path(folder)
    if set(modules) != set(config.module_names):
        raise BundleError(
            f"bundle {config.name!r} needs the modules {', '.join(config.module_names)}; "
            f"given: {', '.join(modules) or 'none'}"
        )
    with new_folder(folder, overwrite=overwrite) as partial:
        records = {
            f"{name}.safetensors": _write_module(partial, name, config, source, dtype)
            for name, source in modules.items()
        }
        if statistics:
            records[f"{STATISTICS}.safetensors"] = _write_statistics(partial, statistics)
        written = replace(config, files=records, format_version=FORMAT_VERSION)
        text = json.dumps(config_to_json(written), indent=1) + "\n"
        with (partial / CONFIG_FILE).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    return Bundle.open(folder)


def resolve_bundle(path_or_name: str | Path) -> Path:
    """Folder of the bundle that `Bundle.open` would open; BundleError if there is none."""
    name = str(path_or_name)
    if name in EMBEDDED_BUNDLES:
        folder = EMBEDDED_BUNDLES[name]
        if not (folder / CONFIG_FILE).is_file():
            raise BundleError(
                f"the embedded bundle {name!r} is not in this installation (expected {folder}); "
                "reinstall the package or give the folder of another bundle"
            )
        return folder
    try:
        folder = Path(path_or_name).expanduser()
    except RuntimeError as error:  # "~somebody" whom this machine does not know
        raise BundleError(f"no bundle {name!r}: {error}") from error
    restore_folder(folder)
    if folder.is_dir():
        return folder
    fetched = bundles_home() / name
    if os.sep not in name and fetched.is_dir():
        return fetched
    raise BundleError(
        f"no bundle {name!r}: it is not a folder, not embedded ({', '.join(EMBEDDED_BUNDLES)}) and "
        f"not fetched (looked in {bundles_home()}); see `gld-ros weights list`"
    )


def check_dtypes(path: Path, recorded: str, float32_names: frozenset[str]) -> None:
    """Raise WeightsError unless tensors are stored as recorded, `float32_names` in float32."""
    if recorded not in DTYPE_NAMES:
        raise BundleError(
            f"{path.name} is recorded with dtype {recorded!r}; allowed: {', '.join(DTYPE_NAMES)}"
        )
    for name, (_, stored) in read_layout(path).items():
        wanted = torch.float32 if name in float32_names else DTYPE_NAMES[recorded]
        if stored != wanted:
            raise WeightsError(f"{path}: {name} is stored as {stored}, recorded is {wanted}")


def _check_files_present(folder: Path, config: BundleConfig) -> None:
    for name in config.module_names:
        if f"{name}.safetensors" not in config.files:
            raise BundleError(f"{folder / CONFIG_FILE}: files does not list {name}.safetensors")
    for name, record in config.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"bundle {folder} is incomplete: {name} is missing")
        size = path.stat().st_size
        if size != record.size_bytes:
            raise BundleError(f"{path} has {size} bytes, {record.size_bytes} are recorded")


def _write_module(
    partial: Path, name: str, config: BundleConfig, source: TensorSource, dtype: torch.dtype
) -> FileRecord:
    with without_storage():
        reference = config.build_module(name)
    float32_names = float32_in_storage(reference)
    if isinstance(source, list):
        tensors = source
    else:
        state = source.state_dict() if isinstance(source, nn.Module) else source
        tensors = [PlannedTensor.of(key, values) for key, values in state.items()]
    tensors = [
        replace(entry, dtype=torch.float32 if entry.name in float32_names else dtype)
        for entry in tensors
    ]
    found = {entry.name: entry.shape for entry in tensors}
    check_coverage(module_layout(reference), found, f"module {name} of bundle {config.name!r}")
    return _record(partial / f"{name}.safetensors", tensors, dtype)


def _write_statistics(partial: Path, statistics: Mapping[str, Tensor]) -> FileRecord:
    tensors = [
        PlannedTensor.of(name, values.float().reshape(1, -1, 1, 1))
        for name, values in statistics.items()
    ]
    return _record(partial / f"{STATISTICS}.safetensors", tensors, torch.float32)


def _record(path: Path, tensors: list[PlannedTensor], dtype: torch.dtype) -> FileRecord:
    written = write_tensor_file(path, tensors)
    dtype_name = next(name for name, value in DTYPE_NAMES.items() if value == dtype)
    return FileRecord(
        written.sha256, written.size_bytes, written.num_tensors, written.num_values, dtype_name
    )
