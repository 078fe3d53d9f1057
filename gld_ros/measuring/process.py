"""Measuring in a process of its own, for a caller whose other threads are busy.

A search is thousands of short NumPy operations. After each of them a thread waits for Python's
lock, which makes a keyframe several times as slow beside a busy thread. The process loads NumPy and
OpenCV only, and ends with its pipe.

Run as a program, this module is that process.
"""

import argparse
import contextlib
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock, Timer

import cv2

from gld_ros.measuring.frames import MeasuredDepth, PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth

ANSWER_TIMEOUT_S = 60.0  # for a search, which takes a fraction of a second; then it hangs
END_TIMEOUT_S = 5.0  # for an end without being killed


class ProcessLost(RuntimeError):
    """The process ended or hung before it answered, or did not start."""


class SearchFailed(RuntimeError):
    """A search raised something in the process; the text names it, its cause has the traceback."""


class MeasuringProcess:
    """A process that answers one `measure` after the other; thread-safe.

    It starts with the first one, or earlier with `start`.
    """

    def __init__(self, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._answer_timeout_s = answer_timeout_s
        self._searching = Lock()
        self._lock = Lock()  # of start and end, so that it can be closed during a search
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._closed = False

    def start(self) -> None:
        """Let it load meanwhile; `measure` tells whether that succeeded."""
        with contextlib.suppress(EOFError, OSError):
            self._started()

    def measure(
        self,
        reference: PosedImage,
        neighbours: Sequence[PosedImage],
        parameters: MeasuringParameters,
    ) -> MeasuredDepth:
        """`measure_depth` on the CPU, there.

        Raises SearchFailed for whatever that raises, and ProcessLost when the process ended or hung
        before it answered.
        """
        with self._searching:
            started_s = time.monotonic()
            try:
                process, pipe = self._started()
                # Ends what waits to be read as well: images are larger than the pipe.
                watchdog = Timer(self._answer_timeout_s, process.kill)
                watchdog.start()
                try:
                    pipe.send((reference, neighbours, parameters))
                    answer: MeasuredDepth | tuple[str, str] = pipe.recv()
                finally:
                    watchdog.cancel()
            except (EOFError, OSError) as error:
                how = self._end()
                if time.monotonic() - started_s >= self._answer_timeout_s:
                    how = f"did not answer in {self._answer_timeout_s:g} s"
                raise ProcessLost(f"the measuring process {how}") from error
        if isinstance(answer, tuple):
            what, where = answer
            raise SearchFailed(what) from RuntimeError(where)
        # Made again, since arrays that come through a pipe can be written to.
        return MeasuredDepth(**vars(answer))

    def close(self) -> None:
        """End the process; a search that runs raises ProcessLost."""
        with self._lock:
            self._closed = True
        self._end(kill=True)

    def _started(self) -> tuple[subprocess.Popen[bytes], Connection]:
        with self._lock:
            if self._closed:
                raise EOFError
            if self._process is None or self._pipe is None:
                self._pipe, theirs = Pipe()
                with theirs:
                    words = ["-m", __name__, str(theirs.fileno())]
                    self._process = subprocess.Popen(
                        [sys.executable, *words],
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        # Ctrl-C is for the caller, which closes the pipe when it has finished.
                        start_new_session=True,
                    )
            return self._process, self._pipe

    def _end(self, kill: bool = False) -> str:
        """End the process and say how it ended."""
        with self._lock:
            process, self._process = self._process, None
            pipe, self._pipe = self._pipe, None
            if process is None:
                return "was closed" if self._closed else "did not start"
        if kill:
            process.kill()
        elif pipe is not None:
            pipe.close()
        try:
            code = process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"


def serve(pipe: Connection) -> None:
    """Answer searches until the pipe is closed."""
    while True:
        try:
            reference, neighbours, parameters = pipe.recv()
        except (EOFError, OSError):  # the caller has closed it, or was killed
            return
        answer: MeasuredDepth | tuple[str, str]  # or what was raised: not every exception passes
        try:
            answer = measure_depth(reference, neighbours, parameters)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            answer = f"{type(error).__name__}: {error}", traceback.format_exc()
        try:
            pipe.send(answer)
        except OSError:
            return


def main() -> None:
    """Serve the pipe whose file descriptor is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("descriptor", type=int, help="of the pipe to the caller")
    cv2.setNumThreads(1)  # one core measures, the others are the caller's
    serve(Connection(parser.parse_args().descriptor))


if __name__ == "__main__":
    main()
