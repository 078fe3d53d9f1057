"""From a synthesis result to arrays that may be published: metric, masked, labelled, or withheld.

Owns the meaning of published depth (REP-117) and confidence in [0, 1], and the rule that depth and
clouds exist only with a trusted scale. `composition` combines measured depth with the model's,
`clouds` makes points, `provenance` their classes, `scale` finds metres per unit, and `products`
lists which products there are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.clouds import cloud_from_depth, joined_points, moved_points, voxel_filtered
from gld_ros.mapping.composition import CompletedView, color_image, completed_view, composed_view
from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.prepared_surfaces import PreparedSurfaces
from gld_ros.mapping.products import (
    ALL_PRODUCTS,
    ObservedView,
    PredictedView,
    Product,
    ProductParameters,
    Products,
    UnusableOutput,
    ViewQuality,
)
from gld_ros.mapping.provenance import (
    DepthView,
    Provenance,
    ProvenanceMap,
    SeenSurface,
    classify_view,
    judged,
    lowered_by_spread,
    seen_surface,
    unknown_provenance,
)
from gld_ros.mapping.relative_depth import relative_depth
from gld_ros.mapping.scale import ScaleState
from gld_ros.measuring.rendering import render_chosen
from gld_ros.measuring.sources import Candidates, choose_surfaces
from gld_ros.measuring.surfaces import MeasuredScene
from gld_ros.view_request import NovelViews, View

FloatArray = NDArray[np.floating[Any]]

MAX_BROKEN_FRACTION = 0.05  # of a view's pixels; with more, nothing of the output is used
NOTHING_MEASURED = MeasuredScene()

_OBSERVED = frozenset(
    {
        Product.OBSERVED_DEPTH,
        Product.OBSERVED_CONFIDENCE,
        Product.OBSERVED_POINTS,
        Product.OBSERVED_PROVENANCE,
        Product.RELATIVE_DEPTH,
        Product.MERGED_POINTS,
    }
)
_NEEDS_PROVENANCE = frozenset(
    {
        Product.PREDICTED_PROVENANCE,
        Product.PREDICTED_POINTS,
        Product.MERGED_POINTS,
        Product.QUALITY,
    }
)


def make_products(
    views: NovelViews,
    keyframes: Sequence[Keyframe],
    targets: Sequence[TargetCamera],
    slots: Sequence[int],
    scale: ScaleState,
    parameters: ProductParameters,
    wanted: frozenset[Product] = ALL_PRODUCTS,
    measured: MeasuredScene = NOTHING_MEASURED,
    max_error: float = float("inf"),
    prepared: PreparedSurfaces | None = None,
) -> Products:
    """Publishable arrays of one result.

    `keyframes` are the references of `views` in order, newest first; `targets` and `slots` its
    targets. The model's depth is left out where its expected relative error is above `max_error`.
    `prepared` keeps what the next job may need again.
    Without a metric scale, depth, confidence and clouds are None and provenance is UNKNOWN
    everywhere; if they are not to be withheld, the best guess is used. Without targets
    (mode depth) relative depth is made of the image, whatever the scale.
    Raises UnusableOutput when the model left more than 5 % of a view without valid numbers.
    """
    broken = [
        *(broken_fraction(view, colour=False) for view in views.references),
        *(broken_fraction(view) for view in views.targets),
    ]
    for i, fraction in enumerate(broken):
        if fraction > MAX_BROKEN_FRACTION:
            raise UnusableOutput(
                f"{fraction:.1%} of view {i} ({len(views.references)} references first) have no "
                f"valid numbers; {MAX_BROKEN_FRACTION:.0%} are tolerated"
            )
    metres = scale.metric or (not parameters.withhold_if_unresolved and scale.scale > 0)
    if not metres:
        colours_only = tuple(
            _colour_only(view, target, slot, share, wanted)
            for view, target, slot, share in zip(
                views.targets, targets, slots, broken[len(views.references) :], strict=True
            )
        )
        possible = {Product.PREDICTED_COLOR, Product.PREDICTED_PROVENANCE, Product.QUALITY}
        relative = None
        if not targets and wanted & _OBSERVED:
            relative = _unscaled_view(views.references[0], keyframes[0], parameters, wanted)
            possible |= {Product.RELATIVE_DEPTH, Product.OBSERVED_CONFIDENCE}
        return Products(colours_only, relative, None, scale, float("nan"), wanted - possible)

    if not parameters.withhold_if_unresolved:
        max_error = float("inf")
    surfaces = measured.references or (None,) * len(keyframes)
    completed = [
        completed_view(view, surface, scale, max_error)
        for view, surface in zip(views.references, surfaces, strict=True)
    ]
    reference_depths = [_confident_depth(view, parameters.min_confidence) for view in completed]
    seen: list[SeenSurface] = []
    if wanted & _NEEDS_PROVENANCE or any(view.spread is not None for view in views.targets):
        seen = [
            seen_surface(DepthView(depth_m, view.K_px, k.T_fixed_cam), parameters.rel_tolerance)
            for depth_m, view, k in zip(reference_depths, views.references, keyframes, strict=True)
        ]
    prepared = prepared or PreparedSurfaces()
    around = _Around(prepared.candidates(measured.surfaces), prepared, seen)
    predicted = tuple(
        _predicted_view(view, target, slot, share, around, scale, parameters, wanted, max_error)
        for view, target, slot, share in zip(
            views.targets, targets, slots, broken[len(views.references) :], strict=True
        )
    )
    observed = None
    if wanted & _OBSERVED:
        observed = _observed_view(
            views.references[0], completed[0], keyframes[0], parameters, wanted
        )
    merged = None
    if Product.MERGED_POINTS in wanted and observed is not None:
        merged = _merged_points(predicted, observed, parameters)
    known = np.concatenate([depth_m[np.isfinite(depth_m)] for depth_m in reference_depths])
    median_depth_m = float(np.median(known)) if known.size else float("nan")
    return Products(predicted, observed, merged, scale, median_depth_m)


def broken_fraction(view: View, *, colour: bool = True) -> float:
    """Share of pixels where a model's output is not a number, or its depth not positive.

    Without `colour`, which nothing shows of references, depth and confidence decide.

    Pixels outside what the model covered (confidence 0) are left blank on purpose and do not count.
    """
    covered = ~(view.confidence == 0)
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(view.depth) & (view.depth > 0) & np.isfinite(view.confidence)
    if colour:
        sound &= np.isfinite(view.rgb).all(axis=2)
    count = int(np.count_nonzero(covered))
    return int(np.count_nonzero(covered & ~sound)) / count if count else 1.0


def rep117_depth(
    depth_m: FloatArray, confidence: FloatArray, parameters: ProductParameters
) -> NDArray[np.float32]:
    """Depth (H, W) as REP-117 wants it, given confidence in [0, 1].

    NaN: no valid prediction or below `min_confidence`; +Inf: beyond `depth_max_m`; -Inf: closer
    than `depth_min_m`.
    """
    with np.errstate(invalid="ignore"):
        valid = (confidence >= parameters.min_confidence) & (depth_m > 0)
        depth = np.where(valid, depth_m, np.nan).astype(np.float32)
        depth[depth > parameters.depth_max_m] = np.inf
        depth[depth < parameters.depth_min_m] = -np.inf
    return depth


def _confident_depth(view: CompletedView, min_confidence: float) -> NDArray[np.float32]:
    """Metric depth where a reference is sure enough to vote, else NaN."""
    with np.errstate(invalid="ignore"):
        valid = (view.confidence >= min_confidence) & (view.depth_m > 0)
    return np.where(valid, view.depth_m, np.float32(np.nan))


def _colour_only(
    view: View, target: TargetCamera, slot: int, broken: float, wanted: frozenset[Product]
) -> PredictedView:
    hw = view.depth.shape
    return PredictedView(
        slot=slot,
        target=target,
        color=color_image(view.rgb) if Product.PREDICTED_COLOR in wanted else None,
        depth_m=None,
        confidence=None,
        provenance=np.zeros(hw, np.uint8) if Product.PREDICTED_PROVENANCE in wanted else None,
        points=None,
        quality=ViewQuality(mean_confidence=_mean(view.confidence), broken=broken),
    )


class _Around(NamedTuple):
    """What a job's targets are surrounded by."""

    measured: Candidates
    prepared: PreparedSurfaces
    completed: Sequence[SeenSurface]  # the references; empty: no labels are wanted


