"""One room drawn from its seed: shell, furniture, surfaces, lights, camera path.

Rendering belongs to raycast.py, ranges to domains.py; whether a room is accepted to generate.py.
World: metres, z up, room centred on x = y = 0, floor at z = 0.
"""

import colorsys
import math
import zlib
from dataclasses import dataclass, field

import numpy as np

from gld_ros.scenes.rooms.cameras import CameraPath
from gld_ros.scenes.rooms.domains import RoomDomain

TEXTURES = ("plain", "checker", "stripes", "planks", "noise")
NO_OBJECT = -1
# Columns of Room.materials
MATERIAL_COLUMNS = ("red", "green", "blue", "texture", "contrast", "period", "offset_u", "offset_v")


@dataclass
class Room:
    """One room as rows of numbers. Angles are stored as cosine and sine."""

    scene_id: int
    size: tuple[float, float, float]
    path: CameraPath
    ambient: float
    shadows: bool
    boxes: list[list[float]] = field(default_factory=list)  # centre 3, half size 3, cos, sin
    spheres: list[list[float]] = field(default_factory=list)  # centre 3, radius
    cylinders: list[list[float]] = field(default_factory=list)  # centre 3, radius, half height
    box_material: list[int] = field(default_factory=list)
    sphere_material: list[int] = field(default_factory=list)
    cylinder_material: list[int] = field(default_factory=list)
    box_object: list[int] = field(default_factory=list)
    sphere_object: list[int] = field(default_factory=list)
    cylinder_object: list[int] = field(default_factory=list)
    materials: list[list[float]] = field(default_factory=list)  # rows 0-5: the room's own faces
    panels: list[list[float]] = field(default_factory=list)  # face, u low/high, v low/high, row
    lights: list[list[float]] = field(default_factory=list)  # position 3, weight

    @property
    def num_primitives(self) -> int:
        """Boxes, spheres and cylinders, without the shell."""
        return len(self.boxes) + len(self.spheres) + len(self.cylinders)


class LayoutFailed(Exception):
    """This draw found no place for what the domain asks; the next attempt draws afresh."""


def scene_generator(domain: RoomDomain, scene_id: int, attempt: int) -> np.random.Generator:
    """The random stream of one attempt at one scene, the same on every machine and in any batch."""
    return np.random.Generator(
        np.random.Philox(
            np.random.SeedSequence([zlib.crc32(domain.name.encode()), scene_id, attempt])
        )
    )


def draw_room(domain: RoomDomain, scene_id: int, attempt: int) -> Room:
    """Draw one room of a domain; raises LayoutFailed when camera or objects find no place."""
    rng = scene_generator(domain, scene_id, attempt)
    size = (
        rng.uniform(*domain.room_x),
        rng.uniform(*domain.room_y),
        rng.uniform(*domain.room_height),
    )
    kind = domain.path_kinds[rng.integers(len(domain.path_kinds))]
    path = _draw_path(rng, domain, size, kind)
    room = Room(scene_id, size, path, domain.ambient, domain.shadows)
    _paint_shell(rng, domain, room)
    _hang_lights(rng, domain, room)
    corridor = path.positions(np.linspace(0.0, 1.0, 9))
    occupied: list[tuple[float, float, float]] = []  # x, y, radius
    if kind == "around_corner" or rng.random() < domain.partition_probability:
        _raise_partition(rng, domain, room, corridor, kind == "around_corner")
    _furnish(rng, domain, room, corridor, occupied, kind)
    return room


# --- camera -----------------------------------------------------------------------------------


