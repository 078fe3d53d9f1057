"""What follows every run of the synthesizer: measure and filter the scale, make products.

Owns what is remembered between jobs besides keyframes: the running scale and the scene's median
depth. The measures themselves are `scale`'s, the arrays `products`'.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from gld_ros.mapping.jobs import JobRequest, SynthesisRun
from gld_ros.mapping.products import Product, Products, make_products
from gld_ros.mapping.scale import (
    MetricScale,
    ScaleMeasurement,
    ScaleParameters,
    ScaleState,
    measure_from_depth,
    measure_from_shared_points,
    measure_from_views,
    resample_sensor_depth,
)

DEFAULT_MEDIAN_DEPTH_M = 2.0  # before any job: a room


class Postprocessor:
    """Turns runs into products; thread-safe, and usable as a worker's `postprocess`.

    `wanted` returns what has subscribers at the moment; a job may want more for itself.
    """

    def __init__(self, wanted: Callable[[], frozenset[Product]]) -> None:
        self._wanted = wanted
        self._lock = Lock()
        self._scale = MetricScale(ScaleParameters())
        self._median_depth_m = DEFAULT_MEDIAN_DEPTH_M
        self._epoch = 0

    def __call__(self, request: JobRequest, run: SynthesisRun) -> Products:
        """Products of one run. Raises `products.UnusableOutput`."""
        parameters = request.parameters
        measurement = measure_scale(run, parameters.scale, parameters.products.min_confidence)
        with self._lock:
            self._use(parameters.scale)
            # A job of an earlier epoch is on its way to be discarded and must teach nothing.
            current = request.epoch == self._epoch
            if current:
                state = self._scale.update(measurement, request.anchor.stamp_ns)
            else:
                state = self._scale.state(request.anchor.stamp_ns)
        products = make_products(
            run.views,
            run.keyframes,
            [request.targets[slot] for slot in run.slots],
            run.slots,
            state,
            parameters.products,
            self._wanted() | request.always_wanted,
        )
        with self._lock:
            if current and state.metric and products.median_depth_m > 0:
                self._median_depth_m = products.median_depth_m
        return products

    def scale_state(self, now_ns: int) -> ScaleState:
        """The scale as of now, for status and diagnostics."""
        with self._lock:
            return self._scale.state(now_ns)

    @property
    def median_depth_m(self) -> float:
        """Median depth that the latest metric job saw; what plans are made with."""
        with self._lock:
            return self._median_depth_m

    def reset(self, epoch: int) -> None:
        """Forget scale and depth: a new epoch, or the user asked for it (the same epoch)."""
        with self._lock:
            self._epoch = epoch
            self._scale.reset()
            self._median_depth_m = DEFAULT_MEDIAN_DEPTH_M

    def _use(self, parameters: ScaleParameters) -> None:
        if parameters.mode != self._scale.parameters.mode:
            self._scale = MetricScale(parameters)
        self._scale.parameters = parameters


def measure_scale(
    run: SynthesisRun, parameters: ScaleParameters, min_confidence: float
) -> ScaleMeasurement:
    """The scale as one run shows it, measured by the means that the mode names."""
    references, keyframes = run.views.references, run.keyframes
    if parameters.mode == "triangulation":
        return measure_from_shared_points(references, keyframes, parameters, min_confidence)
    if parameters.mode != "depth_topic":
        by_cameras = measure_from_views(references, keyframes, parameters)
        if parameters.mode != "auto" or not by_cameras.fault:
            return by_cameras
        by_points = measure_from_shared_points(references, keyframes, parameters, min_confidence)
        if not by_points.fault:
            return by_points
        depth_is_wrong = math.isfinite(by_points.scale)  # measured, and it scatters
        return replace(
            by_cameras if depth_is_wrong else by_points,
            fault=f"{by_cameras.fault}; {by_points.fault}",
            poses_disagree=depth_is_wrong or by_cameras.poses_disagree,
        )
    sensor_m, model, confident = [], [], []
    for view, keyframe in zip(references, keyframes, strict=True):
        sensor = keyframe.sensor_depth
        if sensor is None:
            continue
        hw = (view.depth.shape[0], view.depth.shape[1])
        sensor_m.append(resample_sensor_depth(sensor.depth_m, sensor.K_px, view.K_px, hw))
        model.append(view.depth)
        confident.append(view.confidence >= min_confidence)
    return measure_from_depth(sensor_m, model, confident, parameters)
