"""What a job gives up when the device runs out of memory, level by level, and when it recovers.

Owns the ladder: one level down per failed allocation, one level up after 20 jobs without failure
or, while automatic jobs are paused, after a minute without failure. `worker` applies a level, the
node rejects automatic jobs at the last one.
"""

from collections.abc import Callable
from dataclasses import dataclass

CLEAN_JOBS_TO_RECOVER = 20
QUIET_S_TO_RESUME = 60.0
DEGRADED_REFERENCE_VIEWS = 2


@dataclass(frozen=True)
class MemoryLimits:
    """What one level allows; levels add up."""

    level: int
    description: str
    targets_per_run: int | None = None  # None: all of a job at once
    chunk_decoder: bool = False
    max_reference_views: int | None = None  # None: as many as the job has
    smallest_bucket: bool = False
    automatic_paused: bool = False


LADDER = (
    MemoryLimits(0, "nothing is limited"),
    MemoryLimits(1, "one target per run", 1),
    MemoryLimits(2, "and views decoded, guidance branches run, one at a time", 1, True),
    MemoryLimits(3, "and two reference views", 1, True, DEGRADED_REFERENCE_VIEWS),
    MemoryLimits(4, "and the smallest bucket", 1, True, DEGRADED_REFERENCE_VIEWS, True),
    MemoryLimits(
        5,
        "and automatic jobs paused, goals only",
        1,
        True,
        DEGRADED_REFERENCE_VIEWS,
        True,
        True,
    ),
)


class DegradeLadder:
    """The current level. Not locked: it belongs to the worker."""

    def __init__(self) -> None:
        self._level = 0
        self._clean_jobs = 0
        self._failed_s = 0.0
        self.out_of_memory_count = 0

    @property
    def limits(self) -> MemoryLimits:
        """What the current level allows."""
        return LADDER[self._level]

    def out_of_memory(
        self, now_s: float, helps: Callable[[MemoryLimits], bool] = lambda limits: True
    ) -> bool:
        """Go down to the next level that helps the job that failed; False if there is none left.

        A level that would change nothing for that job is skipped, since running the same thing
        again would fail again. If no level helps, the next one is taken: other processes may free
        memory.
        """
        self.out_of_memory_count += 1
        self._clean_jobs, self._failed_s = 0, now_s
        below = range(self._level + 1, len(LADDER))
        if not below:
            return False
        self._level = next((level for level in below if helps(LADDER[level])), below[0])
        return True

    def resume_after_quiet(self, now_s: float) -> None:
        """Let automatic jobs try again a minute after the last failed allocation."""
        if self.limits.automatic_paused and now_s - self._failed_s >= QUIET_S_TO_RESUME:
            self._level -= 1
            self._clean_jobs = 0

    def job_was_clean(self) -> bool:
        """Count a job without allocation failure; True if that goes one level up again."""
        if self._level == 0:
            return False
        self._clean_jobs += 1
        if self._clean_jobs < CLEAN_JOBS_TO_RECOVER:
            return False
        self._clean_jobs = 0
        self._level -= 1
        return True

    def reset(self) -> None:
        """Back to the top: the model or its device was set up again."""
        self._level = self._clean_jobs = 0
