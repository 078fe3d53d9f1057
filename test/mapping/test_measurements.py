"""What keyframes have measured: sources, threads, forgetting."""

import math
import subprocess
import sys

import numpy as np
import pytest

from gld_ros.mapping.frames import Keyframe, SensorDepth
from gld_ros.mapping.measurements import Measurements

HW = (48, 64)


def with_sensor(keyframe: Keyframe, room: object, holes: bool = False) -> Keyframe:
    _, depth_m = room(keyframe.T_fixed_cam, keyframe.K_px, HW)  # type: ignore[operator]
    depth_m = depth_m.copy()
    if holes:
        depth_m[:, :20] = np.nan
    fields = {name: getattr(keyframe, name) for name in Keyframe.__dataclass_fields__}
    return Keyframe(**(fields | {"sensor_depth": SensorDepth(depth_m, keyframe.K_px)}))


def test_a_depth_camera_is_a_measurement(room, keyframe_of, camera_at, target_of):
    keyframe = with_sensor(keyframe_of(camera_at(-1.0, 0.3), hw=HW), room, holes=True)
    measurements = Measurements("auto")
    measurements.add(keyframe)
    measurements.await_results(0.0)
    scene = measurements.scene((keyframe,), [target_of(camera_at(-1.0, 0.3), HW)])
    measured_m = scene.references[0].depth_m
    assert len(scene.surfaces) == 1
    assert np.isnan(measured_m[:, :18]).all()
    truth_m = keyframe.sensor_depth.depth_m
    known = np.isfinite(measured_m) & np.isfinite(truth_m)
    assert known.mean() > 0.5
    assert np.median(np.abs(measured_m[known] / truth_m[known] - 1)) < 0.01
    assert measurements.coverage(keyframe) > 0.5


def test_source_model_measures_nothing(room, keyframe_of, camera_at, target_of):
    keyframe = with_sensor(keyframe_of(camera_at(-1.0, 0.3), hw=HW), room)
    measurements = Measurements("model")
    measurements.add(keyframe)
    measurements.await_results(0.0)
    scene = measurements.scene((keyframe,), [target_of(camera_at(-1.0, 0.3), HW)])
    assert scene.references == (None,)
    assert scene.surfaces == ()


def test_the_thread_gives_what_the_caller_would_and_ends(room, keyframe_of, camera_at, target_of):
    keyframe = with_sensor(keyframe_of(camera_at(-1.0, 0.3), hw=HW), room)
    targets = [target_of(camera_at(-1.0, 0.3), HW)]
    by_caller, by_thread = Measurements("camera"), Measurements("camera")
    by_caller.add(keyframe)
    by_caller.await_results(0.0)
    by_thread.start()
    by_thread.add(keyframe)
    by_thread.await_results(60.0)
    np.testing.assert_array_equal(
        by_thread.scene((keyframe,), targets).references[0].depth_m,
        by_caller.scene((keyframe,), targets).references[0].depth_m,
    )
    by_thread.stop(60.0)
    by_thread.reset()
    assert by_thread.scene((keyframe,), targets).references == (None,)


ENDS_WHILE_MEASURING = """
import time
import numpy as np
from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.measurements import Measurements
from gld_ros.mapping.placed_frame import PlacedFrame

K_px = np.array([[200.0, 0, 159.5], [0, 200.0, 119.5], [0, 0, 1]])
image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
measurements = Measurements("stereo")
measurements.start()
for i in range(20):
    T = np.eye(4)
    T[0, 3] = 0.1 * i
    frame = Keyframe("front", i + 1, "optical", image, K_px, T, 0)
    measurements.note(PlacedFrame("front", i + 1, T, 0, lambda frame=frame: frame))
    measurements.add(frame)
time.sleep(0.5)
measurements.stop(0.0)
"""


def test_a_process_may_end_while_a_keyframe_is_measured():
    command = [sys.executable, "-c", ENDS_WHILE_MEASURING]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300.0)
    assert ended.returncode == 0, ended.stderr


def test_a_burst_of_keyframes_that_wait_for_later_images_loses_none(room, keyframe_of, camera_at):
    measurements = Measurements("auto")
    measurements.start()
    for i in range(8):
        measurements.add(keyframe_of(camera_at(-1.0 + 0.2 * i, 0.3), 1.0 + i, hw=HW))
    assert measurements.facts().skipped == 0
    measurements.await_results(60.0)
    assert measurements.facts().measured == 8
    measurements.stop(60.0)


def test_evicted_keyframes_and_other_segments_are_not_used(room, keyframe_of, camera_at, target_of):
    keyframe = with_sensor(keyframe_of(camera_at(-1.0, 0.3), 1.0, hw=HW), room)
    fields = {name: getattr(keyframe, name) for name in Keyframe.__dataclass_fields__}
    other = Keyframe(**(fields | {"stamp_ns": keyframe.stamp_ns + 1, "segment": 1}))
    measurements = Measurements("camera")
    measurements.add(keyframe)
    measurements.await_results(0.0)
    targets = [target_of(camera_at(-1.0, 0.3), HW)]
    assert measurements.scene((other,), targets).surfaces == ()
    measurements.keep_only([other])
    assert measurements.scene((keyframe,), targets).surfaces == ()


def test_a_keyframe_waits_for_images_after_it_unless_a_job_needs_it(
    room, keyframe_of, camera_at, target_of
):
    first = with_sensor(keyframe_of(camera_at(-1.0, 0.3), 1.0, hw=HW), room)
    targets = [target_of(camera_at(-1.0, 0.3), HW)]
    measurements = Measurements("auto")
    measurements.add(first)
    measurements.work_off()
    assert measurements.scene((first,), targets).references == (None,)
    measurements.await_results(0.0)
    assert measurements.scene((first,), targets).references[0] is not None


def test_facts_tell_what_is_measured_what_could_be_and_what_never_will(
    room, keyframe_of, camera_at, target_of
):
    keyframes = [
        with_sensor(keyframe_of(camera_at(-1.0 + 0.2 * i, 0.3), 1.0 + i, hw=HW), room)
        for i in range(3)
    ]
    measurements = Measurements("camera")
    assert math.isnan(measurements.facts().coverage)
    for keyframe in keyframes:
        measurements.add(keyframe)
    assert measurements.facts().behind == 3
    measurements.keep_only(keyframes[1:])
    measurements.work_off()
    facts = measurements.facts()
    assert (facts.measured, facts.behind, facts.skipped) == (2, 0, 1)
    assert facts.coverage == pytest.approx(
        np.mean([measurements.coverage(keyframe) for keyframe in keyframes[1:]])
    )


def test_a_keyframe_that_waits_for_later_images_is_not_behind(room, keyframe_of, camera_at):
    measurements = Measurements("stereo")
    measurements.add(keyframe_of(camera_at(-1.0, 0.3), hw=HW))
    assert measurements.facts().behind == 0
