"""Which pixels of an imagined view real views confirm: by reprojection, with occlusion.

Owns the provenance enum, the classification of every pixel of an imagined view, real colours for
what real cameras saw, and what the spread of several samples does to confidence. What is published
of each class is decided in `make_products`. `classify_point` is the readable definition for one
point; `classify_view` is the fast path for whole images, and tests compare the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import invert_rigid, transform_points
from gld_ros.measuring.surfaces import Surface, resized_K, sure_depth

FloatArray = NDArray[np.floating[Any]]
LabelArray = NDArray[np.uint8]

SEERS = 4  # measured keyframes that imagined pixels of one target view are compared with
NO_VIEW = 255  # in `ProvenanceMap.witness`
# Neighbouring depths beyond this ratio are two surfaces, unless they continue one slanted plane.
_EDGE_RATIO = 1.1
_MIN_DEPTH_M = 1e-6
_BAND_PIXELS = 16384


class Provenance(IntEnum):
    """Where a point comes from; values as in `gld_ros/msg/Provenance`."""

    UNKNOWN = 0  # not computed, or the pixel has no valid depth
    MEASURED = 1  # a real image's pixel with measured depth
    CORROBORATED = 2  # imagined, and lies on a surface that some real view shows
    HALLUCINATED = 3  # imagined, outside every real view, or behind what they show
    CONTRADICTED = 4  # imagined, but a real view saw through this point
    COMPLETED = 5  # a real image's pixel whose depth is the model's, aligned to measurements


PROVENANCE_NAMES: dict[str, Provenance] = {p.name.lower(): p for p in Provenance}


@dataclass(frozen=True, eq=False)
class DepthView:
    """A real image's depth and camera; everything metric, or everything in model units."""

    depth_m: FloatArray  # (H, W) z-depth; not finite or <= 0: nothing known, no vote
    K_px: FloatArray  # (3, 3)
    T_fixed_cam: FloatArray  # (4, 4)


@dataclass(frozen=True, eq=False)
class ProvenanceMap:
    """Class of every pixel of an imagined view, and the real view that confirms it."""

    labels: LabelArray  # (H, W) of `Provenance`
    witness: NDArray[np.uint8]  # (H, W) index of the first corroborating view, or NO_VIEW

    def fraction(self, provenance: Provenance) -> float:
        """Share of a class among the classified pixels; 0 if there are none."""
        classified = int(np.count_nonzero(self.labels))
        return int(np.count_nonzero(self.labels == provenance)) / classified if classified else 0.0


def unknown_provenance(image_hw: tuple[int, int]) -> ProvenanceMap:
    """The map of a view that cannot be classified (no scale)."""
    return ProvenanceMap(np.zeros(image_hw, np.uint8), np.full(image_hw, NO_VIEW, np.uint8))


def classify_point(
    point_fixed_m: FloatArray, views: Sequence[DepthView], rel_tolerance: float
) -> Provenance:
    """Class of one point (3,) of the fixed frame, given the real views: the definition.

    A view votes if the point projects inside its image and the nearest pixel has depth. On a
    smooth surface the depth there is interpolated between the four pixel centres around; at a
    depth edge, where a mean would be the depth of nothing, agreement with any of them corroborates
    and only a point in front of all of them is contradicted. One agreeing view outweighs others:
    the surface is really there, and they disagree by their own errors.
    """
    votes = {_vote(point_fixed_m, view, rel_tolerance) for view in views}
    for provenance in (Provenance.CORROBORATED, Provenance.CONTRADICTED):
        if provenance in votes:
            return provenance
    return Provenance.HALLUCINATED


