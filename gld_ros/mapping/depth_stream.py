"""The images whose depth is made next: the newest of each camera; all others are counted.

Owns what waits in mode depth and in which order; pixels are decoded when an image's turn comes.
`job_planner` makes its job, `measurements` measures it.
"""

from collections import Counter, deque
from threading import Lock

from gld_ros.mapping.frames import CameraFrame
from gld_ros.mapping.placed_frame import PlacedFrame
from gld_ros.messages.stamps import NS_PER_S


class DepthStream:
    """Images of all cameras on their way to depth; thread-safe.

    Cameras take turns. `skipped` counts, by camera, images that a newer one replaced, `thinned`
    those that came sooner than the rate allows.
    """

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.thinned: Counter[str] = Counter()
        self._lock = Lock()
        self._waiting: dict[str, deque[PlacedFrame]] = {}  # by camera, in turns
        self._due_ns: dict[str, int] = {}  # from when on the next image of a camera is taken

    def offer(self, placed: PlacedFrame, rate_hz: float, *, newest_only: bool) -> None:
        """Let an image wait; with `newest_only` it replaces one of its camera that still waits.

        A `rate_hz` of 0 takes every image.
        """
        camera, stamp_ns = placed.camera, placed.stamp_ns
        with self._lock:
            due_ns = self._due_ns.get(camera, stamp_ns)
            if rate_hz > 0:
                interval_ns = round(NS_PER_S / rate_hz)
                if stamp_ns < due_ns:
                    self.thinned[camera] += 1
                    return
                # On the grid of the rate, so that a rate that does not divide the camera's is met
                # on average; restarted after a pause.
                behind = stamp_ns - due_ns >= interval_ns
                self._due_ns[camera] = (stamp_ns if behind else due_ns) + interval_ns
            queue = self._waiting.setdefault(camera, deque())
            if newest_only and queue:
                self.skipped[camera] += len(queue)
                queue.clear()
            queue.append(placed)

    def take(self) -> CameraFrame | None:
        """Remove and return the image whose turn it is, decoded; None if none waits.

        What cannot be decoded is skipped; the decoder counts it.
        """
        while True:
            with self._lock:
                camera = next((name for name, queue in self._waiting.items() if queue), None)
                if camera is None:
                    return None
                queue = self._waiting.pop(camera)
                placed = queue.popleft()
                self._waiting[camera] = queue  # behind the others
            frame = placed.frame()
            if frame is not None:
                return frame

    def flush(self) -> None:
        """Discard what waits: a new epoch, or nothing subscribes to depth."""
        with self._lock:
            self._waiting.clear()
            self._due_ns.clear()

    def __len__(self) -> int:
        with self._lock:
            return sum(len(queue) for queue in self._waiting.values())
