"""What earlier images have measured, carried into a newer image and kept where that one agrees.

Owns the check of carried depth against the pixels of the newer image, so that what has moved since
is not taken for measured. Putting surfaces into another camera is `rendering`'s.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.frames import MeasuredDepth, PosedImage, nothing_measured
from gld_ros.measuring.rendering import render_surfaces
from gld_ros.measuring.surfaces import FloatImage, Surface

# Of the colours that the surfaces have with those of the image, over windows of WINDOW_PX.
# Windows without texture correlate with nothing, so blank surfaces are never carried.
MIN_CORRELATION = 0.5
WINDOW_PX = 7
AROUND_PX, MIN_AROUND = 21, 0.5  # what is around a pixel, and which share of it must agree
MAX_SOURCES = 4  # images that depth is carried from: it is done for every image, at its rate
_LEAST_VARIANCE = 4.0  # of grey levels (0 to 255): less is noise of the sensor


def carried_depth(surfaces: Sequence[Surface], image: PosedImage) -> MeasuredDepth:
    """Depth (H, W) of a posed image as other images have measured it, where it shows the same.

    NaN where no surface lies, and where the pixels around differ from the colours that the surfaces
    have: something moved, or poses are wrong. Confidence is that of the surfaces.
    """
    rendered = render_surfaces(surfaces, image.K_px, image.T_fixed_cam, image.image_hw, MAX_SOURCES)
    if not rendered.covered.any():
        return nothing_measured(image.image_hw, "stereo")
    kept = _confirmed(_grey(rendered.color), _grey(image.image), rendered.covered)
    return MeasuredDepth(
        np.where(kept, rendered.depth_m, np.float32(np.nan)),
        np.where(kept, rendered.weight, np.float32(0.0)),
        "stereo",
    )


def _grey(image: NDArray[np.uint8]) -> FloatImage:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _confirmed(
    carried: FloatImage, seen: FloatImage, known: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Where grey values (H, W) agree, and most of what is around does.

    Windows of two places agree by chance now and then, but not most of their neighbours with them.
    """
    correlation = _correlation(carried, seen, known)
    agrees = correlation >= MIN_CORRELATION  # of nothing where there is no texture
    textured = (correlation != 0).astype(np.float32)
    around = (AROUND_PX, AROUND_PX)
    votes = cv2.blur(agrees.astype(np.float32), around)
    return known & agrees & (votes >= MIN_AROUND * cv2.blur(textured, around))


def _correlation(first: FloatImage, second: FloatImage, known: NDArray[np.bool_]) -> FloatImage:
    """Normalised correlation (H, W) over windows, of known pixels alone; 0 without texture."""
    weight = known.astype(np.float32)

    def mean(values: FloatImage) -> FloatImage:
        blurred: FloatImage = cv2.blur(weight * values, (WINDOW_PX, WINDOW_PX))
        return blurred / share

    share = np.maximum(cv2.blur(weight, (WINDOW_PX, WINDOW_PX)), 1e-6)
    mean_1, mean_2 = mean(first), mean(second)
    variance_1 = mean(first * first) - mean_1 * mean_1
    variance_2 = mean(second * second) - mean_2 * mean_2
    covariance = mean(first * second) - mean_1 * mean_2
    textured = (variance_1 > _LEAST_VARIANCE) & (variance_2 > _LEAST_VARIANCE)
    product = np.sqrt(np.maximum(variance_1 * variance_2, 1e-6))
    return np.where(textured & known, covariance / product, np.float32(0.0)).astype(np.float32)
