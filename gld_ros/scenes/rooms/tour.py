"""A smooth drive through one room, as a robot's camera would record it.

Writing it as a bag belongs to scenes/tour_bag.py.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from gld_ros.scenes.rooms.cameras import camera_to_world
from gld_ros.scenes.rooms.domains import RoomDomain, domain_named
from gld_ros.scenes.rooms.generate import room_of, room_surface_distance
from gld_ros.scenes.rooms.layout import scene_generator

CLEARANCE_M = 0.3
TRIES_PER_SWEEP = 150
# The first sweep for which a free path is found is driven: all round, or there and back.
SWEEPS_RAD = (2 * math.pi, 1.4 * math.pi, math.pi, 0.6 * math.pi)
_TOUR_STREAM = 1_000_000  # keeps the tour's random numbers apart from those of the room's draws


@dataclass(frozen=True)
class Tour:
    """An ellipse round the middle of a room, driven with the view across it.

    The camera keeps its height and pitch; metres and radians; s in [0, 1] is time.
    """

    centre: tuple[float, float]
    radii: tuple[float, float]
    start_angle: float
    sweep: float
    look_offset: float
    height: float
    pitch: float
    horizontal_fov: float

    def position_and_yaw(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera is (n, 3) and where it looks (n,) at times s (n,) in [0, 1]."""
        if self.sweep >= 2 * math.pi:
            angle = self.start_angle + self.sweep * s
        else:  # there and back, at rest at both ends
            angle = self.start_angle + 0.5 * self.sweep * (1 - np.cos(2 * math.pi * s))
        x = self.centre[0] + self.radii[0] * np.cos(angle)
        y = self.centre[1] + self.radii[1] * np.sin(angle)
        position = np.stack((x, y, np.full_like(x, self.height)), axis=-1)
        return position, angle + math.pi + self.look_offset

    def poses(self, s: np.ndarray) -> np.ndarray:
        """Camera-to-world poses T_world_cam (n, 4, 4), OpenCV axes."""
        position, yaw = self.position_and_yaw(s)
        return camera_to_world(position, yaw, np.full_like(yaw, self.pitch), np.zeros_like(yaw))


def find_tour(domain: RoomDomain | str, scene_id: int) -> Tour | None:
    """The tour of one room, the same every time; None where furniture leaves no way round."""
    domain = domain_named(domain) if isinstance(domain, str) else domain
    room = room_of(domain, scene_id)
    rng = scene_generator(domain, scene_id, _TOUR_STREAM)
    s = np.linspace(0.0, 1.0, 100)
    for sweep in SWEEPS_RAD:
        for _ in range(TRIES_PER_SWEEP):
            tour = Tour(
                centre=(0.12 * rng.normal(), 0.2 * rng.normal()),
                radii=(
                    room.size[0] * rng.uniform(0.15, 0.36),
                    room.size[1] * rng.uniform(0.15, 0.36),
                ),
                start_angle=rng.uniform(0.0, 2 * math.pi),
                sweep=sweep,
                look_offset=rng.uniform(-0.35, 0.35),
                height=rng.uniform(*domain.camera_height),
                pitch=math.radians(-6.0),
                horizontal_fov=math.radians(float(np.mean(domain.horizontal_fov_deg))),
            )
            position, _ = tour.position_and_yaw(s)
            points = torch.from_numpy(position)
            if float(room_surface_distance(scene_id, points, domain).min()) >= CLEARANCE_M:
                return tour
    return None
