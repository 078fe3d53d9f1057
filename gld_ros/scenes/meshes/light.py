"""Random lighting of a place and the camera's response: lamps, exposure, white balance, noise."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gld_ros.scenes.meshes.free_space import FreeSpace
from gld_ros.scenes.meshes.surfaces import FloatArray

SHADOW_PROBABILITY = 0.5
# Mean linear brightness that the exposure aims at: a dim to a bright indoor image.
EXPOSURE_TARGET = (0.14, 0.3)
WHITE_BALANCE = 0.12
LAMP_DISTANCE_M = 4.0


@dataclass(frozen=True)
class Light:
    """Light of a scene; ambient and sky are linear colours (3,)."""

    lamps: FloatArray  # (n, 7): position, colour, metres at which it has faded to a half
    ambient: FloatArray
    sky: FloatArray
    shadows: bool


@dataclass(frozen=True)
class Sensor:
    """How linear light becomes an image: gain per channel, noise variance shot * light + read^2."""

    gain: FloatArray
    shot: float
    read: float
    seed: int

    def image(self, linear: FloatArray, view: int) -> FloatArray:
        """Displayed colours in [0, 1] of linear light (p, 3), with the noise of one view."""
        exposed = linear * self.gain
        rng = np.random.Generator(np.random.Philox([self.seed, view]))
        sigma = np.sqrt(self.shot * exposed + self.read**2)
        noisy = exposed + sigma * rng.standard_normal(exposed.shape, np.float32)
        return srgb_from_linear(np.clip(noisy, 0.0, 1.0))


def srgb_from_linear(linear: NDArray[np.floating]) -> FloatArray:
    """Displayed sRGB values in [0, 1] of linear light in [0, 1] (IEC 61966-2-1)."""
    curve = 1.055 * np.power(np.maximum(linear, 0.0031308), 1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curve).astype(np.float32)


def draw_light(rng: np.random.Generator, space: FreeSpace, near_xy_m: FloatArray) -> Light:
    """Lamps under the ceiling around a place (2,), with colours between warm and cool."""
    places = space.places_xy_m()
    near = places[np.hypot(*(places - near_xy_m).T) < LAMP_DISTANCE_M]
    count = int(rng.integers(1, 4))
    lamps = np.zeros((count, 7), np.float32)
    for lamp in lamps:
        xy = near[rng.integers(len(near))] if len(near) else near_xy_m
        ceiling = space.ceiling_at(xy)
        highest = ceiling - 0.2 if math.isfinite(ceiling) else space.floor_m + 4.0
        low = min(space.floor_m + 1.9, highest - 0.1)
        lamp[:2], lamp[2] = xy, rng.uniform(low, min(highest, low + 2.5))
        lamp[3:6] = _warm_to_cool(rng) * rng.uniform(0.6, 1.2) / count
        lamp[6] = rng.uniform(2.0, 5.0)
    ambient = _warm_to_cool(rng) * rng.uniform(0.12, 0.4)
    sky = np.array([0.75, 0.85, 1.0]) * rng.uniform(0.3, 1.0)
    return Light(
        lamps,
        ambient.astype(np.float32),
        sky.astype(np.float32),
        bool(rng.random() < SHADOW_PROBABILITY),
    )


def draw_sensor(rng: np.random.Generator, mean_light: float, seed: int) -> Sensor:
    """A camera whose exposure suits a mean linear brightness."""
    balance = 1 + rng.uniform(-WHITE_BALANCE, WHITE_BALANCE, 3)
    exposure = rng.uniform(*EXPOSURE_TARGET) / max(mean_light, 1e-4)
    return Sensor(
        (exposure * balance / balance.mean()).astype(np.float32),
        shot=rng.uniform(0.0, 4e-4),
        read=rng.uniform(0.0, 2e-3),
        seed=seed,
    )


def _warm_to_cool(rng: np.random.Generator) -> NDArray[np.float64]:
    warm, cool = np.array([1.0, 0.85, 0.66]), np.array([0.88, 0.95, 1.0])
    return warm + rng.random() * (cool - warm)
