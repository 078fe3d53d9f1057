"""Scenes kept on disk for training: memory-mapped arrays, written once and read many times.

A store is a folder of `images.npy` (N, V, 3, H, W) uint8, `depth_m.npy` (N, V, H, W) float16 with 0
where unknown, `K_px.npy`, `T_world_cam.npy` and `visible_fraction.npy` in float32, and `store.json`
that says where the scenes come from and how many are complete.
"""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

DESCRIPTION_FILE = "store.json"
CHUNK = 32


class StoreError(ValueError):
    """A store that is damaged, incomplete, or belongs to other scenes."""


@dataclass(frozen=True)
class StoreDescription:
    """What a store holds; `complete` counts the scenes that are fully written."""

    source: str
    scenes: int
    views: int
    image_hw: tuple[int, int]
    complete: int = 0


def _layout(description: StoreDescription) -> dict[str, tuple[type, tuple[int, ...]]]:
    n, v, (h, w) = description.scenes, description.views, description.image_hw
    return {
        "images": (np.uint8, (n, v, 3, h, w)),
        "depth_m": (np.float16, (n, v, h, w)),
        "K_px": (np.float32, (n, v, 3, 3)),
        "T_world_cam": (np.float32, (n, v, 4, 4)),
        "visible_fraction": (np.float32, (n, v)),
    }


class SceneStore:
    """An opened, complete store."""

    def __init__(self, folder: Path, description: StoreDescription) -> None:
        self.folder = folder
        self.description = description
        self._arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _layout(description)
        }

    @classmethod
    def open(cls, folder: Path) -> SceneStore:
        """Open a store; raises StoreError when it is absent, unfinished or damaged."""
        description = read_description(folder)
        if description.complete < description.scenes:
            raise StoreError(
                f"{folder} is unfinished ({description.complete} of {description.scenes} scenes); "
                "run `gld-ros scenes store` again to complete it"
            )
        for name, (dtype, shape) in _layout(description).items():
            try:
                array = np.load(folder / f"{name}.npy", mmap_mode="r")
            except (OSError, ValueError) as error:
                raise StoreError(f"{folder / name}.npy cannot be read: {error}") from error
            if array.shape != shape or array.dtype != dtype:
                raise StoreError(
                    f"{folder / name}.npy holds {array.dtype} {array.shape}; expected "
                    f"{np.dtype(dtype)} {shape}"
                )
        return cls(folder, description)

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.description.scenes

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image size (height, width)."""
        return self.description.image_hw

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """Return the arrays of one scene as stored (images uint8, depth float16)."""
        return {name: np.asarray(array[index]) for name, array in self._arrays.items()}


def read_description(folder: Path) -> StoreDescription:
    """Read `store.json`; raises StoreError when it is absent or damaged."""
    path = folder / DESCRIPTION_FILE
    try:
        values = json.loads(path.read_text())
        return StoreDescription(**{**values, "image_hw": tuple(values["image_hw"])})
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is not a scene store: it has no {DESCRIPTION_FILE}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def write_store(
    folder: Path,
    source: str,
    scenes: int,
    views: int,
    image_hw: tuple[int, int],
    render: Callable[[Sequence[int]], dict[str, Any]],
    *,
    processes: int = 1,
    after_chunk: Callable[[int], None] = lambda complete: None,
) -> SceneStore:
    """Fill a store, or complete an interrupted one.

    `render` maps positions 0..scenes-1 to a batched sample dictionary (images float in [0, 1]).
    With more than one process it must be picklable; each has one thread. `after_chunk` gets the
    number of complete scenes, and may raise to interrupt. Raises StoreError when the folder holds
    a store of other scenes.
    """
    wanted = StoreDescription(source, scenes, views, image_hw)
    layout = _layout(wanted)
    complete = 0
    if (folder / DESCRIPTION_FILE).exists():
        present = read_description(folder)
        if replace(present, complete=0) != wanted:
            raise StoreError(
                f"{folder} holds {present}; requested: {wanted}. Choose another folder."
            )
        complete = present.complete
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, (dtype, shape) in layout.items():
        path = folder / f"{name}.npy"
        mode = "r+" if complete else "w+"
        arrays[name] = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
    chunks = [range(first, min(first + CHUNK, scenes)) for first in range(complete, scenes, CHUNK)]
    with (
        tqdm(
            total=scenes, initial=complete, desc=f"render {source}", unit="scene", disable=None
        ) as bar,
        # Closed at once on an error, so that no process renders on for nobody.
        closing(_rendered(render, chunks, processes)) as batches,
    ):
        for chunk, batch in zip(chunks, batches, strict=True):
            first, last = chunk.start, chunk.stop
            arrays["images"][first:last] = (
                (batch["images"].clamp(0, 1) * 255).round().byte().cpu().numpy()
            )
            for name in ("depth_m", "K_px", "T_world_cam", "visible_fraction"):
                arrays[name][first:last] = batch[name].cpu().numpy()
            for array in arrays.values():
                array.flush()
            _write_description(folder, replace(wanted, complete=last))
            bar.update(last - first)
            after_chunk(last)
    return SceneStore.open(folder)


def _rendered(
    render: Callable[[Sequence[int]], dict[str, Any]], chunks: Sequence[range], processes: int
) -> Generator[dict[str, Any], None, None]:
    """Batches of all chunks in order, made by so many processes."""
    processes = min(processes, len(chunks))
    if processes <= 1:
        yield from map(render, chunks)
        return
    # A forked process would inherit locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_use_one_thread) as pool:
        yield from pool.map(render, chunks)


def _use_one_thread() -> None:
    # The many small operations of a renderer lose more by waiting for each other than they gain.
    import torch

    torch.set_num_threads(1)


def store_bytes(scenes: int, views: int, image_hw: tuple[int, int]) -> int:
    """Bytes of the arrays of a store of so many scenes."""
    layout = _layout(StoreDescription("", scenes, views, image_hw))
    return sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in layout.values())


def _write_description(folder: Path, description: StoreDescription) -> None:
    partial = folder / f".{DESCRIPTION_FILE}.partial"
    partial.write_text(json.dumps(asdict(description), indent=1))
    partial.replace(folder / DESCRIPTION_FILE)
