"""Measured surfaces of posed images, rendered into another camera.

Depth first: the surfaces' points go into the target, each surface by itself, and the front-most
depth that no camera saw through wins, unless something that no camera has seen may hide it. Then
colour: every target pixel is looked up in all images that see the same point, so that texture keeps
the resolution of the images. Owns occlusion; which surfaces are used, and what of them can be kept
for other views, is `sources`, colour is `blending`, and what may hide a point `unseen_space`. Depth
is measured elsewhere and not changed here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.measuring.blending import blended_colour
from gld_ros.measuring.confidence import POSSIBLE
from gld_ros.measuring.sources import (
    MAX_SOURCES,
    Source,
    candidates_of,
    choose_surfaces,
    source_of,
)
from gld_ros.measuring.surfaces import (
    MIN_Z_M,
    SAME_SURFACE,
    FloatArray,
    FloatImage,
    Surface,
    closed_gaps,
    enlarged_depth,
    projection,
    resized_K,
)
from gld_ros.measuring.unseen_space import behind_unseen_space

LOOKED_THROUGH = 0.08  # relative depth beyond which a view contradicts a nearer point
# Votes of all images that look through a point, per vote that agrees, beyond which it is not there.
# Beside edges of thin things images look through points that are right.
CLEARLY_MORE = 1.5
_ISLANDS = 2000  # smaller parts of a view than one in so many pixels are speckle
_LAYERS = 3  # front-most surfaces that are tried before a pixel stays empty


@dataclass(frozen=True, eq=False)
class RenderedView:
    """Surfaces as a target camera sees them; arrays are (H, W) of the target."""

    color: NDArray[np.uint8]  # (H, W, 3) RGB, black where no surface is seen
    depth_m: FloatImage  # z-depth; NaN where no surface is seen
    weight: FloatImage  # probability that depth is right; 0 where no surface is seen

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Where a surface is seen, measured or continued."""
        return np.isfinite(self.depth_m)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Where a measured surface is seen."""
        return self.covered & (self.weight >= POSSIBLE)


def render_surfaces(
    surfaces: Sequence[Surface],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
    max_sources: int = MAX_SOURCES,
    *,
    through_unseen: bool = False,
) -> RenderedView:
    """What a camera with K_px (3, 3) and T_fixed_cam (4, 4) sees of measured surfaces.

    `through_unseen` also shows what it sees through space that may be filled, for a camera whose
    own image can tell. The order of `surfaces` affects only rounding. Raises ValueError for an
    empty image_hw.
    """
    camera = (K_px, T_fixed_cam)
    return render_views(surfaces, [camera], image_hw, max_sources, through_unseen=through_unseen)[0]


def render_views(
    surfaces: Sequence[Surface],
    cameras: Iterable[tuple[FloatArray, FloatArray]],
    image_hw: tuple[int, int],
    max_sources: int = MAX_SOURCES,
    *,
    through_unseen: bool = False,
) -> list[RenderedView]:
    """`render_surfaces` for several cameras (K_px, T_fixed_cam), which share what they can."""
    if min(image_hw) < 1:
        raise ValueError(f"image_hw is {image_hw}; both must be at least 1")
    candidates, source = candidates_of(surfaces), cache(source_of)
    views = []
    for camera in cameras:
        used, voters = choose_surfaces(candidates, *camera, image_hw, max_sources)
        sources = [source(s) for s in used]
        view = render_chosen(sources, *camera, image_hw, voters, through_unseen=through_unseen)
        views.append(view)
    return views


def render_chosen(
    sources: Sequence[Source],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
    voters: Sequence[Surface] = (),
    *,
    through_unseen: bool = False,
) -> RenderedView:
    """What a camera sees of the surfaces that `choose_surfaces` chose for it.

    K_px (3, 3), T_fixed_cam (4, 4). `voters` show nothing, but vote on what the sources show.
    A view without sources is empty.
    """
    if not any(source.parts for source in sources):
        return _empty(image_hw)
    used = [source.surface for source in sources]
    grid_hw = _grid_hw(sources, K_px, T_fixed_cam, image_hw)
    grid_K = resized_K(K_px, image_hw, grid_hw)
    layers, shares = [], []
    for source in sources:
        for part in source.parts:
            layers.append(_into_target(source.surface, part.points_m, grid_K, T_fixed_cam, grid_hw))
            shares.append(part.share)
    depth, weight = _fused_depth(used, voters, layers, shares, grid_K, T_fixed_cam)
    known = np.isfinite(depth)
    if not through_unseen:
        known &= ~behind_unseen_space(used, voters, depth, grid_K, T_fixed_cam)
    known &= ~_speckle(known)
    depth = np.where(known, depth, np.float32(np.nan))
    weight = np.where(known, weight, np.float32(0.0))
    depth_m = enlarged_depth(depth, image_hw)
    color, color_weight = blended_colour(sources, depth_m, K_px, T_fixed_cam)
    covered = np.isfinite(depth_m) & (color_weight > 0)
    weight = cv2.resize(weight, image_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return RenderedView(
        color=np.where(covered[..., None], color, np.uint8(0)),
        depth_m=np.where(covered, depth_m, np.float32(np.nan)),
        weight=np.where(covered, np.clip(weight, 0.01, 1.0), np.float32(0.0)),
    )


def _grid_hw(
    sources: Sequence[Source],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
) -> tuple[int, int]:
    """Size of the grid on which depth is fused: no finer than the points that fall on it."""
    scales = []
    for source in sources:
        surface, z_m = source.surface, source.typical_m
        if np.isnan(z_m):
            continue
        # Depth of the same points in the target, roughly: along its own axis.
        shift = np.linalg.inv(T_fixed_cam) @ surface.T_fixed_cam @ [0.0, 0.0, z_m, 1.0]
        focal = surface.K_px[0, 0] * surface.depth_m.shape[1] / surface.image.shape[1]
        spacing_px = K_px[0, 0] / max(float(shift[2]), 0.3 * z_m) * z_m / focal
        scales.append(1.0 / spacing_px)
    scale = min(1.0, float(np.median(scales)) if scales else 1.0)
    return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


def _into_target(
    surface: Surface,
    points_m: FloatImage,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
) -> FloatImage:
    """Depth (H, W) of a surface's points (3, N) in the target, nearest first; inf where none fell.

    The points are in the frame of the surface's own camera.
    """
    height, width = image_hw
    point_to_pixel, offset = projection(np.eye(3), surface.T_fixed_cam, K_px, T_fixed_cam)
    x, y, z = point_to_pixel @ points_m + offset[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        column, row = np.rint(x / z), np.rint(y / z)
        inside = (z > MIN_Z_M) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = np.flatnonzero(inside)
    pixel = row[at].astype(np.intp) * width + column[at].astype(np.intp)
    layer = np.full(height * width, np.inf, np.float32)
    np.minimum.at(layer, pixel, z[at])
    return _without_cracks(layer.reshape(image_hw))


def _without_cracks(layer: FloatImage) -> FloatImage:
    """A splatted layer (inf: empty) without gaps between points of one surface.

    The surface behind must not show through them, nor points of the same layer that came through.
    """
    known = np.isfinite(layer)
    inverse = np.where(known, 1.0 / np.where(known, layer, 1.0), 0.0).astype(np.float32)
    closed = closed_gaps(inverse)
    with np.errstate(divide="ignore"):
        return np.where(closed > 0, 1.0 / closed, np.inf).astype(np.float32)


def _fused_depth(
    sources: Sequence[Surface],
    voters: Sequence[Surface],
    layers: Sequence[FloatImage],
    shares: Sequence[float],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
) -> tuple[FloatImage, FloatImage]:
    """Depth (H, W), NaN where none, and its weight, of the front-most confirmed surface.

    Of the depths at a pixel the nearest is tried first. It is confirmed unless more sources, or
    clearly more of all cameras, saw through it than agree with it; then the next one behind it is
    tried. The result is averaged over the layers that agree, by their shares. Voters do not make
    it surer than its sources do.
    """
    stack = np.stack(layers)
    image_hw = (stack.shape[1], stack.shape[2])
    pixels = _pixel_grid(image_hw)
    depth = np.full(image_hw, np.inf, np.float32)
    weight = np.zeros(image_hw, np.float32)
    open_pixels = np.arange(depth.size)
    flat = stack.reshape(len(stack), -1)
    share = np.array(shares, np.float32)[:, None]
    for _ in range(_LAYERS):
        candidates = flat.take(open_pixels, axis=1)
        front = candidates.min(axis=0)
        some = np.flatnonzero(np.isfinite(front))
        if not some.size:
            break
        if some.size < open_pixels.size:
            open_pixels, front = open_pixels[some], front[some]
            candidates = candidates.take(some, axis=1)
        same = candidates <= front * np.float32(1 + SAME_SURFACE)
        shares_there = same * share
        mean = shares_there.sum(0) / (shares_there / candidates).sum(0)
        here = pixels.take(open_pixels, axis=1)
        agree, through, surest = _votes(sources, here, mean, K_px, T_fixed_cam)
        also_agree, also_through, _ = _votes(voters, here, mean, K_px, T_fixed_cam)
        holds = (agree > 0) & (agree >= through)
        agree, through = agree + also_agree, through + also_through
        holds &= through <= CLEARLY_MORE * agree
        at = open_pixels[holds]
        depth.reshape(-1)[at] = mean[holds]
        weight.reshape(-1)[at] = (surest * agree / (agree + through).clip(min=1e-9))[holds]
        behind = np.flatnonzero(~holds)
        open_pixels = open_pixels[behind]
        flat[:, open_pixels] = np.where(same, np.float32(np.inf), candidates).take(behind, axis=1)
    return np.where(np.isfinite(depth), depth, np.float32(np.nan)), weight


def _speckle(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Regions of known pixels that are too small to be a surface."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(known.astype(np.uint8), 4)
    small = stats[:, cv2.CC_STAT_AREA] < max(4, known.size // _ISLANDS)
    small[0] = False
    speckle: NDArray[np.bool_] = small[labels]
    return speckle


def _pixel_grid(image_hw: tuple[int, int]) -> FloatImage:
    """Homogeneous pixels (3, H * W) float32."""
    rows, columns = np.indices(image_hw, np.float32)
    return np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size, np.float32)])


def _votes(
    surfaces: Sequence[Surface],
    pixels: FloatImage,
    depth_m: FloatArray,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
) -> tuple[FloatImage, FloatImage, FloatImage]:
    """Per point (N,): confidence of the surfaces that agree, of those that look through, summed.

    Third: the highest confidence of one that agrees.
    """
    agree = np.zeros(pixels.shape[1], np.float32)
    through, surest = np.zeros_like(agree), np.zeros_like(agree)
    for surface in surfaces:
        K_depth = resized_K(surface.K_px, surface.image.shape[:2], surface.depth_m.shape)
        linear, offset = projection(K_px, T_fixed_cam, K_depth, surface.T_fixed_cam)
        x, y, z = linear @ pixels * depth_m.astype(np.float32) + offset[:, None]
        height, width = surface.depth_m.shape
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = np.rint(x / z), np.rint(y / z)
            inside = (z > MIN_Z_M) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        # All points at once: most are inside, and picking them would cost more.
        at = np.where(inside, v, 0).astype(np.intp) * width + np.where(inside, u, 0).astype(np.intp)
        confidence = np.where(inside, surface.confidence.take(at), np.float32(0.0))
        with np.errstate(invalid="ignore"):
            ratio = z / surface.depth_m.take(at)
            agreeing = confidence * (np.abs(ratio - 1) <= SAME_SURFACE)
            agree += agreeing
            np.maximum(surest, agreeing, out=surest)
            through += confidence * (ratio < 1 - LOOKED_THROUGH)
    return agree, through, surest


def _empty(image_hw: tuple[int, int]) -> RenderedView:
    return RenderedView(
        color=np.zeros((*image_hw, 3), np.uint8),
        depth_m=np.full(image_hw, np.nan, np.float32),
        weight=np.zeros(image_hw, np.float32),
    )
