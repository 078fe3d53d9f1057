"""A thread for work that messages trigger, at its own pace."""

import threading
from collections.abc import Callable


class FollowUpThread:
    """Calls `work` soon after `poke`, and about every `at_least_every_s` seconds without it.

    Calls begin at least `at_most_every_s` seconds apart. `on_error` is given what `work` raises.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        on_error: Callable[[Exception], None],
        *,
        at_most_every_s: float,
        at_least_every_s: float,
    ) -> None:
        self._work, self._on_error = work, on_error
        self._pause_s, self._patience_s = at_most_every_s, at_least_every_s
        self._poked = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """Have `work` called soon."""
        self._poked.set()

    def close(self) -> None:
        """End the thread when `work` has returned."""
        self._closed.set()
        self._poked.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._poked.wait(self._patience_s)
            if self._closed.wait(self._pause_s):
                return
            self._poked.clear()
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - whatever it raises
                self._on_error(error)