def _vote(point_fixed_m: FloatArray, view: DepthView, rel_tolerance: float) -> Provenance:
    x, y, z = view.K_px @ transform_points(invert_rigid(view.T_fixed_cam), point_fixed_m)
    height, width = view.depth_m.shape
    if z <= _MIN_DEPTH_M:
        return Provenance.HALLUCINATED
    u, v = x / z, y / z
    if not (-0.5 <= u < width - 0.5 and -0.5 <= v < height - 0.5):
        return Provenance.HALLUCINATED
    inverse = _inverse_depth(view.depth_m)
    if inverse[int(np.floor(v + 0.5)), int(np.floor(u + 0.5))] == 0:
        return Provenance.HALLUCINATED

    left, top = int(np.floor(u)), int(np.floor(v))
    corner_inverse = []
    corner_bend = []
    bend = _bend(inverse)
    for row in (top, top + 1):
        for column in (left, left + 1):
            # The half pixel between the outer pixel centres and the border repeats them.
            r, c = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
            corner_inverse.append(float(inverse[r, c]))
            corner_bend.append(float(bend[r, c]))
    nearest, farthest = max(corner_inverse), min(corner_inverse)
    slanted_plane = max(corner_bend) <= 0.5 * rel_tolerance * farthest
    if farthest > 0 and (nearest <= _EDGE_RATIO * farthest or slanted_plane):
        # On a plane, inverse depth is linear in the image; depth is not.
        a, b = u - left, v - top
        top_row = (1 - a) * corner_inverse[0] + a * corner_inverse[1]
        bottom_row = (1 - a) * corner_inverse[2] + a * corner_inverse[3]
        surfaces = [1.0 / ((1 - b) * top_row + b * bottom_row)]
    else:
        surfaces = [1.0 / w for w in corner_inverse if w > 0]
    if any(abs(z - surface) <= rel_tolerance * surface for surface in surfaces):
        return Provenance.CORROBORATED
    if all(z < surface for surface in surfaces):  # and beyond tolerance of each, as just checked
        return Provenance.CONTRADICTED
    return Provenance.HALLUCINATED


