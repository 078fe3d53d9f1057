from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.geometry.poses import pose_from_quaternion, rigid_transform, rotation_z
from gld_ros.mapping.scale import (
    RESTART_AFTER,
    MetricScale,
    ScaleMeasurement,
    ScaleParameters,
    ScaleSource,
    measure_from_baselines,
    measure_from_surfaces,
    measure_from_views,
    resample_sensor_depth,
    robust_ratio,
)
from gld_ros.view_request import View

S = 1_000_000_000
DEFAULT = ScaleParameters()
SQUARE = [[0, 0, 0], [0.4, 0, 0], [0, 0.4, 0], [0.4, 0.4, 0.1]]


def poses(centres):
    return [rigid_transform(rotation_z(0.2 * i), c) for i, c in enumerate(centres)]


def in_model(T_fixed, metres_per_unit, frame=None):
    """The same cameras in an arbitrary frame and unit."""
    frame = rigid_transform(rotation_z(1.1), [5, -3, 2]) if frame is None else frame
    model = [frame @ T for T in T_fixed]
    for T in model:
        T[:3, 3] /= metres_per_unit
    return model


def measure(T_fixed, T_model, confidence=None, parameters=DEFAULT):
    return measure_from_baselines(T_fixed, T_model, confidence or [1.0] * len(T_fixed), parameters)


def good(scale, **changes):
    fields = {"relative_dispersion": 0.02, "num_pairs": 6, "max_baseline_m": 0.5}
    return ScaleMeasurement(ScaleSource.TF_BASELINE, scale, **(fields | changes))


@given(
    st.floats(0.01, 100.0),
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
)
def test_any_similarity_gives_its_scale_back(metres_per_unit, direction):
    quaternion = np.array(direction) / np.linalg.norm(direction)
    frame = pose_from_quaternion([1, 2, 3], quaternion)
    measurement = measure(poses(SQUARE), in_model(poses(SQUARE), metres_per_unit, frame))
    assert measurement.fault == ""
    assert measurement.scale == pytest.approx(metres_per_unit, rel=1e-9)
    assert measurement.num_pairs == 6
    assert measurement.relative_dispersion < 1e-9


def test_two_views_and_collinear_motion_are_enough():
    two = poses([[0, 0, 0], [0.5, 0, 0]])
    assert measure(two, in_model(two, 3.0)).scale == pytest.approx(3.0)
    line = poses([[0, 0, 0], [0.5, 0, 0], [1.0, 0, 0]])
    assert measure(line, in_model(line, 3.0)).scale == pytest.approx(3.0)


def test_short_baselines_are_left_out():
    T_fixed = poses([[0, 0, 0], [0.05, 0, 0], [0.5, 0, 0]])
    T_model = in_model(T_fixed, 2.0)
    T_model[1][:3, 3] += 0.2  # wrong by more than its short baseline
    assert measure(T_fixed, T_model).num_pairs == 2
    short = poses([[0, 0, 0], [0.099, 0, 0]])
    measurement = measure(short, in_model(short, 2.0))
    assert (measurement.num_pairs, np.isnan(measurement.scale)) == (0, True)
    assert "0.099 m" in measurement.fault
    exact = poses([[0.2, 0, 0], [0.3, 0, 0]])  # 0.1 up to rounding
    assert measure(exact, in_model(exact, 2.0)).num_pairs == 1


def test_pure_rotation_measures_nothing():
    still = poses([[0, 0, 0]] * 4)
    assert measure(still, in_model(still, 2.0)).num_pairs == 0


def test_dispersion_is_the_robust_spread_of_the_ratios():
    ratios = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    median, dispersion = robust_ratio(ratios, np.ones(5))
    assert median == 3.0
    assert dispersion == pytest.approx(1.48 * 1.0 / 3.0)
    assert robust_ratio(np.array([1.0, 3.0]), np.array([1.0, 9.0]))[0] == 3.0
    assert robust_ratio(np.array([3.0, 1.0]), np.ones(2))[0] == 2.0


