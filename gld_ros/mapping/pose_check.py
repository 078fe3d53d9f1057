"""Whether images and TF still agree, checked when keyframes give reason to.

Owns when that is checked and the last result per camera. Protected by the lock of `Measurements`;
the check itself is `gld_ros.measuring.agreement`.
"""

from collections import deque

import numpy as np

from gld_ros.measuring.agreement import Agreement

# Images are compared with TF when the latest keyframes measured less than this on average, or when
# corners of most of them lie farther than this from where TF puts them.
LOW_COVERAGE, LARGE_ERROR_PX = 0.3, 1.5
RECENT = 6  # keyframes of a camera that are considered; after as many more, the check is repeated


class PoseCheck:
    """The measurements of the latest keyframes, and whether images fitted TF."""

    def __init__(self) -> None:
        self._latest: dict[str, deque[tuple[float, float]]] = {}  # coverage and error in pixels
        self._found: dict[str, Agreement] = {}

    def due(self, camera: str, coverage: float, pose_error_px: float) -> bool:
        """Take in a keyframe measured by stereo; True if images should be compared with TF now.

        The error is NaN where no corners were shared.
        """
        latest = self._latest.setdefault(camera, deque(maxlen=RECENT))
        latest.append((coverage, pose_error_px))
        if len(latest) < RECENT:
            return False
        coverages, errors_px = np.array(latest).T
        if coverages.mean() >= LOW_COVERAGE and not np.median(errors_px) > LARGE_ERROR_PX:
            self._found.pop(camera, None)
            return False
        latest.clear()
        return True

    def found(self, camera: str, agreement: Agreement) -> None:
        """Keep a result until the next one, or until keyframes no longer give a reason."""
        self._found[camera] = agreement

    def disagreements(self) -> dict[str, Agreement]:
        """Results by which images and TF disagree, per camera."""
        return {camera: a for camera, a in sorted(self._found.items()) if a.disagrees}
