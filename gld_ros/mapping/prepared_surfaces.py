"""Measured surfaces made ready for target views, and kept from job to job.

Most surfaces around a job were around the one before, too. Owns how many are kept; what is prepared
is `measuring.sources` for colours and depth, and `provenance` for labels.
"""

from collections.abc import Sequence
from functools import lru_cache, partial

from gld_ros.mapping.provenance import SEERS, SeenSurface, measured_seer
from gld_ros.measuring.sources import Candidates, Source, candidates_of, glance_of, source_of
from gld_ros.measuring.surfaces import Surface

_KEPT = 16  # surfaces that the views of a job are made of, and some of the job before
_KEPT_GLANCES = 32  # surfaces to choose from, likewise


class PreparedSurfaces:
    """What target views need of surfaces; the ones that were used last are kept."""

    def __init__(self) -> None:
        self._source = lru_cache(_KEPT)(partial(source_of, beyond_measured=True))
        self._seer = lru_cache(_KEPT)(measured_seer)
        self._glance = lru_cache(_KEPT_GLANCES)(glance_of)

    def candidates(self, surfaces: Sequence[Surface]) -> Candidates:
        """The surfaces of a job."""
        return candidates_of(surfaces, self._glance)

    def sources(self, chosen: Sequence[Surface]) -> list[Source]:
        """What is rendered of surfaces chosen for a target, continued where little is missing."""
        return [self._source(surface) for surface in chosen]

    def seers(self, chosen: Sequence[Surface], rel_tolerance: float) -> list[SeenSurface]:
        """What labels the pixels of a target by the first of the surfaces chosen for it."""
        return [self._seer(surface, rel_tolerance) for surface in chosen[:SEERS]]
