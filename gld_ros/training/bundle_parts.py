"""The bundle that training jobs build up: read frozen parts, make the trained one, write all back.

A plan (`model/config.json`, a bundle config without files) gives sizes for training from nothing;
an existing bundle gives sizes and weights for the next job or for fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gld_ros.backbones.interface import GeometryBackbone
from gld_ros.training.config import ConfigError
from gld_ros.weights.bundle import Bundle, TensorSource, save_bundle
from gld_ros.weights.bundle_config import BundleConfig, read_bundle_config, student_name
from gld_ros.weights.statistics import LevelStatistics


class WorkingBundle:
    """What a training job knows of the model: the plan of all sizes and the parts that exist."""

    def __init__(self, plan: BundleConfig, present: Bundle | None) -> None:
        self.plan = plan
        self.present = present

    @classmethod
    def open(cls, bundle: str | Path | None, plan_folder: Path | None) -> WorkingBundle:
        """Open the bundle to continue from, the plan to start from, or both (the plan then wins).

        Raises ConfigError when neither is given.
        """
        present = Bundle.open(bundle) if bundle is not None else None
        if plan_folder is not None:
            return cls(read_bundle_config(plan_folder), present)
        if present is None:
            raise ConfigError(
                "give --model FOLDER (sizes, to train from nothing) or --bundle (to continue from)"
            )
        return cls(present.config, present)

    def trainable(self, name: str, device: torch.device) -> nn.Module:
        """Return module `name` in float32: with the bundle's weights, else freshly initialised."""
        if self.present is not None and self.present.has(name):
            module: nn.Module = self.present.load_module(name, device)
        else:
            module = self.plan.build_module(name).to(device)
        return module.train().requires_grad_(True)

    def that_reads_measurements(self, name: str) -> WorkingBundle:
        """Return the same with a denoiser `name` that takes rendered measurements."""
        spec = self.plan.denoisers[name]
        measured = replace(spec, config=replace(spec.config, measured=True))
        denoisers = {**self.plan.denoisers, name: measured}
        return WorkingBundle(replace(self.plan, denoisers=denoisers), self.present)

    def frozen(self, name: str, device: torch.device) -> nn.Module:
        """Return module `name` of the bundle, not to be trained; ConfigError if it is not there."""
        if self.present is None or not self.present.has(name):
            raise ConfigError(f"this job needs a bundle that has {name!r}; train that part first")
        module: nn.Module = self.present.load_module(name, device)
        return module.requires_grad_(False)

    def trainable_backbone(self, device: torch.device) -> GeometryBackbone:
        """`trainable` for the backbone."""
        return cast(GeometryBackbone, self.trainable("backbone", device))

    def frozen_backbone(self, device: torch.device) -> GeometryBackbone:
        """`frozen` for the backbone."""
        return cast(GeometryBackbone, self.frozen("backbone", device))

    def statistics(self, level: int) -> LevelStatistics:
        """Return the statistics of `level`; ConfigError when the bundle has none yet."""
        if self.present is None or not self.present.has("statistics"):
            raise ConfigError(
                "this job needs feature statistics; run `gld-ros train statistics` first"
            )
        # The plan says whether special tokens are diffused; the bundle may have no denoiser yet.
        planned = replace(self.present.config, denoisers=self.plan.denoisers)
        return Bundle(self.present.folder, planned).statistics(level)

    def write(
        self,
        folder: Path,
        modules: Mapping[str, TensorSource] | None = None,
        statistics: dict[str, Tensor] | None = None,
    ) -> Bundle:
        """Write a bundle with the new parts and all other parts that exist, in float32.

        A student is left out when its denoiser is new: it would imitate another one.
        """
        parts: dict[str, TensorSource] = {}
        tables: dict[str, Tensor] = {}
        if self.present is not None:
            outdated = {student_name(name) for name in modules or ()}
            for name in self.present.config.module_names:
                if name not in outdated:
                    parts[name] = load_file(self.present.folder / f"{name}.safetensors")
            if self.present.has("statistics"):
                tables = load_file(self.present.folder / "statistics.safetensors")
        parts.update(modules or {})
        tables |= statistics or {}
        config = replace(
            self.plan,
            rgb_decoder=self.plan.rgb_decoder if "rgb_decoder" in parts else None,
            denoisers={k: spec for k, spec in self.plan.denoisers.items() if k in parts},
            files={},
        )
        return save_bundle(folder, config, parts, tables, overwrite=True)
