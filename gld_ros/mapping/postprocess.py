"""What follows every run of the synthesizer: measure and filter the scale, make products.

Owns what is remembered between jobs besides keyframes: the running scale, the scene's median
depth, and what was prepared of measured surfaces. `scale` measures, `make_products` makes the
arrays.
"""

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from gld_ros.mapping.composition import measured_on_grid
from gld_ros.mapping.jobs import JobRequest, SynthesisRun
from gld_ros.mapping.make_products import NOTHING_MEASURED, make_products
from gld_ros.mapping.prepared_surfaces import PreparedSurfaces
from gld_ros.mapping.products import Product, Products
from gld_ros.mapping.scale import (
    MetricScale,
    ScaleMeasurement,
    ScaleParameters,
    ScaleState,
    measure_from_image,
    measure_from_surfaces,
    measure_from_views,
    measured_depth_alone,
)
from gld_ros.measuring.surfaces import MeasuredScene

DEFAULT_MEDIAN_DEPTH_M = 2.0  # before any job: a room
_BY_MEASUREMENTS = ("auto", "measured")  # modes of the scale that need no recovered cameras


class Postprocessor:
    """Turns runs into products; thread-safe, and usable as a worker's `postprocess`.

    `wanted` returns what has subscribers at the moment; a job may want more for itself. `measured`
    returns what was measured around a run.
    """

    def __init__(
        self,
        wanted: Callable[[], frozenset[Product]],
        measured: Callable[[JobRequest, SynthesisRun], MeasuredScene] = (
            lambda request, run: NOTHING_MEASURED
        ),
    ) -> None:
        self._wanted = wanted
        self._measured = measured
        self._lock = Lock()
        self._scale = MetricScale(ScaleParameters())
        self._median_depth_m = DEFAULT_MEDIAN_DEPTH_M
        self._prepared = PreparedSurfaces()
        self._epoch = 0

    def __call__(self, request: JobRequest, run: SynthesisRun) -> Products:
        """Products of one run. Raises `products.UnusableOutput`."""
        parameters = request.parameters
        measured = self._measured(request, run)
        measurement = measure_scale(run, measured, parameters.scale)
        with self._lock:
            self._use(parameters.scale)
            # A job of an earlier epoch will be discarded and must not affect the scale.
            current = request.epoch == self._epoch
            if current:
                state = self._scale.update(measurement, request.anchor.stamp_ns)
            else:
                state = self._scale.state(request.anchor.stamp_ns)
        if not (state.metric or measured.is_empty) and parameters.scale.mode in _BY_MEASUREMENTS:
            state = measured_depth_alone(state)
        products = make_products(
            run.views,
            run.keyframes,
            [request.targets[slot] for slot in run.slots],
            run.slots,
            state,
            parameters.products,
            self._wanted() | request.always_wanted,
            measured,
            parameters.scale.max_dispersion,
            self._prepared,
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
        """Median depth of the latest metric job, used for planning."""
        with self._lock:
            return self._median_depth_m

    def reset(self, epoch: int) -> None:
        """Discard scale and depth: a new epoch, or the user requested it (the same epoch)."""
        with self._lock:
            self._epoch = epoch
            self._scale.reset()
            self._prepared = PreparedSurfaces()
            self._median_depth_m = DEFAULT_MEDIAN_DEPTH_M

    def _use(self, parameters: ScaleParameters) -> None:
        if parameters.mode != self._scale.parameters.mode:
            self._scale = MetricScale(parameters)
        self._scale.parameters = parameters


def measure_scale(
    run: SynthesisRun, measured: MeasuredScene, parameters: ScaleParameters
) -> ScaleMeasurement:
    """What one run says about the scale, by the method of the mode."""
    references, keyframes = run.views.references, run.keyframes
    if parameters.mode == "tf_baseline" and run.slots:
        return measure_from_views(references, keyframes, parameters)
    surfaces = measured.references or (None,) * len(references)
    measured_m = [
        measured_on_grid(surface, (view.depth.shape[0], view.depth.shape[1]))
        for surface, view in zip(surfaces, references, strict=True)
    ]
    if not run.slots:
        return measure_from_image(references[0].depth, measured_m[0])
    by_surfaces = measure_from_surfaces([view.depth for view in references], measured_m)
    if parameters.mode != "auto" or not by_surfaces.fault:
        return by_surfaces
    by_cameras = measure_from_views(references, keyframes, parameters)
    if not by_cameras.fault:
        return by_cameras
    return replace(by_cameras, fault=f"{by_surfaces.fault}; {by_cameras.fault}")