def _draw_path(
    rng: np.random.Generator, domain: RoomDomain, size: tuple[float, float, float], kind: str
) -> CameraPath:
    """A path that keeps its clearance to the walls and looks into the room."""
    low = domain.clearance + 0.1
    half_x, half_y = 0.5 * size[0] - low, 0.5 * size[1] - low
    for _ in range(60):
        turn = math.radians(rng.uniform(*domain.yaw_change_deg)) * rng.choice((-1.0, 1.0))
        length = rng.uniform(*domain.path_length)
        offset = 0.0
        if kind == "forward":
            turn *= 0.5
        elif kind == "arc":
            offset = rng.uniform(-1.0, 1.0) * math.radians(60.0)
        elif kind == "side":
            offset = math.copysign(math.pi / 2, -turn)
        elif kind == "turn":
            length = min(length, rng.uniform(0.3, 0.5))
            offset = rng.uniform(-math.pi, math.pi)
        elif kind == "turn_away":
            turn = math.copysign(math.radians(rng.uniform(50.0, 110.0)), turn)
            length = rng.uniform(0.1, 0.5)
            offset = rng.uniform(-math.pi, math.pi)
        elif kind == "around_corner":
            turn = math.copysign(math.radians(rng.uniform(10.0, 50.0)), turn)
            length = rng.uniform(1.0, 1.8)
            offset = math.copysign(math.pi / 2, turn) * rng.uniform(0.7, 1.0)
        elif kind == "behind_furniture":
            turn = math.copysign(math.radians(rng.uniform(50.0, 90.0)), turn)
            length = abs(turn) * rng.uniform(1.1, 1.7)  # arc length = angle x radius of the orbit
            offset = math.copysign(math.pi / 2, -turn)
        # The middle of the path lies in the rear part of the room and looks at its front part.
        side = rng.choice((-1.0, 1.0))
        middle = np.array([rng.uniform(-half_x, half_x), -side * rng.uniform(0.35, 1.0) * half_y])
        aim = np.array([rng.uniform(-0.5, 0.5) * half_x, side * rng.uniform(0.0, 0.7) * half_y])
        yaw = math.atan2(aim[1] - middle[1], aim[0] - middle[0]) - 0.5 * turn
        height = rng.uniform(*domain.camera_height)
        rise = rng.uniform(-0.08, 0.08)
        path = CameraPath(
            start=(0.0, 0.0, min(max(height, domain.clearance + 0.1), size[2] - low)),
            yaw=yaw,
            yaw_change=turn,
            travel_offset=offset,
            length=length,
            rise=rise,
            pitch=math.radians(rng.uniform(*domain.pitch_deg)),
            roll=math.radians(rng.uniform(-1.0, 1.0) * domain.roll_deg),
            horizontal_fov=math.radians(rng.uniform(*domain.horizontal_fov_deg)),
        ).centred_on(middle)
        centres = path.positions(np.linspace(0.0, 1.0, 9))
        inside = (np.abs(centres[:, 0]) <= half_x) & (np.abs(centres[:, 1]) <= half_y)
        if inside.all():
            return path
    raise LayoutFailed("no camera path fits the room")


# --- surfaces and light -----------------------------------------------------------------------


def _add_material(
    rng: np.random.Generator,
    room: Room,
    domain: RoomDomain,
    hsv: tuple[float, float, float],
    texture: str,
    period: tuple[float, float],
) -> int:
    """Append a material and return its row."""
    rgb = colorsys.hsv_to_rgb(*hsv)
    contrast = rng.uniform(*domain.contrast)
    drawn_period, offset_u, offset_v = rng.uniform(*period), rng.uniform(0, 8), rng.uniform(0, 8)
    kind = TEXTURES.index(texture)
    room.materials.append(
        [*rgb, float(kind), contrast if kind else 0.0, drawn_period, offset_u, offset_v]
    )
    return len(room.materials) - 1


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[rng.integers(len(names))]


