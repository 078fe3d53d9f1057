"""Images of any size to the model's grid and back, with exact intrinsics.

Owns two mappings. `gld_crop_resize` is the official one (whole-pixel crops), for data prepared as
the published model saw it. The pipeline uses the other functions: windows with fractional edges, so
that a model grid and an image grid differ by a scale and a shift per axis and nothing else. What
an image does not cover is NaN (confidence: 0); nothing is ever stretched.

Images are numpy arrays (H, W, ...); K_px is (3, 3) with pixel centres at integers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ImageHw = tuple[int, int]
Array = NDArray[np.generic]
FloatArray = NDArray[np.floating]

# A principal point this near to the middle (fraction of the size) needs no recentring crop.
CENTRED_WITHIN = 0.02
# Recentring on a principal point nearer to the border than this would throw most pixels away.
BORDER_FRACTION = 0.2
# Neighbouring depths within this ratio are one surface and are interpolated.
SAME_SURFACE_RATIO = 1.1
_EDGE_TOLERANCE_PX = 1e-3  # of a source pixel; the resampler's own coordinates are float32


def resized_intrinsics(K_px: FloatArray, scale_x: float, scale_y: float) -> FloatArray:
    """`K_px` after resizing by new/old size per axis: image edges stay edges."""
    K = np.array(K_px, dtype=np.float64)
    K[0] *= scale_x
    K[1] *= scale_y
    # Pixel centres are integers, so an edge lies at -0.5.
    K[0, 2] += 0.5 * scale_x - 0.5
    K[1, 2] += 0.5 * scale_y - 0.5
    return K


def gld_crop_resize(
    image: NDArray[np.uint8], K_px: FloatArray, target_hw: ImageHw
) -> tuple[NDArray[np.uint8], FloatArray]:
    """The official crop and resize: image (h, w, 3) uint8 of `target_hw` and its `K_px`.

    K keeps its precision (the official code works in float32). Crops symmetrically about the
    rounded principal point, resizes to cover the target (Lanczos down, bicubic up), crops the
    middle. Raises ValueError when the principal point leaves nothing.
    """
    target_h, target_w = target_hw
    K = K_px.copy()
    height, width = image.shape[:2]
    centre_x, centre_y = round(float(K[0, 2])), round(float(K[1, 2]))
    margin_x = min(centre_x, width - centre_x)
    margin_y = min(centre_y, height - centre_y)
    if margin_x < 1 or margin_y < 1:
        raise ValueError(
            f"principal point ({K[0, 2]}, {K[1, 2]}) lies outside the {width}x{height} image; "
            "a crop that is symmetric about it is empty"
        )
    left, top = centre_x - margin_x, centre_y - margin_y
    image = image[top : top + 2 * margin_y, left : left + 2 * margin_x]
    K[0, 2] -= left
    K[1, 2] -= top

    size = np.array([2 * margin_x, 2 * margin_y])
    scale = float(max(target_w / size[0], target_h / size[1])) + 1e-8
    resized = np.floor(size * scale).astype(int)
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    resized_image = Image.fromarray(image).resize((int(resized[0]), int(resized[1])), method)
    K = _middle_of(K, size, resized, scale)

    cropped = np.array([target_w, target_h])
    middle = _middle_of(K, resized, cropped, 1.0)
    left, top = (int(v) for v in np.round(K[:2, 2] - middle[:2, 2]))
    resized_image = resized_image.crop((left, top, left + target_w, top + target_h))
    K[0, 2] -= left
    K[1, 2] -= top
    return np.asarray(resized_image), K


def _middle_of(
    K_px: FloatArray, size: NDArray[np.int_], new_size: NDArray[np.int_], scale: float
) -> FloatArray:
    """K after scaling an image of `size` (w, h) and keeping the middle `new_size` of it."""
    K = K_px.copy()
    K[:2, 2] += 0.5
    K[:2] *= scale
    K[:2, 2] -= 0.5 * (size * scale - new_size)
    K[:2, 2] -= 0.5
    return K


def model_intrinsics_inside(
    K_px: FloatArray, image_hw: ImageHw, model_hw: ImageHw
) -> NDArray[np.float64]:
    """`K_px` on the model grid such that the grid lies INSIDE a given image: for references.

    The largest window of the model's aspect, centred on the principal point unless that is so near
    to a border that most of the image would be lost; then, or when it is almost centred anyway,
    on the image's middle.
    """
    windows = [_window(c, n, inside=True) for c, n in _axes(K_px, image_hw)]
    sizes = [high - low for low, high in windows]
    scale = max(model / size for model, size in zip(model_hw[::-1], sizes, strict=True))
    return _place(K_px, windows, scale, model_hw)


def model_intrinsics_around(
    K_px: FloatArray, image_hw: ImageHw, model_hw: ImageHw
) -> NDArray[np.float64]:
    """`K_px` on the model grid such that the grid CONTAINS a wanted image: for targets.

    The smallest window that contains the image, centred like that of the references; the image
    is a crop and resize of the model grid, whatever its aspect.
    """
    windows = [_window(c, n, inside=False) for c, n in _axes(K_px, image_hw)]
    sizes = [high - low for low, high in windows]
    scale = min(model / size for model, size in zip(model_hw[::-1], sizes, strict=True))
    return _place(K_px, windows, scale, model_hw)


def choose_model_hw(
    candidates_hw: Sequence[ImageHw],
    references: Sequence[tuple[FloatArray, ImageHw]],
    targets: Sequence[tuple[FloatArray, ImageHw]],
) -> ImageHw:
    """The candidate whose aspect fits the images (K_px, size) best; earlier ones win ties."""
    windows = [
        [_window(c, n, inside=inside) for c, n in _axes(K_px, image_hw)]
        for inside, images in ((True, references), (False, targets))
        for K_px, image_hw in images
    ]
    aspects = [(x[1] - x[0]) / (y[1] - y[0]) for x, y in windows]
    costs = [
        sum(abs(math.log(width / height / aspect)) for aspect in aspects) / len(aspects)
        for height, width in candidates_hw
    ]
    best = min(costs)
    return next(hw for hw, cost in zip(candidates_hw, costs, strict=True) if cost <= best + 0.02)


def resample_image(
    image: Array, K_from_px: FloatArray, K_to_px: FloatArray, to_hw: ImageHw
) -> NDArray[np.float32]:
    """Image (H, W, C) seen on another grid of the same camera: (h, w, C) float32, NaN outside.

    uint8 becomes [0, 1]; floats keep their unit and range (bicubic overshoot is cut at the range of
    the input). Filtered where it shrinks. Raises ValueError when the two K are not related by a
    scale and a shift per axis.
    """
    (scale_x, shift_x), (scale_y, shift_y) = _axis_maps(K_from_px, K_to_px)
    height, width = image.shape[:2]
    columns = _covered(scale_x, shift_x, width, to_hw[1])
    rows = _covered(scale_y, shift_y, height, to_hw[0])
    out = np.full((*to_hw, image.shape[2]), np.nan, dtype=np.float32)
    if len(rows) == 0 or len(columns) == 0:
        return out
    left, right = _box(columns, scale_x, shift_x, width)
    top, bottom = _box(rows, scale_y, shift_y, height)
    box = (left, top, right, bottom)
    source = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)
    part = out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    for channel in range(image.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(source[..., channel]))
        resized = plane.resize((len(columns), len(rows)), Image.Resampling.BICUBIC, box=box)
        part[..., channel] = np.asarray(resized)
    whole = np.float32(255 if image.dtype == np.uint8 else 1)
    np.clip(part, image.min() / whole, image.max() / whole, out=part)
    return out


def resample_depth(
    depth: FloatArray, K_from_px: FloatArray, K_to_px: FloatArray, to_hw: ImageHw
) -> NDArray[np.float32]:
    """z-depth (H, W) on another grid of the same camera: (h, w) float32, NaN outside.

    Inverse depth is linear across a plane's image, so it is what is interpolated, and only where
    the four neighbours are one surface; elsewhere the nearest value is taken, so that no depth
    appears between an object and what is behind it.
    """
    out = np.full(to_hw, np.nan, dtype=np.float32)
    taps = _bilinear_taps(depth.shape, K_from_px, K_to_px, to_hw)
    if taps is None:
        return out
    y, x = taps
    with np.errstate(invalid="ignore", divide="ignore"):
        smooth = 1 / _bilinear(1 / depth.astype(np.float64), y, x)
        one_surface = _one_surface(depth, y, x)
    nearest = depth[y.nearest].take(x.nearest, axis=1)
    out[y.covered, x.covered] = np.where(one_surface, smooth, nearest)
    return out


def resample_confidence(
    confidence: FloatArray, K_from_px: FloatArray, K_to_px: FloatArray, to_hw: ImageHw
) -> NDArray[np.float32]:
    """Confidence (H, W) on another grid of the same camera: bilinear (h, w) float32, 0 outside."""
    out = np.zeros(to_hw, dtype=np.float32)
    taps = _bilinear_taps(confidence.shape, K_from_px, K_to_px, to_hw)
    if taps is not None:
        y, x = taps
        out[y.covered, x.covered] = _bilinear(confidence, y, x)
    return out


def rescale_intrinsics(
    K_px: FloatArray, K_from_px: FloatArray, K_to_px: FloatArray
) -> NDArray[np.float64]:
    """`K_px` (3, 3), given on the grid of `K_from_px`, on the grid of `K_to_px`."""
    moved = np.asarray(K_px, dtype=np.float64).copy()
    for axis, (scale, shift) in enumerate(_axis_maps(K_from_px, K_to_px)):
        moved[axis] /= scale
        moved[axis, 2] -= shift / scale
    return moved


def _axes(K_px: FloatArray, image_hw: ImageHw) -> tuple[tuple[float, int], tuple[float, int]]:
    """Per axis (x, y): principal point measured from the image's edge, and size."""
    return (float(K_px[0, 2]) + 0.5, image_hw[1]), (float(K_px[1, 2]) + 0.5, image_hw[0])