def _inverse_depth(depth_m: FloatArray) -> FloatArray:
    """1/depth, and 0 where depth is unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(depth_m) & (depth_m > 0)
        return np.where(known, 1.0 / depth_m, 0.0).astype(np.float32)


def _bend(inverse: FloatArray) -> FloatArray:
    """Largest second difference of inverse depth along rows and columns; 0 on a plane.

    The image's outermost pixels have no neighbour beyond and take the value one pixel inside.
    """
    bend = np.zeros_like(inverse)
    for axis in (0, 1):
        if inverse.shape[axis] < 3:
            continue
        lines = np.moveaxis(inverse, axis, 0)
        second = np.abs(lines[:-2] - 2 * lines[1:-1] + lines[2:])
        second = np.concatenate([second[:1], second, second[-1:]])
        np.maximum(bend, np.moveaxis(second, 0, axis), out=bend)
    return bend


@dataclass(frozen=True, eq=False)
class SeenSurface:
    """A real view made ready to vote on many imagined ones; see `seen_surface`."""

    corner_inverse: FloatArray  # ((H+1)(W+1), 4) inverse depths around each cell, 0 is unknown
    smooth: NDArray[np.bool_]  # ((H+1)(W+1),) cells on one surface
    image_hw: tuple[int, int]
    K_px: FloatArray  # (3, 3)
    T_fixed_cam: FloatArray  # (4, 4)
    rel_tolerance: float


def seen_surface(view: DepthView, rel_tolerance: float) -> SeenSurface:
    """What `classify_view` needs of a real view: made once per job, used for all its targets.

    A cell lies between four pixel centres; cell (i, j) has pixel (i-1, j-1) at its top left, and
    border pixels are repeated outwards. Raises ValueError for a tolerance outside (0, 1).
    """
    if not 0 < rel_tolerance < 1:
        raise ValueError(f"rel_tolerance is {rel_tolerance}; between 0 and 1 is needed")
    inverse = _inverse_depth(view.depth_m)
    padded = np.pad(inverse, 1, mode="edge")
    corners = np.stack(
        [padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]], axis=-1
    )
    nearest, farthest = _cell_extreme(padded, np.maximum), _cell_extreme(padded, np.minimum)
    smooth = nearest <= _EDGE_RATIO * farthest
    if not smooth.all():
        bend = _cell_extreme(np.pad(_bend(inverse), 1, mode="edge"), np.maximum)
        smooth |= bend <= 0.5 * rel_tolerance * farthest
    smooth &= farthest > 0
    return SeenSurface(
        corners.reshape(-1, 4),
        smooth.ravel(),
        (view.depth_m.shape[0], view.depth_m.shape[1]),
        view.K_px,
        view.T_fixed_cam,
        rel_tolerance,
    )


def classify_view(
    depth_m: FloatArray,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    surfaces: Sequence[SeenSurface],
) -> ProvenanceMap:
    """`classify_point` for every pixel of an imagined view with depth (H, W).

    Pixels without a finite positive depth are UNKNOWN. `witness` names the first corroborating view
    in the order of `surfaces`.
    """
    if len(surfaces) > NO_VIEW:
        raise ValueError(f"{len(surfaces)} real views were given; at most {NO_VIEW} are possible")
    height, width = depth_m.shape
    labels = np.empty((height, width), np.uint8)
    witness = np.full((height, width), NO_VIEW, np.uint8)
    # Bands that fit into the processor's cache are several times faster than whole images.
    band_rows = max(1, _BAND_PIXELS // max(1, width))
    for top in range(0, height, band_rows):
        band = slice(top, top + band_rows)
        depth = np.asarray(depth_m[band], dtype=np.float32).ravel()
        _classify_band(
            _pixel_grid(top, len(depth) // width, width),
            depth,
            K_px,
            T_fixed_cam,
            surfaces,
            labels[band].reshape(-1),
            witness[band].reshape(-1),
        )
    return ProvenanceMap(labels, witness)


def _classify_band(
    pixels: FloatArray,
    depth_m: FloatArray,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    surfaces: Sequence[SeenSurface],
    labels: LabelArray,
    witness: NDArray[np.uint8],
) -> None:
    """Fill labels and witness (N,) of N pixels (3, N) with depth (N,)."""
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(depth_m) & (depth_m > 0)
    labels[:] = np.where(valid, np.uint8(Provenance.HALLUCINATED), np.uint8(Provenance.UNKNOWN))
    undecided = np.flatnonzero(valid)
    for index, surface in enumerate(surfaces):
        # A pixel that one view corroborates need not be checked with the others.
        agreed, through = _view_votes(
            pixels[:, undecided], depth_m[undecided], K_px, T_fixed_cam, surface
        )
        labels[undecided[through]] = Provenance.CONTRADICTED
        labels[undecided[agreed]] = Provenance.CORROBORATED
        witness[undecided[agreed]] = index
        undecided = undecided[~agreed]


def _pixel_grid(top: int, height: int, width: int) -> FloatArray:
    """Homogeneous pixels (3, height * width) float32 of rows from `top` on."""
    pixels = np.ones((3, height, width), np.float32)
    pixels[0] = np.arange(width)
    pixels[1] = np.arange(top, top + height)[:, None]
    return pixels.reshape(3, -1)


def _project(
    pixels: FloatArray,
    depth_m: FloatArray,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    K_px_other: FloatArray,
    T_fixed_other: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Where another camera sees pixels (3, N) with depth (N,): u, v, z, float32 (N,) each.

    Behind the other camera z <= 0 and u, v are meaningless.
    """
    T_other_cam = invert_rigid(T_fixed_other) @ T_fixed_cam
    ray_to_pixel = K_px_other @ T_other_cam[:3, :3] @ np.linalg.inv(K_px)
    offset = K_px_other @ T_other_cam[:3, 3]
    x, y, z = (
        ray_to_pixel.astype(np.float32) @ pixels * depth_m + offset.astype(np.float32)[:, None]
    )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return x / z, y / z, z


