"""The empty room: floor, ceiling, walls with skirting, and a partition with a doorway.

World: metres, z up, room centred on x = y = 0, floor at z = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gld_ros.scenes.furnished.materials import FLOORS, WALLS, Image, draw_texture
from gld_ros.scenes.meshes.surfaces import Surfaces, joined

DOORWAY_M, DOORWAY_HEIGHT_M = 1.0, 2.05
Box = tuple[float, float, float, float, float, float]  # low x, y, z, high x, y, z


@dataclass(frozen=True)
class Shell:
    """An empty room of size_m (x, y, z); `obstacles` are its inner walls."""

    size_m: tuple[float, float, float]
    parts: tuple[Surfaces, ...]
    obstacles: tuple[Box, ...]


def draw_shell(
    rng: np.random.Generator, size_m: tuple[float, float, float], with_partition: bool
) -> Shell:
    """Draw surfaces and, if asked for, a partition across the longer side."""
    x, y, z = size_m
    half = np.array([0.5 * x, 0.5 * y])
    walls = draw_texture(rng, WALLS, (0.6, 0.97), (0.02, 0.35))
    feature = draw_texture(rng, WALLS, (0.4, 0.95), (0.05, 0.6))
    floor = draw_texture(rng, FLOORS, (0.35, 0.85), (0.05, 0.5))
    ceiling = draw_texture(rng, ("plain",), (0.85, 1.0), (0.0, 0.05))
    skirting = draw_texture(rng, ("plain",), (0.25, 1.0), (0.0, 0.3))
    period = {"floor": rng.uniform(0.8, 2.0), "wall": rng.uniform(0.8, 2.0)}
    a, b = -half, half
    parts = [
        _quad(
            [(a[0], a[1], 0), (b[0], a[1], 0), (b[0], b[1], 0), (a[0], b[1], 0)],
            floor,
            period["floor"],
        ),
        _quad([(a[0], a[1], z), (b[0], a[1], z), (b[0], b[1], z), (a[0], b[1], z)], ceiling, 2.0),
    ]
    corners = [(a[0], a[1]), (b[0], a[1]), (b[0], b[1]), (a[0], b[1])]
    painted = int(rng.integers(8))  # half of the rooms have a wall of another colour
    for i in range(4):
        (x0, y0), (x1, y1) = corners[i], corners[(i + 1) % 4]
        image = feature if i == painted else walls
        parts.append(
            _quad([(x0, y0, 0), (x1, y1, 0), (x1, y1, z), (x0, y0, z)], image, period["wall"])
        )
    if rng.random() < 0.7:
        thick, high = 0.012, rng.uniform(0.06, 0.12)
        parts += [
            box_surfaces((a[0], a[1], 0, b[0], a[1] + thick, high), skirting, 1.0),
            box_surfaces((a[0], b[1] - thick, 0, b[0], b[1], high), skirting, 1.0),
            box_surfaces((a[0], a[1], 0, a[0] + thick, b[1], high), skirting, 1.0),
            box_surfaces((b[0] - thick, a[1], 0, b[0], b[1], high), skirting, 1.0),
        ]
    obstacles: list[Box] = []
    if with_partition:
        obstacles = _partition(rng, size_m)
        parts += [box_surfaces(box, walls, period["wall"]) for box in obstacles]
    return Shell(size_m, tuple(parts), tuple(obstacles))


def _partition(rng: np.random.Generator, size_m: tuple[float, float, float]) -> list[Box]:
    """A wall across the longer side of the room, open at a doorway or at one end."""
    along_x = size_m[0] < size_m[1]  # the wall runs along x when the room is longer in y
    run, across = (size_m[0], size_m[1]) if along_x else (size_m[1], size_m[0])
    at, thick = rng.uniform(-0.15, 0.15) * across, rng.uniform(0.08, 0.16)
    width = DOORWAY_M * rng.uniform(0.9, 1.6)
    start = rng.uniform(-0.5 * run, 0.5 * run - width)
    pieces = [(-0.5 * run, start, 0.0, size_m[2]), (start + width, 0.5 * run, 0.0, size_m[2])]
    if rng.random() < 0.6:
        pieces.append((start, start + width, DOORWAY_HEIGHT_M, size_m[2]))
    boxes: list[Box] = []
    for low, high, bottom, top in pieces:
        if high - low < 0.05:
            continue
        near, far = at - 0.5 * thick, at + 0.5 * thick
        boxes.append(
            (low, near, bottom, high, far, top) if along_x else (near, low, bottom, far, high, top)
        )
    return boxes


def box_surfaces(box: Box, image: Image, period_m: float) -> Surfaces:
    """The six faces of an upright box."""
    x0, y0, z0, x1, y1, z1 = box
    faces = [
        [(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)],
        [(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)],
        [(x0, y0, z0), (x0, y1, z0), (x0, y1, z1), (x0, y0, z1)],
        [(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)],
        [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)],
        [(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)],
    ]
    return joined([_quad(face, image, period_m) for face in faces])


def _quad(corners: Sequence[tuple[float, float, float]], image: Image, period_m: float) -> Surfaces:
    """A rectangle of two triangles whose texture repeats every period_m metres."""
    p: NDArray[np.float64] = np.asarray(corners, np.float64)
    side, up = p[1] - p[0], p[3] - p[0]
    width, height = np.linalg.norm(side), np.linalg.norm(up)
    normal = np.cross(side, up) / (width * height)
    uv = np.array([[0, 0], [width, 0], [width, height], [0, height]]) / period_m
    picks = np.array([[0, 1, 2], [0, 2, 3]])
    return Surfaces(
        p[picks].astype(np.float32),
        np.tile(normal, (2, 3, 1)).astype(np.float32),
        uv[picks].astype(np.float32),
        np.full((2, 3, 3), 255, np.uint8),
        np.zeros(2, np.int32),
        np.ones((1, 3), np.float32),
        np.zeros(1, np.int32),
        (image,),
    )
