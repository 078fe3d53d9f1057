"""Metres per model unit: by measured surfaces or by TF, filtered, or withheld.

Owns the estimator and its states. A network's depth has an arbitrary unit; poses from TF are
metric, so the distances between recovered camera centres give the unit. Ratios of distances are
used instead of a similarity fit, because they need no orientation, work from two views on and stay
defined for collinear motion. Where the references have measured depth, that gives the unit more
accurately, and also for models without cameras. `make_products` decides what is withheld while the
scale is unresolved.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import distance_m, rotation_angle_rad
from gld_ros.mapping.frames import Keyframe
from gld_ros.measuring.scale_field import common_scale
from gld_ros.messages.stamps import NS_PER_S
from gld_ros.view_request import View

FloatArray = NDArray[np.floating[Any]]
ScaleMode = Literal["auto", "measured", "tf_baseline", "fixed", "none"]

SCALE_MODES: tuple[ScaleMode, ...] = get_args(ScaleMode)

MAX_ROTATION_ERROR_RAD = 0.05  # recovered relative rotations must agree with TF this well
SINGLE_PAIR_BASELINE_FACTOR = 3.0  # one pair is trusted alone from this many minimal baselines on
REJECT_SIGMA = 3.0
RESTART_AFTER = 5  # consecutive rejections after which the running scale is considered wrong
MIN_MEASURED_SHARE = 0.02  # of one image that is measured alone
MAX_MEASURED_DISPERSION = 0.5  # beyond, the model's depth does not fit the scene

_MAD_TO_SIGMA = 1.48  # of a normal distribution
_MIN_LOG_SIGMA = 0.02  # even ratios that agree perfectly share the model's own error
_SINGLE_PAIR_LOG_SIGMA = 0.1  # dispersion is undefined; take the default limit of acceptance
# The model's unit follows the scene: its logarithm may wander this much per square root second.
_DRIFT_LOG_SIGMA_PER_SQRT_S = 0.05
_MIN_MODEL_DISTANCE = 1e-9
# A model that puts all cameras in one place gives ratios that agree but are meaningless.
MIN_SPREAD_OF_DEPTH = 0.003


class ScaleSource(IntEnum):
    """Where a scale comes from; values as in `gld_ros/msg/ScaleEstimate`."""

    NONE = 0
    TF_BASELINE = 1
    FIXED = 3
    HELD = 4  # the last valid value, still inside the hold time
    MEASURED = 5  # depth measured in the references and in what the targets see


@dataclass(frozen=True)
class ScaleParameters:
    """Limits, as the parameters `scale.*`."""

    mode: ScaleMode = "auto"
    fixed_value: float = 1.0
    min_baseline_m: float = 0.10
    max_dispersion: float = 0.10
    hold_time_s: float = 10.0

    def __post_init__(self) -> None:
        if self.mode not in SCALE_MODES:
            raise ValueError(f"scale mode is {self.mode!r}; allowed are {SCALE_MODES}")
        if not (math.isfinite(self.fixed_value) and self.fixed_value > 0):
            raise ValueError(f"fixed scale is {self.fixed_value}; finite and > 0 is needed")


@dataclass(frozen=True)
class ScaleState:
    """A scale, and how reliable it is."""

    source: ScaleSource
    metric: bool  # true only if depth times `scale` may be read as metres
    # Metres per model unit. NaN if there is not even a guess, or, with `metric`, if measured depth
    # alone is published.
    scale: float
    relative_dispersion: float  # robust spread of the ratios; NaN for fewer than two
    num_pairs: int
    max_baseline_m: float
    reason: str  # a sentence with numbers; empty when measured and accepted


@dataclass(frozen=True)
class ScaleMeasurement:
    """What one job says about the scale; `fault` is empty if it may enter the filter."""

    source: ScaleSource
    scale: float
    relative_dispersion: float
    num_pairs: int
    max_baseline_m: float
    fault: str = ""
    # The recovered poses are wrong: no scale can help this job, unless the scale in force was never
    # measured by them.
    poses_disagree: bool = False
    # No other run shares its unit, so no earlier scale can stand in: depth of single images.
    own_unit: bool = False


def measure_from_baselines(
    T_fixed_cam: Sequence[FloatArray],
    T_model_cam: Sequence[FloatArray],
    ray_confidence: Sequence[float],
    parameters: ScaleParameters,
) -> ScaleMeasurement:
    """Compare camera centres recovered by the model with those of TF, over all pairs of views.

    Poses (4, 4) of the same views in both frames. The scale is the median of TF distance / model
    distance over pairs with at least the minimal baseline, weighted by baseline x ray confidence;
    dispersion is 1.48 MAD / median.
    """
    if not len(T_fixed_cam) == len(T_model_cam) == len(ray_confidence):
        raise ValueError(
            f"{len(T_fixed_cam)} TF poses, {len(T_model_cam)} recovered poses and "
            f"{len(ray_confidence)} confidences differ in number"
        )
    ratios, weights = [], []
    max_baseline_m = max_error_rad = 0.0
    for i, j in combinations(range(len(T_fixed_cam)), 2):
        baseline_m = distance_m(T_fixed_cam[i], T_fixed_cam[j])
        max_baseline_m = max(max_baseline_m, baseline_m)
        R_fixed = T_fixed_cam[i][:3, :3].T @ T_fixed_cam[j][:3, :3]
        R_model = T_model_cam[i][:3, :3].T @ T_model_cam[j][:3, :3]
        max_error_rad = max(max_error_rad, rotation_angle_rad(R_fixed.T @ R_model))
        model_distance = distance_m(T_model_cam[i], T_model_cam[j])
        # Without this margin, rounding would decide whether a baseline equal to the limit counts.
        if baseline_m >= parameters.min_baseline_m * (1 - 1e-9) and (
            model_distance > _MIN_MODEL_DISTANCE
        ):
            ratios.append(baseline_m / model_distance)
            confidence = math.sqrt(max(ray_confidence[i], 0.0) * max(ray_confidence[j], 0.0))
            weights.append(baseline_m * max(confidence, 1e-6))

    if not ratios:
        return ScaleMeasurement(
            ScaleSource.TF_BASELINE,
            math.nan,
            math.nan,
            0,
            max_baseline_m,
            f"the longest baseline of {len(T_fixed_cam)} reference views is "
            f"{max_baseline_m:.3f} m; scale.min_baseline is {parameters.min_baseline_m:.3f} m",
        )
    scale, dispersion = robust_ratio(np.array(ratios), np.array(weights))
    fault, disagree = "", False
    if max_error_rad > MAX_ROTATION_ERROR_RAD:
        disagree = True
        fault = (
            f"recovered rotations differ from TF by {max_error_rad:.3f} rad; the limit is "
            f"{MAX_ROTATION_ERROR_RAD} rad, so the poses are wrong"
        )
    elif dispersion > parameters.max_dispersion:
        fault = (
            f"ratios of {len(ratios)} pairs scatter by {dispersion:.3f}; scale.max_dispersion is "
            f"{parameters.max_dispersion:.3f}"
        )
    return ScaleMeasurement(
        ScaleSource.TF_BASELINE, scale, dispersion, len(ratios), max_baseline_m, fault, disagree
    )


def measure_from_views(
    references: Sequence[View], keyframes: Sequence[Keyframe], parameters: ScaleParameters
) -> ScaleMeasurement:
    """`measure_from_baselines` for the references of a result and their keyframes, in order."""
    recovered = [view.T_model_cam for view in references]
    known = [T_model_cam for T_model_cam in recovered if T_model_cam is not None]
    if len(known) < len(recovered):
        return ScaleMeasurement(
            ScaleSource.TF_BASELINE,
            math.nan,
            math.nan,
            0,
            0.0,
            f"the model recovered {len(known)} of {len(recovered)} cameras; baselines need all",
        )
    confidence = [
        1.0 if view.ray_confidence_mean is None else view.ray_confidence_mean for view in references
    ]
    measured = measure_from_baselines(
        [k.T_fixed_cam for k in keyframes], known, confidence, parameters
    )
    if measured.fault:
        return measured
    if fault := coincidence(known, _median_depth(references)):
        return replace(measured, fault=fault, poses_disagree=True)
    return measured


def coincidence(T_model_cam: Sequence[FloatArray], median_depth: float) -> str:
    """Why recovered cameras (two or more) say nothing about scale: all in one place. Else ''.

    Everything in model units.
    """
    spread = max(distance_m(a, b) for a, b in combinations(T_model_cam, 2))
    if spread >= MIN_SPREAD_OF_DEPTH * median_depth:
        return ""
    return (
        f"the recovered cameras coincide: they are {spread / median_depth:.2g} of the scene's "
        f"depth apart; {MIN_SPREAD_OF_DEPTH} is needed to measure by them"
    )


def _median_depth(views: Sequence[View]) -> float:
    """Median depth in model units of all pixels where something is known; 0 if nothing is."""
    known = [view.depth[np.isfinite(view.depth) & (view.confidence > 0)] for view in views]
    values = np.concatenate(known)
    return float(np.median(values)) if values.size else 0.0


def measure_from_image(model_depth: FloatArray, measured_m: FloatArray) -> ScaleMeasurement:
    """`measure_from_surfaces` for one image (H, W) whose unit no other image shares.

    Little that is measured says nothing about the rest of the image, and is a fault.
    """
    measured = measure_from_surfaces([model_depth], [measured_m])
    share = float(np.mean(np.isfinite(model_depth) & np.isfinite(measured_m)))
    fault = measured.fault
    if not fault and share < MIN_MEASURED_SHARE:
        fault = (
            f"{share:.1%} of the image are measured; {MIN_MEASURED_SHARE:.0%} are needed to tell "
            "the scale of the rest"
        )
    return replace(measured, fault=fault, own_unit=True)


def measure_from_surfaces(
    model_depth: Sequence[FloatArray], measured_m: Sequence[FloatArray]
) -> ScaleMeasurement:
    """Compare a run's depth with what was measured at the same pixels of the same views.

    Arrays (H, W) of one view each. The scatter is not a fault here: near measurements the
    scale field corrects it, elsewhere it is the expected error (`gld_ros.measuring.scale_field`).
    """
    common = common_scale(model_depth, measured_m)
    fault = common.fault
    if not fault and common.dispersion > MAX_MEASURED_DISPERSION:
        fault = (
            f"measured/model depth scatters by {common.dispersion:.3f} over {common.num_pixels} "
            f"pixels; {MAX_MEASURED_DISPERSION} is tolerated"
        )
    return ScaleMeasurement(
        ScaleSource.MEASURED, common.scale, common.dispersion, len(model_depth), 0.0, fault
    )


def robust_ratio(ratios: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Weighted median and relative dispersion (1.48 MAD / median; NaN for one ratio).

    An even split takes the mean of the two middle ratios, so the order of views changes nothing.
    """
    order = np.argsort(ratios, kind="stable")
    cumulative = np.cumsum(weights[order])
    half = cumulative[-1] / 2.0
    tolerance = 1e-9 * cumulative[-1]
    lower = int(np.searchsorted(cumulative, half - tolerance))
    upper = int(np.searchsorted(cumulative, half + tolerance))
    median = float((ratios[order[lower]] + ratios[order[min(upper, len(order) - 1)]]) / 2.0)
    if len(ratios) < 2:
        return median, math.nan
    return median, float(_MAD_TO_SIGMA * np.median(np.abs(ratios - median)) / median)