def _predicted_view(
    view: View,
    target: TargetCamera,
    slot: int,
    broken: float,
    around: _Around,
    scale: ScaleState,
    parameters: ProductParameters,
    wanted: frozenset[Product],
    max_error: float,
) -> PredictedView:
    T_fixed_cam = target.T_fixed_cam
    image_hw = (view.depth.shape[0], view.depth.shape[1])
    prepared = around.prepared
    shown, voters = choose_surfaces(around.measured, view.K_px, T_fixed_cam, image_hw)
    sources = prepared.sources(shown) if parameters.composite else []
    rendered = render_chosen(sources, view.K_px, T_fixed_cam, image_hw, voters)
    composed = composed_view(view, rendered, scale, max_error)
    confidence, color = composed.confidence, composed.color
    depth_m = rep117_depth(composed.depth_m, confidence, parameters)
    provenance = unknown_provenance(image_hw)
    if around.completed:
        seers = prepared.seers(shown, parameters.rel_tolerance)
        provenance = judged(
            classify_view(depth_m, view.K_px, T_fixed_cam, seers),
            classify_view(depth_m, view.K_px, T_fixed_cam, around.completed),
        )
        known = composed.measured & (provenance.labels != Provenance.UNKNOWN)
        labels = np.where(known, np.uint8(Provenance.MEASURED), provenance.labels)
        provenance = ProvenanceMap(labels, provenance.witness)
    if view.spread is not None:
        confidence = lowered_by_spread(
            confidence, view.spread, provenance.labels, parameters.rel_tolerance
        )
        depth_m[confidence < parameters.min_confidence] = np.nan
        labels = np.where(np.isnan(depth_m), np.uint8(Provenance.UNKNOWN), provenance.labels)
        provenance = ProvenanceMap(labels, provenance.witness)
    confidence[np.isnan(depth_m)] = np.nan
    points = None
    if wanted & {Product.PREDICTED_POINTS, Product.MERGED_POINTS}:
        allowed = np.isin(np.arange(256), [int(p) for p in parameters.predicted_provenance])
        points = cloud_from_depth(
            depth_m,
            view.K_px,
            T_fixed_cam,
            color,
            confidence,
            provenance.labels,
            slot,
            stride=parameters.stride,
            keep=allowed[provenance.labels],
        )
        points = voxel_filtered(points, parameters.voxel_size_m)
    # Who reads a depth image often reads no labels: it holds nothing that is known to be wrong.
    contradicted = provenance.labels == Provenance.CONTRADICTED
    depth_m[contradicted] = confidence[contradicted] = np.nan
    return PredictedView(
        slot=slot,
        target=target,
        color=color if Product.PREDICTED_COLOR in wanted else None,
        depth_m=depth_m if Product.PREDICTED_DEPTH in wanted else None,
        confidence=confidence if Product.PREDICTED_CONFIDENCE in wanted else None,
        provenance=provenance.labels if Product.PREDICTED_PROVENANCE in wanted else None,
        points=points,
        quality=ViewQuality(
            mean_confidence=_mean(confidence),
            measured=provenance.fraction(Provenance.MEASURED),
            corroborated=provenance.fraction(Provenance.CORROBORATED),
            hallucinated=provenance.fraction(Provenance.HALLUCINATED),
            contradicted=provenance.fraction(Provenance.CONTRADICTED),
            broken=broken,
        ),
    )


