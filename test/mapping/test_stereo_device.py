"""Keyframes are searched for depth on the model's device, and on the CPU when that fails."""

import os
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.model import LoadedModel, load_model, torch_fault_of
from gld_ros.mapping.session import SynthesisSession
from gld_ros.mapping.stereo_device import MOST_LOSSES
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.measuring import torch_search
from gld_ros.measuring.process import MeasuringProcess, SearchFailed
from gld_ros.messages.transforms import TransformBuffer
from gld_ros.ros.diagnostics.facts import DiagnosticsMemory
from gld_ros.ros.diagnostics.inputs import measuring_status
from gld_ros.ros.parameters.snapshot import make_snapshot
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters

HW = (96, 128)
CPU = torch.device("cpu")
WAIT_S = 60.0


def parameters(device="cpu"):
    rows = (*TABLE, *per_camera_parameters(["front"]))
    return make_snapshot({row.name: row.default for row in rows} | {"model.device": device}).session


@pytest.fixture
def lines():
    return []


@pytest.fixture
def session_on(lines):
    """Make a session whose model measures on a device."""

    def make(device):
        model = LoadedModel(
            OracleSynthesizer(None), {}, HW, torch_fault_of, measuring_device=device
        )
        return SynthesisSession(
            model,
            {},
            parameters(),
            TransformBuffer(),
            FaultLog(lambda level, text: lines.append(text)),
            now_ns=lambda: 0,
            wanted=frozenset,
        )

    return make


@pytest.fixture
def searched(monkeypatch):
    """The devices that torch searched on."""
    devices, search = [], torch_search.search_surface

    def recording(*arguments):
        devices.append(arguments[-1])
        return search(*arguments)

    monkeypatch.setattr(torch_search, "search_surface", recording)
    return devices


@pytest.fixture
def measured_depth(keyframe_of, camera_at, target_of, pinhole_of):
    """Depth that a session measures of a textured wall, seen by three cameras side by side."""
    K_px, wall_m, shift_px = pinhole_of(HW), 2.0, 8
    grey = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (HW[0], HW[1] + 99)), (0, 0), 1.5)
    wall = np.uint8(np.clip(128 + 45 * grey / grey.std(), 0, 255))[..., None].repeat(3, axis=2)

    def keyframe(number):
        T = camera_at(0.0, 0.0)
        T[:3, 3] += T[:3, 0] * number * shift_px * wall_m / K_px[0, 0]
        image = np.ascontiguousarray(wall[:, number * shift_px :][:, : HW[1]])
        return replace(keyframe_of(T, 1.0 + number, hw=HW), image=image)

    def measure(session, wait_s=0.0):
        left, middle, right = (keyframe(number) for number in range(3))
        for one in (left, right, middle):
            session.measurements.add(one)
        session.measurements.await_results(wait_s)
        scene = session.measurements.scene([middle], [target_of(middle.T_fixed_cam, HW)])
        return scene.references[0].depth_m

    return measure


def test_a_session_measures_on_the_device_of_its_model(session_on, searched, measured_depth):
    by_torch = measured_depth(session_on(CPU))
    assert set(searched) == {CPU}
    searched.clear()
    by_numpy = measured_depth(session_on(None))
    assert not searched
    both = np.isfinite(by_numpy) & np.isfinite(by_torch)
    assert both.mean() > 0.5
    assert np.median(np.abs(by_torch[both] / 2.0 - 1)) < 0.01
    assert (np.abs(by_torch[both] / by_numpy[both] - 1) < 0.01).mean() > 0.99


def test_a_model_on_a_cpu_leaves_measuring_to_numpy():
    assert load_model(parameters()).measuring_device is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_a_model_on_a_gpu_measures_there():
    assert load_model(parameters("cuda")).measuring_device.type == "cuda"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.cuda.OutOfMemoryError("Tried to allocate 20 MiB"), "out of memory on cpu"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device lost on cpu"),
    ],
)
def test_when_the_device_fails_the_cpu_takes_over_and_it_is_told(
    error, told, session_on, measured_depth, monkeypatch, lines
):
    expected, tried = measured_depth(session_on(None)), []

    def failing(*arguments):
        tried.append(arguments[-1])
        raise error

    monkeypatch.setattr(torch_search, "search_surface", failing)
    session = session_on(CPU)
    np.testing.assert_array_equal(measured_depth(session), expected)
    assert len(tried) == 1
    (line,) = lines
    assert told in line
    assert str(error) in line
    status = measuring_status(session, DiagnosticsMemory())
    assert told in status.message
    assert status.values["device"] == "cpu"


def test_a_thread_measures_in_a_process_and_itself_when_that_is_lost_again_and_again(
    session_on, measured_depth, measuring_processes, lines
):
    expected = measured_depth(session_on(None))
    session = session_on(None)
    session.start()
    try:
        for loss in range(MOST_LOSSES):
            np.testing.assert_array_equal(measured_depth(session, WAIT_S), expected)
            assert bool(lines) == (loss > 0)
            assert session.measurements.device.problem == ""
            (process,) = measuring_processes(os.getpid())
            session.reset()
            os.kill(process, signal.SIGKILL)
        np.testing.assert_array_equal(measured_depth(session, WAIT_S), expected)
        assert "killed by signal 9, and is started again" in lines[0]
        assert "killed by signal 9" in measuring_status(session, DiagnosticsMemory()).message
        assert measuring_processes(os.getpid()) == []
        session.stop(WAIT_S)
        session.start()
        assert session.measurements.device.problem == ""
        assert len(measuring_processes(os.getpid())) == 1
    finally:
        session.stop(WAIT_S)
    assert measuring_processes(os.getpid()) == []


def test_a_keyframe_that_cannot_be_measured_is_told_and_the_next_one_is_measured(
    session_on, measured_depth, monkeypatch, caplog
):
    def failing(*arguments):
        raise SearchFailed("error: broken")

    session, memory = session_on(None), DiagnosticsMemory()
    session.start()
    try:
        with monkeypatch.context() as broken:
            broken.setattr(MeasuringProcess, "measure", failing)
            with pytest.raises(AttributeError):  # there is no surface
                measured_depth(session, WAIT_S)
        status = measuring_status(session, memory)
        assert "SearchFailed: error: broken" in status.message
        assert status.values["failed"] == "2"  # the first one has no other to be measured with
        assert "a keyframe was not measured" in caplog.text
        session.reset()
        assert np.isfinite(measured_depth(session, WAIT_S)).mean() > 0.5
        assert "failed" not in measuring_status(session, memory).message
    finally:
        session.stop(WAIT_S)


@pytest.mark.parametrize(("source", "processes"), [("camera", 0), ("model", 0), ("auto", 1)])
def test_a_process_is_started_where_images_will_be_searched(
    source, processes, session_on, measuring_processes
):
    session = session_on(None)
    session.measurements.source = source
    for _ in range(2):  # an activation after a deactivation
        session.start()
        assert len(measuring_processes(os.getpid())) == processes
        session.stop(WAIT_S)
        assert measuring_processes(os.getpid()) == []


def test_a_defect_of_the_search_is_not_hidden(session_on, measured_depth, monkeypatch):
    def failing(*arguments):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(torch_search, "search_surface", failing)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measured_depth(session_on(CPU))