def _window(centre: float, size: int, *, inside: bool) -> tuple[float, float]:
    """Window (low, high) from the edge, symmetric about `centre` where that is sensible."""
    off_centre = abs(centre - size / 2) / size
    if off_centre <= CENTRED_WITHIN or off_centre > 0.5 - BORDER_FRACTION:
        return 0.0, float(size)
    to_near, to_far = sorted((centre, size - centre))
    half = to_near if inside else to_far
    return centre - half, centre + half


def _place(
    K_px: FloatArray, windows: Sequence[tuple[float, float]], scale: float, model_hw: ImageHw
) -> NDArray[np.float64]:
    K = np.asarray(K_px, dtype=np.float64).copy()
    for axis, (low, high) in enumerate(windows):
        offset = K[axis, 2] + 0.5 - (low + high) / 2
        K[axis] *= scale
        K[axis, 2] = offset * scale + model_hw[1 - axis] / 2 - 0.5
    return K


def _axis_maps(
    K_from_px: FloatArray, K_to_px: FloatArray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Per axis (scale, shift) with pixel_from = scale * pixel_to + shift."""
    K_from, K_to = np.asarray(K_from_px, np.float64), np.asarray(K_to_px, np.float64)
    scale_x, scale_y = K_from[0, 0] / K_to[0, 0], K_from[1, 1] / K_to[1, 1]
    if abs(K_from[0, 1] - scale_x * K_to[0, 1]) > 1e-6 * K_from[0, 0]:
        raise ValueError(
            f"intrinsics {K_from.tolist()} and {K_to.tolist()} differ in skew; a crop and resize "
            "cannot turn one into the other"
        )
    return (
        (float(scale_x), float(K_from[0, 2] - scale_x * K_to[0, 2])),
        (float(scale_y), float(K_from[1, 2] - scale_y * K_to[1, 2])),
    )


def _covered(scale: float, shift: float, size_from: int, size_to: int) -> NDArray[np.int_]:
    """The consecutive pixels of the new axis whose whole footprint lies on the old one."""
    pixels = np.arange(size_to)
    low = scale * (pixels - 0.5) + shift
    high = scale * (pixels + 0.5) + shift
    inside = (low >= -0.5 - _EDGE_TOLERANCE_PX) & (high <= size_from - 0.5 + _EDGE_TOLERANCE_PX)
    return pixels[inside]


def _box(
    pixels: NDArray[np.int_], scale: float, shift: float, size_from: int
) -> tuple[float, float]:
    """Edges of the old axis, measured from its border, that consecutive new pixels cover."""
    low = scale * (float(pixels[0]) - 0.5) + shift + 0.5
    high = scale * (float(pixels[-1]) + 0.5) + shift + 0.5
    # Removes rounding only: `_covered` keeps footprints that stay on the old axis.
    low, high = (round(edge) if abs(edge - round(edge)) < 1e-6 else edge for edge in (low, high))
    return max(low, 0.0), min(high, float(size_from))


@dataclass(frozen=True)
class _Taps:
    """What the pixels of one new axis take from the old one.

    covered: the new pixels that have any. low, high: their neighbours on the old axis; part: the
    weight of the higher one.
    """

    covered: slice
    low: NDArray[np.int_]
    high: NDArray[np.int_]
    part: NDArray[np.float64]

    @property
    def nearest(self) -> NDArray[np.int_]:
        """The neighbour that weighs more, the lower one of equals."""
        return np.where(self.part > 0.5, self.high, self.low)


def _bilinear_taps(
    from_hw: tuple[int, ...], K_from_px: FloatArray, K_to_px: FloatArray, to_hw: ImageHw
) -> tuple[_Taps, _Taps] | None:
    """Taps of rows and of columns; None where nothing is covered."""
    (scale_x, shift_x), (scale_y, shift_y) = _axis_maps(K_from_px, K_to_px)
    columns = _covered(scale_x, shift_x, from_hw[1], to_hw[1])
    rows = _covered(scale_y, shift_y, from_hw[0], to_hw[0])
    if len(rows) == 0 or len(columns) == 0:
        return None
    return (
        _taps(rows, scale_y * rows + shift_y, from_hw[0]),
        _taps(columns, scale_x * columns + shift_x, from_hw[1]),
    )


def _taps(pixels: NDArray[np.int_], position: FloatArray, size: int) -> _Taps:
    """Taps of consecutive new pixels, which lie at these positions of the old axis."""
    position = np.clip(position, 0, size - 1)
    nearest = np.round(position)
    position = np.where(np.abs(position - nearest) < 1e-6, nearest, position)
    low = np.floor(position).astype(int)
    covered = slice(int(pixels[0]), int(pixels[-1]) + 1)
    return _Taps(covered, low, np.minimum(low + 1, size - 1), position - low)


def _bilinear(values: FloatArray, y: _Taps, x: _Taps) -> NDArray[np.float32]:
    """Values (H, W) at the taps, float32: along y first, where rows are short when it grows."""
    part_y, part_x = y.part[:, None], x.part.astype(np.float32)
    rows = (values[y.low] * (1 - part_y) + values[y.high] * part_y).astype(np.float32)
    mixed: NDArray[np.float32] = rows.take(x.low, axis=1)
    mixed *= 1 - part_x
    higher = rows.take(x.high, axis=1)
    higher *= part_x
    mixed += higher
    return mixed


def _one_surface(depth: FloatArray, y: _Taps, x: _Taps) -> NDArray[np.bool_]:
    """Whether all four neighbours at the taps are one surface."""
    upper, lower = depth[y.low], depth[y.high]
    least, most = np.minimum(upper, lower), np.maximum(upper, lower)
    # Of neighbouring columns of the old axis: fewer than those of a new one that grows.
    right = np.minimum(np.arange(depth.shape[1]) + 1, depth.shape[1] - 1)
    least = np.minimum(least, least[:, right]).astype(np.float64)
    most = np.maximum(most, most[:, right])
    same: NDArray[np.bool_] = (least > 0) & (most <= SAME_SURFACE_RATIO * least)
    return same.take(x.low, axis=1)
