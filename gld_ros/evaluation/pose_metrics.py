"""How accurate recovered cameras are: pairwise angles (RRA, RTA, mAA, AUC), ATE and RPE by `evo`.

Poses are camera-to-world (V, 4, 4) NumPy of one scene: the recovered ones in model units, the true
ones in the unit of the data. Pairwise figures need no alignment; ATE and RPE follow a Sim(3) one.
"""

from itertools import combinations
from typing import Any

import numpy as np
from evo.core import metrics
from evo.core.geometry import GeometryException
from evo.core.trajectory import PosePath3D
from numpy.typing import NDArray

from gld_ros.geometry.poses import rotation_angle_rad
from gld_ros.mapping.scale import ScaleParameters, coincidence, measure_from_baselines

FloatArray = NDArray[np.floating[Any]]

# A camera baseline shorter than this part of the scene's longest has no reliable direction.
MIN_BASELINE_SHARE = 0.01
MIN_BASELINE = 1e-6  # in data without metres
RRA_RTA_DEG = 15
MAA_DEG = 30
AUC_DEG = (3, 30)


def scale_from_baselines(
    T_world_cam: FloatArray, T_model_cam: FloatArray, median_depth: float, *, metric: bool
) -> float:
    """World units per model unit as the node measures it; NaN where the node would reject it.

    It rejects rotations that disagree, ratios that scatter, cameras that coincide compared with
    `median_depth` (model units), and, in metric data, baselines that are too short (the node's
    defaults).
    """
    if coincidence(list(T_model_cam), median_depth):
        return float("nan")
    limits = ScaleParameters() if metric else ScaleParameters(min_baseline_m=MIN_BASELINE)
    measured = measure_from_baselines(
        list(T_world_cam), list(T_model_cam), [1.0] * len(T_world_cam), limits
    )
    return float("nan") if measured.fault else measured.scale


def pair_angles_deg(
    T_world_cam: FloatArray, T_model_cam: FloatArray, num_references: int
) -> tuple[FloatArray, FloatArray]:
    """Errors in degrees of relative rotation and of translation direction, per pair of views.

    Pairs hold at least one target (the views after the references). The second is NaN where the
    true baseline is too short to have a direction, and 180 where the model sees none.
    """
    distances = _distances(T_world_cam)
    limit = max(MIN_BASELINE_SHARE * distances.max(initial=0.0), MIN_BASELINE)
    rotations, directions = [], []
    for (i, j), distance in zip(combinations(range(len(T_world_cam)), 2), distances, strict=True):
        if j < num_references:
            continue
        true, model = (np.linalg.inv(T[i]) @ T[j] for T in (T_world_cam, T_model_cam))
        rotations.append(np.degrees(rotation_angle_rad(true[:3, :3].T @ model[:3, :3])))
        directions.append(
            _angle_deg(true[:3, 3], model[:3, 3]) if distance > limit else float("nan")
        )
    return np.array(rotations), np.array(directions)


def pair_figures(rotation_deg: FloatArray, direction_deg: FloatArray) -> dict[str, float]:
    """RRA@15, RTA@15, mAA@30, AUC@3 and AUC@30 of pairs pooled over scenes, as shares.

    mAA@30 is the mean over 1..30 degrees of the smaller of RRA and RTA (PoseDiffusion), AUC@n the
    mean over 1..n of the share of pairs whose larger error is below the limit (VGGT). Pairs without
    a direction count in RRA only. NaN where there are none.
    """
    both = np.maximum(rotation_deg, direction_deg)[np.isfinite(direction_deg)]
    direction = direction_deg[np.isfinite(direction_deg)]

    def share(errors: FloatArray, limit: float) -> float:
        return float((errors < limit).mean()) if errors.size else float("nan")

    figures = {
        f"RRA@{RRA_RTA_DEG}": share(rotation_deg, RRA_RTA_DEG),
        f"RTA@{RRA_RTA_DEG}": share(direction, RRA_RTA_DEG),
        f"mAA@{MAA_DEG}": float(
            np.mean(
                [
                    min(share(rotation_deg, limit), share(direction, limit))
                    for limit in range(1, MAA_DEG + 1)
                ]
            )
        ),
    }
    for degrees in AUC_DEG:
        limits = range(1, degrees + 1)
        figures[f"AUC@{degrees}"] = float(np.mean([share(both, limit) for limit in limits]))
    return figures


def baseline_in_depths(T_frame_cam: FloatArray, depth: FloatArray) -> float:
    """Mean distance between the cameras of a scene over the median of its depth (V, H, W).

    Both in one unit; depth that is not positive is unknown. NaN without known depth.
    """
    valid = depth[depth > 0]
    if not valid.size:
        return float("nan")
    return float(_distances(T_frame_cam).mean() / np.median(valid))


def trajectory_errors(T_world_cam: FloatArray, T_model_cam: FloatArray) -> dict[str, float] | None:
    """ATE, RPE of translation (unit of the data) and of rotation (degrees): RMSE by `evo`.

    After Sim(3) Umeyama alignment on all views of the scene; RPE over all pairs of views. None
    where the centres do not determine an alignment: fewer than three, or all on one line.
    """
    true, model = (PosePath3D(poses_se3=list(_rigid(T))) for T in (T_world_cam, T_model_cam))
    try:
        model.align(true, correct_scale=True)
    except GeometryException:
        return None
    ate = metrics.APE(metrics.PoseRelation.translation_part)
    ate.process_data((true, model))
    figures = {"ATE": float(ate.get_statistic(metrics.StatisticsType.rmse))}
    for name, relation in (
        ("RPE_translation", metrics.PoseRelation.translation_part),
        ("RPE_rotation_deg", metrics.PoseRelation.rotation_angle_deg),
    ):
        errors = []
        for gap in range(1, len(T_world_cam)):
            rpe = metrics.RPE(relation, delta=gap, delta_unit=metrics.Unit.frames, all_pairs=True)
            rpe.process_data((true, model))
            errors.append(rpe.error)
        figures[name] = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    return figures


def _distances(T: FloatArray) -> FloatArray:
    centres = T[:, :3, 3]
    pairs = combinations(range(len(T)), 2)
    return np.array([np.linalg.norm(centres[i] - centres[j]) for i, j in pairs])


def _angle_deg(a: FloatArray, b: FloatArray) -> float:
    if not a.any() or not b.any():
        return 180.0  # no direction is as wrong as can be, not right by chance
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), np.dot(a, b))))


def _rigid(T: FloatArray) -> FloatArray:
    """Poses with rotations orthogonal to float64 precision, which evo requires."""
    T = np.array(T, dtype=np.float64)
    U, _, Vh = np.linalg.svd(T[:, :3, :3])
    T[:, :3, :3] = U @ Vh
    return T
