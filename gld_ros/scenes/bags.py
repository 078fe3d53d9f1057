"""ROS 2 bags (MCAP or SQLite) as recordings: images, CameraInfo, depth and interpolated TF.

Messages are read by the functions that the node uses, so a bag means the same in training,
evaluation and on a robot. A bag gives one recording per colour camera. An image that cannot be used
(no transform at its stamp, an unknown encoding) is left out and counted by reason.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.bags.cameras import BagCamera, bag_cameras
from gld_ros.bags.reader import BagError, BagReader
from gld_ros.geometry.crop_resize import resample_depth
from gld_ros.messages.camera_info import (
    CameraInfoError,
    CameraInfoValues,
    PinholeCamera,
    base_topic,
    camera_info_values,
    pinhole_camera,
)
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.images import COLOUR_ENCODINGS, ImageError, rgb_from_message
from gld_ros.messages.registered_depth import (
    SAME_MOMENT_NS,
    DepthFault,
    UnregisteredDepth,
    require_registered,
)
from gld_ros.messages.stamps import stamp_to_ns
from gld_ros.messages.transforms import TransformBuffer
from gld_ros.scenes.recording import FloatArray, Frame, Recording, RecordingError

log = logging.getLogger(__name__)


def open_bag(path: Path, fixed_frame: str | None = None) -> list[Recording]:
    """The recordings of a bag folder or file, one per colour camera, sorted by topic.

    Poses are those of the image's frame in fixed_frame (default: the root of its transform tree),
    interpolated at the image's stamp, never extrapolated. TF is taken to be in metres (REP-103).
    Raises RecordingError for an unreadable bag, a bag without colour images, or one in which no
    image can be placed.
    """
    try:
        bag = BagReader(path)
        buffer, rejected = bag.transforms()
        cameras = bag_cameras(bag)
        recordings = [_recording(bag, buffer, camera, fixed_frame) for camera in cameras]
    except BagError as error:
        raise RecordingError(str(error)) from error
    for transform_error in rejected:
        log.warning("bag %s: %s", path, transform_error)
    usable = [recording for recording in recordings if len(recording)]
    if not usable:
        reasons = Counter[str]()
        for recording in recordings:
            reasons.update(recording.dropped)
        counts = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise RecordingError(f"{path}: none of the images can be used ({counts or 'no images'})")
    return usable


@dataclass(frozen=True)
class _PlacedImage:
    """Where an image is in the bag, and its camera."""

    recorded_ns: int
    stamp_ns: int
    T_fixed_cam: FloatArray
    info: CameraInfoValues


def _recording(
    bag: BagReader, buffer: TransformBuffer, camera: BagCamera, fixed_frame: str | None
) -> Recording:
    infos = [
        (stamp_to_ns(message.content.header.stamp), camera_info_values(message.content))
        for message in bag.messages([camera.info_topic])
    ]
    dropped: Counter[str] = Counter()
    placed: list[_PlacedImage] = []
    for message in bag.messages([camera.image_topic]):
        image = message.content
        if not camera.compressed and image.encoding not in COLOUR_ENCODINGS:
            dropped[f"encoding {image.encoding!r} is not supported"] += 1
            continue
        if not infos:
            dropped[f"no message on {camera.info_topic}"] += 1
            continue
        stamp_ns, frame_id = stamp_to_ns(image.header.stamp), image.header.frame_id
        try:
            fixed = buffer.tree.root_of(frame_id) if fixed_frame is None else fixed_frame
            T_fixed_cam = buffer.lookup(fixed, frame_id, stamp_ns)
        except TransformUnavailable as error:
            dropped[f"no transform at the stamp ({error.reason})"] += 1
            continue
        info = min(infos, key=lambda stamped: abs(stamped[0] - stamp_ns))[1]
        placed.append(_PlacedImage(message.stamp_ns, stamp_ns, T_fixed_cam, info))

    refused: set[DepthFault] = set()  # said once per recording
    depth_recorded_ns = _recorded_ns_by_stamp(bag, camera.depth_topic)
    pinholes: dict[tuple[CameraInfoValues, tuple[int, int]], PinholeCamera] = {}

    def load(k: int) -> Frame:
        image = placed[k]
        where = f"{bag.path.name}{camera.image_topic} at {image.stamp_ns} ns"
        try:
            message = _message_again(bag, camera.image_topic, image.recorded_ns, image.stamp_ns)
            rgb = rgb_from_message(message).rgb
            key = (image.info, (rgb.shape[0], rgb.shape[1]))
            if key not in pinholes:
                pinholes[key] = pinhole_camera(*key, topic=camera.image_topic)
            pinhole = pinholes[key]
            depth_m = None
            depth_ns = min(depth_recorded_ns, key=lambda ns: abs(ns - image.stamp_ns), default=None)
            if depth_ns is not None and abs(depth_ns - image.stamp_ns) <= SAME_MOMENT_NS:
                assert camera.depth_topic is not None
                at_ns = depth_recorded_ns[depth_ns]
                depth_message = _message_again(bag, camera.depth_topic, at_ns, depth_ns)
                try:
                    depth_m = _depth_m(
                        depth_message,
                        camera.depth_topic,
                        message.header.frame_id,
                        image.info,
                        pinhole,
                    )
                except UnregisteredDepth as error:
                    if error.fault not in refused:
                        log.warning("%s: depth is left out: %s", where, error)
                    refused.add(error.fault)
        except (BagError, ImageError, CameraInfoError) as error:
            raise RecordingError(f"{where}: {error}") from error
        # A copy: the pixels may be memory of the message.
        rgb = np.array(pinhole.rectify(rgb))
        return Frame(rgb, pinhole.K_px, image.T_fixed_cam, depth_m, image.stamp_ns)

    poses = np.array([image.T_fixed_cam for image in placed], np.float64).reshape(-1, 4, 4)
    stamps = np.array([image.stamp_ns for image in placed], dtype=np.int64)
    name = f"{bag.path.name}{base_topic(camera.image_topic)}"
    return Recording(name, True, poses, stamps, load, dropped=dict(dropped))


def _depth_m(
    message: Any,
    topic: str,
    image_frame_id: str,
    info: CameraInfoValues,
    pinhole: PinholeCamera,
) -> NDArray[np.float32]:
    """Depth (H, W) on the pixels of the rectified image; 0 where unknown, as in all recordings.

    Raises UnregisteredDepth, or another ImageError.
    """
    depth_m = depth_m_from_message(message)
    require_registered(depth_m.shape, message.header.frame_id, [image_frame_id], info)
    rectified_m, K_depth_px = pinhole.rectify_depth(depth_m, topic)
    if rectified_m.shape != pinhole.image_hw:
        rectified_m = resample_depth(rectified_m, K_depth_px, pinhole.K_px, pinhole.image_hw)
    known = np.isfinite(rectified_m) & (rectified_m > 0)
    return np.where(known, rectified_m, np.float32(0))


def _recorded_ns_by_stamp(bag: BagReader, topic: str | None) -> dict[int, int]:
    if topic is None:
        return {}
    return {stamp_to_ns(m.content.header.stamp): m.stamp_ns for m in bag.messages([topic])}


def _message_again(bag: BagReader, topic: str, recorded_ns: int, stamp_ns: int) -> Any:
    """Read one message again, by when it was recorded and its header. Raises BagError."""
    for message in bag.messages([topic], recorded_ns, recorded_ns + 1):
        if stamp_to_ns(message.content.header.stamp) == stamp_ns:
            return message.content
    raise BagError(f"{topic}: the message is gone from the bag")
