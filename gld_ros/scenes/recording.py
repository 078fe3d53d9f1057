"""A recording: posed frames in order, loaded one by one from any storage.

Readers (folders.py, layouts.py, bags.py) make recordings; picking.py draws samples from them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FloatArray = NDArray[np.floating]


class RecordingError(ValueError):
    """A recording or one of its frames cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Frame:
    """One posed image: rgb (H, W, 3) uint8, K_px (3, 3), T_world_cam (4, 4), depth or None.

    depth_m (H, W) float32 z-depth in metres (or the recording's unit), 0 = unknown.
    """

    rgb: NDArray[np.uint8]
    K_px: FloatArray
    T_world_cam: FloatArray
    depth_m: NDArray[np.float32] | None
    stamp_ns: int


@dataclass(frozen=True)
class Recording:
    """Frames in the order they were taken; poses are in memory, images are loaded on request.

    `load(i)` raises RecordingError for a frame that cannot be read. `gap_range` limits how many
    frames may lie between neighbouring views of a sample. `dropped` counts what the reader had to
    leave out, by reason.
    """

    scene_id: str
    metric: bool
    T_world_cam: FloatArray  # (n, 4, 4)
    stamps_ns: NDArray[np.int64]
    load: Callable[[int], Frame]
    gap_range: tuple[int, int] = (1, 20)
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.T_world_cam)


def read_rgb(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8; raises RecordingError that names the file.

    `upright` turns the rows as an EXIF orientation says; intrinsics refer to the stored rows.
    """
    with readable_image(path) as image:
        turned = ImageOps.exif_transpose(image) if upright else image
        return np.array(turned.convert("RGB"))


@contextmanager
def readable_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file, not yet decoded; whatever is wrong with it is a RecordingError."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise RecordingError(f"{path} does not exist") from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RecordingError(f"{path} is not a readable image: {error}") from error


def read_depth_mm(path: Path, scale_m: float) -> NDArray[np.float32]:
    """Read a 16-bit PNG of depth as (H, W) float32; raises RecordingError that names the file."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if stored is None or stored.ndim != 2 or stored.dtype != np.uint16:
        found = "missing or unreadable" if stored is None else f"{stored.dtype} {stored.shape}"
        raise RecordingError(f"{path} is not a 16-bit depth PNG ({found})")
    return stored.astype(np.float32) * np.float32(scale_m)
