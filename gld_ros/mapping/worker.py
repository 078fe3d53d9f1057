"""The one thread that runs jobs: sole owner of the synthesizer, cancellable between steps.

Owns the thread's life (`start` and `stop` are symmetric), the order of jobs, the application of
memory limits, and the promise that every submitted job is answered exactly once. It does not use
ROS: ROS time and the current epoch are given as functions, results are delivered by a callback.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Condition, Thread
from typing import Any

from gld_ros.mapping.degrade import DegradeLadder, MemoryLimits
from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.job_clock import JobClock
from gld_ros.mapping.jobs import (
    CancelReason,
    ErrorCode,
    JobKind,
    JobProgress,
    JobQueue,
    JobRequest,
    JobResult,
    JobTiming,
    Outcome,
    StageTimes,
    SynthesisRun,
    cancelled_result,
    outdated,
)
from gld_ros.mapping.model_fault import Fault, fault_of
from gld_ros.mapping.products import Products, UnusableOutput
from gld_ros.mapping.synthesizer import MemoryLimited, ReadsMeasurements, Synthesizer
from gld_ros.measuring.surfaces import Surface
from gld_ros.view_request import NovelViews, ViewRequest

logger = logging.getLogger(__name__)

# Makes publishable products of a run, on the worker's thread; see `postprocess`.
Postprocess = Callable[[JobRequest, SynthesisRun], Products]
# What was measured around some targets (slots) of a job, before it runs with these references.
Surfaces = Callable[[JobRequest, Sequence[int], Sequence[Keyframe]], Sequence[Surface]]
OnResult = Callable[[JobResult], None]
OnProgress = Callable[[JobRequest, JobProgress], None]


class _Cancelled(Exception):
    """Ends a job whose token was set."""

    def __init__(self, reason: CancelReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class _InvalidRequest(Exception):
    """A request that the synthesizer rejects."""


class SynthesisWorker:
    """Runs jobs one at a time on its own thread.

    `on_result` and `on_progress` are called on that thread, and on the caller's thread for jobs
    that never start; they must be quick and must not raise. `ros_now_ns` and `epoch` are read from
    the worker's thread. `fault_of` says what a backend's own exceptions mean.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        *,
        postprocess: Postprocess,
        on_result: OnResult,
        on_progress: OnProgress,
        ros_now_ns: Callable[[], int],
        epoch: Callable[[], int],
        surfaces: Surfaces = lambda request, slots, keyframes: (),
        fault_of: Callable[[BaseException], Fault] = fault_of,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._synthesizer: Any = synthesizer  # of the mode that jobs are planned in
        self._postprocess = postprocess
        self._surfaces = surfaces
        self._on_result = on_result
        self._on_progress = on_progress
        self._ros_now_ns = ros_now_ns
        self._epoch = epoch
        self._fault_of = fault_of
        self._steady_s = steady_s

        self._changed = Condition()
        self._queue = JobQueue()
        self._running: JobRequest | None = None
        self._thread: Thread | None = None
        self._abandoned: Thread | None = None  # hung when it was stopped
        self._generation = 0  # of the thread; a thread of an older one is abandoned
        self._ladder = DegradeLadder()
        self._timing = JobTiming()

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if it runs already, or still hangs."""
        with self._changed:
            if self._thread is not None:
                raise RuntimeError("the worker runs already; stop it first")
            if self.hangs:
                raise RuntimeError("the worker's earlier thread still hangs in one step")
            self._generation += 1
            self._thread = Thread(
                target=self._work,
                args=(self._generation,),
                name=f"gld_synthesis_{self._generation}",
                daemon=True,
            )
            self._thread.start()

    def stop(self, timeout_s: float, reason: CancelReason = CancelReason.INACTIVE) -> bool:
        """Cancel everything, answer what waits, and join the thread; False if it did not end.

        A thread that hangs inside one step is abandoned: its job is answered as cancelled now, and
        whatever it returns later is discarded. Does nothing when the worker is not running.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            if thread is None:
                return True
            self._generation += 1
            waiting = self._queue.drain()
            if self._running is not None:
                self._running.token.cancel(reason)
            self._changed.notify_all()
        for request in waiting:
            self._deliver(self._never_started(request, reason))
        thread.join(timeout_s)
        if not thread.is_alive():
            return True
        with self._changed:
            stuck, self._running = self._running, None
            self._abandoned = thread
        if stuck is not None:
            self._deliver(cancelled_result(stuck, reason, StageTimes()))
        return False

    def run(self, request: JobRequest) -> JobResult:
        """Run one job to its end on the caller's thread, as the worker's own would.

        For a session without a thread (a bag); the result is returned, not delivered. Raises
        RuntimeError while the thread runs.
        """
        with self._changed:
            if self._thread is not None:
                raise RuntimeError("the worker's thread runs; submit the job instead")
        return self._run_job(request)

    def submit_automatic(self, request: JobRequest) -> bool:
        """Queue an automatic job; it replaces one that waits. False if the worker is stopped.

        A running automatic job whose anchor is outdated is cancelled at its next step.
        """
        with self._changed:
            if self._thread is None:
                return False
            replaced = self._queue.put_automatic(request)
            running = self._running
            if running is not None and outdated(
                running, self._ros_now_ns(), self._timing.mean_job_s
            ):
                running.token.cancel(CancelReason.SUPERSEDED)
            self._changed.notify_all()
        if replaced is not None:
            self._deliver(self._never_started(replaced, CancelReason.SUPERSEDED))
        return True

    def submit_goal(self, request: JobRequest) -> bool:
        """Queue a goal; False if the worker is stopped or another goal waits already.

        A running automatic job gives way at its next step.
        """
        with self._changed:
            if self._thread is None or not self._queue.put_goal(request):
                return False
            if self._running is not None and self._running.kind is JobKind.AUTOMATIC:
                self._running.token.cancel(CancelReason.GOAL)
            self._changed.notify_all()
        return True

    def cancel(self, job_id: int, reason: CancelReason = CancelReason.USER) -> bool:
        """Cancel one waiting or running job; False if there is none of this id."""
        with self._changed:
            candidates = [r for r in self._queue.waiting() if r.job_id == job_id]
            if self._running is not None and self._running.job_id == job_id:
                candidates.append(self._running)
            for request in candidates:
                request.token.cancel(reason)
            self._changed.notify_all()
        return bool(candidates)

    def cancel_all(self, reason: CancelReason) -> None:
        """Cancel everything that waits or runs, and keep working (time jumped, or a reset)."""
        with self._changed:
            waiting = self._queue.drain()
            if self._running is not None:
                self._running.token.cancel(reason)
        for request in waiting:
            self._deliver(self._never_started(request, reason))

    @property
    def running(self) -> JobRequest | None:
        """The job that runs now."""
        with self._changed:
            return self._running

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits."""
        with self._changed:
            return self._running is not None or len(self._queue) > 0

    @property
    def hangs(self) -> bool:
        """Whether an earlier thread was abandoned in a step that has not ended yet."""
        with self._changed:
            return self._abandoned is not None and self._abandoned.is_alive()

    @property
    def limits(self) -> MemoryLimits:
        """What the degrade ladder allows now; while `automatic_paused`, submit goals only."""
        with self._changed:
            self._ladder.resume_after_quiet(self._steady_s())
            return self._ladder.limits

    @property
    def out_of_memory_count(self) -> int:
        """How many allocations failed so far."""
        with self._changed:
            return self._ladder.out_of_memory_count

    @property
    def mean_job_s(self) -> float:
        """Mean duration of finished jobs; 0 before the first."""
        with self._changed:
            return self._timing.mean_job_s

    # -- the worker's thread ----------------------------------------------------------------------

    def _work(self, generation: int) -> None:
        while True:
            self._answer_stale()
            with self._changed:
                if self._generation != generation:
                    return
                request = self._queue.take()
                if request is None:
                    self._changed.wait()
                    continue
                self._running = request
            result = self._run_job(request)
            with self._changed:
                abandoned = self._running is not request
                if not abandoned:
                    self._running = None
            if not abandoned:
                self._deliver(result)

    def _answer_stale(self) -> None:
        """Answer waiting jobs that were cancelled or whose time to start has passed."""
        with self._changed:
            stale = self._queue.take_stale(self._steady_s())
        for request in stale:
            reason = request.token.reason or CancelReason.TIMEOUT
            self._deliver(self._never_started(request, reason))

    def _run_job(self, request: JobRequest) -> JobResult:
        """Run one job, retrying once at a lower level when memory runs out."""
        clock = JobClock(request, self._steady_s)
        ran_out = False
        while True:
            limits = self.limits
            try:
                if limits.automatic_paused and request.kind is JobKind.AUTOMATIC:
                    return self._failed(
                        request, clock, ErrorCode.OUT_OF_MEMORY, "automatic jobs are paused"
                    )
                runs = self._run_all(request, limits, clock)
            except _Cancelled as cancelled:
                return cancelled_result(request, cancelled.reason, clock.times())
            except _InvalidRequest as error:
                return self._failed(request, clock, ErrorCode.INVALID_GOAL, str(error))
            except UnusableOutput as error:
                return self._failed(request, clock, ErrorCode.BACKEND_FAULT, str(error))
            except Exception as error:
                fault = self._fault_of(error)
                if fault is Fault.OUT_OF_MEMORY:
                    with self._changed:
                        lower = self._ladder.out_of_memory(
                            self._steady_s(), partial(self._demands_differ, request, limits)
                        )
                    # As text: a kept log record would keep the tensors of the failed run alive.
                    logger.warning("out of memory at %s (%s)", limits.description, str(error))
                    if lower and not ran_out:
                        ran_out = True
                        continue
                    return self._failed(request, clock, ErrorCode.OUT_OF_MEMORY, str(error))
                logger.exception("job %d failed", request.job_id)
                lost = fault is Fault.DEVICE_LOST
                code = ErrorCode.BACKEND_FAULT if lost else ErrorCode.UNKNOWN
                message = f"{type(error).__name__}: {error}"
                return replace(self._failed(request, clock, code, message), device_lost=lost)
            break

        with self._changed:
            if not ran_out:
                self._ladder.job_was_clean()
            self._timing.finished(clock.times(), clock.sampling_steps, clock.runs)
        return JobResult(
            request=request,
            outcome=Outcome.DONE,
            error_code=ErrorCode.NONE,
            error_msg="",
            runs=tuple(runs),
            times=clock.times(),
            sampling_steps=clock.sampling_steps,
        )

    def _demands_differ(self, request: JobRequest, a: MemoryLimits, b: MemoryLimits) -> bool:
        return self._demand(request, a) != self._demand(request, b)

    def _demand(self, request: JobRequest, limits: MemoryLimits) -> tuple[int | bool, ...]:
        """What decides the memory of a job's runs under some limits."""
        targets, keyframes = len(request.targets), len(request.keyframes)
        chunked = smallest = False
        if isinstance(self._synthesizer, MemoryLimited):
            chunked = limits.chunk_decoder
            smallest = limits.smallest_bucket and self._synthesizer.has_smaller_bucket
        return (
            min(targets, limits.targets_per_run or targets),
            min(keyframes, limits.max_reference_views or keyframes),
            chunked,
            smallest,
        )

    def _run_all(
        self, request: JobRequest, limits: MemoryLimits, clock: JobClock
    ) -> list[SynthesisRun]:
        if isinstance(self._synthesizer, MemoryLimited):
            self._synthesizer.limit_memory(
                chunk_decoder=limits.chunk_decoder, smallest_bucket=limits.smallest_bucket
            )
        slots = range(len(request.targets))
        per_run = limits.targets_per_run or max(1, len(request.targets))
        # The depth of an image has no targets, and is one run.
        batches = [tuple(slots[i : i + per_run]) for i in range(0, len(slots), per_run)] or [()]
        max_views = limits.max_reference_views or len(request.keyframes)
        clock.begin(len(batches))
        runs = []
        for batch in batches:
            self._check(request)
            views = self._synthesize(request, batch, max_views, clock)
            self._check(request)
            run = SynthesisRun(views, batch, request.keyframes[:max_views])
            started = self._steady_s()
            products = self._postprocess(request, run)
            clock.postprocess_s += self._steady_s() - started
            runs.append(replace(run, products=products))
        self._check(request)
        return runs

    def _synthesize(
        self, request: JobRequest, slots: Sequence[int], max_views: int, clock: JobClock
    ) -> NovelViews:
        asked = request.model_request(slots, max_views)
        synthesizer = self._synthesizer
        reads = isinstance(synthesizer, ReadsMeasurements) and synthesizer.reads_measurements
        if reads and isinstance(asked, ViewRequest):
            measured = self._surfaces(request, slots, request.keyframes[:max_views])
            asked = replace(asked, surfaces=measured)
        try:
            asked.validate()
            steps = self._synthesizer.run(asked)
        except ValueError as error:
            raise _InvalidRequest(str(error)) from error
        try:
            while True:
                self._check(request)
                self._answer_stale()
                try:
                    progress = next(steps)
                except StopIteration as finished:
                    views: NovelViews = finished.value
                    break
                except ValueError as error:
                    raise _InvalidRequest(str(error)) from error
                if progress.stage == "sampling":
                    clock.sampling_steps = progress.total_steps
                with self._changed:
                    report = self._timing.progress(
                        progress, clock.elapsed_s(), clock.runs_done, clock.runs
                    )
                self._call(self._on_progress, request, report)
        finally:
            # Ends the generator where it stands, so that its memory is free before the next job.
            steps.close()
        clock.add(views.stage_seconds)
        clock.runs_done += 1
        return views

    def _check(self, request: JobRequest) -> None:
        """Raise _Cancelled if the job was cancelled or belongs to an earlier epoch."""
        if request.token.reason is not None:
            raise _Cancelled(request.token.reason)
        if request.epoch != self._epoch():
            raise _Cancelled(CancelReason.TIME_JUMP)

    def _failed(
        self, request: JobRequest, clock: JobClock, code: ErrorCode, message: str
    ) -> JobResult:
        return JobResult(
            request=request,
            outcome=Outcome.FAILED,
            error_code=code,
            error_msg=message,
            runs=(),
            times=clock.times(),
        )

    def _never_started(self, request: JobRequest, reason: CancelReason) -> JobResult:
        waited_s = max(0.0, self._steady_s() - request.created_steady_s)
        times = StageTimes(
            wait_tf=request.anchor.wait_tf_s if request.keyframes else 0.0,
            queue=waited_s,
            total=waited_s,
        )
        return cancelled_result(request, reason, times)

    def _deliver(self, result: JobResult) -> None:
        self._call(self._on_result, result)

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call a callback; if it raises, that must not end the thread."""
        try:
            callback(*arguments)
        except Exception:
            logger.exception("callback of the worker failed")
