"""What diagnostics say of measuring."""

from collections import Counter
from types import SimpleNamespace

from gld_ros.mapping.measurements import MeasuringFacts
from gld_ros.mapping.stereo_device import StereoDevice
from gld_ros.measuring.agreement import Agreement
from gld_ros.measuring.depth_camera_agreement import DepthCameraAgreement
from gld_ros.ros.diagnostics.facts import OK, WARN, DiagnosticsMemory
from gld_ros.ros.diagnostics.inputs import measuring_status


def status(depth_cameras=None, **disagreements):
    facts = MeasuringFacts(8, 0, 0, 0.1, disagreements, depth_cameras or {})
    measurements = SimpleNamespace(
        facts=lambda: facts, counts=Counter(stereo=8), source="stereo", device=StereoDevice()
    )
    return measuring_status(SimpleNamespace(measurements=measurements), DiagnosticsMemory())


def test_images_that_do_not_fit_tf_are_a_warning_with_the_offset():
    said = status(front=Agreement(20, 3000, 2.1, 0.06, 0.9))
    assert said.level == WARN
    assert "camera front" in said.message
    assert "images and TF disagree: check extrinsics, time offset, rectification" in said.message
    assert said.values["front.time_offset_ms"] == "+60"
    assert said.values["front.epipolar_error_px"] == "2.10"


def test_a_depth_camera_that_does_not_fit_parallax_is_a_warning_with_its_scale():
    said = status({"front": DepthCameraAgreement(9000, 1.1, (5.0, 0.0))})
    assert said.level == WARN
    assert "camera front: depth camera against parallax: 1.10 times as far" in said.message
    assert "shifted by (+5, +0) px" in said.message
    assert said.values["front.depth_scale"] == "1.10"


def test_little_coverage_alone_is_none():
    assert status().level == OK
