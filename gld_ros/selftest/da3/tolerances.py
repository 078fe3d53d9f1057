"""How far each quantity of a Depth Anything 3 folder may be from its reference, and why.

References are float32 on a CPU. In float32 every element is compared; in 16 bits the norm of the
difference, because a rounding error of 2^-8 (bfloat16) or 2^-11 (float16) per operation makes
single elements near zero meaningless.
"""

from dataclasses import dataclass

import torch

from gld_ros.selftest.rows import Tolerance

# Geometry and image preparation never run in 16 bits.
FLOAT32 = Tolerance(absolute=1e-5, relative=1e-4)
# Random sampling of points leaves a residue that depends on the draw.
RANDOMISED = Tolerance(absolute=5e-3)
# OpenCV versions differ by one grey level in resizing.
OPENCV_IMAGE = Tolerance(absolute=1.0)


@dataclass(frozen=True)
class Limits:
    """Limits that depend on the running precision.

    One module; a whole sampling run; a reference that was itself computed with bfloat16 autocast.
    """

    module: Tolerance
    run: Tolerance
    bfloat16_reference: Tolerance

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Limits":
        """The limits for a running precision; raises ValueError for one that is not offered."""
        if dtype not in _LIMITS:
            raise ValueError(f"no tolerances for {dtype}; allowed: {', '.join(map(str, _LIMITS))}")
        return _LIMITS[dtype]


_LIMITS = {
    torch.float32: Limits(
        FLOAT32,
        Tolerance(absolute=5e-5, relative=5e-4),
        Tolerance(absolute=2e-2, relative=2e-2),
    ),
    torch.float16: Limits(Tolerance(norm=1e-2), Tolerance(norm=2e-2), Tolerance(norm=2e-2)),
    torch.bfloat16: Limits(Tolerance(norm=5e-2), Tolerance(norm=1e-1), Tolerance(norm=5e-2)),
}
