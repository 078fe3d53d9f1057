"""Point clouds as binary PLY files, with what planners must know of each point."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LAYOUT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
        ("confidence", "<f4"),
        ("provenance", "u1"),
        ("view", "u1"),
    ]
)
_KINDS = {"<f4": "float", "|u1": "uchar"}


def write_ply(points: NDArray[Any], path: Path) -> None:
    """Write points with colour, confidence and provenance as a binary PLY.

    `points` is a structured array (N,) as `gld_ros.messages.clouds.points_from_cloud` returns it.
    """
    out = np.zeros(len(points), _LAYOUT)
    for name in ("x", "y", "z", "confidence", "provenance", "view"):
        out[name] = points[name]
    rgb = points["rgb"]
    out["red"], out["green"], out["blue"] = rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {len(out)}",
            *(f"property {_KINDS[_LAYOUT[name].str]} {name}" for name in _LAYOUT.names or ()),
            "end_header",
            "",
        ]
    )
    path.write_bytes(header.encode() + out.tobytes())
