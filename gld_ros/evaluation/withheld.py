"""Splits a bag: what the node is shown, and frames kept back as the truth to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gld_ros.bags.cameras import BagCamera, bag_cameras, bag_fixed_frame
from gld_ros.bags.reader import BagError, BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.geometry.poses import invert_rigid, rotation_angle_rad
from gld_ros.mapping.cameras import MAX_DEPTH_OFFSET_NS
from gld_ros.mapping.frames import FloatArray, shrink_to_fit
from gld_ros.mapping.scale import resample_sensor_depth
from gld_ros.messages.camera_info import (
    CameraInfoValues,
    PinholeCamera,
    base_topic,
    camera_info_values,
    pinhole_camera,
)
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.images import rgb_from_message
from gld_ros.messages.registered_depth import UnregisteredDepth, require_registered
from gld_ros.messages.stamps import stamp_to_ns

COMPARED_HW = (224, 224)  # withheld images are compared at most at this size
# A frame a tenth of a second away shows the same image: copying it would be the best answer.
GAP_S = 0.5


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image of the bag at comparison size, with its camera."""

    stamp_ns: int
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    K_px: FloatArray  # (3, 3)
    T_fixed_cam: FloatArray  # (4, 4)
    frame_id: str
    depth_m: FloatArray | None = None  # (H, W) of a withheld one, where the bag has its depth


@dataclass(frozen=True, eq=False)
class SplitBag:
    """A bag without its withheld frames, and what was withheld and shown."""

    path: Path
    image_topic: str
    info_topic: str
    depth_topic: str | None  # of the camera, in its optical frame
    compressed: bool
    fixed_frame: str
    duration_s: float
    withheld: tuple[PosedImage, ...]
    shown: tuple[PosedImage, ...]


