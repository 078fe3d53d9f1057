"""Point clouds as binary PLY files, with what is known of each point."""

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
    """Write points as a binary PLY: place, colour, and confidence, provenance and view if there.

    `points` is a structured array (N,) with x, y, z and rgb (0x00RRGGBB), such as
    `gld_ros.messages.clouds.points_from_cloud` returns.
    """
    given = {*(points.dtype.names or ()), "red", "green", "blue"}
    layout = np.dtype([(name, _LAYOUT[name]) for name in _LAYOUT.names or () if name in given])
    out = np.zeros(len(points), layout)
    for name in given & {"x", "y", "z", "confidence", "provenance", "view"}:
        out[name] = points[name]
    rgb = points["rgb"]
    out["red"], out["green"], out["blue"] = rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {len(out)}",
            *(f"property {_KINDS[layout[name].str]} {name}" for name in layout.names or ()),
            "end_header",
            "",
        ]
    )
    path.write_bytes(header.encode() + out.tobytes())
