"""Which frame poses are taken in where nobody has named one: found in TF above the cameras.

Leaves to others when to look, and what to do with images while there is none.
"""

from collections.abc import Collection
from typing import NamedTuple

from gld_ros.messages.frame_tree import UnknownFrame
from gld_ros.messages.transforms import TfBuffer

AUTO = "auto"  # in the place of a frame's name: look for it
CONTINUOUS = "odom"  # REP-105: never jumps, unlike a map above it


class FoundFrame(NamedTuple):
    """A frame above all cameras; `still`: only static transforms are between them and it."""

    name: str
    still: bool

    @property
    def is_continuous(self) -> bool:
        """Whether it has the name that REP-105 gives to a frame that never jumps."""
        return self.name.rpartition("/")[2] == CONTINUOUS


class NoFixedFrame(LookupError):
    """TF has no frame above all cameras, or more than one may be meant; the text says why."""


def find_fixed_frame(buffer: TfBuffer, frame_ids: Collection[str]) -> FoundFrame:
    """Return `odom` (or `<robot>/odom`) if it is above all `frame_ids`, else their only root.

    By the newest transforms. Frames that TF does not have are left out, unless it has none of them.
    Raises NoFixedFrame.
    """
    there = buffer.frames()
    if not there:
        raise NoFixedFrame("there is no TF")
    chains = []
    for frame_id in sorted(set(frame_ids)):
        try:
            chains.append(buffer.chain_above(frame_id))
        except UnknownFrame:
            continue
    if not chains:
        wanted = ", ".join(repr(frame_id) for frame_id in sorted(set(frame_ids)))
        raise NoFixedFrame(
            f"TF does not have the frame of the images, {wanted}; its frames are: "
            f"{', '.join(there)}"
        )
    shared = [f for f in chains[0] if all(f.frame in {g.frame for g in chain} for chain in chains)]
    if not shared:
        roots = sorted({chain[-1].frame for chain in chains})
        raise NoFixedFrame(
            f"the cameras are below several roots, {', '.join(roots)}; one has to be chosen"
        )
    names = [f.frame for f in shared]
    name = next((n for n in names if FoundFrame(n, True).is_continuous), names[-1])
    still = all(f.still for chain in chains for f in chain if f.frame == name)
    return FoundFrame(name, still)
