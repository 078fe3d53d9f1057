"""Camera figures of one method, collected scene by scene.

Owns what is collected and how it is summed up. The measures themselves are in `pose_metrics.py`,
and where cameras come from is the model's business (`model_runs.py`).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gld_ros.evaluation.batch import Batch
from gld_ros.evaluation.figures import known
from gld_ros.evaluation.model_runs import ImaginedViews
from gld_ros.evaluation.pose_metrics import (
    baseline_in_depths,
    pair_angles_deg,
    pair_figures,
    trajectory_errors,
)

FloatArray = NDArray[np.floating[Any]]
TRAJECTORY_FIGURES = ("ATE", "RPE_translation", "RPE_rotation_deg")


@dataclass
class RecoveredCameraFigures:
    """What the recovered cameras of all scenes say, on pairs that hold a target."""

    rotation_deg: list[FloatArray] = field(default_factory=list)
    direction_deg: list[FloatArray] = field(default_factory=list)
    baseline_shares: list[float] = field(default_factory=list)
    focal_error: list[float] = field(default_factory=list)
    trajectories: list[dict[str, float]] = field(default_factory=list)
    scenes_without_alignment: int = 0
    scenes_without_cameras: int = 0

    def add(self, views: ImaginedViews, batch: Batch) -> None:
        """Judge the cameras of every scene of a batch."""
        for b, T_model_cam in enumerate(views.T_model_cam):
            if not bool(T_model_cam.isfinite().all()):
                self.scenes_without_cameras += 1
                continue
            T_world, T_model = _numpy(batch.T_world_cam[b]), _numpy(T_model_cam)
            self._add_pairs(T_world, T_model, batch.num_references)
            if batch.depth_m is not None and bool((batch.depth_m[b] > 0).any()):
                true = baseline_in_depths(T_world, _numpy(batch.depth_m[b]))
                if true > 0:
                    found = baseline_in_depths(T_model, _numpy(views.depth[b]))
                    self.baseline_shares.append(found / true)
            targets = slice(batch.num_references, None)
            focal, true_focal = (
                K_px[b, targets].double().cpu().diagonal(dim1=-2, dim2=-1)[:, :2]
                for K_px in (views.K_px, batch.K_px)
            )
            self.focal_error += ((focal - true_focal).abs() / true_focal).mean(1).tolist()
            errors = trajectory_errors(T_world, T_model)
            if errors is None:
                self.scenes_without_alignment += 1
            else:
                self.trajectories.append(errors)

    def add_without_motion(self, batch: Batch) -> None:
        """Judge what says that all cameras of a scene are one: the control of these figures."""
        for T_world_cam in batch.T_world_cam:
            same = np.tile(np.eye(4), (len(T_world_cam), 1, 1))
            self._add_pairs(_numpy(T_world_cam), same, batch.num_references)

    def _add_pairs(self, T_world: FloatArray, T_model: FloatArray, references: int) -> None:
        rotation, direction = pair_angles_deg(T_world, T_model, references)
        self.rotation_deg.append(rotation)
        self.direction_deg.append(direction)

    def to_json(self) -> dict[str, Any]:
        """All figures; None for those that no scene gives."""
        figures: dict[str, Any] = {
            "scenes": len(self.rotation_deg),
            "scenes_without_recovered_cameras": self.scenes_without_cameras,
            "scenes_without_alignment": self.scenes_without_alignment,
        }
        if self.rotation_deg:
            pairs = pair_figures(
                np.concatenate(self.rotation_deg), np.concatenate(self.direction_deg)
            )
            figures |= {name: known(value) for name, value in pairs.items()}
        figures["baseline_share"] = _median(self.baseline_shares)
        figures["focal_relative_error"] = _mean(self.focal_error)
        for name in TRAJECTORY_FIGURES:
            figures[name] = _mean([errors[name] for errors in self.trajectories])
        return figures


def _numpy(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.double().cpu().numpy()
    return array


def _mean(values: list[float]) -> float | None:
    return known(float(np.mean(values))) if values else None


def _median(values: list[float]) -> float | None:
    return known(float(np.median(values))) if values else None
