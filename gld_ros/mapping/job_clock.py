"""How long the stages of a running job take."""

from collections.abc import Callable

from gld_ros.mapping.jobs import JobRequest, StageTimes


class JobClock:
    """Stage times of one job while it runs; `steady_s` returns the time of a steady clock."""

    def __init__(self, request: JobRequest, steady_s: Callable[[], float]) -> None:
        self._steady_s = steady_s
        self._started_s = steady_s()
        self._queue_s = max(0.0, self._started_s - request.created_steady_s)
        self._wait_tf_s = request.anchor.wait_tf_s
        self.begin(1)

    def begin(self, runs: int) -> None:
        """Count the stages from zero: a retry after an allocation failure starts over."""
        self._stages_s = {"encoding": 0.0, "sampling": 0.0, "decoding": 0.0}
        self.postprocess_s = 0.0
        self.sampling_steps = 0
        self.runs, self.runs_done = runs, 0

    def add(self, stage_seconds: dict[str, float]) -> None:
        """Add the seconds of each stage of one run of the synthesizer."""
        for stage in self._stages_s:
            self._stages_s[stage] += stage_seconds.get(stage, 0.0)

    def elapsed_s(self) -> float:
        """Return the seconds since the job started."""
        return self._steady_s() - self._started_s

    def times(self) -> StageTimes:
        """Return the stage times so far."""
        return StageTimes(
            wait_tf=self._wait_tf_s,
            queue=self._queue_s,
            encode=self._stages_s["encoding"],
            sample=self._stages_s["sampling"],
            decode=self._stages_s["decoding"],
            postprocess=self.postprocess_s,
            total=self._queue_s + self.elapsed_s(),
        )
