"""One image with a row per withheld view: truth, prediction, errors and baselines.

Hidden pixels are tinted red in their column; depth has the colours of `depth_colours`, in the range
of its row's truth; errors are doubled so that small ones are visible.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gld_ros.depth_colours import depth_colours, depth_limits
from gld_ros.evaluation import methods
from gld_ros.evaluation.examples import Example
from gld_ros.mapping.provenance_colours import provenance_colours

CAPTION_PX, GAP_PX, MIN_CELL_WIDTH_PX = 16, 4, 168
ERROR_GAIN = 2.0
_INK, _FAINT, _PAPER = (235, 235, 235), (165, 165, 165), (24, 24, 28)
_HIDDEN = np.array([1.0, 0.15, 0.15])
_LEGEND = (
    "Depth: red is near, blue far. Red in 'hidden': no reference sees it. "
    "Provenance: green corroborated, orange hallucinated, red contradicted."
)
_COLOUR_TITLES = {
    methods.GENERATED: "generated",
    methods.GENERATED_SHOWN: "shown measured",
    methods.ONE_STEP: "one step",
    methods.SHUFFLED: "shuffled poses",
    methods.COPY: "copy nearest",
    methods.WARP: "warp + fill",
}

RgbImage = NDArray[np.uint8]


def image_grid(examples: Sequence[Example], heading: str) -> RgbImage:
    """Draw examples as one RGB image (H, W, 3); raises ValueError when there are none."""
    if not examples:
        raise ValueError("no withheld view was kept, so there is nothing to draw")
    rows = [_cells(example) for example in examples]
    height, width = examples[0].colours["truth"].shape[-2:]
    scale = max(1, -(-MIN_CELL_WIDTH_PX // width))
    cell_h, cell_w = height * scale, width * scale
    columns = max(len(row) for row in rows)
    row_h = cell_h + 2 * CAPTION_PX + GAP_PX
    sheet_w = max(columns * (cell_w + GAP_PX) + GAP_PX, 640)
    sheet = Image.new("RGB", (sheet_w, row_h * len(rows) + CAPTION_PX + GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    draw.text((GAP_PX, 2), f"{heading}. {_LEGEND}", _FAINT, font)
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        top = CAPTION_PX + GAP_PX + number * row_h
        draw.text((GAP_PX, top), example.title, _FAINT, font)
        for column, (title, rgb) in enumerate(row):
            left = GAP_PX + column * (cell_w + GAP_PX)
            draw.text((left, top + CAPTION_PX), title, _INK, font)
            image = Image.fromarray(rgb).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(image, (left, top + 2 * CAPTION_PX))
    return np.asarray(sheet)


def _cells(example: Example) -> list[tuple[str, RgbImage]]:
    """The titled images of one row; the same columns wherever the data has the same."""
    truth = _array(example.colours["truth"])
    cells = [(f"reference {i + 1}", _bytes(_array(r))) for i, r in enumerate(example.references)]
    cells.append(("truth (withheld)", _bytes(truth)))
    for name in (methods.GENERATED, methods.GENERATED_SHOWN, methods.ONE_STEP):
        if name in example.colours:
            cells.append(_coloured(example, name))
    error = np.abs(_array(example.colours[methods.GENERATED]) - truth).mean(-1)
    cells.append((f"|error| x {ERROR_GAIN:g}", _heat(np.clip(ERROR_GAIN * error, 0, 1))))
    limits = depth_limits(example.depths.get("truth", example.depths[methods.GENERATED]).numpy())
    for name, title in ((methods.GENERATED, "generated depth"), ("truth", "true depth")):
        if name in example.depths:
            cells.append((title, depth_colours(example.depths[name].numpy(), limits)))
    if example.hidden is not None:
        hidden = example.hidden.numpy()
        cells.append((f"hidden {hidden.mean():.0%}", _tinted(truth, hidden)))
    if example.provenance is not None:
        cells.append(("provenance", provenance_colours(example.provenance)))
    for name in (methods.COPY, methods.WARP, methods.SHUFFLED):
        if name in example.colours:
            cells.append(_coloured(example, name))
    return cells


def _coloured(example: Example, name: str) -> tuple[str, RgbImage]:
    title = f"{_COLOUR_TITLES[name]} {example.psnr[name]:.1f} dB"
    return title, _bytes(_array(example.colours[name]))


def _array(rgb: Tensor) -> NDArray[np.floating[Any]]:
    return rgb.permute(1, 2, 0).clamp(0, 1).numpy()


def _bytes(rgb: NDArray[np.floating[Any]]) -> RgbImage:
    return np.round(255 * rgb).astype(np.uint8)


def _heat(values: NDArray[np.floating[Any]]) -> RgbImage:
    bgr = cv2.applyColorMap(_bytes(values), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _tinted(rgb: NDArray[np.floating[Any]], hidden: NDArray[np.bool_]) -> RgbImage:
    tinted = np.where(hidden[..., None], 0.35 * rgb + 0.65 * _HIDDEN, rgb)
    return _bytes(tinted)
