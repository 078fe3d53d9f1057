"""Scenes as training batches: stores, recordings of every kind, and mixtures of them.

What a step sees is a pure function of (seed, step, position in the batch), so that a resumed run
skips what it has seen without reading it, and processes share a batch without talking.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gld_ros.geometry.crop_resize import gld_crop_resize, resample_depth
from gld_ros.scenes.picking import NoSample, RecordedScenes, epoch_draws
from gld_ros.scenes.recording import Recording
from gld_ros.scenes.rendered import RenderedScenes
from gld_ros.scenes.rooms import SPLIT_IDS
from gld_ros.scenes.store import SceneStore
from gld_ros.training.config import ConfigError, DataConfig, PartConfig
from gld_ros.training.randomness import derived_seed, generator_for

log = logging.getLogger(__name__)

HELD_OUT_EPOCH = -1
DRAWS_PER_WORLD = 1000
SIZE_MULTIPLE = 14


class BadBatch(ValueError):
    """A batch that cannot be trained on; the loop counts it and goes on with the next."""


class ScenePart(Protocol):
    """Scenes of one kind."""

    has_depth: bool
    skipped: Counter[str]

    def __len__(self) -> int:
        """Return how many scenes one pass over this part shows."""
        ...

    def sample(self, index: int, epoch: int, size_wh: tuple[int, int]) -> dict[str, Tensor]:
        """Return images (V, 3, H, W), depth_m (0 = unknown), K_px and T_world_cam of a scene."""
        ...


class StoredPart:
    """Scenes in stores on disk; stores of one image size are joined end to end.

    All sizes must hold the same number of scenes, so that an index means a scene whatever the
    size. A size that no store has is cut and shrunk from the smallest larger one. Of stores with
    more views than asked for, each epoch shows another subset.
    """

    def __init__(self, paths: Sequence[Path], views: int) -> None:
        self.views = views
        self.skipped: Counter[str] = Counter()
        self.by_size: dict[tuple[int, int], list[SceneStore]] = {}
        for path in paths:
            store = SceneStore.open(path)
            if store.description.views < views:
                raise ConfigError(
                    f"data.views is {views}, but {path} holds {store.description.views} per scene"
                )
            height, width = store.image_hw
            self.by_size.setdefault((width, height), []).append(store)
        lengths = {size: sum(len(s) for s in stores) for size, stores in self.by_size.items()}
        if len(set(lengths.values())) != 1:
            raise ConfigError(
                f"stores of different sizes hold different numbers of scenes: {lengths}"
            )
        self._length = next(iter(lengths.values()))
        if self._length == 0:
            raise ConfigError(f"the stores {', '.join(map(str, paths))} hold no scenes")
        self.has_depth = all(
            bool((store.arrays(0)["depth_m"] > 0).any())
            for stores in self.by_size.values()
            for store in stores
        )

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self._length

    def sample(self, index: int, epoch: int, size_wh: tuple[int, int]) -> dict[str, Tensor]:
        """Return one scene; raises ConfigError when all stores have smaller images."""
        stored_wh = self._stored_size(size_wh)
        stores = self.by_size[stored_wh]
        offset = index
        while offset >= len(stores[0]):
            offset -= len(stores[0])
            stores = stores[1:]
        arrays = stores[0].arrays(offset)
        chosen = self._views(arrays["images"].shape[0], index, epoch)
        sample = {
            name: torch.from_numpy(arrays[name][chosen]).float()
            for name in ("images", "depth_m", "K_px", "T_world_cam")
        }
        sample["images"].div_(255)
        return sample if stored_wh == size_wh else _shrunk(sample, size_wh)

    def _stored_size(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        larger = [s for s in self.by_size if s[0] >= size_wh[0] and s[1] >= size_wh[1]]
        if not larger:
            raise ConfigError(
                f"no store has images of {size_wh[0]}x{size_wh[1]} (data.sizes_wh) or larger; "
                f"there are {', '.join(f'{w}x{h}' for w, h in self.by_size)}"
            )
        return min(larger, key=lambda size: size[0] * size[1])

    def _views(self, stored: int, index: int, epoch: int) -> np.ndarray:
        if stored == self.views:
            return np.arange(stored)
        if epoch == HELD_OUT_EPOCH:
            return np.linspace(0, stored - 1, self.views).round().astype(int)
        order = torch.randperm(stored, generator=generator_for(epoch, index, "views of a store"))
        return np.sort(order[: self.views].numpy())


def _shrunk(sample: dict[str, Tensor], size_wh: tuple[int, int]) -> dict[str, Tensor]:
    """Return a stored scene cut and resized to `size_wh`, as recordings are."""
    image_hw = (size_wh[1], size_wh[0])
    images, intrinsics, depths = [], [], []
    for image, K_px, depth_m in zip(
        sample["images"], sample["K_px"].double().numpy(), sample["depth_m"].numpy(), strict=True
    ):
        stored = image.mul(255).byte().permute(1, 2, 0).contiguous().numpy()
        small, K_small_px = gld_crop_resize(stored, K_px, image_hw)
        images.append(torch.from_numpy(small.copy()).permute(2, 0, 1).float().div_(255))
        depth = resample_depth(depth_m, K_px, K_small_px, image_hw)
        depths.append(torch.from_numpy(np.nan_to_num(depth, nan=0.0)).float())
        intrinsics.append(torch.from_numpy(K_small_px).float())
    return {
        "images": torch.stack(images),
        "depth_m": torch.stack(depths),
        "K_px": torch.stack(intrinsics),
        "T_world_cam": sample["T_world_cam"],
    }


class RecordedPart:
    """Samples drawn from recordings, other ones in every epoch."""

    def __init__(
        self, recordings: Sequence[Recording], config: DataConfig, *, draws: int, thread_safe: bool
    ) -> None:
        self.recordings, self.config = recordings, config
        self.has_depth = all(r.load(0).depth_m is not None for r in recordings)
        self.skipped = Counter(
            {reason: n for r in recordings for reason, n in r.dropped.items() if n}
        )
        self._length = draws or sum(len(recording) for recording in recordings)
        self._counting = threading.Lock()
        self._reading = nullcontext() if thread_safe else threading.Lock()
        self._scenes((SIZE_MULTIPLE, SIZE_MULTIPLE))  # complains now about too few frames

    def __len__(self) -> int:
        """Return the number of draws per epoch."""
        return self._length

    def sample(self, index: int, epoch: int, size_wh: tuple[int, int]) -> dict[str, Tensor]:
        """Draw frames, crop and resize them; raises BadBatch when nothing usable was found."""
        scenes = self._scenes(size_wh)
        try:
            with self._reading:
                drawn = scenes.sample(derived_seed(epoch, index))
        except NoSample as error:
            raise BadBatch(str(error)) from error
        finally:
            with self._counting:
                self.skipped.update(scenes.skipped)
        images: Tensor = drawn["images"]
        depth_m = drawn.get("depth_m", images.new_zeros(images[:, 0].shape))
        names = ("K_px", "T_world_cam")
        return {"images": images, "depth_m": depth_m, **{name: drawn[name] for name in names}}

    def _scenes(self, size_wh: tuple[int, int]) -> RecordedScenes:
        try:
            return RecordedScenes(
                self.recordings,
                self.config.views,
                (size_wh[1], size_wh[0]),
                self.config.max_camera_distance,
            )
        except NoSample as error:
            raise ConfigError(f"data: {error}") from error


class RenderedPart:
    """Mesh worlds or furnished rooms, rendered while training; other views in every epoch."""

    has_depth = True

    def __init__(
        self, scenes: Sequence[RenderedScenes], views: int, *, draws: int, split: str
    ) -> None:
        self.scenes, self.views = scenes, views
        self.ids = SPLIT_IDS[split]
        self.skipped: Counter[str] = Counter()
        self._length = draws or DRAWS_PER_WORLD * len(scenes)

    def __len__(self) -> int:
        """Return the number of scenes per epoch."""
        return self._length

    def sample(self, index: int, epoch: int, size_wh: tuple[int, int]) -> dict[str, Tensor]:
        """Render one scene of the split."""
        scenes = self.scenes[index % len(self.scenes)]
        scene_id = self.ids[derived_seed(epoch, index, "rendered scene") % len(self.ids)]
        batch = scenes.render([scene_id], self.views, (size_wh[1], size_wh[0]))
        return {name: batch[name][0] for name in ("images", "depth_m", "K_px", "T_world_cam")}


class ScenePool:
    """All scenes of a run: one part, or several in given shares, in batches of one image size."""

    def __init__(
        self, parts: dict[str, ScenePart], draws: dict[str, int], config: DataConfig
    ) -> None:
        self.parts, self.config = parts, config
        self.draws = {name: draws.get(name) or len(part) for name, part in parts.items()}
        self.has_depth = all(part.has_depth for part in parts.values())
        self._size_weights = torch.tensor(size_weights(config))
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        prepared = all(isinstance(part, StoredPart) for part in parts.values())
        self._readers = None if prepared else ThreadPoolExecutor(config.workers)
        self._ahead: dict[tuple[int, int, range], list[Future[dict[str, Tensor]]]] = {}

    def __len__(self) -> int:
        """Return the number of scenes of an epoch."""
        return sum(self.draws.values())

    @property
    def skipped(self) -> Counter[str]:
        """What recordings could not give, by reason."""
        return sum((part.skipped for part in self.parts.values()), Counter())

    def training_batch(
        self, seed: int, step: int, batch_size: int, samples: range, device: torch.device
    ) -> dict[str, Tensor]:
        """Return positions `samples` of the batch of `step`: tensors (B, V, ...) on the device."""
        if self._readers is None:
            return _stacked(self._read(seed, step, batch_size, i) for i in samples).to(device)
        futures = self._ahead.pop((seed, step, samples), None) or self._submit(
            seed, step, batch_size, samples
        )
        self._ahead = {(seed, step + 1, samples): self._submit(seed, step + 1, batch_size, samples)}
        return _stacked(future.result() for future in futures).to(device)

    def held_out_batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Return fixed scenes of the first size, those of the parts taking turns."""
        pairs = [self._held_out(index) for index in indices]
        size_wh = self.config.sizes_wh[0]
        return _stacked(
            self.parts[name].sample(index, HELD_OUT_EPOCH, size_wh) for name, index in pairs
        ).to(device)

    def _held_out(self, index: int) -> tuple[str, int]:
        names = list(self.parts)
        for turn in range(max(self.draws.values())):
            for name in names:
                if turn < self.draws[name]:
                    if index == 0:
                        return name, turn
                    index -= 1
        raise IndexError(index)

    def _submit(
        self, seed: int, step: int, batch_size: int, samples: range
    ) -> list[Future[dict[str, Tensor]]]:
        assert self._readers is not None  # only called with readers
        return [self._readers.submit(self._read, seed, step, batch_size, i) for i in samples]

    def _read(self, seed: int, step: int, batch_size: int, position: int) -> dict[str, Tensor]:
        epoch, offset = divmod(step * batch_size + position, len(self))
        name, index = self._epoch(seed, epoch)[offset]
        return self.parts[name].sample(
            index, derived_seed(seed, epoch, name), self.draw_size(seed, step)
        )

    def _draw_epoch(self, seed: int, epoch: int) -> list[tuple[str, int]]:
        sizes = {name: len(part) for name, part in self.parts.items()}
        return epoch_draws(sizes, self.draws, derived_seed(seed, epoch, "epoch"))

    def draw_size(self, seed: int, step: int) -> tuple[int, int]:
        """Return the image size (width, height) of the batch of `step`."""
        generator = generator_for(seed, step, "image size")
        return self.config.sizes_wh[
            int(torch.multinomial(self._size_weights, 1, generator=generator))
        ]


