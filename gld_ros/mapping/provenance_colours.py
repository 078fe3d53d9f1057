"""Labels of provenance as colours."""

import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.provenance import Provenance

PROVENANCE_COLOURS = {  # RGB
    Provenance.UNKNOWN: (90, 90, 90),
    Provenance.MEASURED: (255, 255, 255),
    Provenance.CORROBORATED: (70, 190, 90),
    Provenance.HALLUCINATED: (235, 160, 40),
    Provenance.CONTRADICTED: (215, 60, 60),
    Provenance.COMPLETED: (90, 150, 235),
}


def provenance_colours(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels (H, W) of `Provenance` as RGB (H, W, 3); values without a label are black."""
    table = np.zeros((256, 3), np.uint8)
    for label, colour in PROVENANCE_COLOURS.items():
        table[label] = colour
    return table[labels]
