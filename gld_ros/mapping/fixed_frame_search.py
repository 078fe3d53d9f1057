"""The fixed frame of a session: the one that was named, or, named `auto`, found and then kept.

Leaves to the session what a change of frame makes worthless.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from threading import Lock

from gld_ros.mapping.fault_log import FaultLog, Level
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.messages.fixed_frame import AUTO, FoundFrame, NoFixedFrame, find_fixed_frame
from gld_ros.messages.transforms import TfBuffer

# Of a live graph: a root may get another above it while publishers start.
SETTLE_S = 2.0
START_ODOMETRY = "start odometry or SLAM"
OR_MODE_DEPTH = ", or use mode depth, which needs no poses"


class FixedFrameSearch:
    """Finds the fixed frame and keeps it until `forget`; thread-safe.

    `odom` is taken as soon as it is there, another root once it has been the only one for
    SETTLE_S. One that only static transforms join to the cameras gives way to a frame in which
    they can move, so the order in which publishers start does not matter.
    """

    def __init__(self, transforms: TfBuffer, faults: FaultLog, *, poses_needed: bool) -> None:
        self._transforms, self._faults = transforms, faults
        self._instead = OR_MODE_DEPTH if poses_needed else ""
        self._lock = Lock()
        self.forget()

    def forget(self) -> None:
        """Look for the frame anew."""
        with self._lock:
            self._found: FoundFrame | None = None
            self._candidate, self._candidate_since_s = "", 0.0
            self._problem = ""

    def look(self, given: SessionParameters, frame_ids: Mapping[str, str], *, live: bool) -> bool:
        """Look for the frame above images of these frames, by camera, if `given` asks for that.

        Returns whether it now is another one than before, in which poses are worthless. Not
        `live`: all TF there will be is known.
        """
        with self._lock:
            before = self._found
            searched = given.frames.fixed == AUTO and (before is None or before.still)
            if not searched or not frame_ids:
                return False
            try:
                found = find_fixed_frame(self._transforms, frame_ids.values())
            except NoFixedFrame as error:
                self._problem, self._candidate = str(error), ""
                return False
            self._problem = ""
            if found == before or not self._has_settled(found, live):
                return False
            self._found = found
        self._tell(found)
        return before is not None and before.name != found.name

    def _has_settled(self, found: FoundFrame, live: bool) -> bool:
        now_s = time.monotonic()
        if found.name != self._candidate:
            self._candidate, self._candidate_since_s = found.name, now_s
        moves_in_odom = found.is_continuous and not found.still
        return moves_in_odom or not live or now_s - self._candidate_since_s >= SETTLE_S

    def applied(self, parameters: SessionParameters) -> SessionParameters:
        """The parameters with the frame that was found in the place of `auto`."""
        with self._lock:
            if self._found is None or parameters.frames.fixed != AUTO:
                return parameters
            return replace(parameters, frames=replace(parameters.frames, fixed=self._found.name))

    def problem_with(self, fixed: str) -> str:
        """Say why images cannot be placed in a frame at all; empty while that may still change."""
        if fixed == AUTO:
            if not self._problem:
                return ""
            return f"no fixed frame: {self._problem}; {START_ODOMETRY}{self._instead}"
        there = self._transforms.frames()
        if not there or fixed.lstrip("/") in there:
            return ""
        return f"TF has no fixed_frame {fixed!r}; its frames are: {', '.join(there)}"

    def _tell(self, found: FoundFrame) -> None:
        text = f"fixed_frame auto: {found.name!r}"
        if found.still:
            views = "; views need images from two places at least" if self._instead else ""
            text += (
                ", which only static transforms join to the cameras, so nothing says how they move"
                f"{views}; {START_ODOMETRY}{self._instead}"
            )
        level: Level = "warning" if found.still else "info"
        self._faults.throttled(f"fixed frame {found}", level, text)
