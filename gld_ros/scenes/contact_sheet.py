"""An image of many samples at a glance: colours above depth, captioned with what is visible."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gld_ros.depth_colours import depth_colours

CAPTION_PX = 15
GAP_PX = 3
_INK, _FAINT, _PAPER = (235, 235, 235), (160, 160, 160), (24, 24, 28)


def contact_sheet(
    samples: Mapping[str, Any], *, scale: int = 1, scenes_per_row: int = 1
) -> NDArray[np.uint8]:
    """Draw a batched sample dictionary as one RGB image (H, W, 3).

    Every scene is a block: its views side by side, depth below (red is near; the same range for
    all scenes), each captioned with its role and the fraction of its pixels that the references
    see. `scale` enlarges by whole factors.
    """
    images = samples["images"].permute(0, 1, 3, 4, 2).clamp(0, 1).cpu().numpy()
    depth_m = samples["depth_m"].cpu().numpy() if "depth_m" in samples else None
    num_scenes, num_views, height, width = images.shape[:4]
    far_m = float(np.percentile(depth_m[depth_m > 0], 99)) if depth_m is not None else 0.0
    cell_h, cell_w = height * scale, width * scale
    rows = 1 if depth_m is None else 2
    block_h = CAPTION_PX + rows * (cell_h + GAP_PX) + 2 * GAP_PX
    block_w = num_views * (cell_w + GAP_PX) + 2 * GAP_PX
    num_rows = -(-num_scenes // scenes_per_row)
    header = CAPTION_PX + GAP_PX
    size = (block_w * min(scenes_per_row, num_scenes), header + block_h * num_rows)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    legend = f"{num_scenes} scenes x {num_views} views, {width} x {height} px"
    if depth_m is not None:
        legend += f"; depth 0 m (red) to {far_m:.1f} m (blue)"
    draw.text((GAP_PX, 2), legend, _FAINT, font)
    for b in range(num_scenes):
        left = (b % scenes_per_row) * block_w + GAP_PX
        top = header + (b // scenes_per_row) * block_h
        for v in range(num_views):
            x = left + v * (cell_w + GAP_PX)
            draw.text((x, top + 1), _caption(samples, b, v), _INK, font)
            image = np.round(255 * images[b, v]).astype(np.uint8)
            y = top + CAPTION_PX
            sheet.paste(_enlarged(image, scale), (x, y))
            if depth_m is not None:
                shown = depth_colours(depth_m[b, v], (0.0, far_m))
                sheet.paste(_enlarged(shown, scale), (x, y + cell_h + GAP_PX))
    return np.asarray(sheet)


def _caption(samples: Mapping[str, Any], scene: int, view: int) -> str:
    words = [samples["scene_id"][scene].rpartition("/")[2]] if view == 0 else []
    if view in samples.get("reference_views", ()):
        words.append("reference")
    elif "visible_fraction" in samples:
        words.append(f"{100 * float(samples['visible_fraction'][scene, view]):.0f} % seen")
    return "  ".join(words)


def _enlarged(rgb: NDArray[np.uint8], scale: int) -> Image.Image:
    height, width = rgb.shape[:2]
    size = (width * scale, height * scale)
    return Image.fromarray(rgb).resize(size, Image.Resampling.NEAREST)
