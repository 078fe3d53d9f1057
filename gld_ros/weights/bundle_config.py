"""What a bundle is, without the values of its tensors: `config.json`, read and checked.

Sizes, sampling defaults, licence, origin and the record of every file; modules of these sizes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.solvers import Solver
from gld_ros.weights.backbone_kinds import backbone_kind
from gld_ros.weights.config_json import config_from_json
from gld_ros.weights.errors import BundleError

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
MAX_DEPTH = 512  # blocks of one network
MAX_SIZE = 1 << 16  # widths, heads, pixels, counts of views and steps


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
    that carries a backbone alone. Its own way to sample is `solver` on a time grid of
    `num_euler_points`, one more than steps. `resolutions_hw` are the image sizes (height, width)
    that the weights were trained for, best one first.
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
    solver: Solver = "euler"
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
