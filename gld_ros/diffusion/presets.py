"""How a run is sampled, by name: which solver, in how many steps, and whether by a student.

"published" is the procedure that the weights were released with. "fast" comes closer to the exact
solution of the flow per evaluation, or as close with fewer; "fastest" runs the bundle's student,
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


@dataclass(frozen=True)
class SamplerPreset:
    """A solver, and its steps as a share of the bundle's own number."""

    solver: Solver
    steps_share: float

    def steps(self, own: int) -> int:
        """How many steps replace a bundle's `own`."""
        return max(1, round(self.steps_share * own))


FEW_STEPS = 12  # of a bundle that no preset makes fewer: higher order needs steps to look back on

PRESETS: dict[SolverPresetName, SamplerPreset] = {
    "published": SamplerPreset("euler", 1.0),
    "fast": SamplerPreset("ab2", 3 / 8),
}


def preset_of(name: SolverPresetName, own_steps: int) -> SamplerPreset:
    """The preset of a name for a bundle with so many steps of its own."""
    return PRESETS["published" if own_steps <= FEW_STEPS else name]
