"""One job from request to result: its data, its error codes, its cancellation and its progress.

Owns the immutable records that pass between the session and the worker, the rules for which job
runs next (`JobQueue`), and the estimate of the remaining time. `worker` runs them.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from threading import Lock

import numpy as np

from gld_ros.diffusion.presets import PresetName
from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.guard import GuardVerdict
from gld_ros.mapping.products import Product, ProductParameters, Products
from gld_ros.mapping.scale import ScaleParameters
from gld_ros.messages.stamps import NS_PER_S
from gld_ros.view_request import DepthRequest, NovelViews, Progress, ViewRequest

SUPERSEDE_AFTER_JOBS = 2.0  # mean job times, after which a running job's anchor is outdated
_NEW_JOB_WEIGHT = 0.3  # of the latest job in running means


class ErrorCode(IntEnum):
    """Why a job gave no views; values as in the result of `gld_ros/action/SynthesizeViews`."""

    NONE = 0
    UNKNOWN = 900
    NODE_INACTIVE = 901
    INVALID_GOAL = 902
    TF_ERROR = 903
    NO_KEYFRAMES = 904
    INSUFFICIENT_OVERLAP = 905
    SCALE_UNRESOLVED = 906
    OUT_OF_MEMORY = 907
    TIMEOUT = 908
    TIME_JUMP = 909
    BACKEND_FAULT = 910


class Outcome(Enum):
    """How a job ended."""

    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class CancelReason(Enum):
    """Why a job was cancelled; only the first reason counts."""

    USER = "cancelled by its client"
    SUPERSEDED = "superseded by a newer automatic job"
    GOAL = "an action goal took precedence"
    TIME_JUMP = "time jumped"
    INACTIVE = "the node was deactivated"
    TIMEOUT = "its time was up"


CANCEL_ERROR_CODES = {
    CancelReason.USER: ErrorCode.NONE,  # the action's own state shows that it was cancelled
    CancelReason.SUPERSEDED: ErrorCode.NONE,
    CancelReason.GOAL: ErrorCode.NONE,
    CancelReason.TIME_JUMP: ErrorCode.TIME_JUMP,
    CancelReason.INACTIVE: ErrorCode.NODE_INACTIVE,
    CancelReason.TIMEOUT: ErrorCode.TIMEOUT,
}


class JobKind(Enum):
    """Who asked; goals outrank automatic jobs."""

    AUTOMATIC = "automatic"
    GOAL = "goal"


class CancelToken:
    """Stops a running job at its next step; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._reason: CancelReason | None = None

    def cancel(self, reason: CancelReason) -> None:
        """Ask the job to stop; later reasons do not replace the first."""
        with self._lock:
            self._reason = self._reason or reason

    @property
    def reason(self) -> CancelReason | None:
        """Why the job shall stop, or None."""
        with self._lock:
            return self._reason


@dataclass(frozen=True)
class JobParameters:
    """What postprocessing needs, as it was when the job was made."""

    products: ProductParameters = field(default_factory=ProductParameters)
    scale: ScaleParameters = field(default_factory=ScaleParameters)


