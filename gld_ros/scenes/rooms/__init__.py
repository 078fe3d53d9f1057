"""Procedural rooms: an endless supply of seeded, ray-traced, posed RGB-D views for training.

generate.py is the entry point; domains.py holds the ranges and the id splits.
"""

from gld_ros.scenes.rooms.domains import (
    DOMAINS,
    ROOMS_VERSION,
    SPLIT_IDS,
    RoomDomain,
    domain_named,
    split_ids,
    split_of,
)
from gld_ros.scenes.rooms.generate import (
    render_room_views,
    render_rooms,
    room_of,
    room_surface_distance,
)

__all__ = [
    "DOMAINS",
    "ROOMS_VERSION",
    "SPLIT_IDS",
    "RoomDomain",
    "domain_named",
    "render_room_views",
    "render_rooms",
    "room_of",
    "room_surface_distance",
    "split_ids",
    "split_of",
]
