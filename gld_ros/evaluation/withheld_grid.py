"""One image of withheld views: rows of labelled cells; depth and provenance in colours."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.depth_colours import depth_colours
from gld_ros.mapping.provenance_colours import provenance_colours

CELL_HW = (168, 224)
LABEL_HEIGHT = 20
LEGEND = (
    "provenance: white measured, green corroborated, orange hallucinated, red contradicted, "
    "grey unknown. "
)

RgbImage = NDArray[np.uint8]


def write_cells(rows: Sequence[Sequence[RgbImage]], path: Path, title: str) -> None:
    """Write rows of cells as one image file, under a title."""
    lines = [np.concatenate(cells, axis=1) for cells in rows]
    width = max(line.shape[1] for line in lines)
    padded = [
        np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in lines
    ]
    banner = np.full((LABEL_HEIGHT + 8, width, 3), 255, np.uint8)
    _text(banner, LEGEND + title, (6, 18))
    cv2.imwrite(str(path), np.concatenate([banner, *padded])[..., ::-1])


def cell(image: RgbImage, label: str) -> RgbImage:
    """An image (H, W, 3), fitted into a cell under its label."""
    height, width = CELL_HW
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    whole = np.full((height + LABEL_HEIGHT, width, 3), 255, np.uint8)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    whole[LABEL_HEIGHT : LABEL_HEIGHT + size[1], : size[0]] = small
    _text(whole, label, (4, 14))
    return whole


def _text(image: RgbImage, text: str, origin: tuple[int, int]) -> None:
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)


def depth_or_note(depth_m: NDArray[np.float32] | None) -> RgbImage:
    """Depth (H, W) in the colours of `depth_colours`, or a note where there is none."""
    if depth_m is None or not np.isfinite(depth_m).any():
        return _note("withheld")
    return depth_colours(depth_m)


def provenance_or_note(labels: NDArray[np.uint8] | None) -> RgbImage:
    """Labels (H, W) of `Provenance` as the colours of LEGEND, or a note where there are none."""
    return _note("no message") if labels is None else provenance_colours(labels)


def _note(text: str) -> RgbImage:
    panel = np.full((*CELL_HW, 3), 225, np.uint8)
    _text(panel, text, (70, 90))
    return panel
