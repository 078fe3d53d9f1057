"""The main thread of the node's process: it loads models, and signals reach it.

Python runs signal handlers on the main thread, so what a signal must be able to interrupt runs
there. Callbacks run on the executor's threads meanwhile and answer requests.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

# Ctrl-C in a terminal reaches the node twice: from the terminal and from the launch process. Only a
# signal that comes later than this after the first one means that stopping takes too long.
SAME_SIGNAL_S = 2.0
LOOK_PERIOD_S = 0.2  # at whether the process shall end for another reason than a signal


class Stopped(BaseException):
    """The process ends, and what was to run on its main thread does not run to its end.

    No Exception: code that handles errors must let it pass.
    """


class MainThread:
    """Handles SIGINT and SIGTERM while it is entered, and runs what other threads hand over."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()  # no call is handed over after the last look at them
        self._closed = False
        self._stopping_since_s: float | None = None
        self._interruptible = False

    @property
    def stopping(self) -> bool:
        """Whether a signal asked the process to end."""
        return self._stopping_since_s is not None

    def __enter__(self) -> MainThread:
        self._before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping_since_s is None:
            self._stopping_since_s = time.monotonic()
            self._calls.put(None)  # wakes `serve`
            if self._interruptible:
                raise Stopped
        elif time.monotonic() - self._stopping_since_s > SAME_SIGNAL_S:
            os._exit(128 + number)

    def interruptible(self, function: Callable[[], Result]) -> Result:
        """Return what `function` does; a signal ends it at once. Raises Stopped."""
        self._interruptible = True
        try:
            if self.stopping:
                raise Stopped
            return function()
        finally:
            self._interruptible = False

    def call(self, function: Callable[[], Result]) -> Result:
        """Return what `function` does on the main thread, from any other thread.

        Raises what it raises, or Stopped when the process ends.
        """
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(self.interruptible(function))
            except BaseException as error:  # noqa: BLE001 - it is raised where the call came from
                future.set_exception(error)

        with self._closing:
            if self._closed:
                raise Stopped
            self._calls.put(run)
        return future.result()

    def serve(self, ended: Callable[[], bool]) -> None:
        """Run what is handed over until a signal comes or `ended` holds; the rest is Stopped."""
        while not self.stopping and not ended():
            try:
                call = self._calls.get(timeout=LOOK_PERIOD_S)
            except queue.Empty:
                continue
            if call is not None:
                call()
        with self._closing:
            self._closed = True
        if self._stopping_since_s is None:
            self._stopping_since_s = time.monotonic()
        while not self._calls.empty():
            call = self._calls.get()
            if call is not None:
                call()
