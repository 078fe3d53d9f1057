"""The kinds of rooms: ranges per domain, and the scene ids of each split.

Drawing a room from these ranges belongs to layout.py, the camera path to cameras.py.
Lengths in metres, angles in degrees; a pair is a (low, high) range that is drawn uniformly.
"""

from dataclasses import dataclass, replace

Range = tuple[float, float]

# Raise it with every change that changes images: stores of different versions are not completed
# into one another.
ROOMS_VERSION = 2

# Every scene id belongs to exactly one split. `demo` rooms are held out of everything but demos.
SPLIT_IDS: dict[str, range] = {
    "train": range(0, 1_000_000_000),
    "validation": range(1_000_000_000, 1_100_000_000),
    "test": range(2_000_000_000, 2_100_000_000),
    "demo": range(3_000_000_000, 3_000_100_000),
}


@dataclass(frozen=True)
class RoomDomain:
    """Ranges from which the rooms of one domain are drawn."""

    name: str
    # The shell
    room_x: Range = (3.8, 4.8)
    room_y: Range = (5.0, 6.2)
    room_height: Range = (2.6, 2.6)
    partition_probability: float = 0.0
    panels: tuple[int, int] = (0, 0)  # doors, windows and pictures painted on the walls
    # What stands in it
    objects: tuple[int, int] = (3, 5)
    object_kinds: tuple[str, ...] = ("box", "cylinder", "sphere")
    stack_probability: float = 0.0  # an object stands on a box instead of on the floor
    max_primitives: int = 24
    # Surfaces; contrast is the peak-to-peak relative change of albedo
    floor_textures: tuple[str, ...] = ("checker",)
    wall_textures: tuple[str, ...] = ("plain",)
    object_textures: tuple[str, ...] = ("plain",)
    contrast: Range = (0.05, 0.25)
    # Light
    ambient: float = 0.35
    shadows: bool = False
    second_light_probability: float = 0.0
    # Cameras
    horizontal_fov_deg: Range = (68.0, 80.0)
    camera_height: Range = (0.9, 1.4)
    pitch_deg: Range = (-12.0, 0.0)
    roll_deg: float = 0.0
    path_kinds: tuple[str, ...] = ("forward", "arc", "side")
    path_length: Range = (0.4, 1.0)
    yaw_change_deg: Range = (0.0, 30.0)
    clearance: float = 0.25  # of every camera to every surface
    # Where the references end and the targets begin on the path; None spreads all views evenly
    reference_target_split: tuple[float, float] | None = None
    # What is accepted, measured on a small probe image of every view
    target_visible: Range = (0.5, 1.0)
    objects_seen: int = 3
    mean_depth_m: Range = (0.8, 8.0)


NARROW = RoomDomain(name="narrow")

MEDIUM = RoomDomain(
    name="medium",
    room_x=(3.4, 5.6),
    room_y=(4.2, 7.0),
    room_height=(2.4, 3.0),
    partition_probability=0.2,
    panels=(0, 3),
    objects=(3, 7),
    object_kinds=("box", "cylinder", "sphere", "table", "shelf"),
    stack_probability=0.15,
    floor_textures=("checker", "stripes", "planks", "noise"),
    wall_textures=("plain", "plain", "stripes", "noise"),
    object_textures=("plain", "plain", "stripes", "noise"),
    horizontal_fov_deg=(64.0, 85.0),
    camera_height=(0.6, 1.5),
    pitch_deg=(-15.0, 8.0),
    roll_deg=1.5,
    path_kinds=("forward", "arc", "side", "turn"),
    path_length=(0.4, 1.5),
    yaw_change_deg=(0.0, 45.0),
)

WIDE = RoomDomain(
    name="wide",
    room_x=(3.0, 7.0),
    room_y=(3.0, 8.0),
    room_height=(2.4, 3.2),
    partition_probability=0.5,
    panels=(1, 5),
    objects=(3, 8),
    object_kinds=("box", "cylinder", "sphere", "table", "shelf"),
    stack_probability=0.25,
    floor_textures=("plain", "checker", "stripes", "planks", "noise"),
    wall_textures=("plain", "checker", "stripes", "planks", "noise"),
    object_textures=("plain", "checker", "stripes", "noise"),
    contrast=(0.05, 0.4),
    shadows=True,
    second_light_probability=0.4,
    horizontal_fov_deg=(60.0, 90.0),
    camera_height=(0.3, 1.5),
    pitch_deg=(-15.0, 15.0),
    roll_deg=3.0,
    path_kinds=("forward", "arc", "side", "turn"),
    path_length=(0.3, 2.0),
    yaw_change_deg=(0.0, 60.0),
)


# The imagination sets: at least a quarter of every target is hidden from every reference. The
# camera turns past the edge of the image, steps around the end of a partition, or orbits a piece
# of furniture. Surfaces are those of the domain a model was trained on, so that the sets test
# imagination and not textures.
def _imagination(base: RoomDomain, name: str) -> RoomDomain:
    return replace(
        base,
        name=name,
        path_kinds=("turn_away", "around_corner", "behind_furniture"),
        reference_target_split=(0.3, 0.7),
        # Accepted at 30 % hidden on the probe, so that 25 % holds at every image size.
        target_visible=(0.15, 0.7),
        objects_seen=2,
    )


LOOK_AROUND = _imagination(NARROW, "look_around")
LOOK_AROUND_WIDE = _imagination(WIDE, "look_around_wide")

DOMAINS: dict[str, RoomDomain] = {
    domain.name: domain for domain in (NARROW, MEDIUM, WIDE, LOOK_AROUND, LOOK_AROUND_WIDE)
}


def domain_named(name: str) -> RoomDomain:
    """The domain of that name; raises ValueError that lists the names there are."""
    if name not in DOMAINS:
        raise ValueError(f"unknown domain {name!r}; use one of {', '.join(DOMAINS)}")
    return DOMAINS[name]


def split_ids(split: str, count: int, first: int = 0) -> range:
    """`count` scene ids of a split, starting at its `first`-th; raises ValueError past its end."""
    if split not in SPLIT_IDS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLIT_IDS)}")
    ids = SPLIT_IDS[split]
    if first < 0 or count < 1 or first + count > len(ids):
        raise ValueError(
            f"{count} ids from number {first} of split {split!r} asked for; it has {len(ids)}"
        )
    return ids[first : first + count]


def split_of(scene_id: int) -> str:
    """The split that owns a scene id; raises ValueError for an id that none owns."""
    for split, ids in SPLIT_IDS.items():
        if scene_id in ids:
            return split
    allowed = ", ".join(f"{s} {i.start}..{i.stop - 1}" for s, i in SPLIT_IDS.items())
    raise ValueError(f"scene id {scene_id} belongs to no split; the splits are {allowed}")
