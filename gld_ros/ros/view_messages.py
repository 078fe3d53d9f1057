"""Messages of one finished job: images, depth, clouds, camera infos and the records of its views.

Owns which product goes on which topic, and every header. Builds rclpy messages for the node and the
bag library's for the offline runner, from the same lines: `types` maps a full name such as
"sensor_msgs/msg/Image" to the class to fill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.guard import GuardVerdict
from gld_ros.mapping.jobs import JobRequest, StageTimes
from gld_ros.mapping.products import ObservedView, PredictedView, Product, Products
from gld_ros.mapping.scale import ScaleState
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import compressed_message, image_message
from gld_ros.messages.stamps import make_header, ns_to_stamp
from gld_ros.messages.transforms import pose_message
from gld_ros.messages.types import Types
from gld_ros.ros.clouds import structured_cloud_message

# Topic below the node's name -> message type, and the product that must be made for it.
TOPICS: dict[str, tuple[str, Product | None]] = {
    "predicted/color/image": ("sensor_msgs/msg/Image", Product.PREDICTED_COLOR),
    "predicted/color/image/compressed": (
        "sensor_msgs/msg/CompressedImage",
        Product.PREDICTED_COLOR,
    ),
    "predicted/color/camera_info": ("sensor_msgs/msg/CameraInfo", None),
    "predicted/depth/image": ("sensor_msgs/msg/Image", Product.PREDICTED_DEPTH),
    "predicted/depth/camera_info": ("sensor_msgs/msg/CameraInfo", None),
    "predicted/confidence/image": ("sensor_msgs/msg/Image", Product.PREDICTED_CONFIDENCE),
    "predicted/provenance/image": ("sensor_msgs/msg/Image", Product.PREDICTED_PROVENANCE),
    "predicted/points": ("sensor_msgs/msg/PointCloud2", Product.PREDICTED_POINTS),
    "observed/depth/image": ("sensor_msgs/msg/Image", Product.OBSERVED_DEPTH),
    "observed/depth/camera_info": ("sensor_msgs/msg/CameraInfo", None),
    "observed/confidence/image": ("sensor_msgs/msg/Image", Product.OBSERVED_CONFIDENCE),
    "observed/points": ("sensor_msgs/msg/PointCloud2", Product.OBSERVED_POINTS),
    "merged/points": ("sensor_msgs/msg/PointCloud2", Product.MERGED_POINTS),
    "views": ("gld_ros/msg/SynthesizedViewArray", Product.QUALITY),
    "keyframes": ("geometry_msgs/msg/PoseArray", None),
}


@dataclass(frozen=True)
class Frames:
    """Names of the frames that products are stamped with."""

    fixed: str
    view_prefix: str

    def view(self, slot: int) -> str:
        """Return the optical frame of the imagined view in `slot`."""
        return f"{self.view_prefix}_{slot}_optical"


def product_messages(
    products: Products, request: JobRequest, frames: Frames, types: Types, wanted: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    """Yield (topic, message) of all wanted pixels and points of one run, views in slot order."""
    stamp_ns = request.anchor.stamp_ns
    for view in products.predicted:
        yield from _predicted_messages(view, stamp_ns, frames, types, wanted)
    if products.observed is not None:
        yield from _observed_messages(products.observed, types, wanted)
    if products.merged_points is not None and "merged/points" in wanted:
        header = make_header(stamp_ns, frames.fixed, types)
        yield "merged/points", structured_cloud_message(products.merged_points, header, types)


def _predicted_messages(
    view: PredictedView, stamp_ns: int, frames: Frames, types: Types, wanted: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    header = make_header(stamp_ns, frames.view(view.slot), types)
    image_type = types("sensor_msgs/msg/Image")
    info = camera_info_message(view.target.K_px, view.target.image_hw, header, types)
    if view.color is not None:
        if "predicted/color/image" in wanted:
            yield "predicted/color/image", image_message(view.color, "rgb8", header, image_type)
        if "predicted/color/image/compressed" in wanted:
            kind = types("sensor_msgs/msg/CompressedImage")
            yield (
                "predicted/color/image/compressed",
                compressed_message(view.color, header, kind),
            )
        yield "predicted/color/camera_info", info
    if view.depth_m is not None:
        yield "predicted/depth/image", image_message(view.depth_m, "32FC1", header, image_type)
        yield "predicted/depth/camera_info", info
    if view.confidence is not None:
        message = image_message(view.confidence, "32FC1", header, image_type)
        yield "predicted/confidence/image", message
    if view.provenance is not None:
        message = image_message(view.provenance, "mono8", header, image_type)
        yield "predicted/provenance/image", message
    if view.points is not None and "predicted/points" in wanted:
        in_fixed = make_header(stamp_ns, frames.fixed, types)
        yield "predicted/points", structured_cloud_message(view.points, in_fixed, types)


def _observed_messages(
    view: ObservedView, types: Types, wanted: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    header = make_header(view.keyframe.stamp_ns, view.keyframe.frame_id, types)
    image_type = types("sensor_msgs/msg/Image")
    if view.depth_m is not None:
        yield "observed/depth/image", image_message(view.depth_m, "32FC1", header, image_type)
        hw = (view.depth_m.shape[0], view.depth_m.shape[1])
        info = camera_info_message(view.K_px, hw, header, types)
        yield "observed/depth/camera_info", info
    if view.confidence is not None:
        message = image_message(view.confidence, "32FC1", header, image_type)
        yield "observed/confidence/image", message
    if view.points is not None and "observed/points" in wanted:
        yield "observed/points", structured_cloud_message(view.points, header, types)


def views_message(
    request: JobRequest,
    runs_products: Sequence[Products],
    verdicts: Sequence[GuardVerdict],
    seed: int,
    scale: ScaleState,
    times: StageTimes,
    frames: Frames,
    types: Types,
) -> Any:
    """Return the SynthesizedViewArray that closes a job; verdicts belong to `request.targets`."""
    views = [
        _view_record(view, verdicts[view.slot], request, seed, frames, types)
        for products in runs_products
        for view in products.predicted
    ]
    return types("gld_ros/msg/SynthesizedViewArray")(
        header=make_header(request.anchor.stamp_ns, frames.fixed, types),
        job_id=request.job_id,
        epoch=request.epoch,
        policy=request.policy,
        views=views,
        scale=scale_message(scale, types),
        times=times_message(times, types),
    )


def _view_record(
    view: PredictedView,
    verdict: GuardVerdict,
    request: JobRequest,
    seed: int,
    frames: Frames,
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
        corroborated_fraction=view.quality.corroborated,
        hallucinated_fraction=view.quality.hallucinated,
        contradicted_fraction=view.quality.contradicted,
        seed=seed & 0xFFFFFFFF,
    )


def keyframes_message(keyframes: Sequence[Keyframe], frames: Frames, types: Types) -> Any:
    """Return the PoseArray of a job's conditioning cameras (optical axes), newest first."""
    return types("geometry_msgs/msg/PoseArray")(
        header=make_header(keyframes[0].stamp_ns, frames.fixed, types),
        poses=[pose_message(k.T_fixed_cam, types) for k in keyframes],
    )


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
    return types("gld_ros/msg/StageTimes")(
        wait_tf=times.wait_tf,
        queue=times.queue,
        encode=times.encode,
        sample=times.sample,
        decode=times.decode,
        postprocess=times.postprocess,
        publish=times.publish,
        total=times.total,
    )
