"""The worker thread with the ray-casting oracle, steered step by step."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from gld_ros.mapping.degrade import CLEAN_JOBS_TO_RECOVER, QUIET_S_TO_RESUME
from gld_ros.mapping.jobs import CancelReason, ErrorCode, JobKind, Outcome
from gld_ros.mapping.postprocess import DEFAULT_MEDIAN_DEPTH_M, Postprocessor
from gld_ros.mapping.products import ALL_PRODUCTS, Product, UnusableOutput
from gld_ros.mapping.scale import ScaleSource
from gld_ros.mapping.synthesizer import DeviceFault, MemoryLimited, OracleSynthesizer, OutOfMemory
from gld_ros.mapping.worker import SynthesisWorker
from gld_ros.measuring.surfaces import Surface

S = 1_000_000_000
GOAL = JobKind.GOAL


class Stepper:
    """Lets a synthesizer advance only as far as a test allows, and fail where it says."""

    def __init__(self, oracle):
        self.oracle = oracle
        self.free = threading.Event()
        self.free.set()
        self.requests = []
        self.fail = lambda request: None
        self.closed = 0
        self.steps = 0
        self.limits = []

    has_smaller_bucket = True

    def limit_memory(self, **limits):
        self.limits.append(limits)

    def run(self, request):
        self.requests.append(request)
        steps = self.oracle.run(request)
        try:
            while True:
                self.free.wait(10.0)
                error = self.fail(request)
                if error is not None:
                    raise error
                try:
                    progress = next(steps)
                except StopIteration as stop:
                    return stop.value
                self.steps += 1
                yield progress
        finally:
            self.closed += 1


class Bench:
    """A worker, what it says, and the clock and epoch that it sees."""

    def __init__(self, room):
        self.synthesizer = Stepper(OracleSynthesizer(room))
        self.results, self.progress = [], []
        self.epoch, self.now_ns = 0, 2 * S
        self.steady_offset_s = 0.0
        self.postprocessor = Postprocessor(lambda: ALL_PRODUCTS)
        self.surfaces_asked = []
        self.worker = SynthesisWorker(
            self.synthesizer,
            postprocess=self.postprocess,
            surfaces=self.surfaces,
            on_result=self.results.append,
            on_progress=lambda request, progress: self.on_progress(request, progress),
            ros_now_ns=lambda: self.now_ns,
            epoch=lambda: self.epoch,
            steady_s=lambda: time.monotonic() + self.steady_offset_s,
        )

    def surfaces(self, request, slots, keyframes):
        self.surfaces_asked.append((request.job_id, tuple(slots), tuple(keyframes)))
        image, depth_m = keyframes[0].image, np.ones((4, 4), np.float32)
        return [Surface(image, keyframes[0].K_px, keyframes[0].T_fixed_cam, depth_m, depth_m)]

    def on_progress(self, request, progress):
        self.progress.append((request.job_id, progress))

    def postprocess(self, request, run):
        return self.postprocessor(request, run)

    def wait(self, fact):
        deadline = time.monotonic() + 10.0
        while not fact():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.001)

    def wait_results(self, count):
        self.wait(lambda: len(self.results) >= count)
        return self.results[count - 1]

    def hold(self):
        """Stop the synthesizer before its next step, from the next job on."""
        self.synthesizer.free.clear()

    def release(self):
        self.synthesizer.free.set()

    def start_held(self, request, submit=None):
        self.hold()
        (submit or self.worker.submit_automatic)(request)
        self.wait(lambda: self.worker.running is request)


@pytest.fixture
def bench(room):
    bench = Bench(room)
    bench.worker.start()
    yield bench
    bench.release()
    assert bench.worker.stop(5.0)
    assert not [t for t in threading.enumerate() if t.name.startswith("gld_synthesis")]


def test_a_job_gives_products_times_and_progress(bench, job_of):
    assert bench.worker.submit_automatic(
        job_of(1, num_targets=2, created_steady_s=time.monotonic())
    )
    result = bench.wait_results(1)
    assert (result.outcome, result.error_code) == (Outcome.DONE, ErrorCode.NONE)
    (run,) = result.runs
    assert run.slots == (0, 1)
    assert run.products.scale.metric
    assert len(run.products.predicted) == 2
    assert [p.stage for _, p in bench.progress] == ["encoding", *["sampling"] * 4, "decoding"]
    fractions = [p.fraction for _, p in bench.progress]
    assert fractions == sorted(fractions)
    times = result.times
    stages = times.queue + times.encode + times.sample + times.decode + times.postprocess
    assert 0 < stages <= times.total < 10.0
    assert bench.worker.mean_job_s > 0


def test_a_model_that_reads_measurements_gets_those_around_the_targets_and_no_other_does(
    bench, job_of
):
    bench.worker.submit_goal(job_of(1, GOAL))
    bench.wait_results(1)
    assert not bench.surfaces_asked
    assert not bench.synthesizer.requests[-1].surfaces
    bench.synthesizer.reads_measurements = True
    job = job_of(2, GOAL, num_targets=2)
    bench.worker.submit_goal(job)
    assert bench.wait_results(2).outcome is Outcome.DONE
    assert bench.surfaces_asked == [(2, (0, 1), job.keyframes)]
    assert len(bench.synthesizer.requests[-1].surfaces) == 1


def test_cancel_takes_effect_within_one_step(bench, job_of):
    bench.start_held(job_of(7))
    steps = bench.synthesizer.steps
    assert bench.worker.cancel(7)
    bench.release()
    result = bench.wait_results(1)
    assert (result.outcome, result.cancelled_by) == (Outcome.CANCELLED, CancelReason.USER)
    assert bench.synthesizer.steps <= steps + 1
    assert bench.synthesizer.closed == 1  # its memory is free
    assert not bench.worker.cancel(7)


def test_a_goal_takes_over_from_an_automatic_job(bench, job_of):
    bench.start_held(job_of(1))
    assert bench.worker.submit_goal(job_of(2, GOAL))
    assert not bench.worker.submit_goal(job_of(3, GOAL))  # one waits already
    bench.release()
    bench.wait_results(2)
    assert [(r.request.job_id, r.outcome, r.cancelled_by) for r in bench.results] == [
        (1, Outcome.CANCELLED, CancelReason.GOAL),
        (2, Outcome.DONE, None),
    ]


def test_automatic_jobs_do_not_disturb_a_goal(bench, job_of):
    bench.start_held(job_of(1, GOAL), bench.worker.submit_goal)
    bench.now_ns = 10**12
    bench.worker.submit_automatic(job_of(2))
    bench.worker.submit_automatic(job_of(3))
    bench.release()
    bench.wait_results(3)
    ended = {r.request.job_id: r.cancelled_by for r in bench.results}
    assert ended == {1: None, 2: CancelReason.SUPERSEDED, 3: None}


def test_an_outdated_automatic_job_gives_way_and_a_fresh_one_does_not(bench, job_of):
    bench.worker.submit_automatic(job_of(1))
    bench.wait_results(1)
    bench.start_held(job_of(2))  # anchored at 2 s, and it is 2 s
    bench.worker.submit_automatic(job_of(3))
    bench.release()
    bench.wait_results(3)
    assert [r.outcome for r in bench.results] == [Outcome.DONE] * 3
    bench.start_held(job_of(4))
    bench.now_ns = 10**12
    bench.worker.submit_automatic(job_of(5))
    bench.release()
    bench.wait_results(5)
    assert bench.results[3].cancelled_by is CancelReason.SUPERSEDED
    assert bench.results[4].outcome is Outcome.DONE


def test_results_of_an_earlier_epoch_are_discarded(bench, job_of):
    bench.start_held(job_of(1, GOAL), bench.worker.submit_goal)
    bench.epoch = 1
    bench.worker.submit_automatic(job_of(2, epoch=1))
    bench.release()
    bench.wait_results(2)
    assert bench.results[0].error_code is ErrorCode.TIME_JUMP
    assert bench.results[0].runs == ()
    assert bench.results[1].outcome is Outcome.DONE


def test_a_time_jump_cancels_what_waits_too(bench, job_of):
    bench.start_held(job_of(1, GOAL), bench.worker.submit_goal)
    bench.worker.submit_goal(job_of(2, GOAL))
    bench.worker.submit_automatic(job_of(3))
    bench.worker.cancel_all(CancelReason.TIME_JUMP)
    bench.release()
    bench.wait_results(3)
    assert {r.request.job_id for r in bench.results} == {1, 2, 3}
    assert {r.error_code for r in bench.results} == {ErrorCode.TIME_JUMP}


def test_a_waiting_goal_times_out_while_another_runs(bench, job_of):
    bench.start_held(job_of(1, GOAL), bench.worker.submit_goal)
    bench.worker.submit_goal(job_of(2, GOAL, start_before_steady_s=time.monotonic() + 5.0))
    bench.steady_offset_s = 6.0
    bench.release()
    bench.wait_results(2)
    assert bench.results[0].request.job_id == 2  # answered before the running one ended
    assert bench.results[0].error_code is ErrorCode.TIMEOUT
    assert bench.results[1].outcome is Outcome.DONE


def test_a_waiting_job_can_be_cancelled(bench, job_of):
    bench.start_held(job_of(1, GOAL), bench.worker.submit_goal)
    bench.worker.submit_goal(job_of(2, GOAL))
    assert bench.worker.cancel(2)
    bench.release()
    bench.wait_results(2)
    assert {r.request.job_id: r.cancelled_by for r in bench.results} == {
        1: None,
        2: CancelReason.USER,
    }


def test_memory_is_given_up_step_by_step_and_regained(bench, job_of):
    bench.synthesizer.fail = lambda request: (
        OutOfMemory("8 GiB") if len(request.target_hw) > 1 else None
    )
    bench.worker.submit_automatic(job_of(1, num_targets=3))
    result = bench.wait_results(1)
    assert result.outcome is Outcome.DONE
    assert bench.worker.limits.level == 1
    assert [run.slots for run in result.runs] == [(0,), (1,), (2,)]
    assert [len(run.products.predicted) for run in result.runs] == [1, 1, 1]
    fractions = [p.fraction for _, p in bench.progress]
    assert all(a <= b + 1e-9 for a, b in pairwise(fractions))
    for i in range(CLEAN_JOBS_TO_RECOVER):
        bench.worker.submit_automatic(job_of(2 + i))
        bench.wait_results(2 + i)
    assert bench.worker.limits.level == 0
    assert bench.worker.out_of_memory_count == 1


def test_a_job_is_retried_once_and_then_fails(bench, job_of):
    bench.synthesizer.fail = lambda request: OutOfMemory("always")
    bench.worker.submit_goal(job_of(1, GOAL))
    result = bench.wait_results(1)
    assert (result.outcome, result.error_code) == (Outcome.FAILED, ErrorCode.OUT_OF_MEMORY)
    assert isinstance(bench.synthesizer, MemoryLimited)
    # One target and two views: levels 1 and 3 would have changed nothing, so 2 and 4 came.
    assert [limits["smallest_bucket"] for limits in bench.synthesizer.limits] == [False, False]
    assert [limits["chunk_decoder"] for limits in bench.synthesizer.limits] == [False, True]
    assert bench.worker.limits.level == 4
    bench.worker.submit_goal(job_of(2, GOAL))
    assert bench.wait_results(2).error_code is ErrorCode.OUT_OF_MEMORY
    assert bench.worker.limits.level == 5
    assert bench.synthesizer.limits[-1] == {"chunk_decoder": True, "smallest_bucket": True}


def test_automatic_jobs_resume_after_quiet_time(bench, job_of):
    bench.synthesizer.fail = lambda request: OutOfMemory("always")
    for i in range(2):
        bench.worker.submit_goal(job_of(i, GOAL))
        bench.wait_results(i + 1)
    assert bench.worker.limits.automatic_paused
    bench.synthesizer.fail = lambda request: None
    bench.steady_offset_s += QUIET_S_TO_RESUME
    assert bench.worker.limits.level == 4
    bench.worker.submit_automatic(job_of(3))
    assert bench.wait_results(3).outcome is Outcome.DONE


def test_at_the_last_level_only_goals_run(bench, job_of):
    bench.synthesizer.fail = lambda request: MemoryError("host memory counts too")
    for i in range(3):
        bench.worker.submit_goal(job_of(i, GOAL))
        bench.wait_results(i + 1)
    assert bench.worker.limits.automatic_paused
    bench.synthesizer.fail = lambda request: None
    bench.worker.submit_automatic(job_of(8))
    assert bench.wait_results(4).error_code is ErrorCode.OUT_OF_MEMORY
    bench.worker.submit_goal(job_of(9, GOAL, num_targets=2))
    result = bench.wait_results(5)
    assert result.outcome is Outcome.DONE
    assert [len(r.keyframes) for r in result.runs] == [2, 2]
    assert bench.synthesizer.limits[-1] == {"chunk_decoder": True, "smallest_bucket": True}


@pytest.mark.parametrize(
    ("error", "code", "lost"),
    [
        (DeviceFault("CUDA error 719"), ErrorCode.BACKEND_FAULT, True),
        (ValueError("identical camera centres"), ErrorCode.INVALID_GOAL, False),
        (KeyError("surprise"), ErrorCode.UNKNOWN, False),
    ],
)
def test_faults_become_error_codes_and_the_worker_lives_on(bench, job_of, error, code, lost):
    bench.synthesizer.fail = lambda request: error
    bench.worker.submit_goal(job_of(1, GOAL))
    result = bench.wait_results(1)
    assert (result.outcome, result.error_code, result.device_lost) == (Outcome.FAILED, code, lost)
    assert str(error).strip("'") in result.error_msg
    bench.synthesizer.fail = lambda request: None
    bench.worker.submit_goal(job_of(2, GOAL))
    assert bench.wait_results(2).outcome is Outcome.DONE


def test_broken_output_is_a_backend_fault(bench, job_of):
    def refuse(request, run):
        raise UnusableOutput("12 % of view 2 are NaN")

    bench.postprocessor = refuse
    bench.worker.submit_automatic(job_of(1))
    result = bench.wait_results(1)
    assert (result.error_code, result.error_msg) == (
        ErrorCode.BACKEND_FAULT,
        "12 % of view 2 are NaN",
    )


def test_a_callback_that_raises_does_not_end_the_worker(bench, job_of, caplog):
    def report(request, progress):
        raise RuntimeError("subscriber trouble")

    bench.on_progress = report
    bench.worker.submit_automatic(job_of(1))
    assert bench.wait_results(1).outcome is Outcome.DONE
    assert "subscriber trouble" in caplog.text


def test_start_and_stop_can_alternate(room, job_of):
    bench = Bench(room)
    assert not bench.worker.submit_automatic(job_of(1))
    assert not bench.worker.submit_goal(job_of(1, GOAL))
    for i in range(3):
        bench.worker.start()
        with pytest.raises(RuntimeError, match="runs already"):
            bench.worker.start()
        bench.worker.submit_automatic(job_of(i))
        bench.wait_results(i + 1)
        assert bench.worker.stop(5.0)
        assert bench.worker.stop(5.0)
    assert [r.outcome for r in bench.results] == [Outcome.DONE] * 3


def test_stopping_answers_everything(room, job_of):
    bench = Bench(room)
    bench.worker.start()
    bench.start_held(job_of(1, GOAL), bench.worker.submit_goal)
    bench.worker.submit_goal(job_of(2, GOAL))
    bench.worker.submit_automatic(job_of(3))
    threading.Timer(0.05, bench.release).start()
    assert bench.worker.stop(5.0)
    assert sorted(r.request.job_id for r in bench.results) == [1, 2, 3]
    assert {r.error_code for r in bench.results} == {ErrorCode.NODE_INACTIVE}


def test_a_hanging_step_is_abandoned_and_its_late_result_discarded(room, job_of):
    bench = Bench(room)
    bench.worker.start()
    bench.start_held(job_of(1, GOAL), bench.worker.submit_goal)
    thread = next(t for t in threading.enumerate() if t.name.startswith("gld_synthesis"))
    assert not bench.worker.stop(0.05)
    assert [r.error_code for r in bench.results] == [ErrorCode.NODE_INACTIVE]
    with pytest.raises(RuntimeError, match="still hangs"):
        bench.worker.start()
    bench.release()
    thread.join(5.0)
    assert not thread.is_alive()
    assert len(bench.results) == 1
    bench.worker.start()
    assert bench.worker.stop(5.0)


def test_every_job_of_a_storm_is_answered_once(room, job_of):
    bench = Bench(room)
    bench.worker.start()
    rng = np.random.default_rng(5)
    submitted = []
    for i in range(150):
        kind = GOAL if rng.random() < 0.5 else JobKind.AUTOMATIC
        request = job_of(i, kind)
        submit = bench.worker.submit_goal if kind is GOAL else bench.worker.submit_automatic
        if submit(request):
            submitted.append(i)
        if rng.random() < 0.3:
            bench.worker.cancel(int(rng.integers(0, i + 1)))
        if rng.random() < 0.1:
            bench.worker.cancel_all(CancelReason.TIME_JUMP)
        if rng.random() < 0.3:
            time.sleep(0.002)
    assert bench.worker.stop(10.0)
    assert sorted(r.request.job_id for r in bench.results) == submitted


def test_the_running_scale_and_depth_are_remembered_and_reset(bench, job_of):
    post = bench.postprocessor
    assert post.median_depth_m == DEFAULT_MEDIAN_DEPTH_M
    bench.worker.submit_automatic(job_of(1))
    bench.wait_results(1)
    assert post.scale_state(2 * S).source is ScaleSource.TF_BASELINE
    assert post.scale_state(2 * S).scale == pytest.approx(2.7, rel=1e-6)
    assert post.median_depth_m != DEFAULT_MEDIAN_DEPTH_M
    assert 1.0 < post.median_depth_m < 5.0
    post.reset(epoch=3)
    assert not post.scale_state(2 * S).metric
    bench.worker.submit_automatic(job_of(2))  # of epoch 0: it teaches nothing
    bench.wait_results(2)
    assert not post.scale_state(2 * S).metric
    assert bench.results[1].runs[0].products.predicted[0].depth_m is None


def test_a_job_may_want_what_nobody_subscribed_to(room, job_of):
    bench = Bench(room)
    bench.postprocessor = Postprocessor(frozenset)
    bench.worker.start()
    bench.worker.submit_goal(job_of(1, GOAL, always_wanted=frozenset({Product.PREDICTED_DEPTH})))
    view = bench.wait_results(1).runs[0].products.predicted[0]
    assert view.depth_m is not None
    assert view.color is None
    bench.worker.stop(5.0)
