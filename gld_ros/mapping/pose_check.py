"""Whether images and TF still belong together, asked when keyframes give reason to.

Owns when that is asked and what the last answer was, by camera. Belongs to the lock of
`Measurements`; the answer itself comes from `gld_ros.measuring.agreement`.
"""

from collections import deque

import numpy as np

from gld_ros.measuring.agreement import Agreement

# Images are compared with TF when the latest keyframes measured less than this on average, or when
# corners of most of them lie farther than this from where TF puts them.
LOW_COVERAGE, LARGE_ERROR_PX = 0.3, 1.5
RECENT = 6  # keyframes of a camera that are looked at; so many later, it is asked again


class PoseCheck:
    """Remembers what the latest keyframes measured, and whether images fitted TF."""

    def __init__(self) -> None:
        self._latest: dict[str, deque[tuple[float, float]]] = {}  # coverage and error in pixels
        self._found: dict[str, Agreement] = {}

    def due(self, camera: str, coverage: float, pose_error_px: float) -> bool:
        """Take in a keyframe measured by stereo; True if images shall be compared with TF now.

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
        """Keep an answer until the next one, or until keyframes give no reason any more."""
        self._found[camera] = agreement

    def disagreements(self) -> dict[str, Agreement]:
        """By camera, answers that say that images and TF do not belong together."""
        return {camera: a for camera, a in sorted(self._found.items()) if a.disagrees}
