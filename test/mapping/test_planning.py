"""Overlap, choice of reference views, guard, and the plan that joins them."""

import itertools

import numpy as np
import pytest

from gld_ros.mapping.guard import GuardFault, GuardParameters, check_target
from gld_ros.mapping.overlap import depth_plane_points, visible
from gld_ros.mapping.planning import plan_views
from gld_ros.mapping.selection import select_references

S = 1_000_000_000
DEPTH_M = 3.0
GUARD = GuardParameters()


def test_overlap_of_a_shifted_camera_is_what_geometry_says(camera_at, pinhole_of):
    hw, K_px = (60, 80), pinhole_of((60, 80))
    points = depth_plane_points(camera_at(0, 0), K_px, hw, DEPTH_M)
    shift_px = 20
    shift_m = shift_px * DEPTH_M / K_px[0, 0]  # fronto-parallel points move by f x baseline / depth
    seen = visible(points, camera_at(0, shift_m), K_px, hw)
    assert seen.mean() == pytest.approx(1 - shift_px / 80, abs=1 / 24)


def test_points_behind_a_camera_are_not_seen(camera_at, pinhole_of):
    points = depth_plane_points(camera_at(0, 0), pinhole_of((60, 80)), (60, 80), DEPTH_M)
    assert not visible(points, camera_at(0, 0, yaw=np.pi), pinhole_of((60, 80)), (60, 80)).any()


def select(keyframes, targets, count=4, **options):
    chosen = select_references(keyframes, targets, count, DEPTH_M, 20.0, **options)
    return [(k.camera, k.stamp_ns / S) for k in chosen]


def test_the_newest_of_the_camera_that_sees_the_target_is_always_taken(
    keyframe_of, camera_at, target_of
):
    keyframes = [
        keyframe_of(camera_at(0, 0), 1.0),
        keyframe_of(camera_at(0, 0.02), 2.0),
        keyframe_of(camera_at(0, 0, yaw=np.pi), 3.0, camera="rear"),
    ]
    assert select(keyframes, [target_of(camera_at(0, 0))], 1) == [("front", 2.0)]


def test_views_from_apart_are_preferred_and_useless_ones_left_out(
    keyframe_of, camera_at, target_of
):
    keyframes = [
        keyframe_of(camera_at(0, 0), 5.0),
        keyframe_of(camera_at(0, 0.01), 4.8),  # almost the same place
        keyframe_of(camera_at(0, 0.3), 4.0),
        keyframe_of(camera_at(0, -0.3), 3.0),
        keyframe_of(camera_at(0, 0, yaw=np.pi), 4.9),  # sees nothing of the target
    ]
    targets = [target_of(camera_at(0, 0.1))]
    assert select(keyframes, targets, 3) == [("front", 5.0), ("front", 4.0), ("front", 3.0)]
    assert ("front", 4.9) not in select(keyframes, targets, 5)


def test_age_decides_between_equals(keyframe_of, camera_at, target_of):
    keyframes = [
        keyframe_of(camera_at(0, 0), 30.0),
        keyframe_of(camera_at(0, 0.4), 12.0),
        keyframe_of(camera_at(0, 0.4), 29.0),
    ]
    assert select(keyframes, [target_of(camera_at(0, 0))], 2) == [("front", 30.0), ("front", 29.0)]


def test_segments_and_epochs_never_mix(keyframe_of, camera_at, target_of):
    keyframes = [
        keyframe_of(camera_at(0, 0.4), 1.0, segment=0),
        keyframe_of(camera_at(0, 0.0), 2.0, segment=1),
        keyframe_of(camera_at(0, 0.2), 3.0, segment=1),
        keyframe_of(camera_at(0, 0.3), 2.5, camera="rear", segment=0),
    ]
    chosen = select(keyframes, [target_of(camera_at(0, 0.4))])
    assert chosen == [("front", 3.0), ("front", 2.0)]


