"""Known poses and the DA3 network: scaling poses for it, and scaling its depth back.

Owns the pose normalisation of DA3's public interface and the scale between the given and the
predicted camera paths.
"""

import torch
from torch import Tensor

from gld_ros.geometry.rigid import invert_rigid, rigid_transform
from gld_ros.geometry.similarity import Similarity, umeyama

MIN_POSE_SCALE = 0.1
MIN_VIEWS_FOR_ROBUST_SCALE = 10
ROBUST_SAMPLES = 100
ROBUST_SEED = 42
INLIER_SIGMAS = 2.5


def normalise_poses(T_cam_world: Tensor) -> tuple[Tensor, Tensor]:
    """Make view 0 the origin and divide translations by the typical camera distance from it.

    T_cam_world: (..., V, 4, 4). The divisor (...), returned too, is the (lower) median distance of
    all camera centres from view 0, itself included, and at least 0.1.
    """
    relative = T_cam_world @ invert_rigid(T_cam_world[..., :1, :, :])
    distances = invert_rigid(relative)[..., :3, 3].norm(dim=-1)
    scale = distances.median(dim=-1).values.clamp(min=MIN_POSE_SCALE)
    translation = relative[..., :3, 3] / scale[..., None, None]
    return rigid_transform(relative[..., :3, :3], translation), scale


def scale_between_trajectories(T_cam_world_given: Tensor, T_cam_world_pred: Tensor) -> float | None:
    """Length in the prediction of one unit of the given poses, both (V, 4, 4), views matched.

    Least squares on the camera centres (Umeyama), which also serves cameras on a line. From ten
    views on, outliers are first dropped: of many alignments of three views the one with the least
    median error decides which views count. None when centres coincide and no scale exists.
    """
    given = invert_rigid(T_cam_world_given.double())[:, :3, 3]
    predicted = invert_rigid(T_cam_world_pred.double())[:, :3, 3]
    if len(given) >= MIN_VIEWS_FOR_ROBUST_SCALE:
        keep = _consistent_views(given, predicted)
        given, predicted = given[keep], predicted[keep]
    given, predicted = given - given.mean(0), predicted - predicted.mean(0)
    variance = given.square().sum(-1).mean()
    covariance = predicted.mT @ given / len(given)
    U, singular, Vh = torch.linalg.svd(covariance)
    mirrored = torch.linalg.det(U) * torch.linalg.det(Vh) < 0
    trace = singular[0] + singular[1] + (-singular[2] if mirrored else singular[2])
    if variance <= 1e-12 or trace <= 1e-12 * variance:
        return None
    return float(trace / variance)


def _consistent_views(given: Tensor, predicted: Tensor) -> Tensor:
    """Mask (V,) of the views that agree with the alignment of least median error."""
    generator = torch.Generator().manual_seed(ROBUST_SEED)
    best, best_median = torch.ones(len(given), dtype=torch.bool), torch.inf
    for _ in range(ROBUST_SAMPLES):
        sample = torch.randperm(len(given), generator=generator)[:3]
        alignment = _alignment_or_none(predicted[sample], given[sample])
        if alignment is None:
            continue
        errors = (predicted - alignment.transform_points(given)).norm(dim=-1)
        median = float(errors.median())
        if median < best_median:
            best_median = median
            # 1.4826 turns the median of a normal error into its standard deviation.
            best = errors <= max(INLIER_SIGMAS * 1.4826 * median, 1e-9)
    return best


def _alignment_or_none(points_a: Tensor, points_b: Tensor) -> Similarity | None:
    try:
        return umeyama(points_a, points_b)
    except ValueError:  # three centres on a line fix no rotation: another sample will do
        return None