def withheld_frames(stamps_ns: Sequence[int], count: int) -> tuple[list[int], set[int]]:
    """Indices of up to `count` evenly spaced frames to withhold, and of those to hide with them.

    Hidden is what lies within GAP_S of a withheld frame, in short recordings less. The first and
    the last frame are never withheld.
    """
    last = len(stamps_ns) - 1
    count = min(count, len(stamps_ns) // 3)
    withheld = sorted({round((i + 1) * last / (count + 1)) for i in range(count)})
    duration_s = (stamps_ns[-1] - stamps_ns[0]) * 1e-9
    per_gap = round(GAP_S * last / max(duration_s, 1e-9))
    gap = min(per_gap, len(stamps_ns) // (4 * (count + 1)))
    return withheld, {i + k for i in withheld for k in range(-gap, gap + 1)}


def split_bag(source: Path, target: Path, count: int) -> SplitBag:
    """Copy a bag without `count` evenly spaced images of its first camera.

    Images within GAP_S of a withheld one are left out as well, in short bags fewer of them. Never
    leaves out the first or last image. Raises BagError for a bag without posed images.
    """
    with BagReader(source) as reader:
        camera = bag_cameras(reader)[0]
        fixed_frame = bag_fixed_frame(reader)
        buffer, _ = reader.transforms()
        first_info = reader.first(camera.info_topic)
        if first_info is None:
            raise BagError(f"bag {source} has no message on {camera.info_topic}")
        info = camera_info_values(first_info)
        images: list[tuple[int, PosedImage]] = []
        for message in reader.messages([camera.image_topic]):
            content = message.content
            rgb = rgb_from_message(content).rgb
            stamp_ns = stamp_to_ns(content.header.stamp)
            try:
                T_fixed_cam = buffer.lookup(fixed_frame, content.header.frame_id, stamp_ns)
            except LookupError:
                continue
            pinhole = pinhole_camera(info, (rgb.shape[0], rgb.shape[1]), "auto", camera.image_topic)
            image, K_px = shrink_to_fit(pinhole.rectify(rgb), pinhole.K_px, COMPARED_HW)
            images.append(
                (
                    message.stamp_ns,
                    PosedImage(
                        stamp_ns, np.array(image), K_px, T_fixed_cam, content.header.frame_id
                    ),
                )
            )
        if len(images) < 4:
            raise BagError(f"bag {source} has {len(images)} images with a pose; 4 are needed")
        kept_back, hidden = withheld_frames([stamp_ns for stamp_ns, _ in images], count)
        hidden_ns = {images[i][0] for i in hidden}
        _copy_without(reader, target, camera, hidden_ns)
        withheld = _with_depth(reader, camera, [images[i][1] for i in kept_back], info, pinhole)
        return SplitBag(
            path=target,
            image_topic=base_topic(camera.image_topic),
            info_topic=camera.info_topic,
            depth_topic=camera.depth_topic,
            compressed=camera.compressed,
            fixed_frame=fixed_frame,
            duration_s=(reader.end_ns - reader.start_ns) * 1e-9,
            withheld=withheld,
            shown=tuple(p for i, (_, p) in enumerate(images) if i not in hidden),
        )


def _with_depth(
    reader: BagReader,
    camera: BagCamera,
    images: list[PosedImage],
    info: CameraInfoValues,
    pinhole: PinholeCamera,
) -> tuple[PosedImage, ...]:
    """The images with the depth of the same stamp that is registered to them, where any is."""
    depth_by_stamp = {}
    frame_ids = {image.stamp_ns: image.frame_id for image in images}
    for message in reader.messages([camera.depth_topic] if camera.depth_topic else []):
        header = message.content.header
        frame_id = frame_ids.get(stamp_to_ns(header.stamp))
        if frame_id is None:
            continue
        depth_m = depth_m_from_message(message.content)
        try:
            require_registered(depth_m.shape, header.frame_id, [frame_id], info)
        except UnregisteredDepth:
            continue
        depth_by_stamp[stamp_to_ns(header.stamp)] = pinhole.rectify_depth(
            depth_m, camera.depth_topic or ""
        )
    found = []
    for image in images:
        depth = depth_by_stamp.get(image.stamp_ns)
        if depth is not None:
            hw = (image.image.shape[0], image.image.shape[1])
            resampled = resample_sensor_depth(*depth, image.K_px, hw)
            image = replace(image, depth_m=resampled)
        found.append(image)
    return tuple(found)


def _copy_without(reader: BagReader, target: Path, camera: BagCamera, hidden_ns: set[int]) -> None:
    """Copy images, depth, camera infos and TF, without the hidden images and their depth."""
    topics = [t for t in reader.topics.values() if _is_played(t.type)]
    with BagWriter(target) as writer:
        for topic in topics:
            writer.add_topic(topic.name, topic.type, latched=topic.name.endswith("tf_static"))
        for message in reader.raw_messages([t.name for t in topics]):
            if message.topic == camera.image_topic and message.stamp_ns in hidden_ns:
                continue
            if message.topic == camera.depth_topic and any(
                abs(message.stamp_ns - ns) <= MAX_DEPTH_OFFSET_NS for ns in hidden_ns
            ):
                continue
            writer.write_cdr(message.topic, message.stamp_ns, message.cdr)


def _is_played(type_name: str) -> bool:
    return type_name in (
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/CameraInfo",
        "tf2_msgs/msg/TFMessage",
    )


def nearest_shown(split: SplitBag, target: PosedImage) -> PosedImage:
    """Return the shown image whose camera is nearest to a withheld one (turns count as well)."""
    poses = np.stack([image.T_fixed_cam for image in split.shown])
    return split.shown[nearest_camera(poses, target.T_fixed_cam)]


def nearest_camera(T_fixed_cams: FloatArray, T_fixed_target: FloatArray) -> int:
    """Index of the camera of (n, 4, 4) nearest to a target (4, 4); a radian counts as a metre."""

    def far(T_fixed_cam: FloatArray) -> float:
        relative = invert_rigid(T_fixed_target) @ T_fixed_cam
        return float(np.linalg.norm(relative[:3, 3])) + rotation_angle_rad(relative[:3, :3])

    return int(np.argmin([far(T) for T in T_fixed_cams]))


def depth_error(depth_m: FloatArray, true_m: FloatArray) -> dict[str, float] | None:
    """Mean |d - d*| / d* and median d / d* of metric depth, not scaled; None without overlap."""
    with np.errstate(invalid="ignore"):
        both = np.isfinite(depth_m) & (depth_m > 0) & np.isfinite(true_m) & (true_m > 0)
    if not both.any():
        return None
    ratio = depth_m[both].astype(np.float64) / true_m[both]
    return {
        "abs_rel": round(float(np.mean(np.abs(ratio - 1))), 3),
        "median_ratio": round(float(np.median(ratio)), 3),
        "share": round(float(both.mean()), 3),
    }


def psnr_db(
    image: NDArray[np.uint8], true: NDArray[np.uint8], where: NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio of two images (H, W, 3), or of some of their pixels (H, W)."""
    squared = ((image.astype(np.float64) - true.astype(np.float64)) / 255.0) ** 2
    error = squared.mean() if where is None else squared[where].mean()
    return float(-10 * np.log10(max(float(error), 1e-10)))
