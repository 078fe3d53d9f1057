"""Generated textures of walls, floors and covers: planks, tiles, bricks, carpets, wallpapers."""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 192
Image = NDArray[np.uint8]


def draw_texture(
    rng: np.random.Generator,
    kinds: tuple[str, ...],
    value: tuple[float, float],
    saturation: tuple[float, float],
) -> Image:
    """One repeating texture (SIDE_PX, SIDE_PX, 3) of one of these kinds and a drawn colour."""
    hue = rng.choice((rng.uniform(0.03, 0.14), rng.random()))  # half of them earthy
    base = np.array(colorsys.hsv_to_rgb(float(hue), rng.uniform(*saturation), rng.uniform(*value)))
    brightness = _PATTERNS[kinds[rng.integers(len(kinds))]](rng)
    image = base * brightness[..., None] if brightness.ndim == 2 else base * brightness
    return np.clip(np.round(255 * image), 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, cells: tuple[int, int]) -> NDArray[np.float64]:
    """Smooth noise in [-1, 1] that repeats at the borders; cells along (rows, columns)."""
    coarse = rng.uniform(-1, 1, cells)
    tiled = np.tile(coarse, (3, 3))
    large = cv2.resize(tiled, (3 * SIDE_PX, 3 * SIDE_PX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large[SIDE_PX : 2 * SIDE_PX, SIDE_PX : 2 * SIDE_PX])


def _plain(rng: np.random.Generator) -> NDArray[np.float64]:
    return 1 + 0.02 * _noise(rng, (6, 6)) + 0.01 * _noise(rng, (48, 48))


def _planks(rng: np.random.Generator) -> NDArray[np.float64]:
    rows = int(rng.integers(4, 9))
    height = SIDE_PX / rows
    out = np.ones((SIDE_PX, SIDE_PX))
    grain = 0.06 * _noise(rng, (96, 6)) + 0.05 * _noise(rng, (32, 3))
    for row in range(rows):
        top, bottom = round(row * height), round((row + 1) * height)
        joint = int(rng.integers(SIDE_PX))
        for start, stop in ((0, joint), (joint, SIDE_PX)):
            out[top:bottom, start:stop] *= 1 + rng.uniform(-0.12, 0.12)
        out[top : top + 1] *= 0.6
        out[top:bottom, joint : joint + 1] *= 0.6
    return out + grain


def _tiles(rng: np.random.Generator) -> NDArray[np.float64]:
    count = int(rng.integers(2, 5))
    side = SIDE_PX // count
    shade = 1 + rng.uniform(-0.06, 0.06, (count, count))
    if rng.random() < 0.3:
        shade += 0.25 * (np.indices((count, count)).sum(0) % 2) * (count % 2 == 0)
    out = np.kron(shade, np.ones((side, side)))
    out = cv2.resize(out, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_NEAREST)
    joint = rng.uniform(0.6, 1.15)
    for i in range(count):
        out[i * side : i * side + 2] = joint
        out[:, i * side : i * side + 2] = joint
    return np.asarray(out + 0.03 * _noise(rng, (24, 24)))


def _bricks(rng: np.random.Generator) -> NDArray[np.float64]:
    rows = 8
    height, width = SIDE_PX // rows, SIDE_PX // 4
    out = np.empty((SIDE_PX, SIDE_PX))
    for row in range(rows):
        line = np.repeat(1 + rng.uniform(-0.2, 0.2, 4), width)
        line[::width] = line[1::width] = 1.2
        out[row * height : (row + 1) * height] = np.roll(line, (row % 2) * width // 2)
        out[row * height : row * height + 2] = 1.2
    return out + 0.05 * _noise(rng, (48, 48))


def _carpet(rng: np.random.Generator) -> NDArray[np.float64]:
    return 1 + 0.1 * _noise(rng, (96, 96)) + 0.06 * _noise(rng, (8, 8))


def _stripes(rng: np.random.Generator) -> NDArray[np.float64]:
    count = int(rng.integers(3, 9))
    wave = np.sign(np.sin(2 * np.pi * count * (np.arange(SIDE_PX) + 0.5) / SIDE_PX))
    return np.tile(1 + rng.uniform(0.03, 0.15) * wave, (SIDE_PX, 1)) + 0.01 * _noise(rng, (24, 24))


def _concrete(rng: np.random.Generator) -> NDArray[np.float64]:
    return (
        1 + 0.08 * _noise(rng, (4, 4)) + 0.05 * _noise(rng, (12, 12)) + 0.03 * _noise(rng, (64, 64))
    )


_PATTERNS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "plain": _plain,
    "planks": _planks,
    "tiles": _tiles,
    "bricks": _bricks,
    "carpet": _carpet,
    "stripes": _stripes,
    "concrete": _concrete,
}
FLOORS = ("planks", "planks", "tiles", "tiles", "carpet", "concrete")
WALLS = ("plain", "plain", "plain", "stripes", "bricks", "concrete", "tiles")
COVERS = ("plain", "planks", "stripes", "carpet", "concrete")
