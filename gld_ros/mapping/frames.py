"""What one camera saw at one moment: a rectified image with its intrinsics and pose.

Owns the records `CameraFrame` (just arrived), `Keyframe` (worth keeping) and `TargetCamera`
(requested), and the size at which pixels are kept. They are immutable, arrays included, so
that they pass between threads without locks.
"""

from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import resized_intrinsics

FloatArray = NDArray[np.floating[Any]]

# The pose of an image that TF could not place: whatever is computed with it is NaN too.
NO_POSE: FloatArray = np.full((4, 4), np.nan)


@dataclass(frozen=True, eq=False)
class SensorDepth:
    """Depth of a sensor in the optical frame of the camera it comes with."""

    depth_m: FloatArray  # (H, W) z-depth; NaN or 0: none
    K_px: FloatArray  # (3, 3)

    def __post_init__(self) -> None:
        _make_read_only(self, "depth_m", "K_px")


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """A rectified image, placed in the fixed frame."""

    camera: str
    stamp_ns: int  # acquisition time
    frame_id: str  # optical frame of the real camera
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    K_px: FloatArray  # (3, 3) in pixels of `image`
    T_fixed_cam: FloatArray  # (4, 4), metres; `NO_POSE` where TF had none (mode depth)
    epoch: int  # stretch of continuous time; see `epochs`
    wait_tf_s: float = 0.0  # how long it waited for its pose, steady clock
    sensor_depth: SensorDepth | None = None  # of a depth camera in the same optical frame
    source_hw: tuple[int, int] | None = None  # of the camera's image, where `image` is smaller

    def __post_init__(self) -> None:
        _make_read_only(self, "image", "K_px", "T_fixed_cam")

    @property
    def is_placed(self) -> bool:
        """Whether its pose is known."""
        return bool(np.isfinite(self.T_fixed_cam).all())

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def source_camera(self) -> tuple[FloatArray, tuple[int, int]]:
        """Return `K_px` (3, 3) and size of the image as the camera gave it."""
        height, width = self.image_hw
        source_h, source_w = self.source_hw or self.image_hw
        K_px = resized_intrinsics(self.K_px, source_w / width, source_h / height)
        return K_px, (source_h, source_w)


@dataclass(frozen=True, eq=False)
class Keyframe(CameraFrame):
    """A frame that the gate accepted; frames of different segments never share a job."""

    segment: int = 0

    @classmethod
    def of(cls, frame: CameraFrame, segment: int) -> "Keyframe":
        """Return a frame as a keyframe of a segment."""
        values = {field.name: getattr(frame, field.name) for field in fields(frame)}
        return cls(**values, segment=segment)

    def mixes_with(self, other: "Keyframe") -> bool:
        """Whether the poses of both fit each other, so that they may share a job."""
        return self.segment == other.segment and self.epoch == other.epoch


@dataclass(frozen=True, eq=False)
class TargetCamera:
    """The camera of a target view; no such camera need exist."""

    T_fixed_cam: FloatArray  # (4, 4), metres, optical axes
    K_px: FloatArray  # (3, 3)
    image_hw: tuple[int, int]

    def __post_init__(self) -> None:
        _make_read_only(self, "T_fixed_cam", "K_px")


def _make_read_only(record: object, *names: str) -> None:
    """Swap array fields for read-only views: a change of shared data fails where it is made."""
    for name in names:
        view = getattr(record, name).view()
        view.setflags(write=False)
        object.__setattr__(record, name, view)


def shrink_to_fit(
    image: NDArray[np.uint8], K_px: FloatArray, max_hw: tuple[int, int]
) -> tuple[NDArray[np.uint8], FloatArray]:
    """The image at the largest size within `max_hw`, and its `K_px`; never enlarged.

    Averages over areas, so that nothing aliases. Each axis keeps its exact own scale.
    """
    height, width = image.shape[:2]
    scale = min(max_hw[0] / height, max_hw[1] / width)
    if scale >= 1.0:
        return image, K_px
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    small = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA)
    return small, resized_intrinsics(K_px, new_w / width, new_h / height)