def _paint_shell(rng: np.random.Generator, domain: RoomDomain, room: Room) -> None:
    wall_hue = rng.random()
    for _ in range(4):
        hue = (wall_hue + rng.uniform(-0.12, 0.12)) % 1.0
        hsv = (hue, rng.uniform(0.05, 0.3), rng.uniform(0.65, 0.95))
        _add_material(rng, room, domain, hsv, _pick(rng, domain.wall_textures), (0.3, 0.9))
    floor = (rng.random(), rng.uniform(0.1, 0.45), rng.uniform(0.4, 0.8))
    _add_material(rng, room, domain, floor, _pick(rng, domain.floor_textures), (0.4, 1.0))
    _add_material(rng, room, domain, (rng.random(), rng.uniform(0, 0.08), 0.97), "plain", (1, 2))
    for _ in range(rng.integers(domain.panels[0], domain.panels[1] + 1)):
        face = int(rng.integers(4))
        half = 0.5 * (room.size[1] if face < 2 else room.size[0])
        look = rng.integers(3)
        if look == 0:  # door
            width, bottom, top = rng.uniform(0.8, 1.0), 0.0, min(2.05, room.size[2] - 0.1)
            hsv = (rng.uniform(0.04, 0.12), rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.7))
        elif look == 1:  # window
            width, bottom, top = rng.uniform(0.8, 1.8), 0.9, room.size[2] - rng.uniform(0.3, 0.5)
            hsv = (rng.uniform(0.5, 0.62), rng.uniform(0.1, 0.4), rng.uniform(0.9, 1.0))
        else:  # picture
            width, bottom = rng.uniform(0.4, 1.2), rng.uniform(1.0, 1.3)
            top = bottom + rng.uniform(0.4, 0.9)
            hsv = (rng.random(), rng.uniform(0.5, 1.0), rng.uniform(0.4, 0.95))
        centre = rng.uniform(-half + 0.6 * width, half - 0.6 * width)
        row = _add_material(rng, room, domain, hsv, "plain", (1, 2))
        # v is measured from the middle of the wall, as in the frame of the shell
        middle = 0.5 * room.size[2]
        room.panels.append(
            [face, centre - 0.5 * width, centre + 0.5 * width, bottom - middle, top - middle, row]
        )


def _hang_lights(rng: np.random.Generator, domain: RoomDomain, room: Room) -> None:
    count = 2 if rng.random() < domain.second_light_probability else 1
    for _ in range(count):
        x, y = rng.uniform(-0.3, 0.3) * room.size[0], rng.uniform(-0.35, 0.35) * room.size[1]
        z = room.size[2] - 0.35
        room.lights.append([x, y, z, (1.0 - domain.ambient) / count])


# --- furniture --------------------------------------------------------------------------------


def _add_box(
    room: Room,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    yaw: float,
    material: int,
    owner: int,
) -> None:
    room.boxes.append([*centre, *half, math.cos(yaw), math.sin(yaw)])
    room.box_material.append(material)
    room.box_object.append(owner)


def _raise_partition(
    rng: np.random.Generator, domain: RoomDomain, room: Room, corridor: np.ndarray, must: bool
) -> None:
    """A thin wall from one long side of the room towards its middle, clear of the cameras."""
    half_x = 0.5 * room.size[0]
    for _ in range(30):
        length = rng.uniform(0.35, 0.62) * room.size[0]
        side = rng.choice((-1.0, 1.0))
        y = rng.uniform(-0.25, 0.25) * room.size[1]
        centre_x, thickness = side * (half_x - 0.5 * length), rng.uniform(0.08, 0.14)
        gap_x = np.maximum(np.abs(corridor[:, 0] - centre_x) - 0.5 * length, 0.0)
        gap_y = np.maximum(np.abs(corridor[:, 1] - y) - 0.5 * thickness, 0.0)
        if np.hypot(gap_x, gap_y).min() > domain.clearance + 0.1:
            hsv = (rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.6, 0.95))
            row = _add_material(
                rng, room, domain, hsv, _pick(rng, domain.wall_textures), (0.3, 0.9)
            )
            half = (0.5 * length, 0.5 * thickness, 0.5 * room.size[2])
            _add_box(room, (centre_x, y, half[2]), half, 0.0, row, NO_OBJECT)
            return
    if must:
        raise LayoutFailed("no partition leaves the camera path free")


