"""Configuration of a training run: dataclasses read strictly from YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gld_ros.weights.config_json import config_from_json
from gld_ros.weights.errors import BundleError

T = TypeVar("T")


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
class DataConfig:
    """Where scenes come from.

    `kind` is rooms (procedural, from a rendered store), folders, re10k, dl3dv, hypersim,
    tartanair or bags. `sizes_wh` lists the picture sizes; a batch has one size, drawn with
    `size_weights` (equal when empty).
    """

    kind: str
    sizes_wh: tuple[tuple[int, int], ...]
    size_weights: tuple[float, ...] = ()
    domain: str = "narrow"
    scenes: int = 0
    views: int = 4
    paths: tuple[str, ...] = ()
    held_out_paths: tuple[str, ...] = ()
    max_camera_distance: float = 100.0


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


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML run configuration and apply `dotted.name=value` overrides.

    Raises ConfigError for an unreadable file, bad YAML or bad values.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r} is not of the form name=value")
        target = values
        *parents, leaf = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = yaml.safe_load(text)
    return parse(RunConfig, values, path.name)
