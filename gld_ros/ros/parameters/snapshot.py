"""Parameter values as the robot logic wants them: immutable records, made anew on every change.

A job carries the snapshot it was made with, so a change never reaches a running job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gld_ros.mapping.guard import GuardParameters
from gld_ros.mapping.keyframes import GateParameters
from gld_ros.mapping.products import ProductParameters
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.scale import ScaleParameters
from gld_ros.ros.parameters.spec import Value


@dataclass(frozen=True)
class Snapshot:
    """All parameters at one moment; `values` holds them by name."""

    values: Mapping[str, Value]
    gate: GateParameters
    guard: GuardParameters
    scale: ScaleParameters
    products: ProductParameters

    def __getitem__(self, name: str) -> Any:
        """Return the value of parameter `name`."""
        return self.values[name]


def make_snapshot(values: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot of validated values; `values` holds every parameter of the table."""
    v = values
    return Snapshot(
        values=dict(values),
        gate=GateParameters(
            min_translation_m=v["keyframes.min_translation"],
            min_rotation_rad=v["keyframes.min_rotation"],
            max_interval_s=v["keyframes.max_interval"],
            min_interval_s=v["keyframes.min_interval"],
            min_sharpness=v["keyframes.min_sharpness"],
            max_angular_velocity_rad_s=v["keyframes.max_angular_velocity"],
        ),
        guard=GuardParameters(
            max_translation_m=v["guard.max_translation"],
            max_rotation_rad=v["guard.max_rotation"],
            min_overlap=v["guard.min_overlap"],
        ),
        scale=ScaleParameters(
            mode=v["scale.mode"],
            fixed_value=v["scale.fixed_value"],
            min_baseline_m=v["scale.min_baseline"],
            max_dispersion=v["scale.max_dispersion"],
            hold_time_s=v["scale.hold_time"],
        ),
        products=ProductParameters(
            depth_min_m=v["depth.min"],
            depth_max_m=v["depth.max"],
            min_confidence=v["depth.min_confidence"],
            rel_tolerance=v["provenance.rel_tolerance"],
            real_colours=v["color.real_where_corroborated"],
            voxel_size_m=v["cloud.voxel_size"],
            stride=v["cloud.stride"],
            organized_observed=v["cloud.organized_observed"],
            predicted_provenance=frozenset(
                Provenance[name.upper()] for name in v["cloud.predicted_provenance"]
            ),
            withhold_if_unresolved=v["scale.withhold_if_unresolved"],
        ),
    )