class _Stack(dict[str, Tensor]):
    """Tensors of a batch that move to a device together."""

    def to(self, device: torch.device) -> dict[str, Tensor]:
        return {name: value.to(device, non_blocking=True) for name, value in self.items()}


def _stacked(samples: Any) -> _Stack:
    rows = list(samples)
    return _Stack({name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def size_weights(config: DataConfig) -> list[float]:
    """Return one weight per image size.

    By default the first half of the list counts double, as in the published training of GLD.
    """
    count = len(config.sizes_wh)
    return list(config.size_weights) or [2.0 if i < count // 2 else 1.0 for i in range(count)]


def open_scenes(config: DataConfig) -> ScenePool:
    """Open the training scenes; raises ConfigError for what is missing or empty."""
    return _open(config, [(part, part.paths) for part in config.ingredients], "train")


def open_held_out(config: DataConfig) -> ScenePool | None:
    """Open the held-out scenes; None, with a warning, when the configuration names none.

    A part without paths of its own is left out, so that nothing leaks from training.
    """
    parts = [(p, p.held_out_paths) for p in config.ingredients if p.held_out_paths]
    if not parts:
        log.warning("no held-out scenes are given (held_out_paths): there will be no validation")
        return None
    return _open(config, parts, "validation")


def _open(
    config: DataConfig, chosen: list[tuple[PartConfig, tuple[str, ...]]], split: str
) -> ScenePool:
    parts: dict[str, ScenePart] = {}
    draws: dict[str, int] = {}
    for number, (part, paths) in enumerate(chosen):
        if not paths:
            raise ConfigError(f"data: paths of kind {part.kind!r} is empty; name at least one")
        name = f"{part.kind} {number}"
        parts[name] = _open_part(part, paths, config, split)
        draws[name] = part.draws if split == "train" else 0  # each held-out scene once
    pool = ScenePool(parts, draws, config)
    for (name, part_opened), (_, paths) in zip(parts.items(), chosen, strict=True):
        log.info("%s: %d scenes per epoch from %s", name, pool.draws[name], ", ".join(paths))
        if part_opened.skipped:
            log.warning("%s: frames left out: %s", name, dict(part_opened.skipped))
    return pool


def _open_part(
    part: PartConfig, names: tuple[str, ...], config: DataConfig, split: str
) -> ScenePart:
    if part.kind in ("meshes", "furnished"):
        try:
            rendered = [RenderedScenes(part.kind, name) for name in names]
        except ValueError as error:
            raise ConfigError(f"data: {error}") from error
        return RenderedPart(rendered, config.views, draws=part.draws, split=split)
    paths = [Path(name) for name in names]
    for path in paths:
        if not path.exists():
            raise ConfigError(f"data: {path} does not exist")
    if part.kind == "rooms":
        return StoredPart(paths, config.views)
    # Readers of recordings bring libraries that a run on stores does not need.
    from gld_ros.scenes.datasets import open_recordings

    recordings = [r for path in paths for r in open_recordings(part.kind, path)]
    return RecordedPart(recordings, config, draws=part.draws, thread_safe=part.kind != "bags")
