"""The reference views of a job: recent keyframes that see its targets from different places.

Owns only the choice; `guard` decides whether they are enough for a target.
The same keyframes and targets always give the same choice.
"""

from collections.abc import Sequence

import numpy as np

from gld_ros.geometry.poses import distance_m, turn_rad
from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.overlap import depth_plane_points, visible

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
    overlap = {id(k): _mean_overlap(k, points) for k in candidates}

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
    now_ns = max(k.stamp_ns for k in [first, *rest])
    while rest and len(chosen) < count:
        scores = {
            id(k): round(
                overlap[id(k)] * _diversity(k, chosen, median_depth_m)
                - AGE_PENALTY * (now_ns - k.stamp_ns) * 1e-9 / max(max_age_s, 1e-9),
                _SCORE_DIGITS,
            )
            for k in rest
        }
        best = min(rest, key=lambda k: (-scores[id(k)], -k.stamp_ns, k.camera))
        rest.remove(best)
        if overlap[id(best)] > 0:
            chosen.append(best)
    return tuple(sorted(chosen, key=lambda k: (-k.stamp_ns, k.camera)))


def _mean_overlap(keyframe: Keyframe, points: Sequence[np.ndarray]) -> float:
    if not points:
        return 1.0
    fractions = [
        visible(p, keyframe.T_fixed_cam, keyframe.K_px, keyframe.image_hw).mean() for p in points
    ]
    return round(float(np.mean(fractions)), _SCORE_DIGITS)


def _diversity(keyframe: Keyframe, chosen: Sequence[Keyframe], median_depth_m: float) -> float:
    """From almost 0 (same place and direction as one chosen) to 1."""
    return min(
        max(
            REDUNDANT_WORTH,
            min(
                1.0,
                distance_m(keyframe.T_fixed_cam, other.T_fixed_cam)
                / (DIVERSE_BASELINE * median_depth_m)
                + turn_rad(keyframe.T_fixed_cam, other.T_fixed_cam) / DIVERSE_TURN_RAD,
            ),
        )
        for other in chosen
    )
