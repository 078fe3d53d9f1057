"""An image on its way to a keyframe: arrived with its intrinsics, then placed by TF.

In mode depth, images that TF cannot place are used without a pose.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from gld_ros.mapping.frames import CameraFrame, FloatArray
from gld_ros.messages.camera_info import CameraInfoValues


@dataclass(frozen=True)
class ArrivedImage:
    """An image message and the intrinsics that belong to it."""

    message: Any
    info: CameraInfoValues


class PlacedFrame:
    """An image whose pose is known, or `NO_POSE`; its pixels are decoded when first asked for.

    Thread-safe. The pixels may be memory of the middleware's message until then.
    """

    def __init__(
        self,
        camera: str,
        stamp_ns: int,
        T_fixed_cam: FloatArray,
        epoch: int,
        decode: Callable[[], CameraFrame | None],
    ) -> None:
        self.camera, self.stamp_ns, self.epoch = camera, stamp_ns, epoch
        self.T_fixed_cam = T_fixed_cam
        self._lock = Lock()
        self._decode: Callable[[], CameraFrame | None] | None = decode
        self._frame: CameraFrame | None = None

    @property
    def is_placed(self) -> bool:
        """Whether its pose is known."""
        return bool(np.isfinite(self.T_fixed_cam).all())

    def frame(self) -> CameraFrame | None:
        """Return the rectified image; None if it cannot be decoded, which is counted once."""
        with self._lock:
            if self._decode is not None:
                self._frame, self._decode = self._decode(), None
            return self._frame


OnPlaced = Callable[[PlacedFrame], None]
