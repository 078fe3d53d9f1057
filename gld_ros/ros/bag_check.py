"""Whether a bag is suitable for gld_node: cameras, intrinsics, TF, and whether images and TF agree.

The offline half of `gld-ros check`; faults are those of `graph_faults`. Needs no ROS.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
from gld_ros.bags.reader import BagReader
from gld_ros.measuring.agreement import Agreement
from gld_ros.messages.camera_info import base_topic
from gld_ros.messages.fixed_frame import AUTO
from gld_ros.ros.graph_faults import Fault, agreement_faults
from gld_ros.scenes.agreement import recording_agreement
from gld_ros.scenes.bags import open_bag
from gld_ros.scenes.recording import Recording, RecordingError

ENOUGH_PLACED = 0.9  # of a camera's images; what TF misses at the ends is no fault


@dataclass(frozen=True)
class BagCameraSeen:
    """One camera of a bag."""

    topic: str
    images: int  # in the bag
    placed: int  # by TF in the fixed frame
    rate_hz: float
    dropped: dict[str, int]  # images, by the reason why they cannot be used
    agreement: Agreement | None  # None: no image could be placed


@dataclass(frozen=True)
class BagSeen:
    """Everything that was looked at."""

    path: Path
    fixed_frame: str
    duration_s: float
    cameras: tuple[BagCameraSeen, ...]
    problem: str  # why no camera can be used


def look_at_bag(path: Path, wanted_frame: str = AUTO) -> BagSeen:
    """Read a bag's cameras, poses and some images. Raises BagError for a bag that is damaged."""
    with BagReader(path) as bag:
        fixed = bag_fixed_frame(bag, wanted_frame)
        counts = {
            base_topic(camera.image_topic): bag.topics[camera.image_topic].num_messages
            for camera in bag_cameras(bag)
        }
        duration_s = (bag.end_ns - bag.start_ns) * 1e-9
    problem, recordings = "", {}
    try:
        recordings = {r.scene_id.removeprefix(path.name): r for r in open_bag(path, fixed)}
    except RecordingError as error:
        problem = str(error)
    cameras = tuple(_camera(topic, count, recordings.get(topic)) for topic, count in counts.items())
    return BagSeen(path, fixed, duration_s, cameras, problem)


def _camera(topic: str, images: int, recording: Recording | None) -> BagCameraSeen:
    if recording is None:
        return BagCameraSeen(topic, images, 0, 0.0, {}, None)
    span_s = float(np.ptp(recording.stamps_ns)) * 1e-9
    rate_hz = (len(recording) - 1) / span_s if span_s > 0 else 0.0
    dropped, agreement = dict(recording.dropped), None
    try:
        agreement = recording_agreement(recording)
    except RecordingError as error:
        dropped[str(error)] = 1
    return BagCameraSeen(topic, images, len(recording), rate_hz, dropped, agreement)


def judge_bag(seen: BagSeen) -> list[Fault]:
    """Return what is wrong, in the order in which to fix it; warnings (`fatal` False) last."""
    faults = []
    if seen.problem:
        faults.append(
            Fault(
                str(seen.path),
                seen.problem,
                "record CameraInfo, /tf and /tf_static with the images; gld-ros bag-info lists "
                "what the bag has",
            )
        )
    for camera in seen.cameras:
        if not seen.problem and camera.placed < ENOUGH_PLACED * camera.images:
            reasons = "; ".join(f"{reason}: {n}" for reason, n in camera.dropped.items())
            faults.append(
                Fault(
                    camera.topic,
                    f"{camera.images - camera.placed} of {camera.images} images cannot be used "
                    f"({reasons or 'no transform or CameraInfo'})",
                    "record TF from before the first to after the last image, without gaps",
                    fatal=not camera.placed,
                )
            )
        if camera.agreement is not None:
            faults += agreement_faults(camera.topic, camera.agreement)
    return sorted(faults, key=lambda fault: not fault.fatal)
