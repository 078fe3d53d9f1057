"""From requested targets and stored keyframes to one job: choose views, guard targets, report.

Owns the order in which `selection` and `guard` are applied. `jobs` makes a request of the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.guard import GuardParameters, GuardVerdict, check_target
from gld_ros.mapping.selection import select_references


@dataclass(frozen=True)
class RejectedTarget:
    """A target that the guard rejected; `index` counts the wanted targets from 0."""

    index: int
    verdict: GuardVerdict


@dataclass(frozen=True)
class ViewPlan:
    """What a job will do: reference views, targets with their verdicts, and what was rejected."""

    references: tuple[Keyframe, ...]  # newest first; none if no keyframe qualifies
    targets: tuple[TargetCamera, ...]
    verdicts: tuple[GuardVerdict, ...]
    rejected: tuple[RejectedTarget, ...]

    @property
    def runnable(self) -> bool:
        """Whether there is a target, and a view to start from."""
        return bool(self.references and self.targets)


def plan_views(
    keyframes: Sequence[Keyframe],
    wanted: Sequence[TargetCamera],
    count: int,
    median_depth_m: float,
    max_age_s: float,
    guard: GuardParameters,
    *,
    cameras: Sequence[str] = (),
    anchor_time_ns: int = 0,
) -> ViewPlan:
    """Choose reference views for the wanted targets and guard every target.

    Views chosen for a target that is then rejected may be poor for the others, so the choice is
    repeated for the remaining targets until the guard accepts all of them.
    """
    if not median_depth_m > 0:
        raise ValueError(f"median_depth_m is {median_depth_m}; > 0 is needed")
    remaining = list(range(len(wanted)))
    rejected: list[RejectedTarget] = []
    while True:
        targets = [wanted[i] for i in remaining]
        references = select_references(
            keyframes,
            targets,
            count,
            median_depth_m,
            max_age_s,
            cameras=cameras,
            anchor_time_ns=anchor_time_ns,
        )
        verdicts = [check_target(t, references, median_depth_m, guard) for t in targets]
        failed = [(i, v) for i, v in zip(remaining, verdicts, strict=True) if not v.accepted]
        if not failed:
            break
        rejected.extend(RejectedTarget(i, verdict) for i, verdict in failed)
        remaining = [i for i, v in zip(remaining, verdicts, strict=True) if v.accepted]
    return ViewPlan(
        references,
        tuple(targets),
        tuple(verdicts),
        tuple(sorted(rejected, key=lambda r: r.index)),
    )