def resample_sensor_depth(
    sensor_depth_m: FloatArray,
    K_px_sensor: FloatArray,
    K_px_view: FloatArray,
    view_hw: tuple[int, int],
) -> FloatArray:
    """Sensor depth at the pixels of a view with the same optical frame: nearest pixel, else NaN.

    Nearest, because a mean across a depth edge is no surface's depth.
    """
    height, width = view_hw
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K_px_view).T
    projected = pixels @ K_px_sensor.T
    column = np.rint(projected[..., 0] / projected[..., 2]).astype(np.int64)
    row = np.rint(projected[..., 1] / projected[..., 2]).astype(np.int64)
    rows, columns = sensor_depth_m.shape
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    depth_m = np.full(view_hw, np.nan, dtype=np.float32)
    depth_m[inside] = sensor_depth_m[row[inside], column[inside]]
    return depth_m


class MetricScale:
    """The scale over time. Belongs to one thread; times are ROS nanoseconds passed in."""

    def __init__(self, parameters: ScaleParameters) -> None:
        self.parameters = parameters
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new epoch, or the user asked for it."""
        self._log_scale = math.nan
        self._log_variance = math.inf
        self._filtered_at_ns = 0
        self._rejections = 0
        self._last_valid: ScaleState | None = None
        self._last_valid_ns = 0
        self._state = _unresolved("no job has measured the scale yet")

    def update(self, measurement: ScaleMeasurement, stamp_ns: int) -> ScaleState:
        """Take in what one job measured at its anchor stamp; returns the state for that job."""
        self._state = self._judge(measurement, stamp_ns)
        return self._state

    def state(self, now_ns: int) -> ScaleState:
        """The state of the latest update as of now; withdrawn once older than the hold time."""
        if self.parameters.mode in ("fixed", "none"):
            return self._without_measurement()
        if not self._state.metric or self._alive(now_ns):
            return self._state
        return self._held(self._state, "there was no newer measurement", now_ns)

    def _judge(self, m: ScaleMeasurement, stamp_ns: int) -> ScaleState:
        if self.parameters.mode in ("fixed", "none"):
            return self._without_measurement()
        measured = ScaleState(
            source=ScaleSource.NONE,
            metric=False,
            scale=m.scale,
            relative_dispersion=m.relative_dispersion,
            num_pairs=m.num_pairs,
            max_baseline_m=m.max_baseline_m,
            reason=m.fault,
        )
        if m.poses_disagree and not self._measured_without_cameras(m):
            return measured
        if m.fault:
            return measured if m.own_unit else self._held(measured, m.fault, stamp_ns)

        single = m.source is ScaleSource.TF_BASELINE and m.num_pairs == 1
        sigma = _SINGLE_PAIR_LOG_SIGMA if single else max(m.relative_dispersion, _MIN_LOG_SIGMA)
        long_baseline = SINGLE_PAIR_BASELINE_FACTOR * self.parameters.min_baseline_m
        short = m.max_baseline_m < long_baseline * (1 - 1e-9)
        if single and short and not self._alive(stamp_ns):
            return self._held(
                measured,
                f"one pair with a baseline of {m.max_baseline_m:.3f} m and no running scale to "
                f"compare with; {long_baseline:.3f} m is needed",
                stamp_ns,
            )
        if m.source is ScaleSource.MEASURED:
            # Thousands of pixels of this run need no filter over other runs.
            self._restart(math.log(m.scale), sigma, stamp_ns)
            fault = ""
        else:
            fault = self._filter(math.log(m.scale), sigma, stamp_ns)
        if fault:
            return self._held(measured, fault, stamp_ns)
        valid = replace(
            measured, source=m.source, metric=True, scale=math.exp(self._log_scale), reason=""
        )
        self._last_valid, self._last_valid_ns = valid, stamp_ns
        return valid

    def _measured_without_cameras(self, m: ScaleMeasurement) -> bool:
        """Whether neither this measurement nor the scale in force is about recovered cameras."""
        return (
            m.source is ScaleSource.MEASURED
            and self._last_valid is not None
            and self._last_valid.source is ScaleSource.MEASURED
        )

    def _filter(self, log_scale: float, sigma: float, stamp_ns: int) -> str:
        """One step of a scalar Kalman filter on log-scale; returns why it was rejected, or ''."""
        if math.isnan(self._log_scale):
            self._restart(log_scale, sigma, stamp_ns)
            return ""
        elapsed_s = max(0, stamp_ns - self._filtered_at_ns) / NS_PER_S
        variance = self._log_variance + _DRIFT_LOG_SIGMA_PER_SQRT_S**2 * elapsed_s
        innovation = log_scale - self._log_scale
        limit = REJECT_SIGMA * math.sqrt(variance + sigma**2)
        if abs(innovation) > limit:
            if self._rejections < RESTART_AFTER:
                self._rejections += 1
                return (
                    f"scale {math.exp(log_scale):.4g} differs from the running "
                    f"{math.exp(self._log_scale):.4g} by {abs(innovation):.3f} in the logarithm; "
                    f"3 sigma is {limit:.3f} (rejection {self._rejections} of {RESTART_AFTER})"
                )
            self._restart(log_scale, sigma, stamp_ns)
            return ""
        gain = variance / (variance + sigma**2)
        self._log_scale += gain * innovation
        self._log_variance = (1 - gain) * variance
        self._filtered_at_ns = max(self._filtered_at_ns, stamp_ns)
        self._rejections = 0
        return ""

    def _restart(self, log_scale: float, sigma: float, stamp_ns: int) -> None:
        self._log_scale, self._log_variance = log_scale, sigma**2
        self._filtered_at_ns = stamp_ns
        self._rejections = 0

    def _held(self, otherwise: ScaleState, why: str, now_ns: int) -> ScaleState:
        """The last valid value if recent enough, else `otherwise`, which is not metric."""
        last = self._last_valid
        if last is None:
            return replace(otherwise, source=ScaleSource.NONE, metric=False, reason=why)
        age_s = max(0, now_ns - self._last_valid_ns) / NS_PER_S
        if self._alive(now_ns):
            reason = f"value of {age_s:.1f} s ago is held: {why}"
            return replace(last, source=ScaleSource.HELD, reason=reason)
        return replace(
            otherwise,
            source=ScaleSource.NONE,
            metric=False,
            reason=f"{why}; the last valid value is {age_s:.1f} s old and scale.hold_time is "
            f"{self.parameters.hold_time_s:.1f} s",
        )

    def _alive(self, now_ns: int) -> bool:
        """Whether the last valid value may still be used."""
        return self._last_valid is not None and (
            now_ns - self._last_valid_ns <= self.parameters.hold_time_s * NS_PER_S
        )

    def _without_measurement(self) -> ScaleState:
        if self.parameters.mode == "fixed":
            value = self.parameters.fixed_value
            return ScaleState(ScaleSource.FIXED, True, value, 0.0, 0, 0.0, "")
        return _unresolved("scale.mode is none: colour only")


def measured_depth_alone(unresolved: ScaleState) -> ScaleState:
    """The state of a job whose measured depth is published, and none of the model's."""
    return replace(
        unresolved,
        source=ScaleSource.MEASURED,
        metric=True,
        scale=math.nan,
        reason=f"the model's depth is left out: {unresolved.reason}",
    )


def _unresolved(reason: str) -> ScaleState:
    return ScaleState(ScaleSource.NONE, False, math.nan, math.nan, 0, 0.0, reason)
