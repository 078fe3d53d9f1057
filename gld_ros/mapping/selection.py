"""The reference views of a job: recent keyframes that see its targets from different places.

Owns only the choice; `guard` decides whether they are enough for a target.
The same keyframes and targets always give the same choice.
"""

from collections.abc import Sequence

import numpy as np

from gld_ros.geometry.poses import rotation_angles_rad
from gld_ros.mapping.frames import FloatArray, Keyframe, TargetCamera
from gld_ros.mapping.overlap import depth_plane_points, visible_to_each

# A baseline of this fraction of the scene's depth, or this turn, makes a view fully worth adding.
DIVERSE_BASELINE = 0.1
DIVERSE_TURN_RAD = 0.35
REDUNDANT_WORTH = 0.05  # what a second image from the same place is still worth
AGE_PENALTY = 0.2  # of a perfect score, at `max_age_s`
_SCORE_DIGITS = 9  # beyond these, scores differ by rounding only and count as ties


def select_references(
    keyframes: Sequence[Keyframe],
    targets: Sequence[TargetCamera],
    count: int,
    median_depth_m: float,
    max_age_s: float,
    *,
    cameras: Sequence[str] = (),
    anchor_time_ns: int = 0,
) -> tuple[Keyframe, ...]:
    """Up to `count` keyframes for `targets`, newest first; none if no keyframe qualifies.

    The newest is the anchor, whose stamp products carry. First comes the newest keyframe of the
    camera whose newest one sees most of the targets. Then, greedily, the highest (overlap with the
    targets at the median depth) x (distance or turn from those chosen) - age penalty; never one of
    another segment or epoch, never one that adds nothing. `cameras` limits the choice (empty: all);
    `anchor_time_ns` asks for the past: the first is then the keyframe nearest to it and no newer
    one is taken. Ties go to the newer stamp, then to the camera name.
    """
    candidates = [k for k in keyframes if not cameras or k.camera in cameras]
    if not candidates or count < 1:
        return ()
    if anchor_time_ns > 0:
        nearest = min(
            candidates, key=lambda k: (abs(k.stamp_ns - anchor_time_ns), -k.stamp_ns, k.camera)
        )
        candidates = [k for k in candidates if k.stamp_ns <= nearest.stamp_ns]

    points = [
        depth_plane_points(t.T_fixed_cam, t.K_px, t.image_hw, median_depth_m) for t in targets
    ]
    overlaps = zip(candidates, _mean_overlaps(candidates, points), strict=True)
    overlap = {id(k): share for k, share in overlaps}

    newest: dict[str, Keyframe] = {}
    for keyframe in sorted(candidates, key=lambda k: k.stamp_ns):
        newest[keyframe.camera] = keyframe
    if anchor_time_ns > 0:
        first = nearest
    else:
        # A camera that stopped before the fixed frame jumped must not pull the job back there.
        latest = max(newest.values(), key=lambda k: (k.epoch, k.segment))
        current = [k for k in newest.values() if k.mixes_with(latest)]
        first = min(current, key=lambda k: (-overlap[id(k)], -k.stamp_ns, k.camera))

    chosen = [first]
    rest = [k for k in candidates if k is not first and k.mixes_with(first)]
    if not rest or count == 1:
        return (first,)
    now_ns = max(k.stamp_ns for k in [first, *rest])
    ages_s = np.array([now_ns - k.stamp_ns for k in rest]) * 1e-9
    penalty = AGE_PENALTY * ages_s / max(max_age_s, 1e-9)
    seen = np.array([overlap[id(k)] for k in rest])
    poses = np.stack([k.T_fixed_cam for k in rest])
    worth = _diversity(poses, first.T_fixed_cam, median_depth_m)
    useful = [i for i in range(len(rest)) if seen[i] > 0]
    while useful and len(chosen) < count:
        scores = np.round(seen * worth - penalty, _SCORE_DIGITS)
        best = min(useful, key=lambda i: (-scores[i], -rest[i].stamp_ns, rest[i].camera))
        useful.remove(best)
        chosen.append(rest[best])
        worth = np.minimum(worth, _diversity(poses, poses[best], median_depth_m))
    return tuple(sorted(chosen, key=lambda k: (-k.stamp_ns, k.camera)))


def _mean_overlaps(keyframes: Sequence[Keyframe], points: Sequence[FloatArray]) -> list[float]:
    """How much of the targets' points each keyframe sees, on average; 1 without targets."""
    if not points:
        return [1.0] * len(keyframes)
    seen = visible_to_each(
        np.concatenate(points),
        np.stack([k.T_fixed_cam for k in keyframes]),
        np.stack([k.K_px for k in keyframes]),
        [k.image_hw for k in keyframes],
    )
    shares: list[float] = np.round(seen.mean(axis=1), _SCORE_DIGITS).tolist()
    return shares


def _diversity(
    T_fixed_cams: FloatArray, T_fixed_chosen: FloatArray, median_depth_m: float
) -> FloatArray:
    """What poses (N, 4, 4) add to a chosen one: from almost 0 (same place and direction) to 1."""
    apart_m = np.linalg.norm(T_fixed_cams[:, :3, 3] - T_fixed_chosen[:3, 3], axis=1)
    turned = np.swapaxes(T_fixed_cams[:, :3, :3], 1, 2) @ T_fixed_chosen[:3, :3]
    worth: FloatArray = (
        apart_m / (DIVERSE_BASELINE * median_depth_m)
        + rotation_angles_rad(turned) / DIVERSE_TURN_RAD
    ).clip(REDUNDANT_WORTH, 1.0)
    return worth
