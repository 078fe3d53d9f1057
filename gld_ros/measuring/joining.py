"""Target views composed of measured and imagined pixels, without a seam between the two.

Measured pixels are not changed. The rest takes the model's depth, aligned to what was measured,
and the model's colours plus a smooth correction that makes them meet the measured ones along the
border and fades with the distance to it (a screened membrane: the cheap form of Poisson blending).
How much of the model's detail is shown, and how far the correction reaches, depends on how much of
the detail measured pixels confirm: a model that does not fit a place leaves a smooth continuation
of what was measured. Also the baseline method without any network: measured surfaces, and OpenCV's
inpainting for the rest.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.rendering import RenderedView
from gld_ros.measuring.scale_field import AlignedDepth
from gld_ros.measuring.surfaces import FloatArray, FloatImage, inverse_depth

INPAINT_RADIUS_PX = 5
_SWEEPS = 24  # of relaxation per level of the membrane
_COARSEST_PX = 6
_DETAIL_OF_SIDE = 0.25  # surroundings of a pixel, as a share of the longer side
_REACH_OF_SIDE = 0.1  # of the smooth correction to a model whose detail is true, likewise
_LEAST_SHARE = 0.25  # of true detail, below which the correction reaches no farther
_PATCH_OF_SIDE = 0.125  # within which pixels say the same about the model, likewise
_ENOUGH_PATCHES = 6.0  # at which what they say has half its weight everywhere


@dataclass(frozen=True, eq=False)
class JoinedView:
    """A target view; arrays are (H, W) of the target."""

    color: NDArray[np.uint8]  # (H, W, 3) RGB
    depth_m: FloatImage  # NaN where neither source has any
    relative_error: FloatImage  # expected, of depth; one standard deviation
    measured: NDArray[np.bool_]  # real pixels with measured depth


def join_view(rendered: RenderedView, model_rgb: FloatImage, aligned: AlignedDepth) -> JoinedView:
    """Measured surfaces where they cover the target, the model's view elsewhere.

    Surfaces that continue what was measured give colour, and no depth. model_rgb (H, W, 3) in
    [0, 1], NaN where the model shows nothing. With nothing measured the result is the model's view,
    unchanged.
    """
    measured = rendered.measured
    depth_m = np.where(measured, rendered.depth_m, aligned.depth_m)
    error = np.where(measured, np.float32(0.0), aligned.relative_error)
    return JoinedView(joined_colour(rendered, model_rgb), depth_m, error, measured)


def joined_colour(rendered: RenderedView, model_rgb: FloatImage) -> NDArray[np.uint8]:
    """Colours (H, W, 3) uint8: measured ones, and the model's (in [0, 1]) made to meet them."""
    model = np.nan_to_num(model_rgb, nan=0.0) * np.float32(255.0)
    known = rendered.covered
    if known.any() and not known.all():
        color = rendered.color.astype(np.float32)
        trust = _trust(known)
        true_share = detail_share(model, color, known)
        share = 1.0 + trust * (true_share - 1.0)
        model = np.float32(share) * model + np.float32(1.0 - share) * _mean_of(model, known)
        difference = color - model
        far = trust * _mean_of(difference, known)
        farther = 1.0 + trust**2 * (max(true_share, _LEAST_SHARE) ** -2 - 1.0)
        reach_px = farther * _REACH_OF_SIDE * max(known.shape)
        model = model + membrane(difference, known, far, reach_px)
    rounded = np.clip(model + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
    return np.where(known[..., None], rendered.color, rounded)


def _mean_of(image: FloatImage, known: NDArray[np.bool_]) -> FloatImage:
    """Mean (3,) of an image (H, W, 3) over known pixels (H, W)."""
    return np.array(cv2.mean(image, known.view(np.uint8))[:3], np.float32)


def _trust(known: NDArray[np.bool_]) -> float:
    """How far [0, 1) known pixels (H, W) represent the whole view.

    Neighbours say the same thing, so patches are counted and not pixels. A coloured object in a
    corner must not determine the colour of the walls.
    """
    patches = float(known.sum()) / (_PATCH_OF_SIDE * max(known.shape)) ** 2
    return patches**2 / (patches**2 + _ENOUGH_PATCHES**2)


def detail_share(model: FloatImage, color: FloatImage, known: NDArray[np.bool_]) -> float:
    """The share [0, 1] of the model's detail that measured pixels confirm.

    The gain that fits the model's detail to the measured one best, over known pixels (H, W);
    detail is what differs from the mean of the surroundings.
    """
    size = 2 * round(max(known.shape) * _DETAIL_OF_SIDE / 2) + 1
    weight = known.astype(np.float32)
    around = np.maximum(cv2.blur(weight, (size, size)), 1e-6)[..., None]

    def detail(image: FloatImage) -> FloatImage:
        mean = cv2.blur(image * weight[..., None], (size, size)) / around
        return ((image - mean) * weight[..., None]).ravel()

    shown, true = detail(model), detail(color)
    return float(np.clip(np.dot(shown, true) / max(float(np.dot(shown, shown)), 1e-6), 0.0, 1.0))


def membrane(
    values: FloatImage, known: NDArray[np.bool_], far: FloatArray, reach_px: float = math.inf
) -> FloatImage:
    """Values (H, W, 3) continued smoothly from known pixels (H, W) into the others.

    Nearly the function f with the known values as its boundary and reach_px^2 * laplacian f =
    f - far elsewhere, relaxed from coarse to fine: within `reach_px` of known pixels it follows
    them, and far from them it is `far` (3,). Known values come back unchanged.
    """
    mask = known.astype(np.float32)
    filled = values * mask[..., None]
    if min(known.shape) > _COARSEST_PX:
        half = ((known.shape[1] + 1) // 2, (known.shape[0] + 1) // 2)
        share = cv2.resize(mask, half, interpolation=cv2.INTER_AREA)
        coarse = cv2.resize(filled, half, interpolation=cv2.INTER_AREA)
        coarse = coarse / np.maximum(share, 1e-6)[..., None]
        coarse = membrane(coarse, share > 1e-3, far, reach_px / 2)
        size = (known.shape[1], known.shape[0])
        start = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
    else:
        start = np.broadcast_to(np.asarray(far, np.float32), values.shape)
    hole = 1.0 - mask[..., None]
    result = filled + hole * start
    # What one sweep does to unknown pixels: a 3 x 3 mean moves by a third of the laplacian.
    pull = 1.0 / (3.0 * reach_px**2)
    kept = hole * np.float32(1.0 / (1.0 + pull))
    fixed = filled + kept * (pull * np.asarray(far)).astype(np.float32)
    for _ in range(_SWEEPS):
        smooth = cv2.blur(result, (3, 3), borderType=cv2.BORDER_REPLICATE)
        np.multiply(smooth, kept, out=result)
        result += fixed
    return result


def inpainted_view(rendered: RenderedView) -> tuple[NDArray[np.uint8], FloatImage]:
    """Colours (H, W, 3) and depth (H, W) without any network: holes by Telea's inpainting.

    Depth of holes continues smoothly from around them; NaN everywhere if nothing was measured.
    """
    known = rendered.covered
    holes = (~known).astype(np.uint8)
    color = cv2.inpaint(rendered.color, holes, INPAINT_RADIUS_PX, cv2.INPAINT_TELEA)
    if not known.any():
        return color, rendered.depth_m
    inverse = np.repeat(inverse_depth(rendered.depth_m)[..., None], 3, axis=2)
    continued = membrane(inverse, known, inverse[known].mean(0))[..., 0]
    continued = np.maximum(continued, 1e-6)
    return color, (1.0 / continued).astype(np.float32)
