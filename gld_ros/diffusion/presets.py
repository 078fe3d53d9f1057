"""How a run is sampled, by name: which solver, in how many steps, and whether by a student.

"published" is a bundle's own procedure: Euler for all weights that were published. "fast" comes as
close to the exact solution of the flow in fewer evaluations; "fastest" runs the bundle's student,
which was distilled for its few calls (`gld_ros.training.stages.distill`). `benchmark/presets.py`
and `benchmark/distillation.py` measure them, docs/performance.md shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # a request names a preset without torch
    from gld_ros.diffusion.solvers import Solver

SolverPresetName = Literal["published", "fast"]
PresetName = Literal["published", "fast", "fastest"]
PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)

# Steps of second order that come as near to the exact solution as a bundle's Euler steps: so many,
# and this share of Euler's. Measured for 5, 10 and 49 (`benchmark/presets.py quality`).
FAST_FIRST, FAST_SHARE = 3.5, 0.13


@dataclass(frozen=True)
class SolverSteps:
    """A solver and its number of steps."""

    solver: Solver
    steps: int


def solver_steps(name: SolverPresetName, own: SolverSteps) -> SolverSteps:
    """What a preset runs for a bundle whose own procedure is `own`.

    Only Euler is made faster: a bundle with another solver has been given its few steps already.
    """
    if name == "published" or own.solver != "euler":
        return own
    return SolverSteps("abm2", min(own.steps, round(FAST_FIRST + FAST_SHARE * own.steps)))
