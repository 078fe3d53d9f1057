"""Videos of views: the view next to its provenance in colours, as GIF, WebM and MP4."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.provenance_colours import PROVENANCE_COLOURS

TINT = 0.45  # of a label's colour in a tinted pixel
MAX_GIF_WIDTH = 960
STRIP_HEIGHT = 22
_SHOWN = (
    (Provenance.MEASURED, "measured"),
    (Provenance.CORROBORATED, "corroborated"),
    (Provenance.HALLUCINATED, "hallucinated"),
    (Provenance.CONTRADICTED, "contradicted"),
    (Provenance.UNKNOWN, "no depth"),
)
_CODECS = {".webm": "VP80", ".mp4": "mp4v"}  # browsers play the first, not the second
_PALETTE_FRAMES = 12  # that share the colours of a GIF

RgbImage = NDArray[np.uint8]


def tinted(image: RgbImage, provenance: NDArray[np.uint8]) -> RgbImage:
    """An image (H, W, 3) whose imagined pixels are tinted by label; measured ones stay."""
    table = np.zeros((256, 3), np.float32)
    for label, colour in PROVENANCE_COLOURS.items():
        table[label] = colour
    mixed = (1 - TINT) * image + TINT * table[provenance]
    measured = (provenance == Provenance.MEASURED)[..., None]
    return np.where(measured, image, mixed.round()).astype(np.uint8)


def shares(provenance: NDArray[np.uint8]) -> dict[str, float]:
    """How much of a view (H, W) each label covers, by its name."""
    return {name: float((provenance == label).mean()) for label, name in _SHOWN}


def video_frame(image: RgbImage, provenance: NDArray[np.uint8]) -> RgbImage:
    """The view, and beside it the view tinted, above the shares of its labels."""
    pair = np.concatenate([image, tinted(image, provenance)], axis=1)
    height, width = pair.shape[:2]
    frame = np.full((height + STRIP_HEIGHT, width, 3), 255, np.uint8)
    frame[:height] = pair
    column = width / len(_SHOWN)
    for i, (label, name) in enumerate(_SHOWN):
        left, share = round(i * column) + 6, shares(provenance)[name]
        top_left, bottom_right = (left, height + 6), (left + 10, height + 16)
        cv2.rectangle(frame, top_left, bottom_right, PROVENANCE_COLOURS[label], -1)
        cv2.rectangle(frame, top_left, bottom_right, (20, 20, 20), 1)
        size = min(0.42, column / 340)
        text, at = f"{name} {share:.0%}", (left + 16, height + 16)
        cv2.putText(frame, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (20, 20, 20), 1, cv2.LINE_AA)
    return frame


def write_gif(frames: Sequence[RgbImage], path: Path, rate_hz: float) -> None:
    """Write frames (H, W, 3) as a GIF that repeats; wider ones are made smaller."""
    height, width = frames[0].shape[:2]
    scale = min(1.0, MAX_GIF_WIDTH / width)
    hw = round(width * scale), round(height * scale)
    small = [cv2.resize(f, hw, interpolation=cv2.INTER_AREA) if scale < 1 else f for f in frames]
    # One set of colours for all frames: their own would flicker.
    chosen = small[:: max(1, len(small) // _PALETTE_FRAMES)]
    palette = Image.fromarray(np.concatenate(chosen)).quantize(256)
    images = [Image.fromarray(f).quantize(palette=palette) for f in small]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=round(1000 / rate_hz), loop=0
    )


def write_video(frames: Sequence[RgbImage], path: Path, rate_hz: float) -> str:
    """Write frames (H, W, 3) as .webm (VP8) or .mp4 (MPEG-4); a sentence when OpenCV cannot."""
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    code = cv2.VideoWriter.fourcc(*_CODECS[path.suffix])
    writer = cv2.VideoWriter(str(path), code, rate_hz, (width, height))
    if not writer.isOpened():
        path.unlink(missing_ok=True)
        return f"this OpenCV was built without the codec of {path.suffix}: no {path.name}"
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:height, :width, ::-1]))
    writer.release()
    return ""
