"""Every file of a bundle against its `config.json`: size, SHA-256, names, shapes, dtypes."""

from dataclasses import dataclass
from pathlib import Path

from gld_ros.weights.bundle import check_dtypes, resolve_bundle
from gld_ros.weights.bundle_config import BundleConfig, read_bundle_config
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.tensor_file import (
    check_coverage,
    float32_in_storage,
    module_layout,
    read_layout,
    sha256_of,
)
from gld_ros.weights.without_storage import without_storage


@dataclass(frozen=True)
class FileCheck:
    """Result of verifying one file of a bundle; `problem` is empty when it is as recorded."""

    file: str
    size_bytes: int
    problem: str = ""


def verify_bundle(folder: str | Path, *, layouts: bool = True) -> list[FileCheck]:
    """Check every file of a bundle against `config.json`: size, SHA-256, tensor names and shapes.

    Reads all bytes. Files ending in .safetensors that the config does not know are reported too.
    Without `layouts` names and shapes are left to whoever loads the modules next, which checks
    them as well. Raises BundleError when there is no readable config.
    """
    folder = resolve_bundle(folder)
    config = read_bundle_config(folder)
    names = {*config.files, *(f"{name}.safetensors" for name in config.module_names)}
    names |= {path.name for path in folder.glob("*.safetensors")}
    return [_check_file(folder / name, config, layouts) for name in sorted(names)]


def _check_file(path: Path, config: BundleConfig, layouts: bool) -> FileCheck:
    if not path.is_file():
        return FileCheck(path.name, 0, "missing")
    size = path.stat().st_size
    record = config.files.get(path.name)
    if record is None:
        return FileCheck(path.name, size, "not recorded in config.json")
    if size != record.size_bytes:
        return FileCheck(path.name, size, f"{record.size_bytes} bytes are recorded")
    sha256 = sha256_of(path)
    if sha256 != record.sha256:
        return FileCheck(path.name, size, f"SHA-256 is {sha256}, recorded is {record.sha256}")
    name = path.name.removesuffix(".safetensors")
    if not layouts:
        return FileCheck(path.name, size)
    try:
        layout = read_layout(path)
        if name in config.module_names:
            with without_storage():
                module = config.build_module(name)
            found = {key: shape for key, (shape, _) in layout.items()}
            check_coverage(module_layout(module), found, path.name)
            check_dtypes(path, record.dtype, float32_in_storage(module))
    except WeightsError as error:
        return FileCheck(path.name, size, str(error))
    return FileCheck(path.name, size)
