"""How likely measured depth is correct: the probability that it is within 10 % of the truth.

Logistic models of what the search found at a pixel (`surface_confidence`), of what other measured
images say about it (`confirmed_confidence`), and of depth that other images measured
(`carried_confidence`). Their coefficients were fitted to
recordings with known depth by `python benchmark/measuring_confidence.py`, which also prints how far
probabilities and shares of correct pixels differ on recordings that were left out.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.frames import FloatArray, MeasuredDepth

RIGHT_WITHIN = 0.1  # of the true depth
# Probability from which measured depth is published, and from which a pixel counts as measured: it
# may contribute its colour to a target view, and it has a vote on others. The first is where most
# is covered while few published pixels are wrong (docs/measuring.md).
SURE, POSSIBLE = 0.73, 0.3

# Margins below come from noise on plain walls and from images without parallax.
_LEAST_MARGIN = 0.02
# Next to a jump of depth windows see both sides, and the nearer one wins on both: the larger and
# closer the jump, the likelier a wrong pixel. Radii are pixels of the measured size.
_NEAR_JUMP_PX, _FAR_JUMP_PX = 4, 8
_NEVER = 1e-3  # nothing is more certain than this, either way
_SMALL_JUMP_LOG = 0.1  # of depth; larger ones count apart
_LARGEST_LOG = 0.5  # of depth: beyond, jumps and differences of carried depth count the same
_LEAST_CARRIED = 0.01  # carried depth is no more certain than this, either way
_LEAST_AROUND = 0.02  # share of a window that must be sure before depth is compared with it

SURFACE_TERMS = (
    ("one", 5.83),
    ("log margin", 0.4),
    ("log curvature", 0.44),
    ("small jump to something farther", -4.85),
    ("large jump to something farther", -3.21),
    ("small jump to something nearer", 0.02),
    ("large jump to something nearer", -2.07),
    ("jump close by", -13.22),
)
VIEW_TERMS = (
    ("one", 0.0),
    ("own log odds", 0.75),
    ("one image agrees", 0.69),
    ("a second one", 0.46),
    ("four", 0.66),
    ("images that look through it", -0.48),
    ("images that see something before it", -0.26),
)
CARRIED_TERMS = (
    ("one", 1.27),
    ("log odds of the surfaces", 0.46),
    ("the image's own search agrees", 0.21),
    ("jump to something farther", -3.02),
    ("jump to something nearer", -2.39),
    ("off what is measured around it", -2.79),
)


@dataclass(frozen=True, eq=False)
class FoundSurface:
    """What the search found at each pixel; arrays (h, w) on the grid of the finest level."""

    inverse_depth: NDArray[np.float32]  # 1 / metres
    margin: NDArray[np.float32]  # cost of the next best depth minus that of the best
    curvature: NDArray[np.float32]  # second difference of the cost at the best depth
    seen: NDArray[np.bool_]  # by any neighbour

    @property
    def told_apart(self) -> NDArray[np.bool_]:
        """Where the images distinguish one depth from others (h, w)."""
        return self.seen & (self.margin >= _LEAST_MARGIN)


def surface_confidence(surface: FoundSurface) -> NDArray[np.float32]:
    """Probability (h, w) that each depth is right by itself; 0 where images cannot tell."""
    from scipy.special import expit  # late: a start need not wait for it

    weights = np.array([weight for _, weight in SURFACE_TERMS], np.float32)
    log_odds = np.tensordot(weights, surface_evidence(surface), 1)
    return np.where(surface.told_apart, expit(log_odds), 0.0).astype(np.float32)


def surface_evidence(surface: FoundSurface) -> NDArray[np.float32]:
    """SURFACE_TERMS (terms, h, w) of a surface."""
    far, near = _jumps(surface.inverse_depth, _FAR_JUMP_PX)
    close_far, close_near = _jumps(surface.inverse_depth, _NEAR_JUMP_PX)
    return np.stack(
        [
            np.ones_like(far),
            np.log(surface.margin.clip(0.003, 0.3)),
            np.log(surface.curvature.clip(0.001, 0.2)),
            far.clip(max=_SMALL_JUMP_LOG),
            (far - _SMALL_JUMP_LOG).clip(0.0, 0.5),
            near.clip(max=_SMALL_JUMP_LOG),
            (near - _SMALL_JUMP_LOG).clip(0.0, 0.5),
            (close_far + close_near).clip(max=2 * _SMALL_JUMP_LOG),
        ]
    )


def confirmed_confidence(
    confidence: FloatArray,
    agreeing: NDArray[np.integer],
    looking_through: NDArray[np.integer],
    hiding: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Probabilities (N,) of single images with the evidence of others, as counts (N,) of images.

    `looking_through` measured something clearly farther there, `hiding` something clearly nearer.
    """
    from scipy.special import expit  # late: a start need not wait for it

    weights = np.array([weight for _, weight in VIEW_TERMS])
    log_odds = weights @ view_evidence(confidence, agreeing, looking_through, hiding)
    return np.asarray(expit(log_odds), np.float32)


