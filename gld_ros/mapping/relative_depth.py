"""Depth of a real image without a unit, for cameras without a metric scale.

Owns the normalisation that prevents such depth from being taken for metres.
"""

import numpy as np
from numpy.typing import NDArray

from gld_ros.view_request import View


def relative_depth(
    view: View, min_confidence: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depth (H, W) as multiples of the image's median depth, and its confidence (H, W).

    Both NaN where the model is less confident than `min_confidence` or has no depth.
    """
    with np.errstate(invalid="ignore"):
        known = np.isfinite(view.depth) & (view.depth > 0) & (view.confidence >= min_confidence)
    if not known.any():
        nothing = np.full(view.depth.shape, np.nan, np.float32)
        return nothing, nothing.copy()
    median = np.float32(np.median(view.depth[known]))
    unknown = np.float32(np.nan)
    return (
        np.where(known, view.depth / median, unknown).astype(np.float32),
        np.where(known, view.confidence, unknown).astype(np.float32),
    )
