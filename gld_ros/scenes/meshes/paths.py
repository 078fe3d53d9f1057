"""Camera paths of a robot through free space, and which of them are useful for training."""

import math
from dataclasses import dataclass

import numpy as np

from gld_ros.scenes.meshes.free_space import FreeSpace
from gld_ros.scenes.rooms.cameras import CameraPath

Range = tuple[float, float]


@dataclass(frozen=True)
class PathStyle:
    """Ranges of camera paths; metres and degrees. `reference_target_split` as in rooms.domains.

    target_visible is the range of the share of every target view that the references see.
    """

    name: str
    kinds: tuple[str, ...]
    length: Range
    yaw_change_deg: Range
    target_visible: Range
    reference_target_split: tuple[float, float] | None = None
    height: Range = (0.3, 1.5)
    pitch_deg: Range = (-15.0, 8.0)
    roll_deg: float = 2.0
    horizontal_fov_deg: Range = (60.0, 90.0)
    mean_depth_m: Range = (0.9, 15.0)
    nearest_m: float = 0.3
    unknown_share: float = 0.25
    materials_seen: int = 4


ALONG = PathStyle("along", ("forward", "arc", "side", "turn"), (0.3, 2.0), (0.0, 60.0), (0.4, 1.0))
# The camera turns or steps past what it has seen: 30 % or more of every target is hidden.
LOOK_AROUND = PathStyle(
    "look_around", ("turn_away", "step_aside"), (0.1, 1.6), (40.0, 110.0), (0.1, 0.7), (0.3, 0.7)
)
STYLES = {style.name: style for style in (ALONG, LOOK_AROUND)}


def style_named(name: str) -> PathStyle:
    """The style of that name; raises ValueError that lists the names there are."""
    if name not in STYLES:
        raise ValueError(f"unknown paths {name!r}; use one of {', '.join(STYLES)}")
    return STYLES[name]


def draw_path(rng: np.random.Generator, style: PathStyle, space: FreeSpace) -> CameraPath | None:
    """One path whose every part lies in free space, or None where this draw does not fit."""
    places = space.places_xy_m()
    middle = places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 2) * space.cell_m
    kind = style.kinds[rng.integers(len(style.kinds))]
    turn = math.radians(rng.uniform(*style.yaw_change_deg)) * rng.choice((-1.0, 1.0))
    length = rng.uniform(*style.length)
    offset = rng.uniform(-math.pi, math.pi)  # turn, turn_away: a short way anywhere
    if kind == "forward":
        turn, offset = 0.5 * turn, 0.0
    elif kind == "arc":
        offset = rng.uniform(-1.0, 1.0) * math.radians(60.0)
    elif kind in ("side", "step_aside"):
        offset = math.copysign(math.pi / 2, -turn)
    if kind == "step_aside":
        turn *= 0.5
    elif kind in ("turn", "turn_away"):
        length = min(length, rng.uniform(0.1, 0.5))
    path = CameraPath(
        start=(0.0, 0.0, space.floor_m + rng.uniform(*style.height)),
        yaw=rng.uniform(-math.pi, math.pi),
        yaw_change=turn,
        travel_offset=offset,
        length=length,
        rise=rng.uniform(-0.05, 0.05),
        pitch=math.radians(rng.uniform(*style.pitch_deg)),
        roll=math.radians(rng.uniform(-1.0, 1.0) * style.roll_deg),
        horizontal_fov=math.radians(rng.uniform(*style.horizontal_fov_deg)),
    ).centred_on(middle)
    along = path.positions(np.linspace(0.0, 1.0, 12))[:, :2]
    return path if space.are_free(along).all() else None