@dataclass(frozen=True, eq=False)
class JobRequest:
    """Everything a job needs, frozen when it was made: later changes do not reach it."""

    job_id: int
    kind: JobKind
    policy: str  # the policy's name, or "action"
    epoch: int
    keyframes: tuple[Keyframe, ...]  # newest first: the first is the anchor
    targets: tuple[TargetCamera, ...]  # none: the depth of the anchor is wanted
    verdicts: tuple[GuardVerdict, ...] = ()  # the guard's, one per target
    parameters: JobParameters = field(default_factory=JobParameters)
    always_wanted: frozenset[Product] = frozenset()  # whether or not anybody subscribed
    publish: bool = True  # False: only who asked for it gets the result
    preset: PresetName = "published"
    num_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None  # None: derived from the job id
    samples: int = 1
    created_steady_s: float = 0.0
    start_before_steady_s: float = math.inf  # a goal that waits longer for the worker times out
    token: CancelToken = field(default_factory=CancelToken)

    @property
    def anchor(self) -> Keyframe:
        """The keyframe whose stamp all products carry."""
        return self.keyframes[0]

    @property
    def effective_seed(self) -> int:
        """The seed of the run: the requested one, or the job id, so that bags repeat exactly."""
        return self.job_id if self.seed is None else self.seed

    @property
    def is_depth(self) -> bool:
        """Whether the depth of a real image is wanted, and no views."""
        return not self.targets

    def model_request(
        self, slots: Sequence[int], max_references: int
    ) -> ViewRequest | DepthRequest:
        """What the synthesizer is asked: `view_request`, or the depth of the anchor."""
        if self.is_depth:
            return DepthRequest([self.anchor.image], self.anchor.K_px[None])
        return self.view_request(slots, max_references)

    def view_request(self, slots: Sequence[int], max_references: int) -> ViewRequest:
        """What the synthesizer is asked, for some of the targets and at most so many references."""
        keyframes = self.keyframes[:max_references]
        targets = [self.targets[slot] for slot in slots]
        return ViewRequest(
            images=[k.image for k in keyframes],
            K_px_ref=np.stack([k.K_px for k in keyframes]),
            T_world_cam_ref=np.stack([k.T_fixed_cam for k in keyframes]),
            K_px_target=np.stack([t.K_px for t in targets]),
            T_world_cam_target=np.stack([t.T_fixed_cam for t in targets]),
            target_hw=[t.image_hw for t in targets],
            preset=self.preset,
            num_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            seed=self.effective_seed,
            samples=self.samples,
            reference_colours=False,  # products show real images
        )


@dataclass(frozen=True)
class StageTimes:
    """Wall durations in seconds on the steady clock; fields as in `gld_ros/msg/StageTimes`."""

    wait_tf: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    sample: float = 0.0
    decode: float = 0.0
    postprocess: float = 0.0
    publish: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, eq=False)
class SynthesisRun:
    """One run of the synthesizer: its own model unit, and the slots of the targets in it."""

    views: NovelViews
    slots: tuple[int, ...]
    keyframes: tuple[Keyframe, ...]  # the references that were used
    products: Products | None = None  # None until they are made


@dataclass(frozen=True, eq=False)
class JobResult:
    """How a job ended. A degraded job may consist of several runs."""

    request: JobRequest
    outcome: Outcome
    error_code: ErrorCode
    error_msg: str
    runs: tuple[SynthesisRun, ...]
    times: StageTimes
    cancelled_by: CancelReason | None = None
    device_lost: bool = False  # the process must end (exit code 70)
    sampling_steps: int = 0  # of one run

    @property
    def products(self) -> tuple[Products, ...]:
        """What the runs published, in the order of runs."""
        return tuple(run.products for run in self.runs if run.products is not None)


@dataclass(frozen=True)
class JobProgress:
    """Where a running job is, as its action feedback reports it."""

    stage: str  # "queued", "encoding", "sampling", "decoding"
    step: int
    total_steps: int
    fraction: float  # 0..1 of the whole job
    elapsed_s: float
    remaining_s: float  # 0 if unknown


def cancelled_result(request: JobRequest, reason: CancelReason, times: StageTimes) -> JobResult:
    """The result of a job that was stopped, or never started, for `reason`."""
    return JobResult(
        request=request,
        outcome=Outcome.CANCELLED,
        error_code=CANCEL_ERROR_CODES[reason],
        error_msg=reason.value,
        runs=(),
        times=times,
        cancelled_by=reason,
    )


def product_age_s(stamp_ns: int, now_ns: int) -> float:
    """Age of a product at publication, ROS clock."""
    return (now_ns - stamp_ns) / NS_PER_S


