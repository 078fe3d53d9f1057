"""Processes that render scenes into a bank for as long as training lasts.

Each has one thread and few sources, because opening a world costs seconds and memory. One that
dies, or a scene that cannot be made, is counted and logged; the others go on.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gld_ros.scenes.rendered import RenderedScenes
from gld_ros.scenes.rooms import SPLIT_IDS
from gld_ros.training.scene_bank import SceneBank

log = logging.getLogger(__name__)

IDS_TOGETHER = 4  # furnished rooms share a room between four consecutive ids
QUEUED_MESSAGES = 64
MAX_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class RenderSource:
    """What to render under a name; `effort` is its share of the processes."""

    name: str
    scenes: RenderedScenes
    effort: float
    held_out: int = 0


@dataclass(frozen=True)
class _Task:
    """One process's part of a source: every `stride`-th group of ids from the `first`-th on."""

    source: RenderSource
    first: int
    stride: int


def assign(sources: Sequence[RenderSource], processes: int) -> list[list[_Task]]:
    """Share sources among processes by effort; each source gets at least one of them.

    With fewer processes than sources, a process alternates between several.
    """
    total = sum(source.effort for source in sources)
    ends = np.cumsum([source.effort / total for source in sources])
    slots = np.minimum(
        np.searchsorted(ends, (np.arange(processes) + 0.5) / processes), len(sources) - 1
    )
    teams = [[int(p) for p in np.flatnonzero(slots == s)] for s in range(len(sources))]
    for number, team in enumerate(teams):
        if not team:
            team.append(number % processes)
    tasks: list[list[_Task]] = [[] for _ in range(processes)]
    for source, team in zip(sources, teams, strict=True):
        for first, process in enumerate(team):
            tasks[process].append(_Task(source, first, len(team)))
    return tasks


@contextmanager
def rendering(
    sources: Sequence[RenderSource],
    bank: SceneBank,
    held_out: SceneBank,
    *,
    processes: int,
    antialias: int,
    seed: int,
) -> Iterator[None]:
    """Fill both banks in the background until the block ends; held-out scenes come first.

    `seed` chooses the ids: another one shows other scenes of the train split.
    """
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue(QUEUED_MESSAGES)
    workers = [
        context.Process(
            target=_render,
            args=(tasks, bank.stored_views, bank.image_hw, antialias, seed, messages),
            daemon=True,
        )
        for tasks in assign(sources, processes)
        if tasks
    ]
    for worker in workers:
        worker.start()
    ended = threading.Event()
    receiver = threading.Thread(
        target=_receive, args=(messages, bank, held_out, workers, ended), daemon=True
    )
    receiver.start()
    try:
        yield
    finally:
        ended.set()
        for worker in workers:
            worker.terminate()
        receiver.join(timeout=10)


def _receive(
    messages: Any,
    bank: SceneBank,
    held_out: SceneBank,
    workers: list[Any],
    ended: threading.Event,
) -> None:
    dead: set[int] = set()
    while not ended.is_set():
        for number, worker in enumerate(workers):
            if worker.exitcode is not None and number not in dead and not ended.is_set():
                dead.add(number)
                log.error("a rendering process ended with exit code %s", worker.exitcode)
        try:
            source, split, scenes, problem = messages.get(timeout=1.0)
        except queue.Empty:
            continue
        target = held_out if split == "validation" else bank
        if scenes is None:
            log.warning("%s: %s", source, problem)
            bank.skip(source)
            continue
        target.add(source, scenes)


def _render(
    tasks: list[_Task],
    views: int,
    image_hw: tuple[int, int],
    antialias: int,
    seed: int,
    messages: Any,
) -> None:
    """Render one process's tasks for ever."""
    import torch

    torch.set_num_threads(1)
    os.nice(5)
    for task in tasks:
        if task.first == 0 and task.source.held_out:
            groups = range(-(-task.source.held_out // IDS_TOGETHER))
            for group in groups:
                _send(task, group, "validation", views, image_hw, antialias, messages)
    failures, turn = 0, 0
    offset = 1_000_000 * (seed % 900) // IDS_TOGETHER
    while failures < MAX_FAILURES_IN_A_ROW:
        for task in tasks:
            group = offset + task.first + turn * task.stride
            sent = _send(task, group, "train", views, image_hw, antialias, messages)
            failures = 0 if sent else failures + 1
        turn += 1


def _send(
    task: _Task,
    group: int,
    split: str,
    views: int,
    image_hw: tuple[int, int],
    antialias: int,
    messages: Any,
) -> bool:
    """Render one group of ids and send it; False when that failed."""
    ids = SPLIT_IDS[split][group * IDS_TOGETHER : (group + 1) * IDS_TOGETHER]
    source = task.source
    try:
        batch = source.scenes.render(ids, views, image_hw, antialias=antialias)
    except Exception as error:  # one scene must not end the supply; the count tells
        messages.put((source.name, split, None, f"scenes {ids.start} to {ids.stop - 1}: {error!r}"))
        time.sleep(0.05)
        return False
    scenes = {
        "images": (batch["images"].clamp(0, 1) * 255).round().byte().numpy(),
        "depth_m": batch["depth_m"].clamp(0, 60000).half().numpy(),
        "K_px": batch["K_px"].float().numpy(),
        "T_world_cam": batch["T_world_cam"].float().numpy(),
    }
    messages.put((source.name, split, scenes, ""))
    return True