def _view_votes(
    pixels: FloatArray,
    depth_m: FloatArray,
    K_px: FloatArray,
    T_fixed_cam: FloatArray,
    surface: SeenSurface,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per pixel (N,): whether a real view agrees, and whether it saw through."""
    u, v, z = _project(pixels, depth_m, K_px, T_fixed_cam, surface.K_px, surface.T_fixed_cam)
    height, width = surface.image_hw
    agrees = np.zeros(z.shape, bool)
    seen_through = np.zeros(z.shape, bool)
    with np.errstate(invalid="ignore"):
        inside = (z > _MIN_DEPTH_M) & (u >= -0.5) & (u < width - 0.5)
        inside &= (v >= -0.5) & (v < height - 0.5)
    at = np.flatnonzero(inside)
    if at.size == 0:
        return agrees, seen_through
    u, v, z = u[at], v[at], z[at]

    left, top = np.floor(u), np.floor(v)
    cell = (top.astype(np.int32) + 1) * (width + 1) + left.astype(np.int32) + 1
    a, b = u - left, v - top
    # One gather of four neighbours that lie together: top left, top right, bottom left, right.
    corners = np.take(surface.corner_inverse, cell, axis=0)
    w00, w01, w10, w11 = corners.T
    upper = w00 + a * (w01 - w00)
    lower = w10 + a * (w11 - w10)
    # With z times inverse depth, 1 is the surface: no division.
    ratio = z * (upper + b * (lower - upper))
    low, high = (np.float32(1.0 + sign * surface.rel_tolerance) for sign in (-1, 1))
    through = ratio < low
    agreed = ~through & (ratio <= high)

    # Depth edges are few: only they take the slower rule.
    edge = np.flatnonzero(~np.take(surface.smooth, cell))
    if edge.size:
        ratios = z[edge, None] * corners[edge]  # 0 where depth is unknown
        nearest = (b[edge] >= 0.5) * 2 + (a[edge] >= 0.5)
        votes = np.take_along_axis(ratios, nearest[:, None], axis=1)[:, 0] > 0
        agreed[edge] = ((ratios >= low) & (ratios <= high)).any(axis=1) & votes
        # Unknown neighbours have ratio 0 and so never contradict.
        through[edge] = (ratios < low).all(axis=1) & votes
    agrees[at] = agreed
    seen_through[at] = through
    return agrees, seen_through


def _cell_extreme(padded: FloatArray, extreme: np.ufunc) -> FloatArray:
    columns = extreme(padded[:, :-1], padded[:, 1:])
    return np.asarray(extreme(columns[:-1], columns[1:]))


def lowered_by_spread(
    confidence: FloatArray, spread: FloatArray, labels: LabelArray, rel_tolerance: float
) -> FloatArray:
    """Confidence (H, W), lowered where a merely imagined depth differs from sample to sample.

    `spread` is the standard deviation of log-depth over the samples. Where no real view confirms a
    pixel, its confidence is multiplied by 1 / (1 + (spread / rel_tolerance)^2): samples that
    scatter as much as corroboration tolerates halve it. Unknown spread gives 0.
    """
    with np.errstate(invalid="ignore"):
        factor = 1.0 / (1.0 + (spread / rel_tolerance) ** 2)
    factor = np.nan_to_num(factor, nan=0.0)
    imagined = labels == Provenance.HALLUCINATED
    return np.where(imagined, confidence * factor, confidence).astype(np.float32)


def judged(first: ProvenanceMap, second: ProvenanceMap) -> ProvenanceMap:
    """Two classifications of one view combined: where the first knows nothing, the second decides.

    `first` is by measured surfaces, `second` by completed ones.
    """
    decided = np.isin(first.labels, (Provenance.CORROBORATED, Provenance.CONTRADICTED))
    return ProvenanceMap(
        np.where(decided, first.labels, second.labels),
        np.where(decided, first.witness, second.witness),
    )


def measured_seer(surface: Surface, rel_tolerance: float) -> SeenSurface:
    """A measured surface, ready to vote on the pixels of target views."""
    K_depth = resized_K(surface.K_px, surface.image.shape[:2], surface.depth_m.shape)
    view = DepthView(sure_depth(surface), K_depth, surface.T_fixed_cam)
    return seen_surface(view, rel_tolerance)