def test_scattered_ratios_are_refused_with_numbers():
    T_fixed = poses(SQUARE)
    T_model = in_model(T_fixed, 2.0)
    for T in T_model:
        T[0, 3] *= 1.8  # anisotropic, as on a straight drive
    measurement = measure(T_fixed, T_model)
    assert "scale.max_dispersion is 0.100" in measurement.fault
    assert not measurement.poses_disagree


def test_confident_views_weigh_more():
    T_fixed = poses([[0, 0, 0], [1, 0, 0], [0.5, 0.9, 0]])
    T_model = in_model(T_fixed, 2.0)
    T_model[2][:3, 3] *= 1.5
    unsure = measure(T_fixed, T_model, [1.0, 1.0, 1e-3])
    assert unsure.scale == pytest.approx(2.0)


def test_wrong_rotations_make_the_poses_unusable():
    T_fixed = poses(SQUARE)
    T_model = in_model(T_fixed, 2.0)
    T_model[1][:3, :3] = T_model[1][:3, :3] @ rotation_z(0.06)
    measurement = measure(T_fixed, T_model)
    assert measurement.poses_disagree
    scale = MetricScale(DEFAULT)
    scale.update(good(2.0), S)
    state = scale.update(measurement, 2 * S)
    assert (state.source, state.metric) == (ScaleSource.NONE, False)  # not even held
    assert "0.05 rad" in state.reason


def test_lists_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="differ in number"):
        measure_from_baselines(poses(SQUARE), poses(SQUARE)[:2], [1.0] * 4, DEFAULT)


def test_one_pair_needs_a_long_baseline_or_a_running_scale():
    single = {"num_pairs": 1, "relative_dispersion": float("nan")}
    scale = MetricScale(DEFAULT)
    state = scale.update(good(2.0, max_baseline_m=0.2, **single), S)
    assert not state.metric
    assert "0.300 m is needed" in state.reason
    assert scale.update(good(2.0, max_baseline_m=0.31, **single), 2 * S).metric
    assert scale.update(good(2.1, max_baseline_m=0.15, **single), 3 * S).metric
    # Far from the running value, and later when nothing runs any more.
    assert scale.update(good(4.0, max_baseline_m=0.15, **single), 4 * S).source is ScaleSource.HELD
    assert not scale.update(good(2.0, max_baseline_m=0.15, **single), 60 * S).metric


def test_a_jump_is_rejected_until_it_persists():
    scale = MetricScale(DEFAULT)
    for i in range(5):
        assert scale.update(good(2.0), (1 + i) * S).metric
    for i in range(RESTART_AFTER):
        state = scale.update(good(6.0), round((6 + 0.1 * i) * S))
        assert state.source is ScaleSource.HELD
        assert state.scale == pytest.approx(2.0)
        assert "3 sigma" in state.reason
    state = scale.update(good(6.0), 7 * S)
    assert state.source is ScaleSource.TF_BASELINE
    assert state.scale == pytest.approx(6.0)


def test_rejections_must_be_consecutive():
    scale = MetricScale(DEFAULT)
    scale.update(good(2.0), S)
    for i in range(20):
        value = 2.0 if i % 4 == 3 else 6.0
        state = scale.update(good(value), round((1 + 0.1 * i) * S))
        assert state.scale == pytest.approx(2.0, rel=0.01)


def test_noise_is_averaged_but_drift_is_followed():
    rng = np.random.default_rng(3)
    scale = MetricScale(DEFAULT)
    noisy = [good(2.0 * np.exp(rng.normal(0, 0.05)), relative_dispersion=0.05) for _ in range(60)]
    values = [scale.update(m, round(0.1 * i * S)).scale for i, m in enumerate(noisy)]
    assert np.std(np.log(values[10:])) < 0.7 * 0.05
    for i in range(60):
        state = scale.update(good(2.0 * 1.01**i), round((6 + i) * S))
    assert state.scale == pytest.approx(2.0 * 1.01**59, rel=0.02)


def test_a_valid_value_is_held_and_then_withdrawn():
    scale = MetricScale(ScaleParameters(hold_time_s=10.0))
    assert scale.state(S).reason == "no job has measured the scale yet"
    scale.update(good(2.0), S)
    assert scale.state(9 * S).source is ScaleSource.TF_BASELINE
    failed = good(float("nan"), num_pairs=0, fault="no baseline")
    held = scale.update(failed, 11 * S)
    assert (held.source, held.metric, held.scale) == (ScaleSource.HELD, True, 2.0)
    assert "no baseline" in held.reason
    assert not scale.state(11 * S + 1).metric
    gone = scale.update(failed, 12 * S)
    assert (gone.source, gone.metric) == (ScaleSource.NONE, False)
    assert "scale.hold_time is 10.0 s" in gone.reason


