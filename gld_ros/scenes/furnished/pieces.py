"""Pieces of furniture from a folder: which belong to training, and where their fronts are.

The folder holds `furniture.csv` with at least the columns name, file, category and place (floor,
top, wall or ceiling). Pieces are in metres, z up, standing on z = 0 with x = y = 0 in their middle.
"""

import csv
import functools
import math
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gld_ros.scenes.meshes.load import MeshAddress, MeshError, load_surfaces
from gld_ros.scenes.meshes.surfaces import FloatArray, Surfaces, face_normals

LIST_FILE = "furniture.csv"
COLUMNS = ("name", "file", "category", "place")
PLACES = ("floor", "top", "wall", "ceiling")
# Larger pieces (rows of warehouse racks, whole counters) leave no room to drive in.
LARGEST_M = (3.4, 3.0)
HELD_OUT_SHARE = 0.3
SEATS = ("bed", "chair", "sofa")
_SAMPLES = 3000


@dataclass(frozen=True)
class Piece:
    """One piece; `front` is the direction that its front faces, radians from x towards y."""

    name: str
    category: str
    place: str
    surfaces: Surfaces
    size_m: FloatArray
    front: float


@functools.lru_cache(maxsize=4)
def open_pieces(folder: Path, held_out: bool) -> tuple[Piece, ...]:
    """The pieces of training scenes, or those held out of them; raises MeshError."""
    rows = _read_list(folder)
    apart = held_out_names(rows)
    pieces = []
    for row in rows:
        if (row["name"] in apart) != held_out:
            continue
        surfaces = load_surfaces(MeshAddress(folder / row["file"]), is_world=False)
        low, high = surfaces.bounds
        size_m = high - low
        if max(size_m[:2]) > LARGEST_M[0] or size_m[2] > LARGEST_M[1]:
            continue
        T = np.eye(4)
        T[:3, 3] = (*(-0.5 * (low + high)[:2]), -low[2])
        surfaces = surfaces.moved(T)
        front = find_front(surfaces, row["category"])
        pieces.append(Piece(row["name"], row["category"], row["place"], surfaces, size_m, front))
    if not pieces:
        raise MeshError(f"{folder / LIST_FILE} lists no piece small enough for a room")
    return tuple(pieces)


def held_out_names(rows: list[dict[str, str]]) -> set[str]:
    """Names that training never sees: of every category with two or more, about a third."""
    by_category: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_category[row["category"]].append(row["name"])
    held_out: set[str] = set()
    for names in by_category.values():
        if len(names) > 1:
            count = max(1, round(HELD_OUT_SHARE * len(names)))
            held_out.update(sorted(names, key=lambda n: zlib.crc32(n.encode()))[:count])
    return held_out


def find_front(surfaces: Surfaces, category: str) -> float:
    """The direction that a piece's front faces: one of four, radians from x towards y.

    Seats: away from where their upper third is (the back, a bed's head). Others: away from their
    flattest side across their thinner axis (the panel that stands against the wall).
    """
    points = _surface_points(surfaces)
    low, high = points.min(0), points.max(0)
    size = high - low
    if category in SEATS:
        upper = points[points[:, 2] > low[2] + 0.66 * size[2]]
        lean = (upper.mean(0) - 0.5 * (low + high))[:2] / np.maximum(size[:2], 1e-6)
        axis = int(np.argmax(np.abs(lean)))
        return _direction(axis, -float(np.sign(lean[axis]) or 1.0))
    axis = int(np.argmin(size[:2]))
    reach = max(0.015, 0.02 * float(size[axis]))
    at_low = (points[:, axis] < low[axis] + reach).mean()
    at_high = (points[:, axis] > high[axis] - reach).mean()
    return _direction(axis, 1.0 if at_low >= at_high else -1.0)


def _direction(axis: int, sign: float) -> float:
    return math.atan2(sign * (axis == 1), sign * (axis == 0))


def _surface_points(surfaces: Surfaces) -> NDArray[np.floating]:
    """Points (n, 3) spread evenly over the triangles."""
    rng = np.random.Generator(np.random.Philox(0))
    _, area = face_normals(surfaces.corners)
    faces = rng.choice(len(area), _SAMPLES, p=area.astype(np.float64) / area.sum(dtype=np.float64))
    a, b = np.sort(rng.random((2, _SAMPLES)), axis=0)
    weights = np.stack((a, b - a, 1 - b), axis=1)
    return np.einsum("nc,ncd->nd", weights, surfaces.corners[faces])


def _read_list(folder: Path) -> list[dict[str, str]]:
    path = folder / LIST_FILE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise MeshError(
            f"{folder} is not a furniture folder: {LIST_FILE} (columns {', '.join(COLUMNS)}) "
            f"cannot be read: {error}"
        ) from error
    for number, row in enumerate(rows, start=2):
        for column in COLUMNS:
            if not row.get(column):
                raise MeshError(f"{path}, line {number}: column {column!r} is missing or empty")
        if row["place"] not in PLACES:
            raise MeshError(f"{path}, line {number}: place {row['place']!r} is not in {PLACES}")
    return rows
