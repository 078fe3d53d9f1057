"""The distribution's cv_bridge, for the image messages that it converts as `messages.images` does.

python -m gld_ros.ros.distribution.image_bridge      prints the encodings that it gets right
"""

import importlib.util
import json
import logging
import subprocess
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from gld_ros.messages.images import COLOUR_ENCODINGS, rgb_from_image

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 60.0
_PROBE_HW = (6, 8)


def cv_bridge_rgb(message: Any) -> np.ndarray | None:
    """Return the colours (H, W, 3) uint8 of an Image without row padding; None to do it yourself.

    Sizes must have been checked: cv_bridge reads what contradicts itself without an error.
    """
    if message.encoding not in trusted_encodings():
        return None
    converted: np.ndarray = _bridge().imgmsg_to_cv2(message, "rgb8")
    return converted


@cache
def trusted_encodings() -> frozenset[str]:
    """Return the encodings that cv_bridge reads rightly here; none where it cannot be used.

    Asked once, of a child process: a cv_bridge that was compiled for another numpy does not raise
    but kills the process that imports it.
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return frozenset()
    try:
        probe = subprocess.run(
            [sys.executable, "-m", __name__],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        log.warning("cv_bridge did not answer within %g s; it is not used", PROBE_TIMEOUT_S)
        return frozenset()
    if probe.returncode != 0:
        last = probe.stderr.strip().rpartition("\n")[2]
        log.warning("cv_bridge cannot be used (exit code %d) %s", probe.returncode, last)
        return frozenset()
    return frozenset(json.loads(probe.stdout))


@cache
def _bridge() -> Any:
    from cv_bridge import CvBridge

    return CvBridge()


def rightly_read_encodings() -> list[str]:
    """Return the encodings that cv_bridge converts to the very bytes that we do.

    Raises ImportError without cv_bridge; ends the process where it does not fit this numpy.
    """
    return [encoding for encoding in COLOUR_ENCODINGS if _is_read_rightly(encoding)]


def _is_read_rightly(encoding: str) -> bool:
    height, width = _PROBE_HW
    random = np.random.default_rng(1)
    for bytes_per_pixel in (1, 2, 3, 4):
        message = SimpleNamespace(
            height=height,
            width=width,
            step=width * bytes_per_pixel,
            encoding=encoding,
            is_bigendian=0,
            data=random.integers(0, 256, height * width * bytes_per_pixel, np.uint8),
        )
        try:
            ours = rgb_from_image(message)
        except ValueError:
            continue  # another size of pixel
        if ours.reduced_from_16_bit:
            return False
        try:
            theirs = _bridge().imgmsg_to_cv2(message, "rgb8")
        except Exception:  # noqa: BLE001 whatever it raises, this encoding stays ours
            return False
        return np.array_equal(ours.rgb, theirs)
    return False


if __name__ == "__main__":
    print(json.dumps(rightly_read_encodings()))  # noqa: T201