def test_a_reset_forgets_everything():
    scale = MetricScale(DEFAULT)
    scale.update(good(2.0), S)
    scale.reset()
    assert not scale.state(S).metric
    assert scale.update(good(7.0), 2 * S).scale == pytest.approx(7.0)


def test_fixed_and_no_scale_need_no_measurement():
    fixed = MetricScale(ScaleParameters(mode="fixed", fixed_value=1.5))
    state = fixed.update(good(9.0), S)
    assert (state.source, state.metric, state.scale) == (ScaleSource.FIXED, True, 1.5)
    assert fixed.state(10**15) == state
    none = MetricScale(ScaleParameters(mode="none"))
    assert not none.update(good(9.0), S).metric
    with pytest.raises(ValueError, match="'metric'"):
        ScaleParameters(mode="metric")
    with pytest.raises(ValueError, match="fixed scale is 0"):
        ScaleParameters(mode="fixed", fixed_value=0.0)


def test_measured_surfaces_give_the_scale_and_any_run_its_own():
    model = np.linspace(1, 3, 600).reshape(20, 30).astype(np.float32)
    measured = model * 2.5
    measured[0] = np.nan
    scale = MetricScale(ScaleParameters())
    found = measure_from_surfaces([model], [measured])
    assert found.scale == pytest.approx(2.5)
    assert found.fault == ""
    assert scale.update(found, S).source is ScaleSource.MEASURED
    # Another run has another unit: nothing is averaged, nothing rejected as a jump.
    other = scale.update(measure_from_surfaces([model / 3], [measured]), 2 * S)
    assert other.metric
    assert other.scale == pytest.approx(7.5)
    few = measure_from_surfaces([model], [np.full((20, 30), np.nan)])
    assert "0 pixels" in few.fault
    assert scale.update(few, 3 * S).source is ScaleSource.HELD


def test_measurements_that_have_nothing_to_do_with_the_model_are_no_scale():
    model = np.ones((20, 30), np.float32)
    measured = np.exp(np.random.default_rng(0).normal(0, 1.0, (20, 30))).astype(np.float32)
    assert "scatters" in measure_from_surfaces([model], [measured]).fault


def test_sensor_depth_is_looked_up_through_both_cameras():
    sensor = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    K_sensor = np.array([[4.0, 0, 1.5], [0, 4.0, 1.0], [0, 0, 1]])
    K_view = np.array([[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]])  # twice as fine
    depth = resample_sensor_depth(sensor, K_sensor, K_view, (6, 8))
    np.testing.assert_array_equal(depth, np.kron(sensor, np.ones((2, 2))))
    narrow = resample_sensor_depth(sensor, K_sensor, K_view, (6, 20))
    assert np.isnan(narrow[:, 9:]).all()


def view_of(T_model_cam, depth=2.0):
    hw = (4, 6)
    return View(
        rgb=np.zeros((*hw, 3), np.float32),
        depth=np.full(hw, depth, np.float32),
        confidence=np.full(hw, 0.9, np.float32),
        K_px=np.eye(3),
        T_world_cam=np.eye(4),
        T_model_cam=T_model_cam,
        recovered_K_px=np.eye(3),
        ray_confidence_mean=0.9,
    )


@pytest.mark.parametrize(("spread", "believed"), [(0.2, True), (1e-4, False)])
def test_cameras_that_a_model_puts_in_one_place_measure_nothing(spread, believed):
    T_fixed = poses([[0, 0, 0], [0.5, 0, 0]])
    keyframes = [SimpleNamespace(T_fixed_cam=T) for T in T_fixed]
    views = [view_of(T) for T in in_model(T_fixed, 0.5 / spread)]
    measurement = measure_from_views(views, keyframes, DEFAULT)
    assert (measurement.fault == "") is believed
    assert measurement.poses_disagree is not believed
