"""Entry point of furnished rooms: scene ids in, sample dictionaries out, as for plain rooms.

Scenes of the train split show the training pieces, all other scenes the held-out ones. Four
consecutive ids share a room and differ in camera path and light: building a room costs as much as
rendering a few views of it.
"""

import colorsys
import functools
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gld_ros.scenes.furnished.arrange import ROOM_KINDS, furnish
from gld_ros.scenes.furnished.materials import COVERS, draw_texture
from gld_ros.scenes.furnished.pieces import open_pieces
from gld_ros.scenes.furnished.shell import draw_shell
from gld_ros.scenes.meshes.generate import MeshWorld, render_world
from gld_ros.scenes.meshes.load import MeshError
from gld_ros.scenes.meshes.paths import PathStyle
from gld_ros.scenes.meshes.surfaces import Surfaces, joined
from gld_ros.scenes.rooms.domains import split_of

# Raise it with every change that changes images: stores of different versions do not mix.
FURNISHED_VERSION = 1
PATHS_PER_ROOM = 4
MAX_ATTEMPTS = 20
PARTITION_PROBABILITY = 0.35
RETINT_PROBABILITY, RECOVER_PROBABILITY = 0.5, 0.12


def render_furnished(
    folder: Path,
    style: PathStyle,
    ids: Sequence[int],
    num_views: int,
    image_hw: tuple[int, int],
    *,
    num_references: int | None = None,
    antialias: int = 2,
) -> dict[str, Any]:
    """Render the scenes of these ids with the furniture of `folder`, as `rooms.render_rooms` does.

    Raises MeshError for an unusable folder, ValueError for an id of no split.
    """
    batches = [
        render_scene(folder, style, scene_id, num_views, image_hw, num_references, antialias)
        for scene_id in ids
    ]
    merged: dict[str, Any] = {
        name: torch.cat([batch[name] for batch in batches])
        for name in ("images", "depth_m", "K_px", "T_world_cam", "visible_fraction")
    }
    return merged | {
        "reference_views": batches[0]["reference_views"],
        "scene_id": [f"furnished/{scene_id}" for scene_id in ids],
        "metric": True,
    }


def render_scene(
    folder: Path,
    style: PathStyle,
    scene_id: int,
    num_views: int,
    image_hw: tuple[int, int],
    num_references: int | None,
    antialias: int,
) -> dict[str, Any]:
    """One scene as a batch of one; rooms without an accepted path are drawn again."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            room = furnished_room(folder, scene_id // PATHS_PER_ROOM, split_of(scene_id), attempt)
            return render_world(
                room,
                style,
                [scene_id],
                num_views,
                image_hw,
                num_references=num_references,
                antialias=antialias,
            )
        except MeshError as error:
            reason = error
    raise MeshError(f"furnished scene {scene_id}: {MAX_ATTEMPTS} rooms failed, last: {reason}")


@functools.lru_cache(maxsize=4)
def furnished_room(folder: Path, room_number: int, split: str, attempt: int) -> MeshWorld:
    """One room as a world; raises MeshError where furniture leaves no free floor."""
    pieces = open_pieces(folder, held_out=split != "train")
    seed = [zlib.crc32(b"furnished"), room_number, attempt]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    kind = list(ROOM_KINDS)[rng.integers(len(ROOM_KINDS))]
    size_m = _draw_size(rng, kind)
    divided = kind != "corridor" and rng.random() < PARTITION_PROBABILITY
    shell = draw_shell(rng, size_m, divided)
    placed = furnish(rng, size_m, kind, pieces, shell.obstacles)
    parts = [*shell.parts]
    parts += [_varied(rng, piece.surfaces).moved(T) for piece, T in placed]
    return MeshWorld.of(f"furnished {room_number}", joined(parts))


def _draw_size(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
    height = rng.uniform(2.4, 3.2)
    if kind == "corridor":
        return (rng.uniform(1.6, 2.6), rng.uniform(5.0, 10.0), height)
    long, short = rng.uniform(3.6, 7.5), rng.uniform(3.0, 6.0)
    return (long, short, height) if rng.random() < 0.5 else (short, long, height)


def _varied(rng: np.random.Generator, surfaces: Surfaces) -> Surfaces:
    """The same piece in another colour, or covered with another material."""
    if rng.random() < RECOVER_PROBABILITY and surfaces.images:
        covers = [draw_texture(rng, COVERS, (0.3, 0.95), (0.05, 0.7)) for _ in surfaces.images]
        return replace(surfaces, images=tuple(covers))
    if rng.random() < RETINT_PROBABILITY:
        count = len(surfaces.tint)
        hue, saturation = rng.random(), rng.uniform(0.0, 0.6)
        colour = np.array(colorsys.hsv_to_rgb(hue, saturation, 1.0))
        factors = colour / colour.mean() * rng.uniform(0.6, 1.4, (count, 1))
        return surfaces.tinted(factors.astype(np.float32))
    return surfaces
