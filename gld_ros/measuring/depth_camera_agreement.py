"""Whether a depth camera shows what parallax does: a factor and a shift between the two.

A depth camera that is scaled wrongly, or registered to another camera than it says, puts surfaces
where they are not, and nothing in its images tells. Stereo of the colour images does. Owns the
comparison; when it is asked for is the caller's decision. The two cannot tell whether the depth
camera's scale is wrong or that of the poses.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.frames import FloatArray, MeasuredDepth

LARGEST_SHIFT_PX = 8  # that is looked for, at the size that is measured
WRONG_SCALE, WRONG_SHIFT_PX = 0.06, 3.0  # beyond, the depth camera is not to be believed
# A shift is told only where it explains the two much better than none: flat scenes know of none.
_CLEAR_GAIN = 0.9
_SAMPLES = 3000  # pixels of one image that are compared
_LEAST_PIXELS = 2000  # of all images, that both have measured
_JUMP = 1.2  # of depth within the reach of shifts: what tells them
_CAP_LOG = 0.2  # of a difference: beyond, the two show different surfaces


@dataclass(frozen=True)
class DepthCameraAgreement:
    """How a depth camera's images differ from what stereo has measured of the same images."""

    pixels: int  # that were compared
    scale: float  # its depth as a multiple of stereo's; NaN when too little could be compared
    # Columns and rows by which its images lie to the right of and below the colour images.
    shift_px: tuple[float, float]

    @property
    def disagrees(self) -> bool:
        """Whether there is evidence of a wrong scale or a wrong registration."""
        return self.has_wrong_scale or self.is_shifted

    @property
    def has_wrong_scale(self) -> bool:
        """Whether its depth is clearly another than stereo's."""
        return abs(self.scale - 1.0) > WRONG_SCALE

    @property
    def is_shifted(self) -> bool:
        """Whether its images clearly lie beside the colour images."""
        return math.hypot(*self.shift_px) >= WRONG_SHIFT_PX

    def describe(self) -> str:
        """One line for a person."""
        if math.isnan(self.scale):
            return "depth camera against parallax: too little that both measure"
        line = f"depth camera against parallax: {self.scale:.2f} times as far"
        if self.is_shifted:
            line += f", shifted by ({self.shift_px[0]:+.0f}, {self.shift_px[1]:+.0f}) px"
        if self.has_wrong_scale:
            line += "; check its unit and calibration, and the scale of TF"
        if self.is_shifted:
            line += "; check that it is registered to this colour camera"
        return line


def depth_camera_agreement(
    images: Sequence[tuple[MeasuredDepth, MeasuredDepth]],
) -> DepthCameraAgreement:
    """Compare depth of the camera with that of stereo, on one grid (H, W) for each image.

    Shifts are in pixels of that grid.
    """
    anywhere = [_thinned(_sure(stereo)) for _, stereo in images]
    scale, _, pixels = _compared(images, anywhere, (0, 0))
    if pixels < _LEAST_PIXELS:
        return DepthCameraAgreement(pixels, math.nan, (0.0, 0.0))
    # Elsewhere depth is the same after a shift.
    at_jumps = [_thinned(_sure(stereo) & _near_jumps(camera)) for camera, stereo in images]
    _, misfit, pixels_at_jumps = _compared(images, at_jumps, (0, 0))
    if pixels_at_jumps < _LEAST_PIXELS:
        return DepthCameraAgreement(pixels, scale, (0.0, 0.0))
    reach = range(-LARGEST_SHIFT_PX, LARGEST_SHIFT_PX + 1)
    found = {s: _compared(images, at_jumps, s)[1] for s in itertools.product(reach, reach)}
    best = min(found, key=lambda shift: found[shift])
    if found[best] > _CLEAR_GAIN * misfit:
        return DepthCameraAgreement(pixels, scale, (0.0, 0.0))
    scale, _, _ = _compared(images, anywhere, best)
    return DepthCameraAgreement(pixels, scale, (float(best[0]), float(best[1])))


def _sure(stereo: MeasuredDepth) -> NDArray[np.bool_]:
    """Sure pixels (H, W), as far from the border as shifts reach."""
    inner = np.zeros(stereo.depth_m.shape, bool)
    margin = slice(LARGEST_SHIFT_PX, -LARGEST_SHIFT_PX)
    inner[margin, margin] = True
    return inner & (stereo.confidence >= SURE)


def _near_jumps(camera: MeasuredDepth) -> NDArray[np.bool_]:
    """Pixels (H, W) around which depth differs by more than a jump, as far as shifts reach."""
    window = np.ones((2 * LARGEST_SHIFT_PX + 1,) * 2, np.uint8)
    known = np.isfinite(camera.depth_m)
    farthest = cv2.dilate(np.where(known, camera.depth_m, np.float32(0.0)), window)
    nearest = cv2.erode(np.where(known, camera.depth_m, np.float32(np.inf)), window)
    jumps: NDArray[np.bool_] = farthest > _JUMP * nearest
    return jumps


def _thinned(chosen: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of some of the chosen pixels (H, W)."""
    rows, columns = np.nonzero(chosen)
    step = max(1, len(rows) // _SAMPLES)
    return rows[::step], columns[::step]


def _compared(
    images: Sequence[tuple[MeasuredDepth, MeasuredDepth]],
    samples: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
    shift: tuple[int, int],
) -> tuple[float, float, int]:
    """Scale, mean misfit after it, and pixels, with the depth camera shifted back."""
    ratios: list[FloatArray] = []
    for (camera, stereo), (rows, columns) in zip(images, samples, strict=True):
        there_m = camera.depth_m[rows + shift[1], columns + shift[0]]
        ratios.append(np.log(there_m / stereo.depth_m[rows, columns]))
    ratio = np.concatenate(ratios) if ratios else np.zeros(0)
    ratio = ratio[np.isfinite(ratio)]
    if not ratio.size:
        return math.nan, math.inf, 0
    middle = float(np.median(ratio))
    misfit = float(np.minimum(np.abs(ratio - middle), _CAP_LOG).mean())
    return math.exp(middle), misfit, ratio.size
