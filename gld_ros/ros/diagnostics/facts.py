"""Data types of diagnostics: facts about a node, entries, counters."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gld_ros.mapping.session import SynthesisSession
from gld_ros.messages.stamps import NS_PER_S

OK, WARN, ERROR = 0, 1, 2


@dataclass(frozen=True)
class NodeFacts:
    """A node at one moment; `session` is None while it is unconfigured."""

    now_ns: int
    steady_ns: int
    active: bool
    sim_time: bool
    session: SynthesisSession | None
    tf_rejected: Mapping[str, int]  # transforms, by frame and reason
    problem: str = ""  # why configure failed
    callback_errors: Mapping[str, int] = field(default_factory=dict)  # by type of exception


@dataclass(frozen=True)
class Status:
    """One entry of the diagnostics array."""

    name: str
    level: int
    message: str
    values: Mapping[str, str]


class DiagnosticsMemory:
    """Counters as they were one period ago, to see what is new."""

    def __init__(self) -> None:
        self._last: Counter[str] = Counter()
        self.active_since_ns: int | None = None
        self.tf_failing_since_ns: int | None = None

    def increase(self, name: str, count: int) -> int:
        """Return how much a counter grew since the last call for it."""
        grown = count - self._last[name]
        self._last[name] = count
        return grown

    def note_activity(self, facts: NodeFacts) -> float:
        """Return for how many seconds the node has been active."""
        if not facts.active:
            self.active_since_ns = None
            return 0.0
        if self.active_since_ns is None:
            self.active_since_ns = facts.steady_ns
        return (facts.steady_ns - self.active_since_ns) / NS_PER_S


def counts_in_words(counter: Mapping[str, int]) -> str:
    """Return the counts that are not 0, by name."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()) if count)
