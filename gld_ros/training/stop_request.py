"""A wish to stop, from Ctrl-C or SIGTERM, that work looks at where it can stop cleanly."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while its block runs; a second Ctrl-C interrupts.

    A wish made inside an inner block is one of the outer blocks, too.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        outer = getattr(self._previous.get(number), "__self__", None)
        if isinstance(outer, StopRequest):
            outer.requested = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
