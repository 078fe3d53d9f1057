"""Semi-global aggregation: smoothness between pixels along four directions.

Hirschmüller, "Stereo processing by semiglobal matching and mutual information", 2008, with a
penalty for jumps that is lower where the image has an edge.
"""

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]

# Costs are in [0, 1]; both penalties have the same unit.
SMALL_STEP_PENALTY = 0.06  # to the next hypothesis, from pixel to pixel
JUMP_PENALTY = 0.5  # to any other hypothesis, where the image has no edge
EDGE_GREY = 8.0  # grey values between pixels that halve the penalty of a jump


def semi_global(cost: FloatImage, grey: FloatImage) -> FloatImage:
    """Cost (D, h, w) summed along paths from left, right, above and below, and averaged.

    grey (h, w): grey values 0..255 of the image whose edges make jumps cheaper.
    """
    vertical = _both_ways(cost.transpose(1, 0, 2), grey)
    horizontal = _both_ways(cost.transpose(2, 0, 1), grey.T)
    total = vertical.transpose(1, 0, 2) + horizontal.transpose(1, 2, 0)
    total *= np.float32(0.25)
    return total


def _both_ways(cost: FloatImage, grey: FloatImage) -> FloatImage:
    """Path costs (L, D, M) along the first axis, forwards plus backwards, of (L, D, M)."""
    # One loop serves both directions: (L, D, 2, M).
    paths = np.empty((*cost.shape[:2], 2, cost.shape[2]), np.float32)
    paths[:, :, 0], paths[:, :, 1] = cost, cost[::-1]
    step = np.float32(SMALL_STEP_PENALTY)
    edges = np.abs(np.diff(grey, axis=0)) / np.float32(EDGE_GREY)
    jump = np.maximum(np.float32(JUMP_PENALTY) / (1 + edges), step)
    jumps = np.ascontiguousarray(np.stack([jump, jump[::-1]], axis=1))
    # Every buffer and view is made once: at these sizes allocation takes most of the time.
    above, best, stepped = paths[0], np.empty_like(paths[0]), np.empty_like(paths[0])
    best_before, best_after = best[:-1], best[1:]
    stepped_before, stepped_after = stepped[:-1], stepped[1:]
    lowest = np.empty_like(above[0])
    for path, jump_here in zip(paths[1:], jumps, strict=True):
        # Without the lowest so far, sums stay as small as single costs.
        np.minimum.reduce(above, axis=0, out=lowest)
        np.subtract(above, lowest, out=best)
        np.add(best, step, out=stepped)
        np.minimum(best, jump_here, out=best)
        np.minimum(best_after, stepped_before, out=best_after)
        np.minimum(best_before, stepped_after, out=best_before)
        path += best
        above = path
    return paths[:, :, 0] + paths[::-1, :, 1]
