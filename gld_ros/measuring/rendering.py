"""Measured surfaces of posed images, rendered into another camera.

Depth first: the surfaces' points go into the target, each surface by itself, and the front-most
depth that no camera saw through wins. Then colour: every target pixel is looked up in all
images that see the same point, so that texture keeps the resolution of the images. Owns which
images are used, occlusion and blending; depth is measured elsewhere and not changed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import distance_m
from gld_ros.measuring.blending import blended_colour
from gld_ros.measuring.confidence import POSSIBLE
from gld_ros.measuring.surfaces import (
    MIN_Z_M,
    SAME_SURFACE,
    FloatArray,
    FloatImage,
    Surface,
    closed_gaps,
    continued,
    direction_weight,
    enlarged_depth,
    projection,
    resized_K,
    without_edges,
    without_gaps,
)

LOOKED_THROUGH = 0.08  # relative depth beyond which a view contradicts a nearer point
# Votes of images that look through a point, per vote that agrees, beyond which it is not there.
# Beside edges of thin things images look through points that are right.
CLEARLY_MORE = 1.5
MAX_SOURCES = 6  # images that one view is made of; each costs the same
MAX_WITNESSES = 18  # other images that vote on what these show, at a tenth of the cost
_ISLANDS = 2000  # smaller parts of a view than one in so many pixels are speckle
_CONTINUED_SHARE = 1e-3  # of continued depth in a mean with measured depth: next to none
_LAYERS = 3  # front-most surfaces that are tried before a pixel stays empty
_CELLS_HW = (12, 16)  # of the coarse grid on which images are chosen


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


@dataclass(frozen=True, eq=False)
class Source:
    """A surface ready to be rendered, into any number of cameras; made by `source_of`."""

    surface: Surface  # without gaps, maybe continued
    # Depth (h, w) of parts of it, without pixels that straddle edges, and the share of each part in
    # a mean with others.
    parts: tuple[tuple[FloatImage, float], ...]


def source_of(surface: Surface, *, beyond_measured: bool = False) -> Source:
    """What of a surface does not depend on the camera that it is rendered into.

    `beyond_measured` continues it over some of what was not measured, with a weight below POSSIBLE.
    """
    filled = without_gaps(surface)
    if not beyond_measured:
        return Source(filled, ((without_edges(filled.depth_m), 1.0),))
    filled = continued(filled)
    points_m = without_edges(filled.depth_m)
    measured = filled.confidence >= POSSIBLE
    nothing = np.float32(np.nan)
    return Source(
        filled,
        (
            (np.where(measured, points_m, nothing), 1.0),
            (np.where(measured, nothing, points_m), _CONTINUED_SHARE),
        ),
    )


def render_surfaces(
    surfaces: Sequence[Surface],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
    max_sources: int = MAX_SOURCES,
) -> RenderedView:
    """What a camera with K_px (3, 3) and T_fixed_cam (4, 4) sees of measured surfaces.

    The order of `surfaces` affects only rounding. Raises ValueError for an empty image_hw.
    """
    if min(image_hw) < 1:
        raise ValueError(f"image_hw is {image_hw}; both must be at least 1")
    used, witnesses = choose_surfaces(surfaces, K_px, T_fixed_cam, image_hw, max_sources)
    sources = [source_of(surface) for surface in used]
    return render_chosen(sources, K_px, T_fixed_cam, image_hw, witnesses)


def render_chosen(
    sources: Sequence[Source],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
    witnesses: Sequence[Surface] = (),
) -> RenderedView:
    """What a camera sees of the surfaces that `choose_surfaces` chose for it.

    K_px (3, 3), T_fixed_cam (4, 4). `witnesses` show nothing, but vote on what the sources show.
    A view without sources is empty.
    """
    if not sources:
        return _empty(image_hw)
    used = [source.surface for source in sources]
    grid_hw = _grid_hw(sources, K_px, T_fixed_cam, image_hw)
    grid_K = resized_K(K_px, image_hw, grid_hw)
    layers, shares = [], []
    for source in sources:
        for points_m, share in source.parts:
            layers.append(_into_target(source.surface, points_m, grid_K, T_fixed_cam, grid_hw))
            shares.append(share)
    depth, weight = _fused_depth(used, witnesses, layers, shares, grid_K, T_fixed_cam)
    depth_m = enlarged_depth(depth, image_hw)
    color, color_weight = blended_colour(used, depth_m, K_px, T_fixed_cam)
    covered = np.isfinite(depth_m) & (color_weight > 0)
    weight = cv2.resize(weight, image_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return RenderedView(
        color=np.where(covered[..., None], color, np.uint8(0)),
        depth_m=np.where(covered, depth_m, np.float32(np.nan)),
        weight=np.where(covered, np.clip(weight, 0.01, 1.0), np.float32(0.0)),
    )


def choose_surfaces(
    surfaces: Sequence[Surface],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
    max_sources: int = MAX_SOURCES,
) -> tuple[list[Surface], list[Surface]]:
    """Sources, which show most of the target from the nearest directions, and witnesses.

    Greedy: on a coarse grid over the target, the surface that improves the best view of most cells
    is the next source; surfaces that improve nothing are none. Witnesses are those of the rest that
    see most cells, from farthest away: neighbours share their errors.
    """
    quality = [_quality_on_cells(s, K_px, T_fixed_cam, image_hw) for s in surfaces]
    cells_seen = [np.count_nonzero(cells) for cells in quality]
    remaining = [i for i, cells in enumerate(cells_seen) if cells]
    sources: list[int] = []
    # Three good views are enough for a cell: their mean is better than the best of them.
    best = np.zeros((3, *_CELLS_HW), np.float32)
    while remaining and len(sources) < max_sources:
        gains = [float(np.maximum(quality[i] - best[0], 0.0).sum()) for i in remaining]
        index = int(np.argmax(gains))
        if gains[index] <= 1e-6:
            break
        i = remaining.pop(index)
        sources.append(i)
        best = np.sort(np.concatenate([best, quality[i][None]]), axis=0)[1:]
    apart_m = [distance_m(s.T_fixed_cam, T_fixed_cam) for s in surfaces]
    witnesses = sorted(remaining, key=lambda i: (-cells_seen[i], -apart_m[i]))[:MAX_WITNESSES]
    return [surfaces[i] for i in sources], [surfaces[i] for i in witnesses]


def _quality_on_cells(
    surface: Surface, K_px: FloatArray, T_fixed_cam: FloatArray, image_hw: tuple[int, int]
) -> FloatImage:
    """How well a surface shows each coarse cell of the target, [0, 1]."""
    cells = np.zeros(_CELLS_HW, np.float32)
    step = max(1, round(np.sqrt(surface.depth_m.size / 4000)))
    rows, columns = np.mgrid[
        step // 2 : surface.depth_m.shape[0] : step, step // 2 : surface.depth_m.shape[1] : step
    ]
    depth = surface.depth_m[rows, columns].ravel().astype(np.float64)
    known = np.isfinite(depth)
    if not known.any():
        return cells
    pixels = np.stack([columns.ravel()[known], rows.ravel()[known], np.ones(int(known.sum()))])
    K_depth = resized_K(surface.K_px, surface.image.shape[:2], surface.depth_m.shape)
    in_source = np.linalg.inv(K_depth) @ pixels * depth[known]
    T_target_source = np.linalg.inv(T_fixed_cam) @ surface.T_fixed_cam
    in_target = T_target_source[:3, :3] @ in_source + T_target_source[:3, 3:]
    z = in_target[2]
    front = z > MIN_Z_M
    u, v = (K_px @ in_target)[:2, front] / z[front]
    inside = (u >= -0.5) & (u < image_hw[1] - 0.5) & (v >= -0.5) & (v < image_hw[0] - 0.5)
    if not inside.any():
        return cells
    row = ((v[inside] + 0.5) * _CELLS_HW[0] / image_hw[0]).astype(int)
    column = ((u[inside] + 0.5) * _CELLS_HW[1] / image_hw[1]).astype(int)
    points = in_target[:, front][:, inside]
    towards_source = points - T_target_source[:3, 3:]
    quality = direction_weight(points, towards_source)
    np.maximum.at(cells, (row, column), quality.astype(np.float32))
    return cells


def _grid_hw(
    sources: Sequence[Source],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
) -> tuple[int, int]:
    """Size of the grid on which depth is fused: no finer than the points that fall on it."""
    scales = []
    for source in sources:
        surface, depth = source.surface, source.parts[0][0]
        known = depth[np.isfinite(depth)]
        if not known.size:
            continue
        z_m = float(np.median(known))
        # Depth of the same points in the target, roughly: along its own axis.
        shift = np.linalg.inv(T_fixed_cam) @ surface.T_fixed_cam @ [0.0, 0.0, z_m, 1.0]
        focal = surface.K_px[0, 0] * depth.shape[1] / surface.image.shape[1]
        spacing_px = K_px[0, 0] / max(float(shift[2]), 0.3 * z_m) * z_m / focal
        scales.append(1.0 / spacing_px)
    scale = min(1.0, float(np.median(scales)) if scales else 1.0)
    return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


def _into_target(
    surface: Surface,
    depth_m: FloatImage,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    image_hw: tuple[int, int],
) -> FloatImage:
    """Depth (H, W) of one surface's points in the target, nearest first; inf where none fell."""
    height, width = image_hw
    rows, columns = np.nonzero(np.isfinite(depth_m))
    depth = depth_m[rows, columns]
    K_depth = resized_K(surface.K_px, surface.image.shape[:2], depth_m.shape)
    ray_to_pixel, offset = projection(K_depth, surface.T_fixed_cam, K_px, T_fixed_cam)
    x, y, z = (
        (ray_to_pixel[i, 0] * columns + ray_to_pixel[i, 1] * rows + ray_to_pixel[i, 2]) * depth
        + offset[i]
        for i in range(3)
    )
    front = z > MIN_Z_M
    x, y, z = x[front], y[front], z[front]
    column, row = np.rint(x / z).astype(np.int64), np.rint(y / z).astype(np.int64)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    layer = np.full(height * width, np.inf, np.float32)
    np.minimum.at(layer, row[inside] * width + column[inside], z[inside].astype(np.float32))
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
    witnesses: Sequence[Surface],
    layers: Sequence[FloatImage],
    shares: Sequence[float],
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
) -> tuple[FloatImage, FloatImage]:
    """Depth (H, W), NaN where none, and its weight, of the front-most confirmed surface.

    Of the depths at a pixel the nearest is tried first. It is confirmed unless clearly more cameras
    saw through it than agree with it; then the next one behind it is tried. The result is averaged
    over the layers that agree, by their shares. Witnesses do not make it surer than its sources do.
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
        candidates = flat[:, open_pixels]
        front = candidates.min(axis=0)
        some = np.isfinite(front)
        open_pixels, candidates, front = open_pixels[some], candidates[:, some], front[some]
        if not open_pixels.size:
            break
        same = candidates <= front * (1 + SAME_SURFACE)
        with np.errstate(invalid="ignore"):
            inverse = np.where(same, share / candidates, 0.0)
        mean = (same * share).sum(0) / inverse.sum(0)
        here = pixels[:, open_pixels]
        agree, through, surest = _votes(sources, here, mean, K_px, T_fixed_cam)
        also_agree, also_through, _ = _votes(witnesses, here, mean, K_px, T_fixed_cam)
        agree, through = agree + also_agree, through + also_through
        holds = (agree > 0) & (through <= CLEARLY_MORE * agree)
        at = open_pixels[holds]
        depth.reshape(-1)[at] = mean[holds]
        weight.reshape(-1)[at] = (surest * agree / (agree + through).clip(min=1e-9))[holds]
        open_pixels = open_pixels[~holds]
        flat[:, open_pixels] = np.where(same[:, ~holds], np.inf, candidates[:, ~holds])
    known = np.isfinite(depth)
    known &= ~_speckle(known)
    return (
        np.where(known, depth, np.float32(np.nan)),
        np.where(known, weight, np.float32(0.0)),
    )


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
        at = np.flatnonzero(inside)
        row, column = v[at].astype(np.int64), u[at].astype(np.int64)
        seen = surface.depth_m[row, column]
        confidence = surface.confidence[row, column]
        with np.errstate(invalid="ignore"):
            ratio = z[at] / seen
            same = np.abs(ratio - 1) <= SAME_SURFACE
            agree[at] += confidence * same
            surest[at] = np.maximum(surest[at], confidence * same)
            through[at] += confidence * (ratio < 1 - LOOKED_THROUGH)
    return agree, through, surest


def _empty(image_hw: tuple[int, int]) -> RenderedView:
    return RenderedView(
        color=np.zeros((*image_hw, 3), np.uint8),
        depth_m=np.full(image_hw, np.nan, np.float32),
        weight=np.zeros(image_hw, np.float32),
    )
