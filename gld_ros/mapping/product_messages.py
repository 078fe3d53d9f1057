"""Messages of one finished job: images, depth, clouds, camera infos and the records of its views.

Owns which product goes on which topic, and every header. Builds rclpy messages for the node and the
bag library's for the offline run, with the same code: `types` maps a full name such as
"sensor_msgs/msg/Image" to the class to fill.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from numpy.typing import NDArray

from gld_ros.mapping.guard import GuardVerdict
from gld_ros.mapping.jobs import JobRequest, JobResult, StageTimes
from gld_ros.mapping.parameters import FrameParameters, Mode
from gld_ros.mapping.products import ObservedView, PredictedView, Product, Products
from gld_ros.mapping.scale import ScaleState
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.clouds import cloud_message
from gld_ros.messages.images import ImageEncoding, compressed_message, image_message
from gld_ros.messages.stamps import make_header, ns_to_stamp
from gld_ros.messages.transforms import pose_message, transform_message
from gld_ros.messages.types import Types

Message = tuple[str, Callable[[], Any]]  # a topic, and what builds its message

# Topic below the node's name -> message type, and the product that must be made for it.
TOPICS: dict[str, tuple[str, Product | None]] = {
    "predicted/color/image": ("sensor_msgs/msg/Image", Product.PREDICTED_COLOR),
    "predicted/color/image/compressed": (
        "sensor_msgs/msg/CompressedImage",
        Product.PREDICTED_COLOR,
    ),
    "predicted/color/camera_info": ("sensor_msgs/msg/CameraInfo", Product.PREDICTED_COLOR),
    "predicted/depth/image": ("sensor_msgs/msg/Image", Product.PREDICTED_DEPTH),
    "predicted/depth/camera_info": ("sensor_msgs/msg/CameraInfo", Product.PREDICTED_DEPTH),
    "predicted/confidence/image": ("sensor_msgs/msg/Image", Product.PREDICTED_CONFIDENCE),
    "predicted/provenance/image": ("sensor_msgs/msg/Image", Product.PREDICTED_PROVENANCE),
    "predicted/points": ("sensor_msgs/msg/PointCloud2", Product.PREDICTED_POINTS),
    "observed/depth/image": ("sensor_msgs/msg/Image", Product.OBSERVED_DEPTH),
    "observed/depth/camera_info": ("sensor_msgs/msg/CameraInfo", Product.OBSERVED_DEPTH),
    "observed/confidence/image": ("sensor_msgs/msg/Image", Product.OBSERVED_CONFIDENCE),
    "observed/provenance/image": ("sensor_msgs/msg/Image", Product.OBSERVED_PROVENANCE),
    "observed/points": ("sensor_msgs/msg/PointCloud2", Product.OBSERVED_POINTS),
    "observed/relative_depth/image": ("sensor_msgs/msg/Image", Product.RELATIVE_DEPTH),
    "observed/relative_depth/camera_info": (
        "sensor_msgs/msg/CameraInfo",
        Product.RELATIVE_DEPTH,
    ),
    "merged/points": ("sensor_msgs/msg/PointCloud2", Product.MERGED_POINTS),
    "views": ("gld_ros/msg/SynthesizedViewArray", Product.QUALITY),
    "keyframes": ("geometry_msgs/msg/PoseArray", None),
}


DEPTH_TOPICS = frozenset(topic for topic in TOPICS if topic.startswith("observed/"))
VIEWS_TOPICS = frozenset(TOPICS) - {topic for topic in TOPICS if "relative_depth" in topic}


def offered_topics(mode: Mode, *, merged: bool) -> frozenset[str]:
    """Return the topics of a mode; `merged`: whether to offer that cloud."""
    if mode == "depth":
        return DEPTH_TOPICS
    return VIEWS_TOPICS if merged else VIEWS_TOPICS - {"merged/points"}


def products_for(topics: Iterable[str]) -> frozenset[Product]:
    """Return the products to make for these topics."""
    products = {TOPICS[topic][1] for topic in topics}
    return frozenset(product for product in products if product is not None)


def job_messages(
    result: JobResult, frames: FrameParameters, types: Types, topics: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    """Yield (topic, message) of a finished job for these topics, all but `views`.

    Pixels and points of one view after the other in slot order, then the keyframes.
    """
    for products in result.products:
        for topic, build in _of_run(products, result.request, frames, types):
            if topic in topics:
                yield topic, build()
    if "keyframes" in topics:
        yield "keyframes", keyframes_message(result.request, frames, types)


def _of_run(
    products: Products, request: JobRequest, frames: FrameParameters, types: Types
) -> Iterator[Message]:
    stamp_ns = request.anchor.stamp_ns
    for view in products.predicted:
        yield from _of_predicted(view, stamp_ns, frames, types)
    if products.observed is not None:
        yield from _of_observed(products.observed, types)
    merged = products.merged_points
    if merged is not None:
        header = make_header(stamp_ns, frames.fixed, types)
        yield "merged/points", lambda: cloud_message(merged, header, types)


def _of_predicted(
    view: PredictedView, stamp_ns: int, frames: FrameParameters, types: Types
) -> Iterator[Message]:
    header = make_header(stamp_ns, frames.view(view.slot), types)

    def info() -> Any:
        return camera_info_message(view.target.K_px, view.target.image_hw, header, types)

    color = view.color
    if color is not None:
        yield _image("predicted/color/image", color, "rgb8", header, types)
        compressed_type = types("sensor_msgs/msg/CompressedImage")
        yield (
            "predicted/color/image/compressed",
            lambda: compressed_message(color, header, compressed_type),
        )
        yield "predicted/color/camera_info", info
    if view.depth_m is not None:
        yield _image("predicted/depth/image", view.depth_m, "32FC1", header, types)
        yield "predicted/depth/camera_info", info
    if view.confidence is not None:
        yield _image("predicted/confidence/image", view.confidence, "32FC1", header, types)
    if view.provenance is not None:
        yield _image("predicted/provenance/image", view.provenance, "mono8", header, types)
    points = view.points
    if points is not None:
        in_fixed = make_header(stamp_ns, frames.fixed, types)
        yield "predicted/points", lambda: cloud_message(points, in_fixed, types)


def _of_observed(view: ObservedView, types: Types) -> Iterator[Message]:
    header = make_header(view.keyframe.stamp_ns, view.keyframe.frame_id, types)
    points = view.points
    for name, depth in (("depth", view.depth_m), ("relative_depth", view.relative_depth)):
        if depth is not None:
            hw = (depth.shape[0], depth.shape[1])
            yield _image(f"observed/{name}/image", depth, "32FC1", header, types)
            info = partial(camera_info_message, view.K_px, hw, header, types)
            yield f"observed/{name}/camera_info", info
    if view.confidence is not None:
        yield _image("observed/confidence/image", view.confidence, "32FC1", header, types)
    if view.provenance is not None:
        yield _image("observed/provenance/image", view.provenance, "mono8", header, types)
    if points is not None:
        yield "observed/points", lambda: cloud_message(points, header, types)


def _image(
    topic: str,
    pixels: NDArray[Any],
    encoding: ImageEncoding,
    header: Any,
    types: Types,
) -> Message:
    kind = types("sensor_msgs/msg/Image")
    return topic, lambda: image_message(pixels, encoding, header, kind)


def views_message(
    result: JobResult, times: StageTimes, frames: FrameParameters, types: Types
) -> Any:
    """Return the SynthesizedViewArray that closes a finished job."""
    request, seed = result.request, result.runs[0].views.seed
    views = [
        _view_record(view, request.verdicts[view.slot], request, seed, frames, types)
        for products in result.products
        for view in products.predicted
    ]
    return types("gld_ros/msg/SynthesizedViewArray")(
        header=make_header(request.anchor.stamp_ns, frames.fixed, types),
        job_id=request.job_id,
        epoch=request.epoch,
        policy=request.policy,
        views=views,
        scale=scale_message(result.products[-1].scale, types),
        times=times_message(times, types),
    )


def _view_record(
    view: PredictedView,
    verdict: GuardVerdict,
    request: JobRequest,
    seed: int,
    frames: FrameParameters,
    types: Types,
) -> Any:
    stamp_ns = request.anchor.stamp_ns
    header = make_header(stamp_ns, frames.view(view.slot), types)
    in_fixed = make_header(stamp_ns, frames.fixed, types)
    time_type = types("builtin_interfaces/msg/Time")
    return types("gld_ros/msg/SynthesizedView")(
        header=header,
        slot=view.slot,
        pose=types("geometry_msgs/msg/PoseStamped")(
            header=in_fixed, pose=pose_message(view.target.T_fixed_cam, types)
        ),
        camera_info=camera_info_message(view.target.K_px, view.target.image_hw, header, types),
        anchor_stamp=ns_to_stamp(stamp_ns, time_type),
        anchor_camera=request.anchor.camera,
        conditioning_stamps=[ns_to_stamp(k.stamp_ns, time_type) for k in request.keyframes],
        conditioning_cameras=[k.camera for k in request.keyframes],
        mean_confidence=view.quality.mean_confidence,
        overlap=verdict.overlap,
        measured_fraction=view.quality.measured,
        corroborated_fraction=view.quality.corroborated,
        hallucinated_fraction=view.quality.hallucinated,
        contradicted_fraction=view.quality.contradicted,
        seed=seed & 0xFFFFFFFF,
    )


def keyframes_message(request: JobRequest, frames: FrameParameters, types: Types) -> Any:
    """Return the PoseArray of a job's reference cameras (optical axes), newest first."""
    return types("geometry_msgs/msg/PoseArray")(
        header=make_header(request.anchor.stamp_ns, frames.fixed, types),
        poses=[pose_message(k.T_fixed_cam, types) for k in request.keyframes],
    )


