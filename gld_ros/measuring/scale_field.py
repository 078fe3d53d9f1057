"""One metric alignment: a model's depth fitted to measurements by a smooth field of scales.

All views of one run share one unit, so first comes one scale for all of them; then each view gets a
field of log-scale on top, which follows its measurements where there are any and fades to nothing
away from them. Where only the one scale applies, the expected error is the scatter of that scale;
near measurements it is the residual of the field, and no less than that of what is measured
around. Owns the fit and the expected error; what is published is the caller's decision.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
FloatImage = NDArray[np.float32]

MIN_PIXELS = 100  # measured ones of all views; fewer say nothing about the scale
MIN_FIELD_CELLS = 8  # of a view with measurements; fewer leave the one scale as it is
MIN_ERROR = 0.01  # error of even perfectly fitting depth
_CELLS = 48  # of the field along the longer side of a view
_MEASURED_WEIGHT = 12.0  # of a fully measured cell against the smoothness to one neighbour
_DECAY_CELLS = 14.0  # over which the field fades away from measurements
_EDGE_LOG = 0.15  # step of the model's log-depth over which cells are coupled less
_EDGE_FLOOR = 0.03  # of the smoothness across depth edges
_ROBUST_LOG = 0.06  # beyond, a cell's measurement counts less and less (Cauchy)
_ROUNDS = 3  # of reweighting
_QUARTILES_TO_SIGMA = 1.349
_HIDDEN_CELLS = 6  # side of the blocks of measured cells that are hidden in turn
_LEAST_UNCERTAIN = 0.3  # of 1 - influence, with which the error of hidden cells is scaled up
_QUANTILE, _QUANTILE_SIGMAS = 0.8, 1.282  # of hidden cells' errors, which have heavy tails
_AROUND_OF_SIDE = 0.12  # surroundings of a pixel, as a share of the longer side
_LIKE_AROUND = 2.0  # error of a pixel that was not measured, over that of measured ones around it


@dataclass(frozen=True)
class CommonScale:
    """Metres per unit over all views of a run, and how much single pixels scatter around it."""

    scale: float  # NaN if it could not be measured
    dispersion: float  # relative, robust; NaN likewise
    num_pixels: int
    fault: str = ""  # a sentence with numbers if there is no scale


@dataclass(frozen=True, eq=False)
class AlignedDepth:
    """A model's depth in metres."""

    depth_m: FloatImage  # (H, W); NaN where the model has none
    relative_error: FloatImage  # (H, W) expected, one standard deviation of depth / true depth
    influence: FloatImage  # (H, W) of measurements, 0 (none near) to 1


def common_scale(
    model_depth: Sequence[FloatArray], measured_m: Sequence[FloatArray]
) -> CommonScale:
    """Median of measured / model depth over all pixels of all views that have both.

    Arrays (H, W) of one view each on one grid; not finite or <= 0 is unknown. Dispersion is the
    interquartile range / 1.35 / median, which tolerates 25 % of outliers on either side.
    """
    ratios = [
        _ratios(model, measured).ravel()
        for model, measured in zip(model_depth, measured_m, strict=True)
    ]
    values = np.concatenate([r[np.isfinite(r)] for r in ratios]) if ratios else np.zeros(0)
    if values.size < MIN_PIXELS:
        return CommonScale(
            math.nan,
            math.nan,
            int(values.size),
            f"{values.size} pixels of {len(ratios)} views have both measured and model depth; "
            f"{MIN_PIXELS} are needed",
        )
    low, middle, high = np.exp(np.quantile(values, [0.25, 0.5, 0.75])).tolist()
    return CommonScale(middle, (high - low) / _QUARTILES_TO_SIGMA / middle, int(values.size))


