"""Measuring in a process of its own gives what its caller would measure, or says it cannot."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from textured_planes import camera_at, plane_image, texture

from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.measuring.process import MeasuringProcess, ProcessLost, SearchFailed

PARAMETERS = MeasuringParameters(depth_range_m=(0.5, 8.0))
SEEN = [plane_image(camera_at(x_m), 2.0, texture()) for x_m in (0.0, -0.1, 0.1, 0.2)]
WAIT_S = 60.0


@pytest.fixture
def process():
    process = MeasuringProcess()
    yield process
    process.close()


def until(condition) -> bool:
    """Whether a condition comes true in time."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return bool(condition())


def test_it_gives_what_the_caller_would_measure(process, measuring_processes):
    expected = measure_depth(SEEN[0], SEEN[1:], PARAMETERS)
    for _ in range(2):
        found = process.measure(SEEN[0], SEEN[1:], PARAMETERS)
        np.testing.assert_array_equal(found.depth_m, expected.depth_m)
        np.testing.assert_array_equal(found.confidence, expected.confidence)
        assert (found.source, found.pose_error_px) == (expected.source, expected.pose_error_px)
        with pytest.raises(ValueError, match="read-only"):
            found.depth_m[0, 0] = 1.0
    assert len(measuring_processes(os.getpid())) == 1


def test_it_is_small(process, measuring_processes):
    process.measure(SEEN[0], SEEN[1:], PARAMETERS)
    (child,) = measuring_processes(os.getpid())
    assert "libtorch" not in Path(f"/proc/{child}/maps").read_text()


def test_a_search_that_fails_there_fails_here_and_the_next_one_does_not(process):
    with pytest.raises(SearchFailed, match=r"AttributeError.*image_hw"):
        process.measure("no image", SEEN[1:], PARAMETERS)
    assert process.measure(SEEN[0], SEEN[1:], PARAMETERS).coverage > 0.5


def test_a_process_that_is_killed_is_told_and_replaced_on_the_next_search(
    process, measuring_processes
):
    process.measure(SEEN[0], SEEN[1:], PARAMETERS)
    (child,) = measuring_processes(os.getpid())
    os.kill(child, signal.SIGKILL)
    with pytest.raises(ProcessLost, match="killed by signal 9"):
        process.measure(SEEN[0], SEEN[1:], PARAMETERS)
    assert process.measure(SEEN[0], SEEN[1:], PARAMETERS).coverage > 0.5


def test_closing_it_ends_a_search_at_once_and_leaves_no_process(process, measuring_processes):
    process.measure(SEEN[0], SEEN[1:], PARAMETERS)
    (child,) = measuring_processes(os.getpid())
    os.kill(child, signal.SIGSTOP)  # a search that does not end
    ended: list[BaseException] = []

    def search():
        try:
            process.measure(SEEN[0], SEEN[1:], PARAMETERS)
        except ProcessLost as error:
            ended.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    time.sleep(0.1)
    process.close()
    thread.join(WAIT_S)
    assert "was closed" in str(ended[0])
    assert measuring_processes(os.getpid()) == []
    with pytest.raises(ProcessLost, match="was closed"):
        process.measure(SEEN[0], SEEN[1:], PARAMETERS)


def test_a_process_that_hangs_is_killed_and_replaced_on_the_next_search(measuring_processes):
    process = MeasuringProcess(answer_timeout_s=2.0)
    process.start()
    (child,) = measuring_processes(os.getpid())
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(ProcessLost, match="did not answer in 2 s"):
        process.measure(SEEN[0], 40 * SEEN[1:], PARAMETERS)  # more than the pipe holds
    assert measuring_processes(os.getpid()) == []
    process.start()
    assert len(measuring_processes(os.getpid())) == 1
    process.close()


OWNER = """
import sys
import numpy as np
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.measure import MeasuringParameters
from gld_ros.measuring.process import MeasuringProcess

process = MeasuringProcess()
image = PosedImage(np.zeros((48, 64, 3), np.uint8), np.eye(3), np.eye(4), 0, "camera")
process.measure(image, [], MeasuringParameters())
print("measured", flush=True)
sys.stdin.read()
"""


def test_it_ends_with_its_caller_even_when_that_is_killed(measuring_processes):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "measured\n"
    (child,) = measuring_processes(owner.pid)
    owner.kill()
    owner.wait()
    assert until(lambda: not Path(f"/proc/{child}").exists())
