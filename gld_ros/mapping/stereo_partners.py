"""Which images a keyframe is measured with: of the ring of recent images, and of other keyframes.

Owns what the session adds to `gld_ros.measuring.neighbours`: images are decoded only when they are
chosen, and a slow machine takes those that a fast one does.
"""

from collections.abc import Iterable, Sequence

from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.measured_frame import posed_image
from gld_ros.mapping.placed_frame import PlacedFrame
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.neighbours import choose_neighbours

PARTNERS = 5  # images that one keyframe is measured with
LATER_PARTNERS = 3  # images of the ring that follow a keyframe before it is measured for good


def up_to_later_partners(ring: Iterable[PlacedFrame], keyframe: Keyframe) -> list[PlacedFrame]:
    """The ring without what came later still: a slow machine measures what a fast one does."""
    ordered = sorted(ring, key=lambda placed: placed.stamp_ns)
    earlier = sum(placed.stamp_ns <= keyframe.stamp_ns for placed in ordered)
    return ordered[: earlier + LATER_PARTNERS]


def stereo_partners(
    keyframe: Keyframe,
    ring: Sequence[PlacedFrame],
    measured: Sequence[Keyframe],
    typical_depth_m: float,
) -> list[PosedImage]:
    """What a keyframe is measured with; only images that are chosen are decoded."""
    candidates: list[PlacedFrame | Keyframe] = [*ring, *measured]
    while True:
        chosen = choose_neighbours(keyframe, candidates, typical_depth_m, PARTNERS)
        frames = [c.frame() if isinstance(c, PlacedFrame) else c for c in chosen]
        if all(frames):
            return [posed_image(frame) for frame in frames if frame]
        broken = [c for c, frame in zip(chosen, frames, strict=True) if frame is None]
        candidates = [c for c in candidates if c not in broken]