def test_a_job_can_be_anchored_in_the_past_and_limited_to_cameras(
    keyframe_of, camera_at, target_of
):
    keyframes = [keyframe_of(camera_at(0, 0.1 * i), 1.0 + i) for i in range(5)]
    keyframes += [keyframe_of(camera_at(0, 0.1), 2.5, camera="rear")]
    targets = [target_of(camera_at(0, 0))]
    chosen = select(keyframes, targets, anchor_time_ns=round(3.1 * S), cameras=["front"])
    assert chosen == [("front", 3.0), ("front", 2.0), ("front", 1.0)]
    assert select(keyframes, targets, cameras=["none"]) == []
    assert select([], targets) == []


def test_the_choice_does_not_depend_on_the_order_of_keyframes(keyframe_of, camera_at, target_of):
    keyframes = [keyframe_of(camera_at(0, y), s) for s, y in enumerate([0.0, 0.2, -0.2, 0.2], 1)]
    keyframes.append(keyframe_of(camera_at(0, 0.2), 4.0, camera="rear"))
    targets = [target_of(camera_at(0, 0))]
    choices = [select(order, targets, 3) for order in itertools.permutations(keyframes)]
    assert all(choice == choices[0] for choice in choices)


@pytest.mark.parametrize(
    ("pose", "fault"),
    [
        ({"y": 0.5}, None),
        ({"y": 1.6}, GuardFault.TRANSLATION),
        ({"y": 0.0, "yaw": 1.1}, GuardFault.ROTATION),
        ({"y": 0.0, "yaw": 1.0}, GuardFault.OVERLAP),
    ],
)
def test_each_limit_of_the_guard_has_its_reason(keyframe_of, camera_at, target_of, pose, fault):
    target = target_of(camera_at(0, **pose))
    verdict = check_target(target, [keyframe_of(camera_at(0, 0))], DEPTH_M, GUARD)
    assert verdict.fault is fault
    assert verdict.accepted == (fault is None)
    assert (f"guard.{'max' if fault is not GuardFault.OVERLAP else 'min'}" in verdict.reason) == (
        fault is not None
    )


def test_one_view_must_be_near_in_place_and_direction_at_once(keyframe_of, camera_at, target_of):
    near_but_turned = keyframe_of(camera_at(0, 0, yaw=2.0))
    far_but_aligned = keyframe_of(camera_at(-2.0, 0))
    target = target_of(camera_at(0, 0))
    verdict = check_target(target, [near_but_turned, far_but_aligned], DEPTH_M, GUARD)
    assert verdict.fault is GuardFault.ROTATION
    assert check_target(target, [], DEPTH_M, GUARD).fault is GuardFault.NO_REFERENCE


def test_views_together_cover_what_none_covers_alone(keyframe_of, camera_at, target_of):
    views = [keyframe_of(camera_at(0, 0, yaw=yaw)) for yaw in (-0.6, 0.6)]
    target = target_of(camera_at(0, 0))
    alone = [check_target(target, [view], DEPTH_M, GUARD).overlap for view in views]
    assert check_target(target, views, DEPTH_M, GUARD).overlap == pytest.approx(
        sum(alone), abs=0.05
    )


def test_a_plan_refuses_bad_targets_and_serves_the_rest(keyframe_of, camera_at, target_of):
    keyframes = [keyframe_of(camera_at(0, 0.3 * i), 1.0 + i) for i in range(3)]
    wanted = [target_of(camera_at(0, y)) for y in (0.1, 9.0, 0.4)]
    plan = plan_views(keyframes, wanted, 4, DEPTH_M, 20.0, GUARD)
    assert plan.runnable
    assert plan.targets == (wanted[0], wanted[2])
    assert [(r.index, r.verdict.fault) for r in plan.rejected] == [(1, GuardFault.TRANSLATION)]
    assert all(v.accepted for v in plan.verdicts)
    assert plan.references[0].stamp_ns == 3 * S


def test_without_keyframes_or_targets_nothing_runs(keyframe_of, camera_at, target_of):
    assert not plan_views([], [target_of(camera_at(0, 0))], 4, DEPTH_M, 20.0, GUARD).runnable
    plan = plan_views([keyframe_of(camera_at(0, 0))], [], 4, DEPTH_M, 20.0, GUARD)
    assert not plan.runnable
    with pytest.raises(ValueError, match="median_depth_m"):
        plan_views([], [], 4, float("nan"), 20.0, GUARD)
