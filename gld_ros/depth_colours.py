"""Depth in colours, red near and blue far, and as an image with a scale.

Owns the colours of depth. Writing files and layout are left to the caller.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

UNKNOWN_RGB = (40, 40, 40)
PERCENTILES = (2.0, 98.0)  # of known depth; single outliers would take all colours
MIN_LONGER_SIDE_PX = 448  # smaller depth is enlarged by a whole factor
_BAR_PX, _GAP_PX, _LABEL_PX, _FONT_PX, _TICKS = 18, 10, 92, 14, 6
_INK, _PAPER = (20, 20, 20), (255, 255, 255)

RgbImage = NDArray[np.uint8]
FloatArray = NDArray[np.floating[Any]]


def depth_limits(depth: FloatArray) -> tuple[float, float]:
    """Near and far end of the colours of a depth image (H, W), in its unit.

    Not finite or <= 0 is unknown; (0, 1) where nothing is known. Near is always below far.
    """
    known = depth[_known(depth)]
    if not known.size:
        return 0.0, 1.0
    near, far = (float(value) for value in np.percentile(known, PERCENTILES))
    return near, max(far, near + 1e-3 * max(near, 1e-6))


def depth_colours(depth: FloatArray, limits: tuple[float, float] | None = None) -> RgbImage:
    """Depth (H, W) in any unit as RGB (H, W, 3): red at `limits[0]`, blue at `limits[1]`.

    `limits` None takes `depth_limits`. What is unknown (not finite or <= 0) is dark grey.
    """
    near, far = depth_limits(depth) if limits is None else limits
    known = _known(depth)
    nearness = np.clip((far - np.where(known, depth, far)) / (far - near), 0.0, 1.0)
    coloured = _turbo(nearness)
    coloured[~known] = UNKNOWN_RGB
    return coloured


def depth_with_scale(depth: FloatArray, unit: str) -> RgbImage:
    """Depth (H, W) as an RGB image with a scale next to it, labelled in `unit` ("m").

    Small depth is enlarged by a whole factor, without smoothing.
    """
    limits = depth_limits(depth)
    coloured = depth_colours(depth, limits)
    factor = max(1, -(-MIN_LONGER_SIDE_PX // max(coloured.shape[:2])))
    coloured = np.repeat(np.repeat(coloured, factor, axis=0), factor, axis=1)
    height, width = coloured.shape[:2]
    margin = _FONT_PX // 2 + 2
    size = (width + 2 * _GAP_PX + _BAR_PX + _LABEL_PX, height + 2 * margin)
    sheet = Image.new("RGB", size, _PAPER)
    sheet.paste(Image.fromarray(coloured), (0, margin))
    left = width + _GAP_PX
    bar = np.repeat(_turbo(np.linspace(1.0, 0.0, height)[:, None]), _BAR_PX, axis=1)
    sheet.paste(Image.fromarray(bar), (left, margin))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_FONT_PX)
    if not _known(depth).any():
        draw.text((left + _BAR_PX + 6, margin), "no depth", _INK, font)
        return np.asarray(sheet)
    digits = _digits(limits[1] - limits[0])
    ticks = max(2, min(_TICKS, height // (2 * _FONT_PX)))
    for share in np.linspace(0.0, 1.0, ticks):
        y = margin + round(share * (height - 1))
        value = limits[0] + share * (limits[1] - limits[0])
        draw.line([(left + _BAR_PX, y), (left + _BAR_PX + 4, y)], _INK)
        label = f"{value:.{digits}f} {unit}"
        draw.text((left + _BAR_PX + 7, y), label, _INK, font, anchor="lm")
    return np.asarray(sheet)


def _known(depth: FloatArray) -> NDArray[np.bool_]:
    return np.isfinite(depth) & (depth > 0)


def _turbo(values: FloatArray) -> RgbImage:
    """Values in [0, 1] as RGB."""
    byte = np.round(255 * values).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(byte, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB))


def _digits(span: float) -> int:
    """Decimals that keep the ticks of a scale of this span apart."""
    return int(np.clip(np.ceil(1.0 - np.log10(max(span, 1e-9))), 0, 6))
