"""Items of a batch spread over processes by Ray: on this machine, or on a cluster that is running.

A worker is an actor that loads the model once. A worker that dies is replaced, and its item is run
again by whichever worker is free. Whoever is not ready, because it loads or because the cluster has
no room for it, does not delay the others.
"""

import os
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gld_ros import __version__
from gld_ros.batch.one_process import run_task
from gld_ros.batch.sigterm import exit_on_sigterm
from gld_ros.batch.work import BatchOutcome, BatchTask, BatchWork, WorkerUnusable

_FAILED_STARTS = 3  # in a row, after which workers are not replaced any more
_PATIENCE_S = 60.0  # before it is said that there is no room on the cluster
_CONNECT_S = 10.0
_OBJECT_STORE_BYTES = 100 * 2**20  # tasks and summaries; data go through files


@dataclass(frozen=True)
class RayOptions:
    """How many workers there are, what each needs, and where."""

    workers: int | None = None  # None: as many as there is room for
    threads: int = 1  # of each worker
    gpus: float | None = None  # of each worker, fractions share one; None: 1 where there are any
    address: str | None = None  # of a running cluster; None: this machine alone
    retries: int = 2  # of an item whose worker died


class _Worker:
    """Lives in a process of its own."""

    def __init__(self, work: BatchWork) -> None:
        self._work = work

    def load(self) -> str:
        self._work.load()
        return __version__

    def run(self, task: BatchTask) -> BatchOutcome:
        return run_task(task, self._work)


def run_on_ray(
    tasks: Sequence[BatchTask],
    work: BatchWork,
    options: RayOptions,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[BatchOutcome]:
    """Run the items on workers and yield outcomes as they come; `say` is told what goes wrong.

    Raises ImportError without Ray, ConnectionError when there is no cluster at the address, and
    RuntimeError when no worker can be started.
    """
    if options.address is None and "ray" not in sys.modules:
        _ask_for_a_token()
    import ray

    with exit_on_sigterm():
        _connect(options)
        with exit_on_sigterm():  # Ray has put its own handler in place of ours
            try:
                share = _share(options)
                if share.oversubscribed:
                    say(
                        f"{share.workers} workers of {options.threads} threads each are more than "
                        "this machine's processors; --threads 1 is usually faster"
                    )
                yield from _Pool(tasks, work, options, share, say).outcomes()
            finally:
                ray.shutdown()


def _reach(address: str) -> None:
    """Raise ConnectionError where nothing listens; Ray would try for many minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not (separator and port.isdecimal()):
        return  # "auto", which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}); `ray start --head` starts one, "
            "`ray status` tells where one is"
        ) from error


def _ask_for_a_token() -> None:
    """Have Ray, which is about to be imported, run nothing but what this process sends.

    It listens on all interfaces. Versions before 2.52 know no token.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@dataclass(frozen=True)
class _Share:
    """How many workers there are, and what Ray reserves for each."""

    workers: int
    cpus: float
    gpus: float
    oversubscribed: bool


def _share(options: RayOptions) -> _Share:
    """Fit the workers to the cluster, or to this machine."""
    import ray

    have = ray.cluster_resources()
    gpus = float(have.get("GPU", 0) >= 1) if options.gpus is None else options.gpus
    # Where GPUs limit the number of workers, processors should not.
    cpus = 1.0 if gpus else float(options.threads)
    room = have.get("GPU", 0) / gpus if gpus else have.get("CPU", 1) / cpus
    workers = max(1, int(room)) if options.workers is None else options.workers
    crowded = options.address is None and not gpus and workers * cpus > _processors()
    return _Share(workers, cpus, gpus, crowded)


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _connect(options: RayOptions) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if options.address is not None:
        _reach(options.address)
        try:
            ray.init(address=options.address, **quiet)
        except ConnectionError as error:  # also where the token is missing or wrong
            raise ConnectionError(
                f"the Ray cluster at {options.address} does not let this process in ({error}). If "
                "it asks for a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless the token "
                "is in ~/.ray/auth_token"
            ) from error
        return
    # Ray would run workers with a niceness of 15: beside anything else, hardly at all.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",
        # More workers than processors are the user's choice, which Ray would not carry out.
        num_cpus=max(_processors(), (options.workers or 1) * options.threads),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        **quiet,
    )


