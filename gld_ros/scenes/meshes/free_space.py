"""Where a robot can stand in a mesh world: a floor, head room, and free space around it.

Found by rays alone, so it works on any triangle soup. World: metres, z up.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gld_ros.scenes.meshes.load import MeshError
from gld_ros.scenes.meshes.raycast import RayCaster
from gld_ros.scenes.meshes.surfaces import FloatArray

CELL_M = 0.1
MAX_CELLS = 400_000
MAX_LAYERS = 16
HEAD_ROOM_M = 1.7
CLEARANCE_M = 0.32
ROBOT_HEIGHTS_M = (0.15, 0.4, 0.7, 1.0, 1.3, 1.55)
DIRECTIONS = 12
SMALLEST_PART_M2 = 1.0
# The floor is the lowest level with this share of the cells of the most common one.
_FLOOR_SHARE = 0.4
_FLOOR_BIN_M = 0.06
# Where so much of the floor has something above it, the rest is outdoors and left out.
_INDOOR_SHARE = 0.3
_OPEN_RAYS = 4000
_STEP_M = 1e-3


@dataclass(frozen=True)
class FreeSpace:
    """A grid of free places. free[row, column] is at first_xy_m + cell_m * (column, row).

    ceiling_m: (rows, columns) height of the lowest surface above head room, infinite for none.
    """

    floor_m: float
    cell_m: float
    first_xy_m: NDArray[np.float64]
    free: NDArray[np.bool_]
    ceiling_m: FloatArray

    @property
    def area_m2(self) -> float:
        """Area of the free places."""
        return float(self.free.sum()) * self.cell_m**2

    def places_xy_m(self) -> NDArray[np.float64]:
        """Centres (n, 2) of the free cells."""
        rows, columns = self.free.nonzero()
        return self.first_xy_m + self.cell_m * np.stack((columns, rows), -1)

    def are_free(self, xy_m: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether points (n, 2) lie in free cells; points off the grid do not."""
        row, column = self._cells(xy_m)
        inside = (row >= 0) & (column >= 0)
        inside &= (row < self.free.shape[0]) & (column < self.free.shape[1])
        result = np.zeros(len(xy_m), bool)
        result[inside] = self.free[row[inside], column[inside]]
        return result

    def ceiling_at(self, xy_m: NDArray[np.floating]) -> float:
        """Height of the ceiling over one point (2,) of the grid."""
        row, column = self._cells(xy_m[None])
        return float(self.ceiling_m[row[0], column[0]])

    def _cells(self, xy_m: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cells = np.rint((xy_m - self.first_xy_m) / self.cell_m).astype(np.int64)
        return cells[:, 1], cells[:, 0]


def find_free_space(name: str, caster: RayCaster, bounds: FloatArray) -> FreeSpace:
    """Search a world's floor; bounds (2, 3). Raises MeshError when there is none to stand on."""
    size = (bounds[1] - bounds[0]).astype(float)
    cell_m = max(CELL_M, math.sqrt(size[0] * size[1] / MAX_CELLS))
    columns, rows = (max(1, int(side / cell_m)) for side in size[:2])
    first_xy_m = bounds[0, :2].astype(float) + 0.5 * (
        size[:2] - cell_m * (np.array([columns, rows]) - 1)
    )
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
    xy_m = first_xy_m + cell_m * grid

    layers = _layers(caster, xy_m, float(bounds[1, 2]) + 1.0)
    head_room = np.diff(layers, axis=0, prepend=np.full((1, layers.shape[1]), np.inf)) * -1
    head_room[0] = np.inf
    stands = np.isfinite(layers) & (head_room >= HEAD_ROOM_M)
    if not stands.any():
        raise MeshError(_no_floor(name, size))
    floor_m = _floor_level(layers[stands])
    on_floor = stands & (np.abs(layers - floor_m) < _FLOOR_BIN_M)
    standing: NDArray[np.bool_] = np.asarray(on_floor.any(0))
    above = np.where(layers > floor_m + HEAD_ROOM_M, layers, np.inf).min(0)
    if np.isfinite(above[standing]).mean() > _INDOOR_SHARE:
        standing &= np.isfinite(above)

    places = standing.nonzero()[0]
    standing[places] = _has_clearance(caster, xy_m[places], floor_m)
    free = _large_parts(standing.reshape(rows, columns), cell_m)
    if not free.any():
        raise MeshError(_no_floor(name, size))
    ceiling_m = above.reshape(rows, columns).astype(np.float32)
    return FreeSpace(floor_m, cell_m, first_xy_m, free, ceiling_m)


def open_share(caster: RayCaster, space: FreeSpace) -> float:
    """Share of views from free places that end nowhere: holes, open sides, missing ceilings."""
    rng = np.random.Generator(np.random.Philox(0))
    places = space.places_xy_m()
    xy = places[rng.integers(len(places), size=_OPEN_RAYS)]
    origin = np.column_stack((xy, np.full(_OPEN_RAYS, space.floor_m + 1.2)))
    yaw, pitch = rng.uniform(0, 2 * math.pi, _OPEN_RAYS), rng.uniform(-0.6, 0.5, _OPEN_RAYS)
    direction = np.stack((np.cos(yaw), np.sin(yaw), np.tan(pitch)), -1)
    ends = caster.distance_m(origin.astype(np.float32), direction.astype(np.float32))
    return float(np.isinf(ends).mean())


def _layers(caster: RayCaster, xy_m: NDArray[np.float64], top_m: float) -> NDArray[np.float64]:
    """Heights (layers, cells) of all surfaces under each point from the top down, NaN when done."""
    height = np.full(len(xy_m), top_m)
    down = np.tile(np.array([0, 0, -1], np.float32), (len(xy_m), 1))
    layers = []
    for _ in range(MAX_LAYERS):
        going = np.isfinite(height).nonzero()[0]
        if not len(going):
            break
        origin = np.column_stack((xy_m[going], height[going] - _STEP_M)).astype(np.float32)
        distance = caster.distance_m(origin, down[: len(going)])
        found = np.full(len(xy_m), np.nan)
        found[going] = np.where(np.isfinite(distance), origin[:, 2] - distance, np.nan)
        height = found
        layers.append(found)
    return np.stack(layers)


def _floor_level(heights_m: NDArray[np.float64]) -> float:
    bins = np.rint(heights_m / _FLOOR_BIN_M).astype(np.int64)
    levels, counts = np.unique(bins, return_counts=True)
    lowest = levels[counts >= _FLOOR_SHARE * counts.max()].min()
    return float(np.median(heights_m[np.abs(bins - lowest) <= 1]))


def _has_clearance(
    caster: RayCaster, xy_m: NDArray[np.float64], floor_m: float
) -> NDArray[np.bool_]:
    clear = np.ones(len(xy_m), bool)
    for height in ROBOT_HEIGHTS_M:
        for angle in np.arange(DIRECTIONS) * 2 * math.pi / DIRECTIONS:
            left = clear.nonzero()[0]
            if not len(left):
                return clear
            origin = np.column_stack((xy_m[left], np.full(len(left), floor_m + height)))
            way = np.array([math.cos(angle), math.sin(angle), 0.0], np.float32)
            distance = caster.distance_m(origin.astype(np.float32), np.tile(way, (len(left), 1)))
            clear[left] = distance >= CLEARANCE_M
    return clear


def _large_parts(free: NDArray[np.bool_], cell_m: float) -> NDArray[np.bool_]:
    """Only connected parts that are worth driving in: at least a fifth of the largest one."""
    labels, count = ndimage.label(free)
    if not count:
        return free
    area_m2 = np.bincount(labels.ravel())[1:] * cell_m**2
    kept = area_m2 >= max(SMALLEST_PART_M2, 0.2 * area_m2.max())
    return np.asarray(np.concatenate(([False], kept))[labels])


def _no_floor(name: str, size: NDArray[np.floating]) -> str:
    return (
        f"{name}: no free floor found in {size[0]:.1f} x {size[1]:.1f} x {size[2]:.1f} m: nowhere "
        f"{HEAD_ROOM_M} m of room above a level that recurs, with {CLEARANCE_M} m around. If the "
        "mesh lies on its side, write ?up=y behind its name; if it is in another unit, ?scale=0.001"
    )
