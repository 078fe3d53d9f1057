import numpy as np
import pytest

from gld_ros.geometry.poses import invert_rigid, is_rigid
from gld_ros.mapping.frames import Keyframe, SensorDepth
from gld_ros.mapping.jobs import JobKind, JobRequest, SynthesisRun
from gld_ros.mapping.measurements import Measurements
from gld_ros.mapping.postprocess import Postprocessor
from gld_ros.mapping.products import ALL_PRODUCTS
from gld_ros.mapping.scale import ScaleSource
from gld_ros.mapping.synthesizer import ORACLE_STEPS, OracleSynthesizer


def run(steps):
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as stop:
            return progress, stop.value


def test_the_oracle_shows_the_truth_in_a_frame_and_unit_of_its_own(room, job_of):
    job = job_of(num_targets=2)
    request = job.view_request([0, 1], 4)
    progress, views = run(OracleSynthesizer(room, metres_per_unit=4.0, frame_seed=1).run(request))
    views.validate()
    assert [p.stage for p in progress].count("sampling") == ORACLE_STEPS
    target, wanted = views.targets[1], job.targets[1]
    rgb, depth_m = room(wanted.T_fixed_cam, wanted.K_px, wanted.image_hw)
    np.testing.assert_allclose(target.depth * 4.0, depth_m, rtol=1e-6)
    np.testing.assert_allclose(target.rgb, rgb, atol=1e-6)
    for view in (*views.references, *views.targets):
        assert is_rigid(view.T_model_cam)
        assert np.abs(view.T_model_cam - view.T_world_cam).max() > 0.1
    first, second = (view.T_model_cam for view in views.references)
    relative = invert_rigid(first) @ second
    truth = invert_rigid(job.keyframes[0].T_fixed_cam) @ job.keyframes[1].T_fixed_cam
    np.testing.assert_allclose(relative[:3, :3], truth[:3, :3], atol=1e-9)
    np.testing.assert_allclose(relative[:3, 3] * 4.0, truth[:3, 3], atol=1e-9)


def test_renderers_may_return_bytes_and_unknown_depth(room, job_of):
    def render(T_world_cam, K_px, hw):
        rgb, depth_m = room(T_world_cam, K_px, hw)
        depth_m[:2] = 0.0
        return np.round(rgb * 255).astype(np.uint8), depth_m

    request = job_of(samples=2, num_steps=3).view_request([0], 4)
    progress, views = run(OracleSynthesizer(render).run(request))
    (view,) = views.targets
    assert len(progress) == 1 + 3 + 1
    assert view.rgb.max() <= 1.0
    assert np.isnan(view.depth[:2]).all()
    assert (view.confidence[:2] == 0).all()
    assert (view.spread == 0).all()


def test_bad_units_and_requests_are_refused(room, job_of):
    with pytest.raises(ValueError, match="metres_per_unit is 0"):
        OracleSynthesizer(room, metres_per_unit=0.0)
    with pytest.raises(ValueError, match="num_steps is 0"):
        run(OracleSynthesizer(room).run(job_of(num_steps=0).view_request([0], 4)))


def test_a_depth_sensor_gives_the_scale_where_baselines_cannot(room, job_of, camera_at):
    """One keyframe: no pair, but its sensor sees the same walls."""
    job = job_of()
    keyframe = job.keyframes[0]
    K_sensor = np.array([[54.0, 0, 35.5], [0, 54.0, 29.5], [0, 0, 1]])
    _, depth_m = room(keyframe.T_fixed_cam, K_sensor, (60, 72))
    fields = {name: getattr(keyframe, name) for name in Keyframe.__dataclass_fields__}
    keyframe = Keyframe(**(fields | {"sensor_depth": SensorDepth(depth_m, K_sensor)}))
    job = JobRequest(1, JobKind.GOAL, "action", 0, (keyframe,), job.targets)
    _, views = run(OracleSynthesizer(room, metres_per_unit=1.7).run(job.view_request([0], 4)))
    measurements = Measurements("camera")
    measurements.add(keyframe)
    measurements.await_results(0.0)
    postprocess = Postprocessor(
        lambda: ALL_PRODUCTS,
        lambda request, run: measurements.scene(run.keyframes, request.targets),
    )
    products = postprocess(job, SynthesisRun(views, (0,), (keyframe,)))
    assert products.scale.source is ScaleSource.MEASURED
    assert products.scale.scale == pytest.approx(1.7, rel=0.03)