def _furnish(
    rng: np.random.Generator,
    domain: RoomDomain,
    room: Room,
    corridor: np.ndarray,
    occupied: list[tuple[float, float, float]],
    path_kind: str,
) -> None:
    """Stand the objects on free places of the floor, or on a box."""
    wanted = int(rng.integers(domain.objects[0], domain.objects[1] + 1))
    hues = rng.random() + np.arange(wanted) / wanted  # spread round the colour circle
    hues = (hues + rng.uniform(-0.4, 0.4, wanted) / wanted) % 1.0
    rng.shuffle(hues)
    orbit_centre = _orbit_centre(room.path) if path_kind == "behind_furniture" else None
    for number in range(wanted):
        kind = _pick(rng, domain.object_kinds)
        at = None
        if number == 0 and orbit_centre is not None:
            kind, at = "box", orbit_centre
        needed = {"table": 5, "shelf": 6}.get(kind, 1)
        if room.num_primitives + needed > domain.max_primitives:
            kind = "box"
            if room.num_primitives + 1 > domain.max_primitives:
                break
        hsv = (float(hues[number]), rng.uniform(0.6, 0.95), rng.uniform(0.65, 1.0))
        material = _add_material(
            rng, room, domain, hsv, _pick(rng, domain.object_textures), (0.12, 0.35)
        )
        _place(rng, domain, room, corridor, occupied, kind, number, material, at)


def _orbit_centre(path: CameraPath) -> tuple[float, float]:
    """The point that an orbiting path circles."""
    radius = path.length / abs(path.yaw_change)
    x, y, _ = path.start
    return x + radius * math.cos(path.yaw), y + radius * math.sin(path.yaw)


def _place(
    rng: np.random.Generator,
    domain: RoomDomain,
    room: Room,
    corridor: np.ndarray,
    occupied: list[tuple[float, float, float]],
    kind: str,
    owner: int,
    material: int,
    at: tuple[float, float] | None,
) -> None:
    """Stand one object on the floor or on an earlier box; raises LayoutFailed without a place."""
    yaw = rng.uniform(0.0, math.pi)
    big = at is not None
    if kind == "box":
        half = (
            rng.uniform(0.15, 0.45) if not big else rng.uniform(0.3, 0.5),
            rng.uniform(0.15, 0.45) if not big else rng.uniform(0.3, 0.5),
            rng.uniform(0.15, 0.7) if not big else rng.uniform(0.6, 0.9),
        )
    elif kind == "cylinder":
        radius = rng.uniform(0.15, 0.4)
        half = (radius, radius, rng.uniform(0.2, 0.75))
    elif kind == "sphere":
        radius = rng.uniform(0.2, 0.5)
        half = (radius, radius, radius)
    elif kind == "table":
        half = (rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.4))
    else:  # shelf
        half = (rng.uniform(0.35, 0.55), rng.uniform(0.14, 0.2), rng.uniform(0.5, 0.95))
    reach = half[0] if kind in ("cylinder", "sphere") else math.hypot(half[0], half[1])

    simple = kind in ("box", "cylinder", "sphere")
    hosts = [
        i
        for i, box in enumerate(room.boxes)
        if room.box_object[i] != NO_OBJECT
        and min(box[3], box[4]) > 0.22
        and box[2] < 0.45
        and abs(box[2] - box[5]) < 1e-9  # stands on the floor
    ]
    if simple and at is None and hosts and rng.random() < domain.stack_probability:
        host = room.boxes[hosts[rng.integers(len(hosts))]]
        scale = 0.8 * min(host[3], host[4]) / max(reach, 1e-6)
        half = (half[0] * scale, half[1] * scale, min(half[2], 1.2 * half[0]) * scale)
        if kind == "sphere":
            half = (half[0], half[0], half[0])
        _build(room, kind, (host[0], host[1], host[2] + host[5]), half, yaw, material, owner)
        return

    for _ in range(60):
        if at is None:
            x = rng.uniform(-1.0, 1.0) * (0.5 * room.size[0] - reach - 0.02)
            y = rng.uniform(-1.0, 1.0) * (0.5 * room.size[1] - reach - 0.02)
        else:
            x, y = at[0] + rng.uniform(-0.1, 0.1), at[1] + rng.uniform(-0.1, 0.1)
        # Clear of the corridor as seen from above, or far enough below the cameras' height.
        if np.hypot(corridor[:, 0] - x, corridor[:, 1] - y).min() < reach + domain.clearance + 0.15:
            continue
        if any(math.hypot(x - ox, y - oy) < reach + radius for ox, oy, radius in occupied):
            continue
        if max(abs(x) - 0.5 * room.size[0], abs(y) - 0.5 * room.size[1]) + reach > 0.0:
            continue
        if _touches_partition(room, x, y, reach):
            continue
        occupied.append((x, y, reach))
        _build(room, kind, (x, y, 0.0), half, yaw, material, owner)
        return
    if owner < domain.objects[0]:
        raise LayoutFailed(f"no free place for a {kind}")


