"""Photos of any size -> images the stand-alone DA3 network can take, intrinsics along.

Owns DA3's own resizing rules. Novel view synthesis crops and resizes by other rules, which are in
`gld_ros.geometry.crop_resize`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

ResizeMethod = Literal[
    "upper_bound_resize", "upper_bound_crop", "lower_bound_resize", "lower_bound_crop"
]


@dataclass(frozen=True)
class PreparedImages:
    """images: (V, H, W, 3) uint8 RGB; K_px: (V, 3, 3) float64 in pixels of `images`, or None."""

    images: np.ndarray
    K_px: np.ndarray | None


def prepare_images(
    images: Sequence[np.ndarray],
    K_px: Sequence[np.ndarray] | np.ndarray | None,
    *,
    process_res: int = 504,
    method: ResizeMethod = "upper_bound_resize",
    patch_size: int = 14,
) -> PreparedImages:
    """Resize photos (H_i, W_i, 3) uint8 RGB as DA3 does, and bring them to one common size.

    Photos that differ in size after resizing are centre-cropped to the smallest height and
    width among them. Raises ValueError for arrays that are no such photos or matrices.
    """
    if len(images) == 0:
        raise ValueError("no image given")
    if K_px is not None and len(K_px) != len(images):
        raise ValueError(f"{len(images)} images came with {len(K_px)} intrinsic matrices")
    resized = []
    for i, image in enumerate(images):
        K = None if K_px is None else np.asarray(K_px[i], dtype=np.float64)
        if K is not None and K.shape != (3, 3):
            raise ValueError(f"K_px[{i}] must have shape (3, 3), got {K.shape}")
        try:
            resized.append(
                resize_for_network(
                    image, K, process_res=process_res, method=method, patch_size=patch_size
                )
            )
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from error
    height = min(image.shape[0] for image, _ in resized)
    width = min(image.shape[1] for image, _ in resized)
    cropped = [_centre_crop(image, K, (height, width)) for image, K in resized]
    matrices = [K for _, K in cropped if K is not None]
    return PreparedImages(
        images=np.stack([image for image, _ in cropped]),
        K_px=np.stack(matrices) if matrices else None,
    )


def prepared_hw(
    sizes_hw: Sequence[tuple[int, int]], *, process_res: int, patch_size: int = 14
) -> tuple[int, int]:
    """Height and width that `prepare_images` gives photos of these sizes, by its default method."""
    sizes = [
        _whole_patches(_scaled(size_hw, process_res / max(1, *size_hw)), patch_size)
        for size_hw in sizes_hw
    ]
    return min(height for height, _ in sizes), min(width for _, width in sizes)


def resize_for_network(
    image: np.ndarray,
    K_px: np.ndarray | None,
    *,
    process_res: int = 504,
    method: ResizeMethod = "upper_bound_resize",
    patch_size: int = 14,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize one photo (H, W, 3) uint8 and its K_px (3, 3) to whole patches.

    `upper_bound_*` brings the longest side to process_res, `lower_bound_*` the shortest; then
    `*_resize` stretches each side to the nearest multiple of the patch size and `*_crop` cuts each
    down to one. Intrinsics scale with the image sides, without a half-pixel shift, as DA3 expects.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"expected an array (H, W, 3), got {getattr(image, 'shape', type(image).__name__)}"
        )
    if image.dtype != np.uint8:
        raise ValueError(f"expected uint8 RGB, got {image.dtype}")
    if method not in get_args(ResizeMethod):
        raise ValueError(f"unknown resize method {method!r}; one of {get_args(ResizeMethod)}")
    if process_res < patch_size:
        raise ValueError(
            f"process_res must be at least one patch ({patch_size}), got {process_res}"
        )
    height, width = image.shape[:2]
    if height < 1 or width < 1:
        raise ValueError(f"the image is empty: {height}x{width} pixels")

    side = max(height, width) if method.startswith("upper") else min(height, width)
    if side != process_res:
        size_hw = _scaled((height, width), process_res / side)
        image, K_px = _resize(image, K_px, size_hw, enlarge=process_res > side)
    height, width = image.shape[:2]
    if method.endswith("resize"):
        size_hw = _whole_patches((height, width), patch_size)
        if size_hw != (height, width):
            enlarge = size_hw[0] > height or size_hw[1] > width
            image, K_px = _resize(image, K_px, size_hw, enlarge=enlarge)
    else:
        size_hw = height // patch_size * patch_size, width // patch_size * patch_size
        if 0 in size_hw:
            raise ValueError(
                f"{height}x{width} pixels after scaling is less than one patch of {patch_size}; "
                "use a larger process_res or a *_resize method"
            )
        image, K_px = _centre_crop(image, K_px, size_hw)
    return image, K_px


def _scaled(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def _whole_patches(size_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """The nearest whole patches; at least one, whatever the aspect ratio."""
    height, width = ((side + patch_size // 2) // patch_size * patch_size for side in size_hw)
    return max(patch_size, height), max(patch_size, width)


def _resize(
    image: np.ndarray, K_px: np.ndarray | None, size_hw: tuple[int, int], *, enlarge: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    height, width = image.shape[:2]
    interpolation = cv2.INTER_CUBIC if enlarge else cv2.INTER_AREA
    resized = cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=interpolation)
    if K_px is not None:
        K_px = np.diag([size_hw[1] / width, size_hw[0] / height, 1.0]) @ K_px
    return resized, K_px


def _centre_crop(
    image: np.ndarray, K_px: np.ndarray | None, size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    top, left = (image.shape[0] - size_hw[0]) // 2, (image.shape[1] - size_hw[1]) // 2
    cropped = image[top : top + size_hw[0], left : left + size_hw[1]]
    if K_px is not None:
        K_px = K_px - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    return cropped, K_px
