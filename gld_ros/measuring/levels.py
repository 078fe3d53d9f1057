"""Images at the sizes that depth is searched at: grey values and intrinsics, coarse to fine."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.measuring.frames import FloatArray, PosedImage


@dataclass(frozen=True, eq=False)
class GreyImage:
    """Grey values of an image at one size, with the intrinsics of that size."""

    grey: NDArray[np.float32]  # (h, w), 0..255
    K_px: FloatArray  # (3, 3), pixels of `grey`

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.grey.shape[0], self.grey.shape[1]


def level_hw(image_hw: tuple[int, int], max_hw: tuple[int, int], divisor: int) -> tuple[int, int]:
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
