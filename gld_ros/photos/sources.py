"""Photos from files, folders, arrays or PIL images; a file is decoded when its pixels are used."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from gld_ros.bags.reader import IMAGE_SUFFIXES
from gld_ros.scenes.recording import read_rgb, readable_image

Source = str | Path | NDArray[np.uint8] | Image.Image
ImageHw = tuple[int, int]

_LYING_DOWN = range(5, 9)  # EXIF orientations that exchange height and width


class Photos(Sequence[NDArray[np.uint8]]):
    """Images (H, W, 3) uint8 RGB, of which files are decoded anew at each access.

    So any number of photos takes no more memory than one. `names` are for finding them again,
    `sizes_hw` are known without decoding.
    """

    def __init__(
        self, sources: Sequence[Path | NDArray[np.uint8]], names: Sequence[str], upright: bool
    ) -> None:
        """Read the headers of files; raises RecordingError for a file that is no image."""
        self.names = tuple(names)
        self._sources, self._upright = sources, upright
        self.sizes_hw: list[ImageHw] = [
            _stored_hw(s, upright) if isinstance(s, Path) else s.shape[:2] for s in sources
        ]

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Return a photo; raises RecordingError for a file whose image is damaged."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        source = self._sources[index]
        return read_rgb(source, upright=self._upright) if isinstance(source, Path) else source


def open_photos(images: Source | Iterable[Source], *, upright: bool = True) -> Photos:
    """Open photos; a folder stands for the image files in it, by name.

    images: one of, or several of: a file, a folder, an array (H, W, 3) uint8 RGB, an array
    (V, H, W, 3), a PIL image. `upright` turns files and PIL images as their EXIF orientation says.
    Raises ValueError for what is none of these, cannot be read, or holds no image.
    """
    single = isinstance(images, str | Path | np.ndarray | Image.Image)
    given: Any = [images] if single else images
    named = [pair for i, source in enumerate(given) for pair in _named(source, i, upright)]
    if not named:
        raise ValueError("no image given; give image files, a folder, arrays or PIL images")
    names, sources = zip(*named, strict=True)
    return Photos(sources, names, upright)


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


def _named(
    source: Any, index: int, upright: bool
) -> Iterator[tuple[str, Path | NDArray[np.uint8]]]:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        _require_no_heic([path])
        for file in image_files(path) if path.is_dir() else [path]:
            yield file.name, file
    elif isinstance(source, Image.Image):
        turned = ImageOps.exif_transpose(source) if upright else source
        yield f"image_{index}", np.array(turned.convert("RGB"))
    elif isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (3, 4) or source.shape[-1] != 3:
            raise ValueError(
                f"image {index} is an array {source.shape} {source.dtype}; (H, W, 3) or "
                "(V, H, W, 3) uint8 RGB is needed"
            )
        if source.ndim == 3:
            yield f"image_{index}", source
        else:
            yield from ((f"image_{index}_{v}", rgb) for v, rgb in enumerate(source))
    else:
        raise ValueError(
            f"image {index} is a {type(source).__name__}; a path, an array or a PIL image is needed"
        )


def _stored_hw(path: Path, upright: bool) -> ImageHw:
    with readable_image(path) as image:
        width, height = image.size
        turned = upright and image.getexif().get(ExifTags.Base.Orientation) in _LYING_DOWN
    return (width, height) if turned else (height, width)