def aligned_depth(
    model_depth: FloatArray,
    measured_m: FloatArray,
    weight: FloatArray,
    scale: float,
    dispersion: float,
) -> AlignedDepth:
    """A view's model depth (H, W) in metres, fitted to measured depth (H, W) of the same pixels.

    `weight` (H, W) in [0, 1] says how much each measurement counts; `scale` and `dispersion` are
    those of `common_scale`. Minimises, over a field f of log-scale on a coarse grid, robust squares
    of (log measured - log model - log scale - f) plus squared steps of f, less across depth edges
    of the model, plus a little of f itself. Raises ValueError unless scale is finite and > 0.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; finite and > 0 is needed")
    spread = dispersion if math.isfinite(dispersion) else 0.0
    offset = _ratios(model_depth, measured_m) - np.float32(math.log(scale))
    log_model = np.log(np.where(model_depth > 0, model_depth, np.nan)).astype(np.float32)
    height, width = model_depth.shape
    stride = max(1, math.ceil(max(height, width) / _CELLS))
    cells, share = _cell_means(offset, np.where(np.isfinite(offset), weight, 0.0), stride)
    if np.count_nonzero(share) < MIN_FIELD_CELLS:
        field = influence = np.zeros((height, width), np.float32)
        left = elsewhere = spread
        anywhere = 0.0
    else:
        depth_cells, _ = _cell_means(log_model, np.isfinite(log_model).astype(np.float32), stride)
        smoothness = _smoothness(depth_cells)
        coarse, coarse_influence, left = _fitted(cells, share, smoothness)
        anywhere, beyond = _held_out_error(cells, share, smoothness)
        elsewhere = max(spread, beyond)
        field = _enlarged(coarse, stride, (height, width))
        influence = np.clip(_enlarged(coarse_influence, stride, (height, width)), 0.0, 1.0)
    depth_m = np.exp(log_model + field + np.float32(math.log(scale)))
    far = max(elsewhere, MIN_ERROR)
    near = influence * max(left, MIN_ERROR)
    error = np.maximum(np.sqrt(near**2 + ((1.0 - influence) * far) ** 2), anywhere)
    error = np.maximum(error, _LIKE_AROUND * _misfit_around(offset - field, weight))
    return AlignedDepth(
        depth_m.astype(np.float32), error.astype(np.float32), influence.astype(np.float32)
    )


def _misfit_around(residual: FloatImage, weight: FloatArray) -> FloatImage:
    """Root mean square (H, W) of what the field leaves of measured pixels around each pixel.

    0 where none is near. It is large beside jumps of depth that the model puts elsewhere.
    """
    known = np.isfinite(residual) & (weight > 0)
    side = 2 * round(_AROUND_OF_SIDE * max(residual.shape) / 2) + 1
    share, squares = (
        cv2.blur(values.astype(np.float32), (side, side))
        for values in (known, np.where(known, residual, 0.0) ** 2)
    )
    # Sums that run along rows may end a little below zero.
    misfit: FloatImage = np.sqrt(np.maximum(squares, 0.0) / np.maximum(share, 1e-6))
    return misfit


def _ratios(model_depth: FloatArray, measured_m: FloatArray) -> FloatImage:
    """log(measured / model) (H, W), NaN where either is unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(measured_m) & (measured_m > 0)
        known &= np.isfinite(model_depth) & (model_depth > 0)
        return np.where(known, np.log(measured_m / model_depth), np.nan).astype(np.float32)


