"""How jobs ended so far: what status and diagnostics report of them."""

from collections import deque
from dataclasses import dataclass, field

from gld_ros.mapping.jobs import CancelReason, JobResult, Outcome, product_age_s

AGES_KEPT = 100


@dataclass
class JobHistory:
    """Counters of jobs, the latest results, and the ages of the latest products."""

    done: int = 0
    cancelled: int = 0
    failed: int = 0
    superseded: int = 0
    too_old: int = 0  # products that were dropped for their age
    last: JobResult | None = None
    last_done: JobResult | None = None
    ages_s: deque[float] = field(default_factory=lambda: deque(maxlen=AGES_KEPT))

    def note(self, result: JobResult, now_ns: int) -> None:
        """Count a result."""
        self.last = result
        if result.outcome is Outcome.DONE:
            self.done += 1
            self.last_done = result
            self.ages_s.append(product_age_s(result.request.anchor.stamp_ns, now_ns))
        elif result.outcome is Outcome.CANCELLED:
            self.cancelled += 1
            self.superseded += result.cancelled_by is CancelReason.SUPERSEDED
        else:
            self.failed += 1

    @property
    def last_age_s(self) -> float:
        """Age of the latest product when it was published; 0 before the first."""
        return self.ages_s[-1] if self.ages_s else 0.0
