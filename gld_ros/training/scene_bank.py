"""Rendered scenes in the memory of the training device, filled while training reads from them.

A batch is one indexing of tensors that are there already, so a fast device never waits for disk,
processes or copies. What a step sees depends on what has arrived: runs from a bank resume, but do
not repeat one another.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gld_ros.training.data import BadBatch
from gld_ros.training.randomness import derived_seed, generator_for

SPREAD_PROBABILITY = 0.5  # of showing views spread over the whole path, rather than any of them
GAIN = 0.15  # relative range of a scene's random gain, for all channels and for each


class SceneBank:
    """Scenes of several sources; a full source replaces its oldest scenes.

    `weights` maps sources to their shares of a batch, among those that have scenes. Scenes hold
    `stored_views` views, samples `views` of them, in path order.
    """

    has_depth = True

    def __init__(
        self,
        weights: Mapping[str, float],
        capacity: int,
        *,
        stored_views: int,
        views: int,
        image_hw: tuple[int, int],
        device: torch.device,
        augment: bool = True,
    ) -> None:
        if not 1 <= views <= stored_views:
            raise ValueError(f"views is {views}; scenes are stored with {stored_views}")
        self.weights, self.capacity, self.views = dict(weights), capacity, views
        self.stored_views, self.image_hw = stored_views, image_hw
        self.device, self.augment = device, augment
        self.skipped: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self._held: dict[str, dict[str, Tensor]] = {}
        self._arrived = threading.Condition()

    def __len__(self) -> int:
        """Return how many scenes there are now."""
        return sum(min(count, self.capacity) for count in self.received.values())

    def add(self, source: str, scenes: Mapping[str, np.ndarray]) -> None:
        """Store scenes of one source, as `scene_renderers` sends them; from any thread."""
        count = len(scenes["images"])
        if source not in self._held:
            self._held[source] = self._empty()
        places = [(self.received[source] + i) % self.capacity for i in range(count)]
        where = torch.tensor(places, device=self.device)
        for name, held in self._held[source].items():
            held[where] = torch.from_numpy(scenes[name]).to(self.device)
        with self._arrived:
            self.received[source] += count
            self._arrived.notify_all()

    def skip(self, reason: str) -> None:
        """Count a scene that could not be made."""
        with self._arrived:
            self.skipped[reason] += 1

    def wait_for(self, scenes: int, timeout_s: float) -> bool:
        """Wait until there are so many scenes; False when they did not come in time."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self) >= scenes, timeout_s)

    def _empty(self) -> dict[str, Tensor]:
        n, s, (h, w) = self.capacity, self.stored_views, self.image_hw
        return {
            "images": torch.empty(n, s, 3, h, w, dtype=torch.uint8, device=self.device),
            "depth_m": torch.empty(n, s, h, w, dtype=torch.float16, device=self.device),
            "K_px": torch.empty(n, s, 3, 3, device=self.device),
            "T_world_cam": torch.empty(n, s, 4, 4, device=self.device),
        }

    def training_batch(
        self, seed: int, step: int, batch_size: int, samples: range, device: torch.device
    ) -> dict[str, Tensor]:
        """Return `len(samples)` scenes (B, V, ...) on the bank's device, mirrored and re-lit."""
        present = [name for name in self.weights if self.received[name]]
        if not present:
            raise BadBatch("no scene has been rendered yet")
        generator = generator_for(seed, step, samples.start, "bank")
        weights = torch.tensor([self.weights[name] for name in present])
        drawn = torch.multinomial(weights, len(samples), replacement=True, generator=generator)
        parts = []
        for number, name in enumerate(present):
            count = int((drawn == number).sum())
            if count:
                filled = min(self.received[name], self.capacity)
                scenes = torch.randint(filled, (count,), generator=generator)
                views = torch.stack([self._views(generator) for _ in range(count)])
                parts.append(self._scenes(name, scenes, views))
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if self.augment:
            on_device = torch.Generator(self.device)
            on_device.manual_seed(derived_seed(seed, step, samples.start, "augmentation"))
            batch = relit(mirrored(batch, on_device), on_device)
        return batch

    def held_out_batch(
        self,
        indices: Sequence[int],
        device: torch.device,
        size_wh: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return scenes by number, the sources taking turns, with views spread over their paths."""
        pairs = self._in_turns()
        views = torch.linspace(0, self.stored_views - 1, self.views).round().long()[None]
        rows = [
            self._scenes(name, torch.tensor([place]), views)
            for name, place in (pairs[index] for index in indices)
        ]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _in_turns(self) -> list[tuple[str, int]]:
        filled = {n: min(self.received[n], self.capacity) for n in self.weights}
        rounds = range(max(filled.values(), default=0))
        return [(name, turn) for turn in rounds for name in filled if turn < filled[name]]

    def _scenes(self, source: str, scenes: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Scenes (B,) with views (B or 1, V) of each."""
        rows, columns = scenes.to(self.device)[:, None], views.to(self.device)
        batch = {name: held[rows, columns] for name, held in self._held[source].items()}
        batch["images"] = batch["images"].float().div_(255)
        batch["depth_m"] = batch["depth_m"].float()
        return batch

    def _views(self, generator: torch.Generator) -> Tensor:
        if bool(torch.rand((), generator=generator) < SPREAD_PROBABILITY):
            return torch.linspace(0, self.stored_views - 1, self.views).round().long()
        return torch.randperm(self.stored_views, generator=generator)[: self.views].sort().values


def mirrored(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Show half of the scenes in a mirror (x to -x): images, depth, intrinsics and poses agree."""
    images, depth_m, K_px, T = (batch[n] for n in ("images", "depth_m", "K_px", "T_world_cam"))
    chosen = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    sign = torch.tensor([-1.0, 1.0, 1.0, 1.0], device=images.device)
    K_mirrored = K_px.clone()
    K_mirrored[..., 0, 2] = images.shape[-1] - 1 - K_px[..., 0, 2]
    K_mirrored[..., 0, 1] = -K_px[..., 0, 1]

    def pick(other: Tensor, own: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, *(1,) * (own.ndim - 1)), other, own)

    return {
        **batch,
        "images": pick(images.flip(-1), images),
        "depth_m": pick(depth_m.flip(-1), depth_m),
        "K_px": pick(K_mirrored, K_px),
        "T_world_cam": pick(sign[:, None] * T * sign, T),
    }


def relit(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Give half of the scenes another exposure and white balance, the same in all their views."""
    images = batch["images"]
    shape, device = (len(images), 1, 1, 1, 1), images.device
    noise = torch.rand((len(images), 4), generator=generator, device=device) * 2 - 1
    chosen = torch.rand(shape, generator=generator, device=device) < 0.5
    gain = (1 + GAIN * noise[:, :1]) * (1 + 0.5 * GAIN * noise[:, 1:])
    gain = torch.where(chosen, gain.view(-1, 1, 3, 1, 1), 1.0)
    return {**batch, "images": (images * gain).clamp_(0, 1)}