def _cell_means(
    values: FloatArray, weight: FloatArray, stride: int
) -> tuple[FloatArray, FloatArray]:
    """Weighted means (h, w) over cells of stride x stride pixels, and the share that is known.

    The mean of the pixels between the quartiles would be more robust but slower; the fit handles
    outliers of whole cells.
    """
    height, width = values.shape
    pad = ((0, -height % stride), (0, -width % stride))
    weights = np.pad(weight, pad)
    filled = np.pad(np.where(weight > 0, values, 0.0), pad) * weights
    cells = (filled.shape[1] // stride, filled.shape[0] // stride)
    # Over whole multiples, this is the mean of each cell.
    mean, share = (
        cv2.resize(part.astype(np.float32), cells, interpolation=cv2.INTER_AREA).astype(np.float64)
        for part in (filled, weights)
    )
    share[share < 0.02] = 0.0
    return np.divide(mean, share, out=np.zeros_like(mean), where=share > 0), share


def _fitted(
    offset: FloatArray, share: FloatArray, smoothness: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Field (h, w), influence of the measurements (h, w), and the scatter that is left over.

    `smoothness` are the bands that `_smoothness` gives for this grid.
    """
    from scipy.linalg import solveh_banded  # late: a start need not wait for it

    measured = _in_a_row(share) > 0
    target = _in_a_row(offset)
    robust = np.ones(target.size)
    field = influence = np.zeros(target.size)
    for _ in range(_ROUNDS):
        data = _MEASURED_WEIGHT * _in_a_row(share) * robust
        system = smoothness.copy()
        system[0] += data + 1 / _DECAY_CELLS**2
        right = np.stack([data * target, data], axis=1)
        solved = solveh_banded(system, right, overwrite_ab=True, lower=True, check_finite=False)
        field, influence = solved[:, 0], solved[:, 1]
        residual = np.where(measured, target - field, 0.0)
        robust = 1.0 / (1.0 + (residual / _ROBUST_LOG) ** 2)
    left = 1.48 * float(np.median(np.abs(residual[measured])))
    return _on_grid(field, offset.shape), _on_grid(influence, offset.shape), left


def _held_out_error(
    offset: FloatArray, share: FloatArray, smoothness: FloatArray
) -> tuple[float, float]:
    """How wrong the field is next to measurements, found by hiding half of them, in blocks.

    Returns the error of hidden cells, and the same scaled up to cells out of reach of measurements.
    If the model's depth has the right shape, both are little more than the scatter; if it does not,
    no scale helps, and both are large. Zeros with too few measurements to hide half.
    """
    rows, columns = np.indices(offset.shape) // _HIDDEN_CELLS
    halves = (rows + columns) % 2 == 0
    errors, scaled = [], []
    for half in (halves, ~halves):
        shown, hidden = np.where(half, share, 0.0), (share > 0) & ~half
        if np.count_nonzero(shown) < MIN_FIELD_CELLS or not hidden.any():
            continue
        field, influence, _ = _fitted(offset, shown, smoothness)
        errors.append(np.abs(offset - field)[hidden])
        scaled.append(errors[-1] / np.maximum(1.0 - influence[hidden], _LEAST_UNCERTAIN))
    if not errors:
        return 0.0, 0.0
    as_it_is, beyond = (
        float(np.quantile(np.concatenate(e), _QUANTILE)) / _QUANTILE_SIGMAS
        for e in (errors, scaled)
    )
    return as_it_is, beyond


def _smoothness(log_depth: FloatArray) -> FloatArray:
    """Weighted squared steps between neighbouring cells, as the lower bands (b + 1, n) of a matrix.

    Cells are in the order of `_in_a_row`, so neighbours are 1 or b = min(h, w) apart: a direct
    solution takes n * b^2 operations.
    """
    lines = log_depth if log_depth.shape[0] >= log_depth.shape[1] else log_depth.T
    across = _coupling(np.abs(np.diff(lines, axis=1)))
    along = _coupling(np.abs(np.diff(lines, axis=0)))
    diagonal = np.zeros(lines.shape)
    diagonal[:, :-1] += across
    diagonal[:, 1:] += across
    diagonal[:-1] += along
    diagonal[1:] += along
    bands = np.zeros((lines.shape[1] + 1, lines.size))
    bands[0] = diagonal.ravel()
    bands[1] -= np.pad(across, ((0, 0), (0, 1))).ravel()
    bands[lines.shape[1]] -= np.pad(along, ((0, 1), (0, 0))).ravel()
    return bands


def _coupling(step: FloatArray) -> FloatArray:
    """How much a step of log-depth between two cells lets the field step, too."""
    weight: FloatArray = _EDGE_FLOOR + (1 - _EDGE_FLOOR) * np.exp(-((step / _EDGE_LOG) ** 2))
    return weight


def _in_a_row(cells: FloatArray) -> FloatArray:
    """The cells (h, w) as (n,), along the shorter side first."""
    return (cells if cells.shape[0] >= cells.shape[1] else cells.T).ravel()


def _on_grid(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """What `_in_a_row` put in a row, as (h, w) again."""
    rows, columns = shape
    return values.reshape(shape) if rows >= columns else values.reshape(columns, rows).T


def _enlarged(cells: FloatArray, stride: int, image_hw: tuple[int, int]) -> FloatImage:
    """A coarse grid (h, w) at all pixels, bilinear."""
    size = (cells.shape[1] * stride, cells.shape[0] * stride)
    full = cv2.resize(cells.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(full[: image_hw[0], : image_hw[1]])
