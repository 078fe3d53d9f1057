"""The check of every target: one too far from what cameras have seen is rejected.

Owns the limits and the reasons. Rejected targets are reported, never moved closer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gld_ros.geometry.poses import distance_m, turn_rad
from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.overlap import covered_fraction, depth_plane_points, visible


class GuardFault(Enum):
    """Which limit a target breaks."""

    NO_REFERENCE = "no_reference"
    TRANSLATION = "translation"
    ROTATION = "rotation"
    OVERLAP = "overlap"


@dataclass(frozen=True)
class GuardParameters:
    """Limits, as the parameters `guard.*`."""

    max_translation_m: float = 1.5
    max_rotation_rad: float = 1.05
    min_overlap: float = 0.25


@dataclass(frozen=True)
class GuardVerdict:
    """Whether a target is accepted; the numbers are set in any case."""

    accepted: bool
    fault: GuardFault | None
    reason: str  # a sentence with numbers; empty when accepted
    overlap: float  # fraction of the target's pixels inside the frustum of a reference
    translation_m: float  # to the nearest reference view
    rotation_rad: float  # to the reference view turned least


def check_target(
    target: TargetCamera,
    references: Sequence[Keyframe],
    median_depth_m: float,
    parameters: GuardParameters,
) -> GuardVerdict:
    """Judge one target against the reference views of its job.

    A single reference view must be near enough in both translation and rotation, and all
    together must cover enough of the target's pixels at the median depth.
    """
    if not references:
        return GuardVerdict(
            False, GuardFault.NO_REFERENCE, "there is no reference view", 0.0, 0.0, 0.0
        )
    offsets = [
        (distance_m(k.T_fixed_cam, target.T_fixed_cam), turn_rad(k.T_fixed_cam, target.T_fixed_cam))
        for k in references
    ]
    translation_m = min(offset[0] for offset in offsets)
    rotation_rad = min(offset[1] for offset in offsets)
    points = depth_plane_points(target.T_fixed_cam, target.K_px, target.image_hw, median_depth_m)
    overlap = covered_fraction(
        [visible(points, k.T_fixed_cam, k.K_px, k.image_hw) for k in references]
    )

    fault, reason = None, ""
    near = [turn for moved, turn in offsets if moved <= parameters.max_translation_m]
    if not near:
        fault = GuardFault.TRANSLATION
        reason = (
            f"target is {translation_m:.2f} m from the nearest reference view; "
            f"guard.max_translation is {parameters.max_translation_m:.2f} m"
        )
    elif min(near) > parameters.max_rotation_rad:
        fault = GuardFault.ROTATION
        reason = (
            f"target is turned {min(near):.2f} rad away from every reference view near it; "
            f"guard.max_rotation is {parameters.max_rotation_rad:.2f} rad"
        )
    elif overlap < parameters.min_overlap:
        fault = GuardFault.OVERLAP
        reason = (
            f"reference views cover {overlap:.2f} of the target at {median_depth_m:.2f} m; "
            f"guard.min_overlap is {parameters.min_overlap:.2f}"
        )
    return GuardVerdict(fault is None, fault, reason, overlap, translation_m, rotation_rad)
