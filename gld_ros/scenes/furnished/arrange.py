"""Where furniture is placed: along walls, around tables, on the floor, on tables, on walls.

World: metres, z up, room centred on x = y = 0, floor at z = 0. Poses T_world_piece move a piece
whose foot is at its origin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gld_ros.scenes.furnished.pieces import Piece
from gld_ros.scenes.furnished.shell import Box

TRIES = 25
# Furniture covers at most this share of the floor: the rest is for robots.
MAX_COVERED = 0.4
TOP_OF = ("table", "desk", "cabinet")

# What rooms of a kind hold: (category, fewest, most), in the order of placing. "group" is a table
# with chairs around it.
ROOM_KINDS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "living": (("sofa", 1, 2), ("cabinet", 1, 2), ("shelf", 0, 2), ("group", 0, 1),
               ("screen", 0, 1), ("picture", 1, 4), ("window", 0, 1), ("curtain", 0, 1),
               ("door", 0, 1), ("lamp", 0, 2), ("carpet", 0, 1), ("object", 0, 2), ("chair", 0, 2)),
    "dining": (("group", 1, 2), ("kitchen", 0, 1), ("appliance", 0, 2), ("cabinet", 0, 2),
               ("bin", 0, 1), ("window", 0, 1), ("picture", 0, 3), ("door", 0, 1), ("lamp", 0, 1)),
    "bedroom": (("bed", 1, 1), ("cabinet", 1, 3), ("desk", 0, 1), ("chair", 0, 1), ("shelf", 0, 1),
                ("picture", 0, 3), ("curtain", 0, 1), ("door", 0, 1), ("carpet", 0, 1)),
    "office": (("desk", 1, 2), ("group", 0, 1), ("shelf", 1, 3), ("cabinet", 0, 2),
               ("chair", 1, 3), ("bin", 0, 2), ("door", 0, 2), ("picture", 0, 2), ("screen", 0, 1),
               ("boxes", 0, 1)),
    "store": (("shelf", 1, 3), ("boxes", 1, 4), ("bin", 1, 3), ("object", 2, 5), ("door", 0, 1),
              ("table", 0, 1), ("appliance", 0, 1)),
    "corridor": (("door", 1, 3), ("picture", 0, 3), ("bin", 0, 1), ("cabinet", 0, 1),
                 ("chair", 0, 2), ("object", 0, 1), ("shelf", 0, 1)),
}  # fmt: skip
AGAINST_WALL = (
    "bed",
    "sofa",
    "cabinet",
    "shelf",
    "desk",
    "kitchen",
    "appliance",
    "curtain",
    "door",
    "window",
    "screen",
    "picture",
    "wall",
    "lamp",
)


@dataclass
class Arrangement:
    """A room that fills up: placed pieces and the boxes that they take."""

    size_m: tuple[float, float, float]
    placed: list[tuple[Piece, NDArray[np.float64]]] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)

    def fits(self, box: Box) -> bool:
        """Whether a box lies in the room and meets nothing."""
        half_x, half_y = 0.5 * self.size_m[0], 0.5 * self.size_m[1]
        if box[0] < -half_x or box[3] > half_x or box[1] < -half_y or box[4] > half_y:
            return False
        if box[5] > self.size_m[2]:
            return False
        return not any(
            all(box[i] < other[i + 3] and other[i] < box[i + 3] for i in range(3))
            for other in self.taken
        )

    def put(self, piece: Piece, x: float, y: float, z: float, yaw: float) -> bool:
        """Place a piece if there is room for it."""
        box = _footprint(piece, x, y, z, yaw)
        if not self.fits(box):
            return False
        flat = piece.category == "carpet"
        if not flat and z < 1.0 and self._covered(box) > MAX_COVERED:
            return False
        if not flat:
            self.taken.append(box)
        self.placed.append((piece, _pose(x, y, z, yaw)))
        return True

    def _covered(self, box: Box) -> float:
        boxes = [b for b in (*self.taken, box) if b[2] < 1.0]
        return sum((b[3] - b[0]) * (b[4] - b[1]) for b in boxes) / (self.size_m[0] * self.size_m[1])


def furnish(
    rng: np.random.Generator,
    size_m: tuple[float, float, float],
    kind: str,
    pieces: Sequence[Piece],
    obstacles: Sequence[Box],
) -> list[tuple[Piece, NDArray[np.float64]]]:
    """Pieces of a room kind with their poses (4, 4); what finds no place is left out."""
    room = Arrangement(size_m, taken=list(obstacles))
    for category, fewest, most in ROOM_KINDS[kind]:
        wanted = "table" if category == "group" else category
        choice = [p for p in pieces if p.category == wanted]
        for _ in range(int(rng.integers(fewest, most + 1)) if choice else 0):
            piece = choice[rng.integers(len(choice))]
            if category == "group":
                _put_group(rng, room, piece, [p for p in pieces if p.category == "chair"])
            elif piece.place == "ceiling":
                _put_under_ceiling(rng, room, piece)
            elif piece.place == "top":
                _put_on_top(rng, room, piece)
            elif piece.place == "wall" or category in AGAINST_WALL:
                _put_against_wall(rng, room, piece)
            else:
                _put_on_floor(rng, room, piece)
    for piece in pieces:
        if piece.place == "top" and rng.random() < 0.3:
            _put_on_top(rng, room, piece)
    return room.placed


def _put_against_wall(rng: np.random.Generator, room: Arrangement, piece: Piece) -> None:
    for _ in range(TRIES):
        wall = int(rng.integers(4))  # looking into the room: +x, +y, -x, -y
        facing = 0.5 * math.pi * wall
        yaw = facing - piece.front
        half_x, half_y = _half_extent(piece, yaw)
        gap = rng.uniform(0.0, 0.06) if piece.place == "floor" else 0.005
        if wall % 2 == 0:
            side = -1 if wall == 0 else 1
            x = side * (0.5 * room.size_m[0] - half_x - gap)
            y = rng.uniform(-1, 1) * max(0.0, 0.5 * room.size_m[1] - half_y)
        else:
            side = -1 if wall == 1 else 1
            y = side * (0.5 * room.size_m[1] - half_y - gap)
            x = rng.uniform(-1, 1) * max(0.0, 0.5 * room.size_m[0] - half_x)
        if room.put(piece, x, y, _height_on_wall(rng, room, piece), yaw):
            return


def _height_on_wall(rng: np.random.Generator, room: Arrangement, piece: Piece) -> float:
    """Lower edge of a piece on a wall; 0 for what stands on the floor."""
    high, free = float(piece.size_m[2]), room.size_m[2]
    if piece.place == "floor" or piece.category == "door":
        return 0.0
    if piece.category == "curtain":
        return max(0.0, free - high - 0.05)
    middle = {"window": 1.5, "screen": 1.2, "shelf": 1.5, "appliance": 2.0}.get(
        piece.category, rng.uniform(1.35, 1.65)
    )
    return max(0.0, min(middle - 0.5 * high, free - high - 0.05))


def _put_group(
    rng: np.random.Generator, room: Arrangement, table: Piece, chairs: Sequence[Piece]
) -> None:
    """A table away from the walls, with chairs that face it."""
    for _ in range(TRIES):
        x = rng.uniform(-0.28, 0.28) * room.size_m[0]
        y = rng.uniform(-0.28, 0.28) * room.size_m[1]
        yaw = 0.5 * math.pi * rng.integers(4) + rng.normal(0, 0.05)
        if not room.put(table, x, y, 0.0, yaw):
            continue
        if not chairs or table.size_m[2] < 0.55:
            return
        chair = chairs[int(rng.integers(len(chairs)))]
        half_x, half_y = _half_extent(table, yaw)
        for side in range(4):
            if rng.random() < 0.3:
                continue
            # Outward of this side of the table; the chair faces the other way, a little askew.
            outward = 0.5 * math.pi * side
            reach = (half_x, half_y)[side % 2] + rng.uniform(0.05, 0.3) + 0.25
            along = rng.uniform(-0.3, 0.3) * (half_y, half_x)[side % 2]
            cx = x + reach * math.cos(outward) - along * math.sin(outward)
            cy = y + reach * math.sin(outward) + along * math.cos(outward)
            askew = rng.normal(0, 0.2)
            room.put(chair, cx, cy, 0.0, outward + math.pi - chair.front + askew)
        return


def _put_on_floor(rng: np.random.Generator, room: Arrangement, piece: Piece) -> None:
    for _ in range(TRIES):
        x = rng.uniform(-0.5, 0.5) * room.size_m[0]
        y = rng.uniform(-0.5, 0.5) * room.size_m[1]
        if room.put(piece, x, y, 0.0, rng.uniform(-math.pi, math.pi)):
            return


def _put_under_ceiling(rng: np.random.Generator, room: Arrangement, piece: Piece) -> None:
    z = room.size_m[2] - float(piece.size_m[2])
    if z < 1.75:
        return
    for _ in range(TRIES):
        x, y = rng.uniform(-0.3, 0.3, 2) * np.array(room.size_m[:2])
        if room.put(piece, float(x), float(y), z, rng.uniform(-math.pi, math.pi)):
            return


def _put_on_top(rng: np.random.Generator, room: Arrangement, piece: Piece) -> None:
    hosts = [
        (host, T)
        for host, T in room.placed
        if host.category in TOP_OF
        and host.place == "floor"
        and host.size_m[2] < 1.3
        and min(host.size_m[:2]) > 0.8 * max(piece.size_m[:2])
    ]
    if not hosts:
        return
    host, T = hosts[rng.integers(len(hosts))]
    x = T[0, 3] + rng.uniform(-0.2, 0.2) * host.size_m[0]
    y = T[1, 3] + rng.uniform(-0.2, 0.2) * host.size_m[1]
    top = float(host.size_m[2]) + 0.002
    room.put(piece, float(x), float(y), top, rng.uniform(-math.pi, math.pi))


def _half_extent(piece: Piece, yaw: float) -> tuple[float, float]:
    """Half the axis-aligned extent of a turned piece along x and y."""
    cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
    length, depth = 0.5 * float(piece.size_m[0]), 0.5 * float(piece.size_m[1])
    return length * cos + depth * sin, length * sin + depth * cos


def _footprint(piece: Piece, x: float, y: float, z: float, yaw: float) -> Box:
    half_x, half_y = _half_extent(piece, yaw)
    top = z + float(piece.size_m[2])
    return (x - half_x, y - half_y, z + 1e-4, x + half_x, y + half_y, top)


def _pose(x: float, y: float, z: float, yaw: float) -> NDArray[np.float64]:
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])
