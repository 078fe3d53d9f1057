"""Scenes as training batches: one interface over rendered stores and recorded datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gld_ros.scenes.store import SceneStore
from gld_ros.training.config import ConfigError, DataConfig
from gld_ros.training.randomness import generator_for


class SceneSource(Protocol):
    """A set of scenes that can be drawn as batches of one picture size."""

    def __len__(self) -> int:
        """Return the number of scenes."""
        ...

    def draw_size(self, seed: int) -> tuple[int, int]:
        """Return a picture size (width, height), the same for the same seed."""
        ...

    def batch(
        self, indices: Sequence[int], size_wh: tuple[int, int], device: torch.device
    ) -> dict[str, Any]:
        """Return images (B, V, 3, H, W), depth_m, K_px and T_world_cam of these scenes."""
        ...


class StoredScenes:
    """Rendered or recorded scenes in stores on disk, one set of stores per picture size.

    Stores of one size are joined end to end (a mixture of domains); all sizes must hold the same
    number of scenes, so that an index means a scene whatever the size.
    """

    def __init__(self, paths: Sequence[Path], size_weights: Sequence[float] = ()) -> None:
        self.by_size: dict[tuple[int, int], list[SceneStore]] = {}
        for path in paths:
            store = SceneStore.open(path)
            height, width = store.image_hw
            self.by_size.setdefault((width, height), []).append(store)
        if not self.by_size:
            raise ConfigError("no scene stores given (data.paths is empty)")
        lengths = {size: sum(len(s) for s in stores) for size, stores in self.by_size.items()}
        if len(set(lengths.values())) != 1:
            raise ConfigError(
                f"stores of different sizes hold different numbers of scenes: {lengths}"
            )
        self.length = next(iter(lengths.values()))
        if self.length == 0:
            raise ConfigError(f"the stores {', '.join(map(str, paths))} hold no scenes")
        self.sizes = list(self.by_size)
        self.size_weights = torch.tensor(list(size_weights) or [1.0] * len(self.sizes))
        if len(self.size_weights) != len(self.sizes):
            raise ConfigError(
                f"size_weights has {len(self.size_weights)} entries for {len(self.sizes)} sizes"
            )

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.length

    def draw_size(self, seed: int) -> tuple[int, int]:
        """Return a picture size (width, height), the same for the same seed."""
        if len(self.sizes) == 1:
            return self.sizes[0]
        generator = generator_for(seed, "size")
        return self.sizes[int(torch.multinomial(self.size_weights, 1, generator=generator))]

    def batch(
        self, indices: Sequence[int], size_wh: tuple[int, int], device: torch.device
    ) -> dict[str, Any]:
        """Return images (B, V, 3, H, W) in [0, 1], depth_m, K_px and T_world_cam."""
        rows: dict[str, list[np.ndarray]] = {}
        for index in indices:
            store, offset = self._locate(index, size_wh)
            for name, value in store.arrays(offset).items():
                rows.setdefault(name, []).append(value)
        batch: dict[str, Any] = {}
        for name, values in rows.items():
            tensor = torch.from_numpy(np.stack(values)).to(device)
            batch[name] = tensor.float().div_(255) if name == "images" else tensor.float()
        return batch

    def _locate(self, index: int, size_wh: tuple[int, int]) -> tuple[SceneStore, int]:
        for store in self.by_size[size_wh]:
            if index < len(store):
                return store, index
            index -= len(store)
        raise IndexError(index)


def open_scenes(config: DataConfig, paths: Sequence[str]) -> SceneSource:
    """Open the scenes that a configuration names; raises ConfigError for what is not there."""
    return StoredScenes([Path(path) for path in paths], config.size_weights)


def check_views(batch: dict[str, Tensor], views: int) -> None:
    """Raise ConfigError when the data has fewer views per scene than the run expects."""
    if batch["images"].shape[1] < views:
        raise ConfigError(
            f"data.views is {views}, but the scenes hold {batch['images'].shape[1]} views"
        )