def view_transforms(result: JobResult, frames: FrameParameters, types: Types) -> list[Any]:
    """Return the TransformStamped of every target view of a finished job, in slot order."""
    stamp_ns = result.request.anchor.stamp_ns
    return [
        transform_message(
            view.target.T_fixed_cam, frames.fixed, frames.view(view.slot), stamp_ns, types
        )
        for products in result.products
        for view in products.predicted
    ]


def anchor_transforms(request: JobRequest, frames: FrameParameters, types: Types) -> list[Any]:
    """Return the TransformStamped of the camera of a job's anchor; none where TF had no pose."""
    anchor = request.anchor
    if not anchor.is_placed or anchor.frame_id == frames.fixed:
        return []
    return [
        transform_message(anchor.T_fixed_cam, frames.fixed, anchor.frame_id, anchor.stamp_ns, types)
    ]


def scale_message(scale: ScaleState, types: Types) -> Any:
    """Return the ScaleEstimate of a scale state."""
    return types("gld_ros/msg/ScaleEstimate")(
        source=int(scale.source),
        metric=scale.metric,
        scale=scale.scale,
        relative_dispersion=scale.relative_dispersion,
        num_pairs=scale.num_pairs,
        max_baseline=scale.max_baseline_m,
    )


def times_message(times: StageTimes, types: Types) -> Any:
    """Return the StageTimes message of stage durations in seconds."""
    return types("gld_ros/msg/StageTimes")(**asdict(times))