def carried_confidence(
    carried: MeasuredDepth, agrees: NDArray[np.bool_], sure_m: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Probability (H, W) that depth of other images is right in one; 0 where nothing is carried.

    agrees (H, W): where the image's own search found the same surface. sure_m (H, W): its own
    depth where that is sure, NaN elsewhere.
    """
    from scipy.special import expit  # late: a start need not wait for it

    weights = np.array([weight for _, weight in CARRIED_TERMS], np.float32)
    log_odds = np.tensordot(weights, carried_evidence(carried, agrees, sure_m), 1)
    return np.where(np.isfinite(carried.depth_m), expit(log_odds), 0.0).astype(np.float32)


def carried_evidence(
    carried: MeasuredDepth, agrees: NDArray[np.bool_], sure_m: NDArray[np.float32]
) -> NDArray[np.float32]:
    """CARRIED_TERMS (terms, H, W) of carried depth; arguments are those of `carried_confidence`."""
    from scipy.special import logit  # late: a start need not wait for it

    known, sure = np.isfinite(carried.depth_m), np.isfinite(sure_m)
    inverse = 1.0 / np.where(known, carried.depth_m, np.float32(1.0))
    # What is unknown is neither the farthest nor the nearest around.
    window = _window(_FAR_JUMP_PX)
    farthest = cv2.erode(np.where(known, inverse, np.float32(np.inf)), window)
    nearest = cv2.dilate(np.where(known, inverse, np.float32(0.0)), window)
    size = window.shape
    share = cv2.blur(sure.astype(np.float32), size)
    around = cv2.blur(np.log(np.where(sure, sure_m, np.float32(1.0))), size)
    off = np.abs(around / share.clip(_LEAST_AROUND) + np.log(inverse))
    evidence = np.stack(
        [
            np.ones_like(inverse),
            logit(carried.confidence.clip(_LEAST_CARRIED, 1.0 - _LEAST_CARRIED)),
            agrees,
            np.log(inverse / farthest.clip(max=inverse)).clip(max=_LARGEST_LOG),
            np.log(nearest.clip(inverse) / inverse).clip(max=_LARGEST_LOG),
            np.where(share >= _LEAST_AROUND, off, 0.0).clip(max=_LARGEST_LOG),
        ]
    )
    return np.asarray(evidence, np.float32)


def view_evidence(
    confidence: FloatArray,
    agreeing: NDArray[np.integer],
    looking_through: NDArray[np.integer],
    hiding: NDArray[np.integer],
) -> FloatArray:
    """VIEW_TERMS (terms, N) of single images' probabilities and counts (N,)."""
    from scipy.special import logit  # late: a start need not wait for it

    own = np.asarray(confidence, np.float64).clip(_NEVER, 1.0 - _NEVER)
    return np.stack(
        [
            np.ones_like(own),
            logit(own),
            agreeing >= 1,
            agreeing >= 2,
            agreeing >= 4,
            looking_through.clip(max=2),
            hiding.clip(max=2),
        ]
    ).astype(np.float64)


def _jumps(inverse_depth: NDArray[np.float32], radius: int) -> tuple[FloatArray, FloatArray]:
    """Logarithm of how much farther and how much nearer depth gets within a radius, (h, w) each."""
    window = _window(radius)
    farthest = cv2.erode(inverse_depth, window)
    nearest = cv2.dilate(inverse_depth, window)
    return np.log(inverse_depth / farthest), np.log(nearest / inverse_depth)


def _window(radius: int) -> NDArray[np.uint8]:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