class JobQueue:
    """What waits for the worker: automatic jobs (the latest wins) and goals in order.

    One automatic job for views waits, and one for the depth of each camera, in turns.

    Not locked: the worker guards it with its own condition.
    """

    def __init__(self, max_goals: int = 1) -> None:
        self._automatic: dict[str, JobRequest] = {}  # by camera, views under ""; the oldest first
        self._goals: deque[JobRequest] = deque()
        self._max_goals = max_goals

    def put_automatic(self, request: JobRequest) -> JobRequest | None:
        """Let an automatic job wait; returns the one that it replaces."""
        lane = request.anchor.camera if request.is_depth else ""
        replaced = self._automatic.get(lane)
        self._automatic[lane] = request
        return replaced

    def put_goal(self, request: JobRequest) -> bool:
        """Append a goal; False if the queue is full."""
        if len(self._goals) >= self._max_goals:
            return False
        self._goals.append(request)
        return True

    def waiting(self) -> list[JobRequest]:
        """Everything that waits, goals first."""
        return [*self._goals, *self._automatic.values()]

    def take(self) -> JobRequest | None:
        """Remove and return what runs next: goals first."""
        if self._goals:
            return self._goals.popleft()
        lane = next(iter(self._automatic), None)
        return None if lane is None else self._automatic.pop(lane)

    def take_stale(self, now_steady_s: float) -> list[JobRequest]:
        """Remove and return what must not start any more: cancelled, or past its start time."""
        stale = [
            r for r in self.waiting() if r.token.reason or now_steady_s > r.start_before_steady_s
        ]
        self._goals = deque(r for r in self._goals if r not in stale)
        self._automatic = {k: r for k, r in self._automatic.items() if r not in stale}
        return stale

    def drain(self) -> list[JobRequest]:
        """Remove and return everything, goals first."""
        waiting = self.waiting()
        self._goals.clear()
        self._automatic.clear()
        return waiting

    def __len__(self) -> int:
        return len(self._goals) + len(self._automatic)


def outdated(running: JobRequest, now_ns: int, mean_job_s: float) -> bool:
    """Whether a running automatic job should give way to a newer one.

    It should if its anchor is older than twice the mean job time; otherwise letting it finish gives
    a product sooner. Before the first finished job nothing is outdated, and depth never is: a job
    of one image has hardly any step to stop at, and late images would all be discarded.
    """
    if running.kind is JobKind.GOAL or running.is_depth or mean_job_s <= 0:
        return False
    age_s = product_age_s(running.anchor.stamp_ns, now_ns)
    return age_s > SUPERSEDE_AFTER_JOBS * mean_job_s


class JobTiming:
    """Running means of past jobs, to estimate how far a job is and how long it will take.

    Belongs to the worker's lock.
    """

    def __init__(self) -> None:
        # Per run of the synthesizer; a degraded job has several runs.
        self._encode_s = math.nan
        self._sample_s = math.nan
        self._step_s = math.nan
        self._decode_s = math.nan
        self._job_s = math.nan

    @property
    def mean_job_s(self) -> float:
        """Mean duration of finished jobs; 0 before the first."""
        return 0.0 if math.isnan(self._job_s) else self._job_s

    def finished(self, times: StageTimes, sampling_steps: int, runs: int) -> None:
        """Learn from a finished job of `runs` runs with `sampling_steps` each."""
        decode_s = times.decode + times.postprocess
        self._encode_s = _running_mean(self._encode_s, times.encode / runs)
        self._sample_s = _running_mean(self._sample_s, times.sample / runs)
        self._step_s = _running_mean(self._step_s, times.sample / runs / max(1, sampling_steps))
        self._decode_s = _running_mean(self._decode_s, decode_s / runs)
        self._job_s = _running_mean(self._job_s, times.encode + times.sample + decode_s)

    def progress(self, progress: Progress, elapsed_s: float, run: int, runs: int) -> JobProgress:
        """Where a job is after a step of run number `run` (from 0) of `runs`.

        Before the first finished job the stages have assumed shares and the rest is unknown (0).
        """
        known = not math.isnan(self._job_s)
        encode_s = self._encode_s if known else 0.1
        decode_s = self._decode_s if known else 0.1
        sample_s = self._sample_s if known else 0.8
        if known and progress.stage == "sampling":
            sample_s = self._step_s * progress.total_steps
        done = progress.step / max(1, progress.total_steps)
        done_s = {
            "encoding": done * encode_s,
            "sampling": encode_s + done * sample_s,
            "decoding": encode_s + sample_s + done * decode_s,
        }[progress.stage]
        run_s = max(encode_s + sample_s + decode_s, 1e-9)
        remaining_s = run_s - done_s + (runs - 1 - run) * run_s
        return JobProgress(
            stage=progress.stage,
            step=progress.step,
            total_steps=progress.total_steps,
            fraction=(run + done_s / run_s) / runs,
            elapsed_s=elapsed_s,
            remaining_s=max(0.0, remaining_s) if known else 0.0,
        )


def _running_mean(mean: float, value: float) -> float:
    return value if math.isnan(mean) else mean + _NEW_JOB_WEIGHT * (value - mean)
