"""The launched node comes back active after every kind of death, three times in a row."""

import os
import signal

import pytest

launch_pytest = pytest.importorskip("launch_pytest", reason="ROS 2 from PyPI has no launch_pytest")

DEATHS = 3
# The device is lost at every configure until the file holds as many lines as there are to be
# deaths, as after a driver that needs time to recover.
LOSES_ITS_DEVICE = """
    starts = Path({starts!r})
    with starts.open("a") as file:
        file.write("start\\n")
    if len(starts.read_text().splitlines()) <= {deaths}:
        raise DeviceFault("CUDA error: the launch timed out and was terminated")
"""


@launch_pytest.fixture
def gld(quick_node, launched):
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
def node_that_loses_its_device(tmp_path, node_with_another_model):
    starts = str(tmp_path / "starts")
    node_with_another_model(LOSES_ITS_DEVICE.format(starts=starts, deaths=DEATHS).strip())


@launch_pytest.fixture
def gld_on_a_lost_device(node_that_loses_its_device, launched):
    return launched.description("gld.launch.py", {})


@pytest.mark.launch(fixture=gld_on_a_lost_device)
def test_node_is_active_again_when_its_device_is_back(launched, outside):
    outside.wait_state("active")
    assert launched.exit_codes == [70] * DEATHS


@launch_pytest.fixture
def gld_once(quick_node, launched):
    return launched.description("gld.launch.py", {"respawn": "false"})


@pytest.mark.launch(fixture=gld_once)
def test_respawn_false_leaves_it_dead(launched, outside):
    outside.wait_state("active")
    os.kill(launched.pids[0], signal.SIGKILL)
    outside.graph.wait_for(lambda: launched.exit_codes == [-signal.SIGKILL], "its death")
    assert len(launched.pids) == 1
