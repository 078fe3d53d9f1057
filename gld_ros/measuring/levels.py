"""What is searched, size by size: grey images with their intrinsics, and the depths to compare.

Owns the sizes, the hypotheses and the limits that the search on the CPU (`search`) and the one on a
GPU (`torch_search`) share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.measuring.frames import FloatArray, PosedImage

# The margin of a winner is taken over hypotheses that are not its direct surroundings.
EXCLUDED_PLANES = 3
# What a finer level without a minimum of its own leaves of the coarser one's curvature: costs over
# half the spacing bend a quarter as much.
LESS_SHARP = 0.25
# Of the range that is searched: a surface may lie a little beyond the farthest hypothesis.
LEAST_OF_FARTHEST = 0.25


@dataclass(frozen=True)
class _Size:
    """How one size of the pyramid is searched."""

    divisor: float  # of the finest size
    offsets: int  # hypotheses on either side of the surface so far; 0: those of `_coarsest`
    spacing: float  # between hypotheses, in spacings of the coarsest level's planes


_SIZES = (_Size(3, 0, 1.0), _Size(1.5, 2, 0.75), _Size(1, 2, 0.3))
# The farthest share of the planes is evenly spaced; of the rest every so many-th is compared, since
# what is so near moves by so many pixels that the next level finds it between two of these, too.
_DENSE_SHARE, _NEAR_STRIDE = 0.25, 3
WINDOW_RADIUS = 2  # pixels of every size


@dataclass(frozen=True, eq=False)
class GreyImage:
    """Grey values of an image at one size, with the intrinsics of that size."""

    grey: NDArray[np.float32]  # (h, w), 0..255
    K_px: FloatArray  # (3, 3), pixels of `grey`

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.grey.shape[0], self.grey.shape[1]


@dataclass(frozen=True, eq=False)
class SearchLevel:
    """The images at one size, and the inverse depths (1 / metres) that are compared there."""

    reference: GreyImage
    neighbours: tuple[GreyImage, ...]
    # (D,) rising: of the first level from the farthest surface on; of the others evenly spaced
    # around the surface that the level before found, so that windows are slanted like it.
    steps: NDArray[np.float32]


def search_levels(
    reference: PosedImage,
    neighbours: Sequence[PosedImage],
    depth_range_m: tuple[float, float],
    planes: int,
    max_image_hw: tuple[int, int],
) -> list[SearchLevel]:
    """The levels of a search, coarse to fine.

    `planes` inverse depths evenly spaced over the range would have the spacing that is used for
    the farther ones.
    """
    near_m, far_m = depth_range_m
    plane_spacing = (1.0 / near_m - 1.0 / far_m) / (planes - 1)
    levels: list[SearchLevel] = []
    for size in _SIZES:
        first, *others = (
            grey_image(frame, level_hw(frame.image_hw, max_image_hw, size.divisor))
            for frame in (reference, *neighbours)
        )
        ordinals = np.arange(-size.offsets, size.offsets + 1) if levels else _coarsest(planes)
        steps = (plane_spacing * size.spacing * ordinals).astype(np.float32)
        levels.append(SearchLevel(first, tuple(others), steps))
    return levels


def _coarsest(planes: int) -> NDArray[np.intp]:
    """Which of `planes` evenly spaced hypotheses are compared; the first and last always are."""
    dense = max(1, round(_DENSE_SHARE * planes))
    return np.array([*range(dense), *reversed(range(planes - 1, dense - 1, -_NEAR_STRIDE))])


def level_hw(image_hw: tuple[int, int], max_hw: tuple[int, int], divisor: float) -> tuple[int, int]:
    """The largest size of the image's shape within `max_hw` (never enlarged), divided."""
    scale = min(1.0, max_hw[0] / image_hw[0], max_hw[1] / image_hw[1]) / divisor
    return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


def grey_image(frame: PosedImage, hw: tuple[int, int]) -> GreyImage:
    """An image's grey values at size `hw`, averaged over areas so that nothing aliases."""
    grey = frame.grey.astype(np.float32)
    if hw != frame.image_hw:
        grey = cv2.resize(grey, (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    scale_x, scale_y = hw[1] / frame.image_hw[1], hw[0] / frame.image_hw[0]
    return GreyImage(grey, resized_intrinsics(frame.K_px, scale_x, scale_y))
