"""What may be requested and published: kinds of products, their limits, the arrays of one result.

Making them belongs to `make_products`, topics and messages to `product_messages`.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.scale import ScaleState

FloatArray = NDArray[np.floating[Any]]


class Product(Enum):
    """What can be requested; only requested products are made."""

    PREDICTED_COLOR = "predicted/color"
    PREDICTED_DEPTH = "predicted/depth"
    PREDICTED_CONFIDENCE = "predicted/confidence"
    PREDICTED_PROVENANCE = "predicted/provenance"
    PREDICTED_POINTS = "predicted/points"
    OBSERVED_DEPTH = "observed/depth"
    OBSERVED_CONFIDENCE = "observed/confidence"
    OBSERVED_POINTS = "observed/points"
    OBSERVED_PROVENANCE = "observed/provenance"
    RELATIVE_DEPTH = "observed/relative_depth"  # in mode depth
    MERGED_POINTS = "merged/points"
    QUALITY = "quality"  # shares of provenance per view, for `~/views` and diagnostics


ALL_PRODUCTS = frozenset(Product) - {Product.MERGED_POINTS, Product.RELATIVE_DEPTH}


@dataclass(frozen=True)
class ProductParameters:
    """Limits and choices, as parameters `depth.*`, `provenance.*`, `observed.*`, `cloud.*`."""

    depth_min_m: float = 0.1
    depth_max_m: float = 30.0
    min_confidence: float = 0.3
    rel_tolerance: float = 0.05
    composite: bool = True  # target views show measured surfaces where there are any
    voxel_size_m: float = 0.0  # 0: off
    stride: int = 1
    organized_observed: bool = True
    predicted_provenance: frozenset[Provenance] = frozenset(
        {Provenance.MEASURED, Provenance.CORROBORATED, Provenance.HALLUCINATED}
    )
    observed_provenance: frozenset[Provenance] = frozenset(
        {Provenance.MEASURED, Provenance.COMPLETED}
    )
    withhold_if_unresolved: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.depth_min_m < self.depth_max_m:
            raise ValueError(
                f"depth.min {self.depth_min_m} m and depth.max {self.depth_max_m} m do not "
                "satisfy 0 <= min < max"
            )
        if self.stride < 1:
            raise ValueError(f"cloud.stride is {self.stride}; at least 1 is needed")
        if self.voxel_size_m < 0:
            raise ValueError(f"cloud.voxel_size is {self.voxel_size_m} m; >= 0 is needed")


class UnusableOutput(RuntimeError):
    """A model's output is too broken to publish anything of it."""


@dataclass(frozen=True)
class ViewQuality:
    """How good one target view is; shares are of its pixels with a label."""

    mean_confidence: float = 0.0
    measured: float = 0.0
    corroborated: float = 0.0
    hallucinated: float = 0.0
    contradicted: float = 0.0
    broken: float = 0.0  # share of pixels that the model left NaN or non-positive, now blank


@dataclass(frozen=True, eq=False)
class PredictedView:
    """One target view; arrays that were not wanted, or are withheld, are None."""

    slot: int
    target: TargetCamera
    color: NDArray[np.uint8] | None  # (H, W, 3) RGB
    depth_m: NDArray[np.float32] | None  # (H, W) z-depth, REP-117; NaN where CONTRADICTED
    confidence: NDArray[np.float32] | None  # (H, W) in [0, 1], NaN where depth is NaN
    provenance: NDArray[np.uint8] | None  # (H, W) of `Provenance`
    points: NDArray[Any] | None  # (N,) CLOUD_DTYPE in the fixed frame, finite
    quality: ViewQuality


@dataclass(frozen=True, eq=False)
class ObservedView:
    """Depth of the newest reference image, in its own optical frame; None: not wanted, withheld."""

    keyframe: Keyframe
    K_px: FloatArray  # (3, 3) in pixels of the arrays
    depth_m: NDArray[np.float32] | None
    confidence: NDArray[np.float32] | None  # of depth_m, or of relative_depth where that is None
    points: NDArray[Any] | None  # (H, W) with NaN, or (N,) finite
    provenance: NDArray[np.uint8] | None = None  # (H, W) of `Provenance`
    relative_depth: NDArray[np.float32] | None = None  # (H, W), median 1; NaN unknown


@dataclass(frozen=True, eq=False)
class Products:
    """Everything that is published of one synthesis result."""

    predicted: tuple[PredictedView, ...]
    observed: ObservedView | None
    merged_points: NDArray[Any] | None  # (N,) in the fixed frame
    scale: ScaleState
    median_depth_m: float  # of the reference views; NaN without a scale
    withheld: frozenset[Product] = field(default_factory=frozenset)  # wanted, but no scale
