"""The demonstration's Rerun recording: it can be read, and it brings its own layout."""

import subprocess

import numpy as np
import pytest

from gld_ros.demo.result_images import GridRow, write_recording
from gld_ros.evaluation.withheld import PosedImage

pytest.importorskip("rerun", reason="rerun-sdk is not installed")


def test_recording_is_sound_and_opens_with_a_layout_of_its_own(tmp_path):
    image = np.full((12, 16, 3), 90, np.uint8)
    K_px = np.array([[12.0, 0, 7.5], [0, 12.0, 5.5], [0, 0, 1]])
    truth = PosedImage(1, image, K_px, np.eye(4), "camera_optical")
    depth_m, labels = np.full((12, 16), 2, np.float32), np.ones((12, 16), np.uint8)
    row = GridRow(truth, (image,), image, image, depth_m, labels, 20.0, 10.0)
    points = np.zeros(9, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "u4")])
    path = tmp_path / "recording.rrd"
    assert write_recording([row], {"observed_points": points}, path) == ""
    for verb in ("verify", "print"):
        done = subprocess.run(
            ["rerun", "rrd", verb, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "Blueprint" in done.stdout
    for entity in ("observed_points", "/world/target/image", "/truth", "/depth", "/provenance"):
        assert entity in done.stdout
