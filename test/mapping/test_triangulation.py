import cv2
import numpy as np
import pytest

from gld_ros.geometry.poses import rigid_transform, rotation_z
from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.jobs import SynthesisRun
from gld_ros.mapping.postprocess import measure_scale
from gld_ros.mapping.scale import (
    MetricScale,
    ScaleParameters,
    ScaleSource,
    measure_from_shared_points,
)
from gld_ros.mapping.triangulation import find_corners, triangulate
from gld_ros.view_request import NovelViews, View

HW = (120, 160)
K_PX = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
BASELINE_M = 0.4
# A wall 2 m away above one that is 4 m away: their pictures shift by 20 and 10 pixels.
DEPTH_M = np.repeat([2.0, 4.0], 60)[:, None] * np.ones(160)
WORLD = rigid_transform(rotation_z(0.7), [3, -2, 1])
LIMITS = ScaleParameters()


def walls(shift_px=(0, 0), seed=0):
    """What a camera sees that moved so far to the right that the walls shift by so many pixels."""
    noise = np.random.default_rng(seed).uniform(0, 255, (120, 220)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    halves = [texture[r : r + 60, s : s + 160] for r, s in zip((0, 60), shift_px, strict=True)]
    return np.repeat(np.concatenate(halves)[..., None], 3, axis=2).astype(np.uint8)


def keyframe(image, x_m=0.0, T_fixed_cam=None):
    T = WORLD @ rigid_transform(np.eye(3), [x_m, 0, 0]) if T_fixed_cam is None else T_fixed_cam
    return Keyframe("camera", 0, "optical", image, K_PX, T, 0)


def view(depth, T_model_cam=None):
    return View(
        rgb=np.zeros((*HW, 3), np.float32),
        depth=depth.astype(np.float32),
        confidence=np.ones(HW, np.float32),
        K_px=K_PX,
        T_world_cam=np.eye(4),
        T_model_cam=T_model_cam,
        recovered_K_px=None,
        ray_confidence_mean=None,
        spread=None,
    )


@pytest.fixture(scope="module")
def pair():
    return keyframe(walls()), keyframe(walls((20, 10)), BASELINE_M)


def test_shared_corners_have_their_metric_depth_in_both_cameras(pair):
    shared = triangulate(*(find_corners(frame) for frame in pair))
    assert len(shared.in_first_m) > 40
    true = np.where(shared.in_first_m[:, 1] < 0, 2.0, 4.0)
    assert np.median(np.abs(shared.in_first_m[:, 2] / true - 1)) < 0.02
    np.testing.assert_allclose(shared.in_second_m[:, 2], shared.in_first_m[:, 2], rtol=1e-3)
    moved = shared.in_first_m - shared.in_second_m - [BASELINE_M, 0, 0]
    assert np.median(np.linalg.norm(moved, axis=1)) < 0.02  # rays miss each other by this


@pytest.mark.parametrize(
    "second",
    [
        keyframe(walls(), 0.0),  # no parallax
        keyframe(walls((20, 10)), -BASELINE_M),  # the other way: points would lie behind
        keyframe(walls((20, 10)), T_fixed_cam=WORLD @ rigid_transform(np.eye(3), [0, 0.4, 0])),
        keyframe(walls((20, 10), seed=1), BASELINE_M),  # another place
        keyframe(np.full((*HW, 3), 90, np.uint8), BASELINE_M),  # nothing to see
    ],
    ids=["same place", "behind", "off the epipolar plane", "other scene", "plain"],
)
def test_what_the_cameras_do_not_allow_is_no_point(pair, second):
    shared = triangulate(find_corners(pair[0]), find_corners(second))
    assert len(shared.in_first_m) <= 2


def test_model_depth_of_any_unit_gives_its_scale(pair):
    references = [view(DEPTH_M / 2.7), view(DEPTH_M / 2.7)]
    measured = measure_from_shared_points(references, pair, LIMITS, 0.5)
    assert (measured.fault, measured.num_pairs) == ("", 1)
    assert measured.scale == pytest.approx(2.7, rel=0.03)
    assert measured.relative_dispersion < 0.05
    state = MetricScale(LIMITS).update(measured, 10**9)
    assert (state.metric, state.source) == (True, ScaleSource.TRIANGULATION)


def test_a_part_of_the_scene_that_is_wrong_is_seen_by_the_scatter(pair):
    measured = measure_from_shared_points(
        [view(np.where(DEPTH_M == 2, 2.0, 3.0))] * 2, pair, LIMITS, 0.5
    )
    assert "scatters by" in measured.fault


def test_wrong_depth_is_seen_by_its_scatter(pair):
    upside_down = [view(DEPTH_M[::-1] / 2.7)] * 2
    measured = measure_from_shared_points(upside_down, pair, LIMITS, 0.5)
    assert "scatters by" in measured.fault
    assert "scale.max_dispersion" in measured.fault


def test_too_few_corners_and_too_short_baselines_say_so(pair):
    references = [view(DEPTH_M)] * 2
    unsure = measure_from_shared_points(references, pair, LIMITS, min_confidence=2.0)
    assert unsure.fault.startswith("0 corners")
    near = measure_from_shared_points(
        references, pair, ScaleParameters(min_baseline_m=0.5), min_confidence=0.5
    )
    assert "up to 0.400 m apart" in near.fault
    assert "scale.min_baseline 0.500" in near.fault


@pytest.mark.parametrize(
    ("mode", "cameras", "source"),
    [
        ("auto", "right", ScaleSource.TF_BASELINE),
        ("auto", "none", ScaleSource.TRIANGULATION),
        ("auto", "coincide", ScaleSource.TRIANGULATION),
        ("triangulation", "right", ScaleSource.TRIANGULATION),
        ("tf_baseline", "none", ScaleSource.NONE),
    ],
)
def test_auto_triangulates_where_recovered_cameras_say_nothing(pair, mode, cameras, source):
    offset = {"right": BASELINE_M / 2.7, "coincide": 1e-6}.get(cameras)
    poses = [None, None]
    if offset is not None:
        poses = [rigid_transform(np.eye(3), [x, 0, 0]) for x in (0.0, offset)]
    views = NovelViews(tuple(view(DEPTH_M / 2.7, T) for T in poses), (), 0, {})
    parameters = ScaleParameters(mode=mode)
    measured = measure_scale(SynthesisRun(views, (), pair), parameters, 0.5)
    state = MetricScale(parameters).update(measured, 10**9)
    assert state.source is source
    assert state.metric == (source is not ScaleSource.NONE)
    if state.metric:
        assert state.scale == pytest.approx(2.7, rel=0.03)


def auto_measurement(pair, depth, images=None):
    """What a job says whose recovered cameras coincide."""
    frames = pair if images is None else tuple(keyframe(i, x) for i, x in images)
    views = NovelViews(tuple(view(depth, np.eye(4)) for _ in frames), (), 0, {})
    return measure_scale(SynthesisRun(views, (), frames), ScaleParameters(mode="auto"), 0.5)


def test_a_triangulated_scale_is_held_when_corners_are_missing_but_not_when_depth_is_wrong(pair):
    scale = MetricScale(ScaleParameters(mode="auto"))
    plain = np.full((*HW, 3), 90, np.uint8)
    blank = auto_measurement(pair, DEPTH_M / 2.7, [(plain, 0.0), (plain, BASELINE_M)])
    assert not scale.update(blank, 10**9).metric  # nothing to hold yet
    assert scale.update(auto_measurement(pair, DEPTH_M / 2.7), 2 * 10**9).metric
    held = scale.update(blank, 3 * 10**9)
    assert (held.metric, held.source) == (True, ScaleSource.HELD)
    assert "0 corners" in held.reason
    wrong = scale.update(auto_measurement(pair, DEPTH_M[::-1] / 2.7), 4 * 10**9)
    assert (wrong.metric, wrong.source) == (False, ScaleSource.NONE)
    assert "scatters by" in wrong.reason
