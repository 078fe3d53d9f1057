"""Poses of neighbours, corrected by the corners that they share with the reference.

Owns a small bundle adjustment. A robot's poses are a centimetre and half a degree off, or a few
milliseconds late, which amounts to pixels, where a plane sweep needs less than one. Corners of
several images distinguish rotation from parallax, which those of one pair cannot. Given poses are
priors, weighted by how well they explain the corners, so that good poses and the scale of their
camera baselines are kept.
Method: Triggs et al., "Bundle adjustment - a modern synthesis", 2000; depths are eliminated by the
Schur complement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gld_ros.geometry.poses import invert_rigid
from gld_ros.measuring.frames import FloatArray, PosedImage
from gld_ros.measuring.tracks import SharedCorners, shared_corners

MAX_CORNERS = 200
MIN_CORNERS = 20  # with fewer, poses are not changed
_STEPS = 6  # of the adjustment; later ones change nothing that matters
_CORNER_PX = 0.7  # standard deviation of a corner's place
_OUTLIER_PX = 1.0  # beyond this, an error counts as its size instead of its square (Huber)
# Errors of the corners with the poses as given: this much is due to the corners themselves, and at
# least this much is attributed to the poses.
_CORNERS_OWN_PX, _LEAST_POSE_PX = 0.3, 0.1
# Standard deviations of given poses if they cause corner errors of one pixel: of the rotation in
# pixels, and of the position, in shares of the typical depth per radian of that rotation. Positions
# are trusted more, since depth is as wrong as camera baselines are.
_TURN_PER_PX, _PLACE_PER_TURN = 0.2, 0.3
_LEAST_INVERSE_DEPTH, _LARGEST_INVERSE_DEPTH = 0.02, 20.0  # in units of the typical depth
_LEAST_Z = 1e-3
_LEAST_INFORMATION = 1e-2  # about an inverse depth: keeps those without parallax where they are


@dataclass(frozen=True, eq=False)
class RefinedPoses:
    """Neighbours with corrected poses, and how wrong the given ones were."""

    neighbours: list[PosedImage]
    # Median distance of corners from where the given poses put them, in pixels of the images that
    # were searched; NaN where too few corners are shared.
    given_error_px: float


@dataclass(frozen=True, eq=False)
class _Errors:
    """Where corners fall in the neighbours, against where they were found."""

    points: FloatArray  # (n, P, 3) in the neighbours, times inverse depth
    errors_px: FloatArray  # (n, P, 2)


def refined_poses(reference: PosedImage, neighbours: Sequence[PosedImage]) -> RefinedPoses:
    """The neighbours with poses under which shared corners meet; the reference is not moved.

    The order of neighbours does not matter. With too few corners no pose is changed.
    """
    corners = _of_use(shared_corners(reference, neighbours, MAX_CORNERS))
    if corners.found.any(axis=0).sum() < MIN_CORNERS:
        return RefinedPoses(list(neighbours), float("nan"))
    T: FloatArray = np.stack(
        [invert_rigid(n.T_fixed_cam) @ reference.T_fixed_cam for n in neighbours]
    )
    inverse_depth = _triangulated(corners, T)
    positive = inverse_depth[inverse_depth > 0]
    if len(positive) < MIN_CORNERS:
        return RefinedPoses(list(neighbours), float("nan"))
    unit_m = 1.0 / float(np.median(positive))  # the typical depth is 1 from here on
    T[:, :3, 3] /= unit_m
    inverse_depth = (inverse_depth * unit_m).clip(_LEAST_INVERSE_DEPTH, _LARGEST_INVERSE_DEPTH)
    given_error_px = _median_error_px(corners, T, inverse_depth)
    information = _prior_information(corners, given_error_px)
    T, inverse_depth = _adjusted(corners, T, inverse_depth, information)
    if _median_error_px(corners, T, inverse_depth) > given_error_px:  # the steps did not converge
        return RefinedPoses(list(neighbours), given_error_px)
    T[:, :3, 3] *= unit_m
    refined = [
        PosedImage(
            neighbour.image,
            neighbour.K_px,
            reference.T_fixed_cam @ invert_rigid(T_neighbour_reference),
            neighbour.stamp_ns,
            neighbour.camera,
        )
        for neighbour, T_neighbour_reference in zip(neighbours, T, strict=True)
    ]
    return RefinedPoses(refined, given_error_px)


def _adjusted(
    corners: SharedCorners, T: FloatArray, inverse_depth: FloatArray, information: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """T_neighbour_reference (n, 4, 4) and inverse depths (P,), adjusted together."""
    from scipy.spatial.transform import Rotation  # late: a start need not wait for it

    count = len(T)
    moved = np.zeros(6 * count)  # so far: place and turn of each, in the reference's axes
    for _ in range(_STEPS):
        step, inverse_depth = _gauss_newton_step(corners, T, inverse_depth, information, moved)
        moved += step
        step = step.reshape(count, 6)
        change = np.tile(np.eye(4), (count, 1, 1))
        change[:, :3, 3] = step[:, :3]
        change[:, :3, :3] = Rotation.from_rotvec(step[:, 3:]).as_matrix()
        T = T @ change
    return T, inverse_depth


def _prior_information(corners: SharedCorners, given_error_px: float) -> FloatArray:
    """Inverse covariance (6 n, 6 n) of the neighbours' poses relative to the reference's.

    All poses are equally uncertain, the reference's too, whose error is part of every relative one.
    """
    pose_px = np.sqrt(max(given_error_px**2 - _CORNERS_OWN_PX**2, _LEAST_POSE_PX**2))
    turn_rad = _TURN_PER_PX * pose_px / corners.focal_px
    place = _PLACE_PER_TURN * turn_rad
    count = len(corners.found)
    relative = np.eye(count) - 1.0 / (count + 1)
    return np.kron(relative, np.diag([place**-2] * 3 + [turn_rad**-2] * 3))


def _gauss_newton_step(
    corners: SharedCorners,
    T: FloatArray,
    inverse_depth: FloatArray,
    information: FloatArray,
    moved: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Change (6 n,) of the poses, and the inverse depths (P,) that go with it."""
    count = len(T)
    now = _errors(corners, T, inverse_depth)
    size_px = np.linalg.norm(now.errors_px, axis=-1)
    weight = corners.found / np.maximum(size_px / _OUTLIER_PX, 1.0) / _CORNER_PX**2
    R, t = T[:, None, :3, :3], T[:, None, :3, 3]
    by_point = np.empty((*weight.shape, 3, 6))
    by_point[..., :3] = inverse_depth[:, None, None] * R
    by_point[..., 3:] = -R @ _cross_matrices(corners.rays)
    by_pose = _in_pixels(by_point, now, corners)
    by_depth = _in_pixels(np.broadcast_to(t[..., None], (*weight.shape, 3, 1)), now, corners)[
        ..., 0
    ]
    weighted = by_pose * weight[..., None, None]
    # Rows are the two coordinates of every corner, so that products are those of matrices.
    rows, weighted_rows = (d.reshape(count, -1, 6) for d in (by_pose, weighted))
    H_pose = weighted_rows.transpose(0, 2, 1) @ rows
    H_both = (weighted * by_depth[..., None]).sum(2).transpose(0, 2, 1).reshape(6 * count, -1)
    H_depth = ((by_depth**2).sum(-1) * weight).sum(0) + _LEAST_INFORMATION
    g_pose = (weighted_rows.transpose(0, 2, 1) @ now.errors_px.reshape(count, -1, 1)).ravel()
    g_pose = g_pose + information @ moved
    g_depth = ((by_depth * now.errors_px).sum(-1) * weight).sum(0)
    H = information - (H_both / H_depth) @ H_both.T
    for k, block in enumerate(H_pose):
        H[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += block
    step = -np.linalg.solve(H, g_pose - (H_both / H_depth) @ g_depth)
    inverse_depth = inverse_depth - (g_depth + H_both.T @ step) / H_depth
    return step, inverse_depth.clip(_LEAST_INVERSE_DEPTH, _LARGEST_INVERSE_DEPTH)


def _median_error_px(corners: SharedCorners, T: FloatArray, inverse_depth: FloatArray) -> float:
    errors_px = np.linalg.norm(_errors(corners, T, inverse_depth).errors_px, axis=-1)
    return float(np.median(errors_px[corners.found]))


def _errors(corners: SharedCorners, T: FloatArray, inverse_depth: FloatArray) -> _Errors:
    points = corners.rays @ T[:, :3, :3].transpose(0, 2, 1)
    points = points + inverse_depth[:, None] * T[:, None, :3, 3]
    points[..., 2] = np.maximum(points[..., 2], _LEAST_Z)
    errors = points[..., :2] / points[..., 2:] - corners.other_rays[..., :2]
    return _Errors(points, corners.focal_px * errors)


def _in_pixels(derivative: FloatArray, at: _Errors, corners: SharedCorners) -> FloatArray:
    """Derivatives (n, P, 2, k) of errors in pixels, of those (n, P, 3, k) of points."""
    z = at.points[..., 2, None, None]
    slope = at.points[..., :2, None] / z
    return corners.focal_px * (derivative[..., :2, :] - slope * derivative[..., 2:, :]) / z


def _triangulated(corners: SharedCorners, T: FloatArray) -> FloatArray:
    """Inverse depths (P,) with the least algebraic error in all neighbours."""
    turned = corners.rays @ T[:, :3, :3].transpose(0, 2, 1)
    seen = corners.other_rays[..., :2]
    offset = T[:, None, :2, 3] - seen * T[:, None, 2:3, 3]
    distance = turned[..., :2] - seen * turned[..., 2:]
    found = corners.found[..., None]
    parallax = (offset**2 * found).sum((0, 2))
    return -(distance * offset * found).sum((0, 2)) / parallax.clip(min=1e-12)


def _of_use(corners: SharedCorners) -> SharedCorners:
    """Those corners that any neighbour shares."""
    kept = corners.found.any(axis=0)
    return SharedCorners(
        corners.rays[kept], corners.other_rays[:, kept], corners.found[:, kept], corners.focal_px
    )


def _cross_matrices(vectors: FloatArray) -> FloatArray:
    """Matrices (N, 3, 3) that take cross products with vectors (N, 3)."""
    matrices = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    matrices[:, 0, 1], matrices[:, 0, 2] = -z, y
    matrices[:, 1, 0], matrices[:, 1, 2] = z, -x
    matrices[:, 2, 0], matrices[:, 2, 1] = -y, x
    return matrices
