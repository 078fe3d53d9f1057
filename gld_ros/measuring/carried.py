"""Depth that other images measured, carried into an image and kept where it shows the same surface.

Owns the check of carried depth against the pixels of the image, so that whatever moved in between
is not taken for measured. `rendering` puts surfaces into another camera.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.confidence import SURE, carried_confidence
from gld_ros.measuring.consistency import MeasuredImage, same_surface
from gld_ros.measuring.frames import MeasuredDepth, PosedImage, nothing_measured
from gld_ros.measuring.rendering import render_surfaces
from gld_ros.measuring.surfaces import FloatImage, Surface, sure_depth

# Of the colours that the surfaces have with those of the image, over windows of WINDOW_PX. Windows
# without texture correlate with nothing: there the colours themselves have to be the same, within
# so many levels (0 to 255).
MIN_CORRELATION, MAX_BLANK_DIFFERENCE = 0.5, 6.0
WINDOW_PX = 7
AROUND_PX, MIN_AROUND = 21, 0.5  # what is around a pixel, and which share of it must agree
MAX_SOURCES = 4  # images that depth is carried from: it is done for every image, at its rate
FILLING_SOURCES = 8  # images that fill a keyframe: of those, one for every job
_LEAST_VARIANCE = 4.0  # of grey levels (0 to 255): less is noise of the sensor


def carried_depth(
    surfaces: Sequence[Surface],
    image: PosedImage,
    *,
    blank: bool = False,
    max_sources: int = MAX_SOURCES,
) -> MeasuredDepth:
    """Depth (H, W) of a posed image as other images have measured it, where it shows the same.

    NaN where there is no surface, and where the pixels around differ from the colours of the
    surfaces: something moved, or poses are wrong. With `blank`, surfaces without texture are
    carried as well if they keep their brightness. Confidence is that of the surfaces.
    """
    rendered = render_surfaces(
        surfaces, image.K_px, image.T_fixed_cam, image.image_hw, max_sources, through_unseen=True
    )
    if not rendered.covered.any():
        return nothing_measured(image.image_hw, "stereo")
    kept = _confirmed(rendered.color, image.image, rendered.covered, blank)
    return MeasuredDepth(
        np.where(kept, rendered.depth_m, np.float32(np.nan)),
        np.where(kept, rendered.weight, np.float32(0.0)),
        "stereo",
    )


def filled_surface(surface: Surface, own: MeasuredImage, sources: Sequence[Surface]) -> Surface:
    """A surface with depth of others where its own is not SURE and they are.

    `own` is what the surface's image has measured by itself.
    """
    carried = carried_depth(sources, own.frame, blank=True, max_sources=FILLING_SOURCES)
    agrees = same_surface(carried.depth_m, own.measured.depth_m)
    confidence = carried_confidence(carried, agrees, sure_depth(surface))
    taken = (confidence >= SURE) & (surface.confidence < SURE)
    return replace(
        surface,
        depth_m=np.where(taken, carried.depth_m, surface.depth_m),
        confidence=np.where(taken, confidence, surface.confidence),
    )


def _grey(image: NDArray[np.uint8]) -> FloatImage:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _confirmed(
    carried: NDArray[np.uint8], seen: NDArray[np.uint8], known: NDArray[np.bool_], blank: bool
) -> NDArray[np.bool_]:
    """Where brightness of colours (H, W, 3) agrees, and most of what is around does.

    Single windows sometimes agree accidentally, but then most of their neighbours do not.
    """
    agrees, judged = _windows_agree(_grey(carried), _grey(seen), known, blank)
    around = (AROUND_PX, AROUND_PX)
    votes = cv2.blur(agrees.astype(np.float32), around)
    return agrees & (votes >= MIN_AROUND * cv2.blur(judged.astype(np.float32), around))


def _windows_agree(
    first: FloatImage, second: FloatImage, known: NDArray[np.bool_], blank: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where known grey values (H, W) agree over windows, and where texture allows a verdict."""
    weight = known.astype(np.float32)

    def mean(values: FloatImage) -> FloatImage:
        blurred: FloatImage = cv2.blur(weight * values, (WINDOW_PX, WINDOW_PX))
        return blurred / share

    share = np.maximum(cv2.blur(weight, (WINDOW_PX, WINDOW_PX)), 1e-6)
    mean_1, mean_2 = mean(first), mean(second)
    variance_1 = mean(first * first) - mean_1 * mean_1
    variance_2 = mean(second * second) - mean_2 * mean_2
    covariance = mean(first * second) - mean_1 * mean_2
    same_texture = covariance >= MIN_CORRELATION * np.sqrt(
        np.maximum(variance_1 * variance_2, 1e-6)
    )
    same_blank = blank & (np.abs(mean_1 - mean_2) <= MAX_BLANK_DIFFERENCE)
    textured_1, textured_2 = variance_1 > _LEAST_VARIANCE, variance_2 > _LEAST_VARIANCE
    both = textured_1 & textured_2
    agrees = np.where(both, same_texture, same_blank & (textured_1 == textured_2))
    return known & agrees, known & (both | blank)
