"""The launched node comes back active after every kind of death, three times in a row."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

launch_pytest = pytest.importorskip("launch_pytest", reason="ROS 2 from PyPI has no launch_pytest")

DEATHS = 3
# Takes the place of the installed gld_node: the device is lost at every configure until the
# file holds as many lines as there are to be deaths, as after a driver that needs time to recover.
LOSES_ITS_DEVICE = """#!{python}
import sys
from pathlib import Path
from gld_ros.mapping.model import load_model
from gld_ros.mapping.synthesizer import DeviceFault
from gld_ros.ros.main import main

starts = Path({starts!r})

def lost_at_first(snapshot):
    with starts.open("a") as file:
        file.write("start\\n")
    if len(starts.read_text().splitlines()) <= {deaths}:
        raise DeviceFault("CUDA error: the launch timed out and was terminated")
    return load_model(snapshot)

sys.exit(main(model_factory=lost_at_first))
"""


@launch_pytest.fixture
def gld(launched):
    return launched.description("gld.launch.py", {})


@pytest.mark.launch(fixture=gld)
@pytest.mark.parametrize("deadly", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_node_is_active_again_after_each_of_three_signals(launched, outside, deadly):
    for death in range(DEATHS):
        outside.wait_state("active")
        assert len(launched.pids) == death + 1
        os.kill(launched.pids[-1], deadly)
        outside.graph.wait_for(lambda n=death: len(launched.pids) == n + 2, "the next process")
    outside.wait_state("active")
    outside.wait_heard("/camera/image", "sensor_msgs/msg/Image")
    # Asked to end, it ends well; the others give it no chance to.
    expected = 0 if deadly == signal.SIGTERM else -deadly
    assert launched.exit_codes == [expected] * DEATHS


@pytest.fixture
def node_that_loses_its_device(tmp_path, monkeypatch):
    """An overlay of the installed package whose executable is the one above."""
    from ament_index_python.packages import get_package_share_directory

    share = Path(get_package_share_directory("gld_ros"))
    overlay = tmp_path / "overlay"
    marker = overlay / "share/ament_index/resource_index/packages/gld_ros"
    marker.parent.mkdir(parents=True)
    marker.touch()
    shutil.copytree(share / "launch", overlay / "share/gld_ros/launch")
    shutil.copytree(share / "config", overlay / "share/gld_ros/config")
    executable = overlay / "lib/gld_ros/gld_node"
    executable.parent.mkdir(parents=True)
    starts = str(tmp_path / "starts")
    executable.write_text(
        LOSES_ITS_DEVICE.format(python=sys.executable, starts=starts, deaths=DEATHS)
    )
    executable.chmod(0o755)
    prefixes = f"{overlay}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}"
    monkeypatch.setenv("AMENT_PREFIX_PATH", prefixes)


@launch_pytest.fixture
def gld_on_a_lost_device(node_that_loses_its_device, launched):
    return launched.description("gld.launch.py", {})


@pytest.mark.launch(fixture=gld_on_a_lost_device)
def test_node_is_active_again_when_its_device_is_back(launched, outside):
    outside.wait_state("active", timeout_s=300.0)
    assert launched.exit_codes == [70] * DEATHS


@launch_pytest.fixture
def gld_once(launched):
    return launched.description("gld.launch.py", {"respawn": "false"})


@pytest.mark.launch(fixture=gld_once)
def test_respawn_false_leaves_it_dead(launched, outside):
    outside.wait_state("active")
    os.kill(launched.pids[0], signal.SIGKILL)
    outside.graph.wait_for(lambda: launched.exit_codes == [-signal.SIGKILL], "its death")
    assert len(launched.pids) == 1
