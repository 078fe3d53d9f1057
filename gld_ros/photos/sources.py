"""Photos from files, folders, arrays or PIL images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gld_ros.bags.reader import IMAGE_SUFFIXES
from gld_ros.scenes.recording import read_rgb

Source = str | Path | NDArray[np.uint8] | Image.Image


@dataclass(frozen=True, eq=False)
class Photo:
    """One image (H, W, 3) uint8 RGB, and a name to find it again by."""

    name: str
    rgb: NDArray[np.uint8]


def load_photos(images: Source | Iterable[Source], *, upright: bool = True) -> list[Photo]:
    """Read photos; a folder stands for the image files in it, by name.

    images: one of, or several of: a file, a folder, an array (H, W, 3) uint8 RGB, an array
    (V, H, W, 3), a PIL image. `upright` turns files and PIL images as their EXIF orientation says.
    Raises ValueError for what is none of these, cannot be read, or holds no image.
    """
    single = isinstance(images, str | Path | np.ndarray | Image.Image)
    sources: Any = [images] if single else images
    photos = [p for i, s in enumerate(sources) for p in _read(s, i, upright)]
    if not photos:
        raise ValueError("no image given; give image files, a folder, arrays or PIL images")
    return photos


def image_files(folder: Path) -> Sequence[Path]:
    """The image files directly in a folder, by name; ValueError when there are none."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        _require_no_heic(folder.iterdir())
        raise ValueError(
            f"{folder} holds no image files ({', '.join(IMAGE_SUFFIXES)}); give a folder of "
            "images, or the files themselves"
        )
    return found


def _require_no_heic(paths: Iterable[Path]) -> None:
    """Raise ValueError for the format of telephones, which Pillow does not read by itself."""
    for path in paths:
        if path.suffix.lower() in (".heic", ".heif"):
            raise ValueError(
                f"{path} is a HEIC image, which cannot be read; convert it to JPEG, for example "
                "with `heif-convert` (apt install libheif-examples) or on the telephone"
            )


def _read(source: Any, index: int, upright: bool) -> Iterator[Photo]:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        _require_no_heic([path])
        for file in image_files(path) if path.is_dir() else [path]:
            yield Photo(file.name, read_rgb(file, upright=upright))
    elif isinstance(source, Image.Image):
        turned = ImageOps.exif_transpose(source) if upright else source
        yield Photo(f"image_{index}", np.array(turned.convert("RGB")))
    elif isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (3, 4) or source.shape[-1] != 3:
            raise ValueError(
                f"image {index} is an array {source.shape} {source.dtype}; (H, W, 3) or "
                "(V, H, W, 3) uint8 RGB is needed"
            )
        if source.ndim == 3:
            yield Photo(f"image_{index}", source)
        else:
            yield from (Photo(f"image_{index}_{v}", rgb) for v, rgb in enumerate(source))
    else:
        raise ValueError(
            f"image {index} is a {type(source).__name__}; a path, an array or a PIL image is needed"
        )
