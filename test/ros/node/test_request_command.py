"""`gld-ros request` against a node with an oracle, over DDS, in a process of its own."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
T0_NS = 1_000 * 10**9


def requested(*arguments, out, rig=None):
    """Run the command to its end; a rig given drives on meanwhile, as a robot does."""
    command = [sys.executable, "-m", "gld_ros.cli.main", "request", *arguments, "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as client:
        deadline, x_m = time.monotonic() + 300, 0.4
        while rig is not None and client.poll() is None and time.monotonic() < deadline:
            x_m += 0.1
            rig.send_frame(x_m)
            time.sleep(0.5)
        stdout, stderr = client.communicate(timeout=300)
    return subprocess.CompletedProcess(command, client.returncode, stdout, stderr)


def test_pose_gives_image_depth_cloud_and_summary(make_rig, plain_oracle, tmp_path):
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    # Body axes: at (0.3, 0, 1.2), turned so that x looks along odom's y as the cameras do.
    pose = ("0.3", "0", "1.2", "0", "0", "0.70710678", "0.70710678")
    done = requested("--pose", *pose, "--seed", "3", out=tmp_path / "out", rig=rig)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"view_0.png", "depth_0.npy", "depth_0.png", "predicted.ply", "result.json"}
    depth_m = np.load(tmp_path / "out" / "depth_0.npy")
    assert depth_m.shape == rig.HW
    assert np.nanmedian(depth_m) == pytest.approx(3.0, rel=0.02)
    header = (tmp_path / "out" / "predicted.ply").read_bytes()[:300].decode("latin1")
    assert "element vertex" in header
    summary = json.loads((tmp_path / "out" / "result.json").read_text())
    assert summary["error_code"] == 0
    assert summary["views"][0]["seed"] == 3


def test_refused_goal_is_reported(make_rig, plain_oracle, tmp_path):
    rig = make_rig(plain_oracle, {"fixed_frame": "odom"})
    rig.activate()
    done = requested(
        "--frame", "nowhere", "--pose", *"0000001", "--max-wait", "0.2", out=tmp_path / "out"
    )
    assert done.returncode == 1
    assert "error 903" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_bag_that_begins_anew_is_waited_for(make_rig, plain_oracle, tmp_path):
    plain_oracle.step_delay_s = 0.1
    rig = make_rig(plain_oracle, {"use_sim_time": True, "product.max_age": 0.0})
    rig.activate()
    rig.set_clock(T0_NS)
    rig.drive()
    pose = ("0.3", "0", "1.2", "0", "0", "0.70710678", "0.70710678")
    words = ["request", "--pose", *pose, "--steps", "30", "--max-wait", "100"]
    command = [sys.executable, "-m", "gld_ros.cli.main", *words, "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as client:
        rig.graph.wait_for(lambda: rig.node.session.worker.running is not None, "the job runs")
        rig.set_clock(T0_NS)
        rig.graph.wait_for(lambda: rig.node.session.epoch == 1, "a new epoch")
        rig.drive()
        _, stderr = client.communicate(timeout=300)
    assert "error 909" not in stderr
    assert stderr.count("time jumped, as when a bag begins anew: asking again") == 1
    assert (tmp_path / "out" / "view_0.png").exists(), stderr


def test_offset_moves_along_the_optical_axes():
    from gld_ros.ros.goal_client import offset_pose

    T = offset_pose(1.0, 0.5, 90.0)
    np.testing.assert_allclose(T[:3, 3], (-0.5, 0.0, 1.0))
    # Turned to the left, the camera looks where -x of the old optical frame was.
    np.testing.assert_allclose(T[:3, :3] @ (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(T[:3, :3]), 1.0)


def test_nothing_or_both_asked_for_is_wrong_usage(capsys):
    from gld_ros.cli.main import main

    assert main(["request"]) == 1
    assert "--forward" in capsys.readouterr().err
