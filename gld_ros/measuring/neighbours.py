"""Which posed images to measure with: enough parallax, a large shared surface, little rotation."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.frames import FloatArray

MAX_TURN_DEG = 35.0
# Camera baselines as shares of the scene's depth: below, depth is poorly determined; above, both
# cameras see little in common, and from different sides.
MIN_BASELINE_RATIO, BEST_BASELINE_RATIO, MAX_BASELINE_RATIO = 0.015, 0.09, 0.35
_TURN_WEIGHT_DEG = 25.0  # of turn count as much as a baseline e times too short or too long


class Posed(Protocol):
    """Whatever has a place and a time; its pixels need not be there yet."""

    @property
    def T_fixed_cam(self) -> FloatArray:
        """(4, 4), metres, optical axes."""
        ...

    @property
    def stamp_ns(self) -> int:
        """Acquisition time."""
        ...


Candidate = TypeVar("Candidate", bound=Posed)


def choose_neighbours(
    reference: Posed,
    candidates: Sequence[Candidate],
    typical_depth_m: float,
    count: int = 6,
) -> list[Candidate]:
    """At most `count` of the candidates to measure the reference with, best first.

    Candidates without parallax, too far away or turned by more than MAX_TURN_DEG are left out, and
    so is the reference itself. Candidates at the same place add nothing, so each choice
    penalises places near it. The order of the candidates does not matter.
    """
    T_reference_fixed = invert_rigid(reference.T_fixed_cam)
    usable: list[tuple[float, int, FloatArray, Candidate]] = []
    for candidate in candidates:
        if candidate is reference:
            continue
        T = T_reference_fixed @ candidate.T_fixed_cam
        ratio = float(np.linalg.norm(T[:3, 3])) / typical_depth_m
        turn_deg = float(np.degrees(np.arccos(np.clip(T[2, 2], -1.0, 1.0))))
        if not MIN_BASELINE_RATIO <= ratio <= MAX_BASELINE_RATIO or turn_deg > MAX_TURN_DEG:
            continue
        penalty = abs(np.log(ratio / BEST_BASELINE_RATIO)) + turn_deg / _TURN_WEIGHT_DEG
        usable.append((penalty, candidate.stamp_ns, T[:3, 3] / typical_depth_m, candidate))
    usable.sort(key=lambda entry: entry[:2])
    chosen: list[tuple[FloatArray, Candidate]] = []
    while usable and len(chosen) < count:
        penalties = [penalty + _crowding(place, chosen) for penalty, _, place, _ in usable]
        _, _, place, frame = usable.pop(int(np.argmin(penalties)))
        chosen.append((place, frame))
    return [frame for _, frame in chosen]


def _crowding(place: FloatArray, chosen: Sequence[tuple[FloatArray, object]]) -> float:
    """Penalty of a place (3,), in shares of the depth, near places that were chosen already."""
    distances = [float(np.linalg.norm(place - other)) for other, _ in chosen]
    return sum(np.exp(-((d / (0.5 * BEST_BASELINE_RATIO)) ** 2)) for d in distances)
