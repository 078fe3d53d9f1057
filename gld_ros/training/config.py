"""Configuration of a training run: dataclasses read strictly from YAML."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from gld_ros.plain_yaml import YamlError, parse_yaml, read_yaml
from gld_ros.weights.config_json import config_from_json
from gld_ros.weights.errors import BundleError

T = TypeVar("T")

MADE_KINDS = ("rooms", "meshes", "furnished")  # rendered, not recorded
PART_KINDS = (*MADE_KINDS, "folders", "re10k", "dl3dv", "hypersim", "tartanair", "bags")


class ConfigError(ValueError):
    """A configuration file with an unknown, missing or mistyped value."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup_steps: int = 0
    final_fraction: float = 1.0
    ema_decay: float = 0.9995


@dataclass(frozen=True)
class PartConfig:
    """One ingredient of a mix of data.

    `draws` scenes of every epoch come from it; 0 means each stored scene, or as many samples as a
    recording has frames. `held_out_paths` may stay empty: then it is not validated on.
    """

    kind: str
    paths: tuple[str, ...]
    held_out_paths: tuple[str, ...] = ()
    draws: int = 0

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.kind not in PART_KINDS:
            raise ConfigError(
                f"data kind {self.kind!r} is unknown; use one of {', '.join(PART_KINDS)} or mix"
            )


@dataclass(frozen=True)
class DataConfig:
    """Where scenes come from.

    `kind` is rooms (stores written by `gld-ros scenes store`), meshes (mesh files) or furnished
    (folders of furniture), both rendered on the fly, folders, re10k, dl3dv, hypersim, tartanair or
    bags, found at `paths`; or mix, with one entry of `parts` per ingredient.
    `sizes_wh` lists the image sizes; a batch has one size, drawn with `size_weights` (empty:
    the first half of the list counts double). Recorded cameras farther from the origin than
    `max_camera_distance` are drawn again. `workers` threads read recordings.
    """

    kind: str
    sizes_wh: tuple[tuple[int, int], ...]
    size_weights: tuple[float, ...] = ()
    views: int = 4
    paths: tuple[str, ...] = ()
    held_out_paths: tuple[str, ...] = ()
    draws: int = 0
    parts: tuple[PartConfig, ...] = ()
    max_camera_distance: float = 100.0
    workers: int = 4

    def __post_init__(self) -> None:
        """Check sizes, weights and that paths or parts are given as the kind wants."""
        if not self.sizes_wh:
            raise ConfigError("data.sizes_wh is empty; give at least one [width, height]")
        for size in self.sizes_wh:
            if min(size) < 14 or size[0] % 14 or size[1] % 14:
                raise ConfigError(
                    f"data.sizes_wh has {list(size)}; both sides must be multiples of 14 pixels"
                )
        weights = self.size_weights
        if weights and (len(weights) != len(self.sizes_wh) or min(weights) < 0 or not sum(weights)):
            raise ConfigError(
                f"data.size_weights is {list(weights)}; it needs one non-negative weight for each "
                f"of the {len(self.sizes_wh)} sizes, not all zero"
            )
        for name, lowest in (("views", 1), ("workers", 1), ("draws", 0)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; it must be >= {lowest}")
        if (self.kind == "mix") != bool(self.parts):
            raise ConfigError("data.parts belongs to kind mix, and a mix needs at least one part")
        if self.kind == "mix" and (self.paths or self.held_out_paths or self.draws):
            raise ConfigError("data: in a mix, paths, held_out_paths and draws belong to the parts")
        _ = self.ingredients

    @property
    def ingredients(self) -> tuple[PartConfig, ...]:
        """The parts of a mix, or the one part that this configuration is."""
        if self.kind == "mix":
            return self.parts
        return (PartConfig(self.kind, self.paths, self.held_out_paths, self.draws),)


@dataclass(frozen=True)
class RunConfig:
    """Everything that one training job needs; `options` is the stage's own section."""

    stage: str
    steps: int
    batch_size: int
    data: DataConfig
    optimizer: OptimizerConfig
    accumulation: int = 1
    seed: int = 0
    precision: str = "auto"
    distributed: str = "ddp"
    checkpoint_minutes: float = 5.0
    validate_every: int = 500
    max_loss: float = 1000.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values that no stage can work with."""
        if self.distributed not in ("ddp", "fsdp"):
            raise ConfigError(f"distributed is {self.distributed!r}; use ddp or fsdp")
        for name in ("steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"batch_size {self.batch_size} is not a multiple of accumulation "
                f"{self.accumulation}"
            )


def parse(cls: type[T], values: Any, where: str) -> T:
    """Build dataclass `cls` from nested plain values.

    Raises ConfigError naming the unknown, missing or mistyped field and what is allowed.
    """
    try:
        return config_from_json(cls, values, where)
    except BundleError as error:
        raise ConfigError(str(error)) from error


def with_recordings(config: RunConfig, paths: Sequence[str], held_out: Sequence[str]) -> RunConfig:
    """The same job on other recordings; an empty sequence keeps those of the configuration.

    Raises ConfigError unless exactly one part of the data is recordings.
    """
    if not paths and not held_out:
        return config
    data = config.data
    recorded = [i for i, part in enumerate(data.ingredients) if part.kind not in MADE_KINDS]
    if len(recorded) != 1:
        raise ConfigError(
            f"--recordings and --held-out need one part of recordings in the data; it has "
            f"{len(recorded)}. To learn from bags instead of what the configuration names, add "
            "--set data.kind=bags; else set data.paths, data.held_out_paths or data.parts"
        )
    own = data.ingredients[recorded[0]]
    chosen = tuple(paths) or own.paths, tuple(held_out) or own.held_out_paths
    if data.kind != "mix":
        changed = replace(data, paths=chosen[0], held_out_paths=chosen[1])
    else:
        part = replace(own, paths=chosen[0], held_out_paths=chosen[1])
        parts = tuple(part if i == recorded[0] else p for i, p in enumerate(data.parts))
        changed = replace(data, parts=parts)
    return replace(config, data=changed)


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML run configuration as `read_settings` does; raises ConfigError for bad values."""
    return parse(RunConfig, read_settings(path, overrides), path.name)


def read_settings(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Read a YAML mapping and apply `dotted.name=value` overrides.

    Raises ConfigError for an unreadable file or bad YAML.
    """
    try:
        values = read_yaml(path)
    except YamlError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings")
    apply_overrides(values, overrides)
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `dotted.name=value` in nested values, in place; raises ConfigError for other texts."""
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r} is not of the form name=value")
        target = values
        *parents, leaf = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"override {override!r}: {parent!r} is no section")
        try:
            target[leaf] = parse_yaml(text)
        except YamlError as error:
            raise ConfigError(f"override {override!r}: {error}") from error
