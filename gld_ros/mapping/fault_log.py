"""Log lines about faults: once per cause and epoch, or every five seconds; never per message."""

import time
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Literal

Level = Literal["debug", "info", "warning", "error", "fatal"]
Emit = Callable[[Level, str], None]

THROTTLE_S = 5.0


class FaultLog:
    """Log lines by cause; thread-safe. `lines` counts what was actually written, per cause."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._lock = Lock()
        self._logged: set[str] = set()
        self._last_s: dict[str, float] = {}
        self._silent: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    def once(self, cause: str, level: Level, text: str) -> None:
        """Write `text` the first time that `cause` occurs in this epoch."""
        with self._lock:
            if cause in self._logged:
                return
            self._logged.add(cause)
            self.lines[cause] += 1
        self._emit(level, text)

    def throttled(self, cause: str, level: Level, text: str) -> None:
        """Write `text` at most every five seconds per cause, and count suppressed lines."""
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._last_s.get(cause, -THROTTLE_S) < THROTTLE_S:
                self._silent[cause] += 1
                return
            self._last_s[cause] = now_s
            held_back = self._silent.pop(cause, 0)
            self.lines[cause] += 1
        self._emit(
            level, f"{text} (and {held_back} times since the last line)" if held_back else text
        )

    def new_epoch(self) -> None:
        """Allow every cause to be logged again."""
        with self._lock:
            self._logged.clear()
            self._last_s.clear()
            self._silent.clear()