def _touches_partition(room: Room, x: float, y: float, reach: float) -> bool:
    for box, owner in zip(room.boxes, room.box_object, strict=True):
        if owner == NO_OBJECT:
            gap_x, gap_y = max(abs(x - box[0]) - box[3], 0.0), max(abs(y - box[1]) - box[4], 0.0)
            if math.hypot(gap_x, gap_y) < reach + 0.02:
                return True
    return False


def _build(
    room: Room,
    kind: str,
    foot: tuple[float, float, float],
    half: tuple[float, float, float],
    yaw: float,
    material: int,
    owner: int,
) -> None:
    """Add the primitives of one object that stands on `foot`."""
    x, y, z = foot
    if kind == "box":
        _add_box(room, (x, y, z + half[2]), half, yaw, material, owner)
    elif kind == "cylinder":
        room.cylinders.append([x, y, z + half[2], half[0], half[2]])
        room.cylinder_material.append(material)
        room.cylinder_object.append(owner)
    elif kind == "sphere":
        room.spheres.append([x, y, z + half[0], half[0]])
        room.sphere_material.append(material)
        room.sphere_object.append(owner)
    else:
        cos, sin = math.cos(yaw), math.sin(yaw)
        parts = _table_parts(half) if kind == "table" else _shelf_parts(half)
        for (px, py, pz), part_half in parts:
            centre = (x + cos * px - sin * py, y + sin * px + cos * py, z + pz)
            _add_box(room, centre, part_half, yaw, material, owner)


Part = tuple[tuple[float, float, float], tuple[float, float, float]]


def _table_parts(half: tuple[float, float, float]) -> list[Part]:
    """A top and four legs, in the frame of the table's foot."""
    length, depth, half_height = half
    top, leg = 0.025, 0.035
    parts: list[Part] = [((0.0, 0.0, 2 * half_height - top), (length, depth, top))]
    leg_half = half_height - top
    for sx in (-1, 1):
        for sy in (-1, 1):
            at = (sx * (length - 2 * leg), sy * (depth - 2 * leg), leg_half)
            parts.append((at, (leg, leg, leg_half)))
    return parts


def _shelf_parts(half: tuple[float, float, float]) -> list[Part]:
    """Two sides, a back and three boards, in the frame of the shelf's foot."""
    length, depth, half_height = half
    board = 0.02
    parts: list[Part] = [
        ((-length + board, 0.0, half_height), (board, depth, half_height)),
        ((length - board, 0.0, half_height), (board, depth, half_height)),
        ((0.0, depth - board, half_height), (length - 2 * board, board, half_height)),
    ]
    inner = (length - 2 * board, depth - board, board)
    for height in (0.1, half_height, 2 * half_height - board):
        parts.append(((0.0, -board, height), inner))
    return parts
