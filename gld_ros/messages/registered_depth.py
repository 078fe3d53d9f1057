"""Whether a depth image is registered to a camera's colour images: one rule, live and in bags.

Owns the reasons for refusing one. How its pixels are rectified is `camera_info`'s, which topic it
comes on `gld_ros.bags.cameras`'.
"""

from collections.abc import Collection
from enum import Enum

from gld_ros.messages.camera_info import CameraInfoValues, described_hw
from gld_ros.messages.images import ImageError

# A resized image has whole pixels, so its aspect ratio is not exactly that of the original.
ASPECT_TOLERANCE = 0.02
# Some devices stamp depth and colour of one moment a little apart.
SAME_MOMENT_NS = 5_000_000


class DepthFault(Enum):
    """Why a depth image is not registered; the value is the word used in counters."""

    FRAME = "depth_frame"
    ASPECT = "depth_aspect"


class UnregisteredDepth(ImageError):
    """A depth image that cannot measure the colour images it came with; `fault` says why."""

    def __init__(self, fault: DepthFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def require_registered(
    depth_hw: tuple[int, ...],
    frame_id: str,
    image_frame_ids: Collection[str],
    info: CameraInfoValues,
) -> None:
    """Raise UnregisteredDepth unless a depth image has the frame and the view of colour images.

    image_frame_ids: the names of the colour images' optical frame; leading slashes do not count, as
    in tf2. info: the colour camera's. Any size is allowed, but only with the same aspect ratio.
    """
    frames = {name.lstrip("/") for name in image_frame_ids}
    if frame_id.lstrip("/") not in frames:
        its = " or ".join(map(repr, sorted(frames)))
        what = f"depth comes in frame {frame_id!r}" if frame_id else "depth has an empty frame_id"
        raise UnregisteredDepth(
            DepthFault.FRAME,
            f"{what}, colour images in {its}: depth must be registered to the colour images; have "
            "the driver align it (RealSense: align_depth.enable:=true, topic "
            "aligned_depth_to_color/image_raw) and name that topic",
        )
    height, width = described_hw(info)
    if height <= 0 or width <= 0:
        return  # the camera itself is rejected, with a better reason
    aspect = (depth_hw[1] / depth_hw[0]) / (width / height)
    if not 1 - ASPECT_TOLERANCE <= aspect <= 1 + ASPECT_TOLERANCE:
        raise UnregisteredDepth(
            DepthFault.ASPECT,
            f"depth has {depth_hw[1]}x{depth_hw[0]} pixels and CameraInfo describes {width}x"
            f"{height}, another aspect ratio: depth must show the same view as the colour images, "
            "at any size; have the driver align it, without cropping",
        )
