"""A bundle: one folder with everything a pipeline needs, `config.json` and safetensors files.

Owns the folder format: reading, writing, loading modules from it. Checking every byte is `verify`,
making one from published checkpoints `convert`, from training `gld_ros.training`.

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.weights.atomic_folder import new_folder, restore_folder
from gld_ros.weights.backbone_kinds import backbone_kind
from gld_ros.weights.config_json import config_from_json, config_to_json
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

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
MAX_DEPTH = 512  # blocks of one network
MAX_SIZE = 1 << 16  # widths, heads, pixels, counts of views and steps
STATISTICS = "statistics"
EMBEDDED_BUNDLES = {"tiny": Path(__file__).parent / "embedded" / "gld-tiny"}

TensorSource = nn.Module | Mapping[str, Tensor] | list[PlannedTensor]


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone a bundle uses (`backbone_kinds`) and its sizes."""

    kind: str
    config: Any


@dataclass(frozen=True)
class DenoiserSpec:
    """One denoiser: its sizes and the time shift of its sampling grid.

    `time_shift` None means: from the latent size of each run (`gld_ros.diffusion.flow.time_shift`).
    `calls` is that of a student, which takes exactly so many steps of that grid and no guidance;
    None for a denoiser, which takes any number.
    """

    config: DenoiserConfig
    time_shift: float | None
    calls: int | None = None

    def __post_init__(self) -> None:
        if self.calls is not None and self.calls < 1:
            raise BundleError(f"calls of a student must be at least 1, got {self.calls}")


def student_name(denoiser: str) -> str:
    """Name of a denoiser's student among the modules of a bundle."""
    return f"{denoiser}_student"


@dataclass(frozen=True)
class FileRecord:
    """What a file of the bundle must be: SHA-256 in hex, size, parameter count, stored dtype."""

    sha256: str
    size_bytes: int
    num_tensors: int
    num_values: int
    dtype: str


