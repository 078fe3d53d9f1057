"""Splits a bag: what the node is shown, and frames kept back as the truth to compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gld_ros.bags.reader import COMPRESSED_IMAGE_TYPE, BagError, BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.geometry.poses import invert_rigid, rotation_angle_rad
from gld_ros.mapping.frames import FloatArray, shrink_to_fit
from gld_ros.mapping.scale import resample_sensor_depth
from gld_ros.messages.camera_info import camera_info_values, pinhole_camera
from gld_ros.messages.images import depth_m_from_image, rgb_from_compressed, rgb_from_image
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.ros.offline import DEPTH_TOPIC_ENDS, bag_cameras, bag_fixed_frame

COMPARED_HW = (224, 224)  # withheld pictures are compared at most at this size
# A frame a tenth of a second away shows the same picture: copying it would be the best answer.
GAP_S = 0.5


@dataclass(frozen=True, eq=False)
class PosedPicture:
    """A picture of the bag at comparison size, with its camera."""

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
    compressed: bool
    fixed_frame: str
    duration_s: float
    withheld: tuple[PosedPicture, ...]
    shown: tuple[PosedPicture, ...]


def split_bag(source: Path, target: Path, count: int, wanted_frame: str = "odom") -> SplitBag:
    """Copy a bag without `count` evenly spaced images of its first camera.

    Images within GAP_S of a withheld one are left out as well, in short bags fewer of them. Never
    leaves out the first or last image. Raises BagError for a bag without posed images.
    """
    with BagReader(source) as reader:
        camera = next(iter(bag_cameras(reader).values()))
        info_topic = reader.camera_info_topic(camera.topic)
        assert info_topic is not None  # bag_cameras chose topics that have one
        fixed_frame = bag_fixed_frame(reader, wanted_frame)
        buffer, _ = reader.transforms()
        first_info = next(iter(reader.messages([info_topic.name])), None)
        if first_info is None:
            raise BagError(f"bag {source} has no message on {info_topic.name}")
        info = camera_info_values(first_info.content)
        pictures: list[tuple[int, PosedPicture]] = []
        for message in reader.messages([camera.topic]):
            content = message.content
            decode = (
                rgb_from_compressed
                if reader.topics[camera.topic].type == COMPRESSED_IMAGE_TYPE
                else rgb_from_image
            )
            rgb = decode(content).rgb
            stamp_ns = stamp_to_ns(content.header.stamp)
            try:
                T_fixed_cam = buffer.lookup(fixed_frame, content.header.frame_id, stamp_ns)
            except LookupError:
                continue
            pinhole = pinhole_camera(info, (rgb.shape[0], rgb.shape[1]), "auto", camera.topic)
            image, K_px = shrink_to_fit(pinhole.rectify(rgb), pinhole.K_px, COMPARED_HW)
            pictures.append(
                (
                    message.stamp_ns,
                    PosedPicture(
                        stamp_ns, np.array(image), K_px, T_fixed_cam, content.header.frame_id
                    ),
                )
            )
        if len(pictures) < 4:
            raise BagError(f"bag {source} has {len(pictures)} images with a pose; 4 are needed")
        count = min(count, len(pictures) // 3)
        kept_back = {round((i + 1) * (len(pictures) - 1) / (count + 1)) for i in range(count)}
        duration_s = (pictures[-1][0] - pictures[0][0]) * 1e-9
        per_gap = round(GAP_S * (len(pictures) - 1) / max(duration_s, 1e-9))
        gap = min(per_gap, len(pictures) // (4 * (count + 1)))
        hidden = {i + k for i in kept_back for k in range(-gap, gap + 1)}
        hidden_ns = {pictures[i][0] for i in hidden}
        _copy_without(reader, target, camera.topic, hidden_ns)
        withheld = _with_depth(reader, [pictures[i][1] for i in sorted(kept_back)])
        return SplitBag(
            path=target,
            image_topic=camera.topic.removesuffix("/compressed"),
            info_topic=info_topic.name,
            compressed=camera.compressed,
            fixed_frame=fixed_frame,
            duration_s=(reader.end_ns - reader.start_ns) * 1e-9,
            withheld=withheld,
            shown=tuple(p for i, (_, p) in enumerate(pictures) if i not in hidden),
        )


def _with_depth(reader: BagReader, pictures: list[PosedPicture]) -> tuple[PosedPicture, ...]:
    """The pictures with the depth of the same stamp and frame, where the bag has any."""
    depth_by_stamp = {}
    for topic in reader.topics_of_type("sensor_msgs/msg/Image"):
        info_topic = reader.camera_info_topic(topic.name)
        if not topic.name.endswith(DEPTH_TOPIC_ENDS) or info_topic is None:
            continue
        info = next(iter(reader.messages([info_topic.name])), None)
        if info is None:
            continue
        K_px = np.array(camera_info_values(info.content).K, np.float64).reshape(3, 3)
        wanted = {(p.stamp_ns, p.frame_id) for p in pictures}
        for message in reader.messages([topic.name]):
            header = message.content.header
            key = (stamp_to_ns(header.stamp), header.frame_id)
            if key in wanted:
                depth_by_stamp[key] = depth_m_from_image(message.content), K_px
    found = []
    for picture in pictures:
        depth = depth_by_stamp.get((picture.stamp_ns, picture.frame_id))
        if depth is not None:
            hw = (picture.image.shape[0], picture.image.shape[1])
            resampled = resample_sensor_depth(*depth, picture.K_px, hw)
            picture = replace(picture, depth_m=resampled)
        found.append(picture)
    return tuple(found)


def _copy_without(reader: BagReader, target: Path, image_topic: str, hidden_ns: set[int]) -> None:
    """Copy images, camera infos and TF, but not the hidden images."""
    topics = [t for t in reader.topics.values() if _is_played(t.type)]
    with BagWriter(target) as writer:
        for topic in topics:
            writer.add_topic(topic.name, topic.type, latched=topic.name.endswith("tf_static"))
        for message in reader.raw_messages([t.name for t in topics]):
            if message.topic == image_topic and message.stamp_ns in hidden_ns:
                continue
            writer.write_cdr(message.topic, message.stamp_ns, message.cdr)


def _is_played(type_name: str) -> bool:
    return type_name in (
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/CameraInfo",
        "tf2_msgs/msg/TFMessage",
    )


def nearest_shown(split: SplitBag, target: PosedPicture) -> PosedPicture:
    """Return the shown picture whose camera is nearest to a withheld one (turns count as well)."""

    def far(picture: PosedPicture) -> float:
        relative = invert_rigid(target.T_fixed_cam) @ picture.T_fixed_cam
        return float(np.linalg.norm(relative[:3, 3])) + rotation_angle_rad(relative[:3, :3])

    return min(split.shown, key=far)


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


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two pictures of the same size in decibel."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2) / 255.0**2
    return float(-10 * np.log10(max(float(error), 1e-10)))
