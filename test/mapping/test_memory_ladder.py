"""The degrade ladder on a real pipeline, under an allocator that fails beyond a number of bytes."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from gld_ros.mapping.degrade import LADDER
from gld_ros.mapping.jobs import ErrorCode, JobKind, Outcome
from gld_ros.mapping.model import torch_fault_of
from gld_ros.mapping.worker import SynthesisWorker
from gld_ros.memory_estimate import LiveTensors
from gld_ros.pipeline import NovelViewPipeline
from gld_ros.weights.bundle import Bundle

SIZES_HW = ((56, 84), (28, 42))


class Allocator(LiveTensors):
    """Live bytes of the CPU's tensors; refuses what would exceed `limit_bytes`."""

    def __init__(self):
        super().__init__("cpu")
        self.limit_bytes = float("inf")

    def add(self, storage):
        if self.bytes + storage.nbytes() > self.limit_bytes:
            raise torch.OutOfMemoryError(f"{storage.nbytes()} bytes are not to be had")
        super().add(storage)


class TightPipeline:
    """A pipeline whose every step runs under an allocator."""

    def __init__(self, pipeline):
        self.pipeline, self.allocator = pipeline, Allocator()
        self.limit_memory = pipeline.limit_memory
        self.has_smaller_bucket = pipeline.has_smaller_bucket

    def run(self, request):
        steps = self.pipeline.run(request)  # plans on the CPU, whatever the device
        while True:
            try:
                with self.allocator:
                    progress = next(steps)
            except StopIteration as finished:
                return finished.value
            yield progress

    def peak_bytes(self, job, limits):
        """Most bytes that were alive at once while a job ran within some limits."""
        self.limit_memory(
            chunk_decoder=limits.chunk_decoder, smallest_bucket=limits.smallest_bucket
        )
        slots = range(len(job.targets))[: limits.targets_per_run]
        request = job.view_request(slots, limits.max_reference_views or len(job.keyframes))
        before = self.allocator.bytes
        self.allocator.peak_bytes = before
        steps = self.run(request)
        while next(steps, None) is not None:
            pass
        return self.allocator.peak_bytes - before


@pytest.fixture(scope="module")
def tight(tmp_path_factory, save_vggt_bundle):
    bundle = save_vggt_bundle(tmp_path_factory.mktemp("ladder") / "bundle")
    config = replace(bundle.config, resolutions_hw=SIZES_HW)
    pipeline = NovelViewPipeline(Bundle(bundle.folder, config), device="cpu")
    return TightPipeline(pipeline)


@pytest.fixture
def job(job_of, keyframe_of, target_of, camera_at):
    keyframes = tuple(
        keyframe_of(camera_at(-1.0, 0.2 * i), 2.0 - 0.1 * i, hw=(56, 84)) for i in range(4)
    )
    targets = tuple(target_of(camera_at(-1.0, 0.1 * i), hw=(56, 84)) for i in range(3))

    def make(job_id, kind=JobKind.GOAL):
        return job_of(job_id, kind, keyframes=keyframes, targets=targets, num_steps=1, seed=0)

    return make


@pytest.fixture
def worker(tight):
    results = []
    worker = SynthesisWorker(
        tight,
        postprocess=lambda request, run: None,
        on_result=results.append,
        on_progress=lambda request, progress: None,
        ros_now_ns=lambda: 2_000_000_000,
        epoch=lambda: 0,
        fault_of=torch_fault_of,
    )

    def finish(request):
        submit = worker.submit_goal if request.kind is JobKind.GOAL else worker.submit_automatic
        expected = len(results) + 1
        assert submit(request)
        deadline = time.monotonic() + 120.0
        while len(results) < expected:
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.005)
        return results[-1]

    worker.start()
    yield worker, finish
    tight.allocator.limit_bytes = float("inf")
    assert worker.stop(30.0)


@pytest.fixture
def level_peaks(tight, job):
    tight.peak_bytes(job(0), LADDER[0])  # what only the first run makes stays afterwards
    return [tight.peak_bytes(job(0), limits) for limits in LADDER[:5]]


def test_every_level_takes_less_memory_than_the_one_above(level_peaks):
    assert all(lower < 0.95 * upper for upper, lower in pairwise(level_peaks))


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_job_that_does_not_fit_is_done_at_the_level_where_it_does(
    tight, worker, job, level_peaks, level
):
    worker, finish = worker
    tight.allocator.limit_bytes = tight.allocator.bytes + 1.02 * level_peaks[level]
    outcomes = []
    for job_id in range(1, 4):  # two levels per job: one run and one retry
        outcomes.append(finish(job(job_id)))
        if outcomes[-1].outcome is Outcome.DONE:
            break
    assert outcomes[-1].outcome is Outcome.DONE
    assert worker.limits.level == level
    assert {r.error_code for r in outcomes[:-1]} <= {ErrorCode.OUT_OF_MEMORY}
    assert sorted(slot for run in outcomes[-1].runs for slot in run.slots) == [0, 1, 2]
    for run in outcomes[-1].runs:
        assert all(np.isfinite(view.rgb).all() for view in run.views.targets)
        assert [view.rgb.shape[:2] for view in run.views.targets] == [
            job(0).targets[slot].image_hw for slot in run.slots
        ]


def test_below_the_lowest_level_goals_fail_and_work_again_when_there_is_memory(tight, worker, job):
    worker, finish = worker
    tight.allocator.limit_bytes = tight.allocator.bytes
    for job_id in range(1, 5):
        result = finish(job(job_id))
        assert (result.outcome, result.error_code) == (Outcome.FAILED, ErrorCode.OUT_OF_MEMORY)
    assert worker.limits.automatic_paused
    assert finish(job(5, JobKind.AUTOMATIC)).error_code is ErrorCode.OUT_OF_MEMORY
    tight.allocator.limit_bytes = float("inf")
    assert finish(job(6)).outcome is Outcome.DONE


def test_faults_of_torch_are_told_apart():
    from gld_ros.mapping.model_fault import Fault

    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**50, dtype=torch.uint8)
    assert torch_fault_of(failed.value) is Fault.OUT_OF_MEMORY
    assert torch_fault_of(torch.OutOfMemoryError("CUDA out of memory")) is Fault.OUT_OF_MEMORY
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert torch_fault_of(lost) is Fault.DEVICE_LOST
    assert torch_fault_of(ValueError("a bad request")) is Fault.OTHER
