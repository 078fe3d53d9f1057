"""SIGTERM ends a batch as Ctrl-C does: what is open is closed, what was reached is reported.

By default the signal ends a process at once, and that of Ray's driver with a trace and abort().
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EXIT_STATUS = 128 + signal.SIGTERM


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """In this block SIGTERM raises SystemExit (143) in the main thread; nothing in another one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def handler(number: int, frame: Any) -> None:
        nonlocal received
        received = True
        raise SystemExit(_EXIT_STATUS)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except SystemExit as error:
        if received:  # Ray, when it is interrupted while it waits, raises one of its own
            raise SystemExit(_EXIT_STATUS) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
