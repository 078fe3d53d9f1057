"""What stores are filled from: rendered scenes by id, or samples drawn from recordings.

Owns the name that a store's description gives its scenes; writing them is store.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gld_ros.scenes.picking import RecordedScenes
from gld_ros.scenes.recording import Recording
from gld_ros.scenes.rendered import RenderedScenes
from gld_ros.scenes.sample import batch_samples


@dataclass(frozen=True)
class StoreSource:
    """`draw` maps positions in a store to a batch; many processes may do so `side_by_side`."""

    name: str
    draw: Callable[[Sequence[int]], dict[str, Any]]
    side_by_side: bool


def rendered_source(
    scenes: RenderedScenes,
    ids: Sequence[int],
    views: int,
    image_hw: tuple[int, int],
    *,
    num_references: int | None = None,
    antialias: int = 2,
    device: str = "cpu",
) -> StoreSource:
    """Rendered scenes of these ids, in their order."""
    consecutive = isinstance(ids, range) and ids.step == 1
    named = f"{ids[0]}+{len(ids)}" if consecutive else ",".join(map(str, ids))
    draw = partial(
        _render_positions, scenes, ids, views, image_hw, num_references, antialias, device
    )
    return StoreSource(f"{scenes.source} {named} antialias {antialias}", draw, device == "cpu")


def _render_positions(
    scenes: RenderedScenes,
    ids: Sequence[int],
    views: int,
    image_hw: tuple[int, int],
    num_references: int | None,
    antialias: int,
    device: str,
    positions: Sequence[int],
) -> dict[str, Any]:
    chosen = [ids[i] for i in positions]
    return scenes.render(
        chosen,
        views,
        image_hw,
        num_references=num_references,
        antialias=antialias,
        device=device,
    )


def recorded_source(
    kind: str,
    paths: Sequence[Path],
    recordings: Sequence[Recording],
    views: int,
    image_hw: tuple[int, int],
    *,
    first_seed: int = 0,
) -> StoreSource:
    """Samples drawn from recordings opened from `paths`; raises NoSample where all are too short.

    A store has every array: no depth is 0 (unknown), no measured visibility is NaN.
    """
    scenes = RecordedScenes(recordings, views, image_hw)

    def draw(positions: Sequence[int]) -> dict[str, Any]:
        batch = batch_samples([scenes.sample(first_seed + i) for i in positions])
        size = batch["images"].shape
        batch.setdefault("depth_m", torch.zeros(size[0], size[1], *size[3:]))
        batch.setdefault("visible_fraction", torch.full(size[:2], torch.nan))
        return batch

    names = " ".join(path.name for path in paths)
    return StoreSource(
        f"recordings {kind} {names} from seed {first_seed}", draw, side_by_side=False
    )
