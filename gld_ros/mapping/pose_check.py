"""Whether images and TF still belong together, asked when keyframes can no longer be measured.

Owns when that is asked and what the last answer was, by camera. Belongs to the lock of
`Measurements`; the answer itself comes from `gld_ros.measuring.agreement`.
"""

from collections import deque

import numpy as np

from gld_ros.measuring.agreement import Agreement

LOW_COVERAGE = 0.3  # mean of the latest keyframes, below which images are compared with TF
RECENT = 6  # keyframes of a camera that are looked at; so many later, it is asked again


class PoseCheck:
    """Remembers how much the latest keyframes measured, and whether images fitted TF."""

    def __init__(self) -> None:
        self._coverages: dict[str, deque[float]] = {}
        self._found: dict[str, Agreement] = {}

    def due(self, camera: str, coverage: float) -> bool:
        """Take in a keyframe measured by stereo; True if images shall be compared with TF now."""
        latest = self._coverages.setdefault(camera, deque(maxlen=RECENT))
        latest.append(coverage)
        if len(latest) < RECENT:
            return False
        if float(np.mean(latest)) >= LOW_COVERAGE:
            self._found.pop(camera, None)
            return False
        latest.clear()
        return True

    def found(self, camera: str, agreement: Agreement) -> None:
        """Keep an answer until the next one, or until much is measured again."""
        self._found[camera] = agreement

    def disagreements(self) -> dict[str, Agreement]:
        """By camera, answers that say that images and TF do not belong together."""
        return {camera: a for camera, a in sorted(self._found.items()) if a.disagrees}
