"""Whether depth cameras still agree with parallax, asked every few keyframes that both measured.

Owns when that is asked and what the last answer was, by camera. Belongs to the lock of
`Measurements`; the answer itself comes from `gld_ros.measuring.depth_camera_agreement`.
"""

from gld_ros.measuring.depth_camera_agreement import DepthCameraAgreement
from gld_ros.measuring.frames import MeasuredDepth

TOGETHER = 6  # keyframes of a camera that are compared at a time

BothMeasured = tuple[MeasuredDepth, MeasuredDepth]  # by the depth camera, and by stereo


class DepthCameraCheck:
    """Collects what depth cameras and stereo measured of the same images."""

    def __init__(self) -> None:
        self._collected: dict[str, list[BothMeasured]] = {}
        self._found: dict[str, DepthCameraAgreement] = {}

    def due(self, camera: str, measured: BothMeasured) -> list[BothMeasured]:
        """Take in one keyframe; returns those to compare now, or none."""
        collected = self._collected.setdefault(camera, [])
        collected.append(measured)
        return self._collected.pop(camera) if len(collected) >= TOGETHER else []

    def found(self, camera: str, agreement: DepthCameraAgreement) -> None:
        """Keep an answer until the next one."""
        self._found[camera] = agreement

    def disagreements(self) -> dict[str, DepthCameraAgreement]:
        """By camera, answers that say that depth camera and parallax do not fit each other."""
        return {camera: a for camera, a in sorted(self._found.items()) if a.disagrees}