def _observed_view(
    view: View,
    completed: CompletedView,
    keyframe: Keyframe,
    parameters: ProductParameters,
    wanted: frozenset[Product],
) -> ObservedView:
    confidence = completed.confidence
    depth_m = rep117_depth(completed.depth_m, confidence, parameters)
    labels = np.where(completed.measured, Provenance.MEASURED, Provenance.COMPLETED)
    # Who clears a map with depth images reads no labels: what is not wanted is not there.
    depth_m[~np.isin(labels, [int(p) for p in parameters.observed_provenance])] = np.nan
    confidence[np.isnan(depth_m)] = np.nan
    labels = np.where(np.isnan(depth_m), Provenance.UNKNOWN, labels).astype(np.uint8)
    points = None
    if wanted & {Product.OBSERVED_POINTS, Product.MERGED_POINTS}:
        image = keyframe.image
        if image.shape[:2] != depth_m.shape:
            size = (depth_m.shape[1], depth_m.shape[0])
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        points = cloud_from_depth(
            depth_m,
            view.K_px,
            np.eye(4),
            image,
            confidence,
            labels,
            0,
            stride=parameters.stride,
            organized=parameters.organized_observed,
        )
        if not parameters.organized_observed:
            points = voxel_filtered(points, parameters.voxel_size_m)
    relative = None
    if Product.RELATIVE_DEPTH in wanted:
        relative, _ = relative_depth(view, parameters.min_confidence)
    return ObservedView(
        keyframe=keyframe,
        K_px=view.K_px,
        depth_m=depth_m if Product.OBSERVED_DEPTH in wanted else None,
        confidence=confidence if Product.OBSERVED_CONFIDENCE in wanted else None,
        points=points,
        provenance=labels if Product.OBSERVED_PROVENANCE in wanted else None,
        relative_depth=relative,
    )


def _unscaled_view(
    view: View, keyframe: Keyframe, parameters: ProductParameters, wanted: frozenset[Product]
) -> ObservedView:
    depth, confidence = relative_depth(view, parameters.min_confidence)
    return ObservedView(
        keyframe=keyframe,
        K_px=view.K_px,
        depth_m=None,
        confidence=confidence if Product.OBSERVED_CONFIDENCE in wanted else None,
        points=None,
        relative_depth=depth if Product.RELATIVE_DEPTH in wanted else None,
    )


def _merged_points(
    predicted: Sequence[PredictedView], observed: ObservedView, parameters: ProductParameters
) -> NDArray[Any]:
    """Observed and predicted points together, in the fixed frame."""
    if observed.points is None:
        raise ValueError("merged points need observed points")
    real = moved_points(observed.points, observed.keyframe.T_fixed_cam)
    clouds = [real, *(view.points for view in predicted if view.points is not None)]
    return voxel_filtered(joined_points(clouds), parameters.voxel_size_m)


def _mean(confidence: FloatArray) -> float:
    known = confidence[np.isfinite(confidence)]
    return float(known.mean()) if known.size else 0.0
