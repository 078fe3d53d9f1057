"""The data types of measuring: a posed image, and the depth measured in it.

Immutable, arrays included, so that they pass between threads without locks.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
DepthSource = Literal["stereo", "camera"]


@dataclass(frozen=True, eq=False)
class PosedImage:
    """A rectified image of one camera, placed in the fixed frame.

    Raises ValueError if the shapes are inconsistent.
    """

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    K_px: FloatArray  # (3, 3), pixels of `image`
    T_fixed_cam: FloatArray  # (4, 4), metres, optical axes
    stamp_ns: int  # acquisition time
    camera: str

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"image must be (H, W, 3) uint8, got {self.image.shape} {self.image.dtype}"
            )
        if self.K_px.shape != (3, 3) or self.T_fixed_cam.shape != (4, 4):
            raise ValueError(
                "K_px must be (3, 3) and T_fixed_cam (4, 4), got "
                f"{self.K_px.shape} and {self.T_fixed_cam.shape}"
            )
        _make_read_only(self, "image", "K_px", "T_fixed_cam")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def grey(self) -> NDArray[np.uint8]:
        """Grey values (H, W); made once, since neighbours recur from keyframe to keyframe."""
        return np.asarray(cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY))


@dataclass(frozen=True, eq=False)
class MeasuredDepth:
    """Depth measured on the pixel grid of one image; raises ValueError when the shapes differ."""

    depth_m: NDArray[np.float32]  # (H, W) z-depth; NaN where nothing is measured
    confidence: NDArray[np.float32]  # (H, W) in [0, 1]; 0 where nothing is measured
    source: DepthSource  # posed images, or a depth camera
    # How far corners of the images lie from where their given poses put them: the median, in pixels
    # of the size that is measured. NaN if that is unknown.
    pose_error_px: float = math.nan

    def __post_init__(self) -> None:
        if self.depth_m.ndim != 2 or self.depth_m.shape != self.confidence.shape:
            raise ValueError(
                "depth_m and confidence must both be (H, W), got "
                f"{self.depth_m.shape} and {self.confidence.shape}"
            )
        _make_read_only(self, "depth_m", "confidence")

    @property
    def coverage(self) -> float:
        """Share of pixels that are measured, in [0, 1]."""
        return float(np.isfinite(self.depth_m).mean())


def nothing_measured(image_hw: tuple[int, int], source: DepthSource) -> MeasuredDepth:
    """A `MeasuredDepth` without a single measurement."""
    return MeasuredDepth(
        np.full(image_hw, np.nan, np.float32), np.zeros(image_hw, np.float32), source
    )


def _make_read_only(record: object, *names: str) -> None:
    """Swap array fields for read-only views: a change of shared data fails where it is made."""
    for name in names:
        view = getattr(record, name).view()
        view.setflags(write=False)
        object.__setattr__(record, name, view)