class _Pool:
    """Workers, the items that wait, and what each worker is doing: loading, or one item."""

    def __init__(
        self,
        tasks: Sequence[BatchTask],
        work: BatchWork,
        options: RayOptions,
        share: _Share,
        say: Callable[[str], None],
    ) -> None:
        import ray

        self._options, self._share, self._say = options, share, say
        self._waiting = deque(tasks)
        self._attempts: Counter[str] = Counter()
        self._busy: dict[Any, tuple[Any, BatchTask | None]] = {}  # by reference; None: it loads
        self._idle: list[Any] = []
        self._failed_starts = 0
        self._last_fault = ""
        self._work = ray.put(work)
        self._actor: Any = ray.remote(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, max_task_retries=0
        )(_Worker)
        for _ in range(min(share.workers, len(tasks))):
            self._start_worker()

    def outcomes(self) -> Iterator[BatchOutcome]:
        """Yield outcomes until no item waits and none is being run."""
        import ray

        said_nothing_since = time.monotonic()
        while self._waiting or self._running():
            while self._waiting and self._idle:
                next_task, actor = self._waiting.popleft(), self._idle.pop()
                self._attempts[next_task.name] += 1
                self._busy[actor.run.remote(next_task)] = actor, next_task
            if not self._busy:
                raise RuntimeError(
                    f"no worker could be started; the last one: {self._last_fault or 'no reason'}"
                )
            ready, _ = ray.wait(list(self._busy), timeout=1.0)
            if ready:
                said_nothing_since = time.monotonic()
            elif not self._running() and time.monotonic() - said_nothing_since > _PATIENCE_S:
                said_nothing_since = time.monotonic()
                self._say(
                    f"no worker is ready yet: each needs {self._share.cpus:g} processors and "
                    f"{self._share.gpus:g} GPUs; the cluster has {_resources()}"
                )
            for reference in ready:
                actor, task = self._busy.pop(reference)
                outcome = self._ended(reference, actor, task)
                if outcome is not None:
                    yield outcome

    def _running(self) -> bool:
        return any(task is not None for _, task in self._busy.values())

    def _start_worker(self) -> None:
        actor = self._actor.remote(self._work)
        self._busy[actor.load.remote()] = actor, None

    def _ended(self, reference: Any, actor: Any, task: BatchTask | None) -> BatchOutcome | None:
        """Take what a worker answered; None if it only became ready, or has to be replaced."""
        import ray

        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            fault = str(error.cause) or type(error.cause).__name__
            if task is None:
                self._say(f"a worker could not load the model: {fault}")
                self._not_started(fault)
                return None
            if not isinstance(error.cause, WorkerUnusable):
                raise
            ray.kill(actor)
            return self._lost(task, fault)
        except ray.exceptions.RayError as error:
            fault = _first_line(error)
            if task is None:
                self._say(f"a worker died while it loaded: {fault}")
                self._not_started(fault)
                return None
            return self._lost(task, fault)
        if task is None:
            if answer != __version__:
                self._say(f"a worker has gld_ros {answer}, this is {__version__}: not used")
                self._last_fault = f"it has gld_ros {answer}, this is {__version__}"
                return None
            self._failed_starts = 0
            self._idle.append(actor)
            return None
        self._idle.append(actor)
        return replace(answer, attempts=self._attempts[task.name])

    def _not_started(self, fault: str) -> None:
        self._last_fault = fault
        self._failed_starts += 1
        if self._failed_starts < _FAILED_STARTS:
            self._start_worker()

    def _lost(self, task: BatchTask, fault: str) -> BatchOutcome | None:
        """Replace a worker; its item waits again in front, unless that was its last attempt."""
        attempts = self._attempts[task.name]
        again = attempts <= self._options.retries
        if again:
            self._say(f"{task.name}: its worker died ({fault}); it is run again")
            self._waiting.appendleft(task)
        if self._waiting:
            self._start_worker()
        if again:
            return None
        reason = f"its worker died {attempts} times, at last: {fault}"
        return BatchOutcome(task, reason, attempts=attempts)


def _first_line(error: BaseException) -> str:
    """The sentence of a Ray error that tells what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _resources() -> str:
    import ray

    have = ray.cluster_resources()
    return f"{have.get('CPU', 0):g} processors and {have.get('GPU', 0):g} GPUs"