@dataclass(frozen=True)
class BundleConfig:
    """Everything about a bundle except the values of its tensors.

    `denoisers` holds "level1" (or "level0", by `boundary_level`), optionally "cascade", and
    optionally a student of each (`student_name`); it is empty and `rgb_decoder` None in a bundle
    that carries a backbone alone. `resolutions_hw` are the image sizes (height, width) that the
    weights were trained for, best one first.
    """

    name: str
    backbone: BackboneSpec
    rgb_decoder: RgbDecoderConfig | None
    denoisers: Mapping[str, DenoiserSpec]
    boundary_level: int
    num_views: int
    num_euler_points: int
    guidance_scale: float
    ray_grid: Literal["official", "centred"]
    pose_scale: Literal["max", "metric"]
    resolutions_hw: tuple[tuple[int, int], ...]
    licence: str
    origin: str
    non_commercial: bool
    random_weights: bool
    training_notes: str = ""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.boundary_level not in (0, 1):
            raise BundleError(f"boundary_level must be 0 or 1, got {self.boundary_level}")
        allowed = {self.base_denoiser, "cascade"} if self.boundary_level == 1 else {"level0"}
        students = {student_name(name) for name in self.denoiser_names}
        wrong = sorted(set(self.denoisers) - allowed - students)
        if wrong or (self.denoisers and self.base_denoiser not in self.denoisers):
            raise BundleError(
                f"a bundle with boundary_level {self.boundary_level} has the denoisers "
                f"{sorted(allowed)} (cascade optional), and at most a student of each "
                f"({student_name(self.base_denoiser)}), got {sorted(self.denoisers)}"
            )
        self._check_calls()
        if self.num_views < 2 or self.num_euler_points < 2:
            raise BundleError(
                "num_views and num_euler_points must be at least 2, got "
                f"{self.num_views} and {self.num_euler_points}"
            )

    def _check_calls(self) -> None:
        calls = {name: spec.calls for name, spec in self.denoisers.items()}
        of_students = {calls[name] for name in self.student_names}
        if None in of_students or len(of_students) > 1:
            raise BundleError(
                f"students must all take one number of calls, got {calls}; train them with the "
                "same options.calls"
            )
        if any(calls[name] is not None for name in self.denoiser_names):
            raise BundleError(f"only students take a fixed number of calls, got {calls}")

    @property
    def imagines(self) -> bool:
        """Whether it can imagine views; else it has only a geometry backbone."""
        return self.rgb_decoder is not None and bool(self.denoisers)

    @property
    def reads_measurements(self) -> bool:
        """Whether its denoiser continues measurements of the targets that it is shown."""
        return any(spec.config.measured for spec in self.denoisers.values())

    @property
    def base_denoiser(self) -> str:
        """Name of the denoiser that starts a run: "level1" or "level0"."""
        return f"level{self.boundary_level}"

    @property
    def denoiser_names(self) -> tuple[str, ...]:
        """The denoisers in the order they run."""
        return tuple(n for n in (self.base_denoiser, "cascade") if n in self.denoisers)

    @property
    def student_names(self) -> tuple[str, ...]:
        """The students, in the order they run."""
        return tuple(n for n in map(student_name, self.denoiser_names) if n in self.denoisers)

    @property
    def module_names(self) -> tuple[str, ...]:
        """The modules that this bundle must carry, in loading order."""
        decoder = () if self.rgb_decoder is None else ("rgb_decoder",)
        return ("backbone", *self.denoiser_names, *self.student_names, *decoder)

    def build_module(self, name: str) -> nn.Module:
        """A module of this config on the device in force; wrap in `without_storage` to load.

        Raises BundleError for a name that is not in `module_names`.
        """
        if name not in self.module_names:
            raise BundleError(
                f"bundle {self.name!r} has no module {name!r}; "
                f"it has {', '.join(self.module_names)}"
            )
        try:
            return self._build(name)
        except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            raise BundleError(
                f"bundle {self.name!r}: the sizes of {name} make no module: {error}"
            ) from error

    def _build(self, name: str) -> nn.Module:
        if name == "backbone":
            module: nn.Module = backbone_kind(self.backbone.kind).build(self.backbone.config)
            return module
        if name == "rgb_decoder":
            assert self.rgb_decoder is not None  # module_names lists it only then
            return RgbDecoder(self.rgb_decoder)
        return Denoiser(self.denoisers[name].config)


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


def read_bundle_config(folder: Path) -> BundleConfig:
    """Parse and check `config.json` of a bundle folder; raises BundleError that names the field."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {CONFIG_FILE}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{path} must hold a JSON object")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format_version {version!r}; this version of gld_ros reads {FORMAT_VERSION}"
        )
    try:
        _check_sizes(data, str(path))
    except RecursionError as error:
        raise BundleError(f"{path} is nested too deeply") from error
    config = config_from_json(BundleConfig, data, str(path))
    for name in config.files:
        # Checked before any of them is touched: a name with a path would leave the folder.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BundleError(f"{path}: {name!r} is not a plain .safetensors name")
    kind = backbone_kind(config.backbone.kind)
    sizes = config_from_json(kind.config_class(), config.backbone.config, f"{path}.backbone.config")
    return replace(config, backbone=replace(config.backbone, config=sizes))


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


def _check_sizes(value: Any, where: str) -> None:
    """Raise BundleError for numbers that would make a module of all memory, or an endless build."""
    if isinstance(value, dict):
        for key, entry in value.items():
            # Only bytes and values of whole files may be large numbers.
            if where.endswith(".json") and key == "files":
                continue
            _check_sizes(entry, f"{where}.{key}")
    elif isinstance(value, list):
        for entry in value:
            _check_sizes(entry, where)
    elif type(value) is int:
        limit = MAX_DEPTH if where.rpartition(".")[2].endswith("depth") else MAX_SIZE
        if abs(value) > limit:
            shown = str(value) if abs(value) < 10**30 else "far more"
            raise BundleError(f"{where} is {shown}; at most {limit} is allowed")


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
