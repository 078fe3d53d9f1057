"""One frame as measuring sees it: its size, and depth of a depth camera combined with stereo."""

import numpy as np

from gld_ros.mapping.frames import CameraFrame, shrink_to_fit
from gld_ros.measuring.depth_camera import depth_camera
from gld_ros.measuring.frames import MeasuredDepth, PosedImage
from gld_ros.measuring.surfaces import Surface

MEASURED_HW = (240, 320)  # images are measured at most at this size


def posed_image(frame: CameraFrame) -> PosedImage:
    """A frame at the size at which depth is measured."""
    image, K_px = shrink_to_fit(frame.image, frame.K_px, MEASURED_HW)
    return PosedImage(image, K_px, frame.T_fixed_cam, frame.stamp_ns, frame.camera)


def camera_depth(frame: CameraFrame, image: PosedImage) -> MeasuredDepth | None:
    """What the depth camera of a frame has measured, on the grid of its posed image."""
    sensor = frame.sensor_depth
    if sensor is None:
        return None
    return depth_camera(image, sensor.depth_m, sensor.K_px, np.eye(4))


def camera_over_stereo(camera: MeasuredDepth | None, stereo: MeasuredDepth) -> MeasuredDepth:
    """What a depth camera measured, and stereo where it gives nothing."""
    if camera is None:
        return stereo
    seen = np.isfinite(camera.depth_m)
    return MeasuredDepth(
        np.where(seen, camera.depth_m, stereo.depth_m),
        np.where(seen, camera.confidence, stereo.confidence),
        "camera",
    )


def measured_surface(frame: CameraFrame, measured: MeasuredDepth) -> Surface:
    """A frame's full image, with its measured depth."""
    return Surface(
        frame.image, frame.K_px, frame.T_fixed_cam, measured.depth_m, measured.confidence
    )
