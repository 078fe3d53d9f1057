"""Which topics make up a camera: its images, its CameraInfo, its registered depth.

The first functions work on topic names, of a bag or of a live graph; `bag_cameras` also looks at
the data, because a few drivers publish depth under a name that does not show it.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from gld_ros.bags.reader import COMPRESSED_IMAGE_TYPE, BagError, BagReader
from gld_ros.messages.camera_info import base_topic
from gld_ros.messages.depth_images import is_compressed_depth
from gld_ros.messages.fixed_frame import AUTO, NoFixedFrame, find_fixed_frame
from gld_ros.messages.transforms import TransformBuffer

_DEPTH_NAME = re.compile(r"(aligned_)?depth(_image|_raw|_registered|_rect(_raw)?|_to_\w+)?")
# Only depth has these; mono16 is depth or grey, as the topic says.
_DEPTH_ONLY_ENCODINGS = ("16UC1", "32FC1")


@dataclass(frozen=True)
class BagCamera:
    """The topics of one colour camera, named after the folder of its images."""

    name: str
    image_topic: str
    compressed: bool
    info_topic: str
    depth_topic: str | None  # in the optical frame of the images


def is_depth_topic(topic: str) -> bool:
    """Whether the last two names of an image topic say that it is depth, transport aside."""
    if topic.endswith("/compressedDepth"):
        return True
    return any(_DEPTH_NAME.fullmatch(name) for name in base_topic(topic).split("/")[-2:])


def colour_topics(image_topics: Collection[str]) -> list[str]:
    """The topics that are not depth, by name; of a raw one and its compressed twin the raw one."""
    colour = sorted(topic for topic in image_topics if not is_depth_topic(topic))
    return [
        topic for topic in colour if base_topic(topic) == topic or base_topic(topic) not in colour
    ]


def camera_info_topic(image_topic: str) -> str:
    """The CameraInfo that belongs to an image topic: `camera_info` beside it."""
    return f"{base_topic(image_topic).rpartition('/')[0]}/camera_info"


def depth_companion(image_topic: str, image_topics: Collection[str]) -> str | None:
    """The topic with depth registered to a colour camera, if one of `image_topics` is it.

    Knows the names of RealSense, ZED, OAK, Azure Kinect, OpenNI and Gazebo, and `depth/image_raw`
    below the camera's own folder. Depth in a frame of its own is never taken.
    """
    by_base = {base_topic(topic): topic for topic in sorted(image_topics, reverse=True)}
    candidates = _registered_depth_names(base_topic(image_topic))
    return next((by_base[name] for name in candidates if name in by_base), None)


def _registered_depth_names(image: str) -> Iterator[str]:
    folder = image.rpartition("/")[0]
    device, _, stream = folder.rpartition("/")
    images = ("image_raw", "image_rect", "image_rect_raw", "image")
    yield from (f"{device}/aligned_depth_to_{stream}/{name}" for name in images)  # RealSense
    yield from (f"{device}/depth_to_{stream}/{name}" for name in images)  # Azure Kinect
    yield from (f"{folder}/depth/{name}" for name in images)
    yield f"{folder}/depth_image"  # Gazebo
    if stream == "rgb":
        yield from (f"{device}/stereo/depth", f"{device}/stereo/image_raw")  # OAK
        yield from (f"{device}/depth_registered/{name}" for name in images)  # OpenNI
    names = folder.split("/")
    for i, name in enumerate(names):
        if name in ("rgb", "left"):  # ZED registers to the left camera, which is also its rgb
            yield "/".join((*names[:i], "depth", "depth_registered"))


def bag_cameras(reader: BagReader) -> list[BagCamera]:
    """Return the colour cameras of a bag by name, at most one for each folder of image topics.

    Depth that no name gives is found by its frame. Raises BagError when there is no image topic
    with a `camera_info` beside it.
    """
    topics = [topic.name for topic in reader.image_topics()]
    first = {topic: reader.first(topic) for topic in topics}
    depth = {topic for topic in topics if is_depth_topic(topic) or _holds_depth(first[topic])}
    cameras: dict[str, BagCamera] = {}
    for topic in colour_topics([topic for topic in topics if topic not in depth]):
        info_topic = camera_info_topic(topic)
        name = info_topic.rpartition("/")[0].strip("/") or "camera"
        if info_topic not in reader.topics or name in cameras:
            continue
        named = depth_companion(topic, depth)
        # Of depth in the images' frame the one with the right name; in none, its name's depth is
        # still the camera's: it is refused with a reason.
        same_frame = [d for d in sorted(depth) if _frame_id(first[d]) == _frame_id(first[topic])]
        cameras[name] = BagCamera(
            name,
            topic,
            reader.topics[topic].type == COMPRESSED_IMAGE_TYPE,
            info_topic,
            named if named in same_frame else next(iter(same_frame), named),
        )
    if not cameras:
        raise BagError(
            f"bag {reader.path} has no colour images with a camera_info next to them; "
            f"it has: {', '.join(reader.topics) or 'nothing'}"
        )
    return [cameras[name] for name in sorted(cameras)]


def _holds_depth(message: Any) -> bool:
    if message is None:
        return False
    if hasattr(message, "format"):
        return is_compressed_depth(message)
    return message.encoding in _DEPTH_ONLY_ENCODINGS


def _frame_id(message: Any) -> str | None:
    return None if message is None else message.header.frame_id.lstrip("/")


def bag_fixed_frame(reader: BagReader, wanted: str = AUTO) -> str:
    """Return the frame to take poses in: the named one, or, for `auto`, the one above the cameras.

    That is `odom` where it is above all cameras, else their only root. Raises BagError that names
    the frames where the named one is missing, and the roots where there are several.
    """
    buffer: TransformBuffer = reader.transforms()[0]
    there = ", ".join(buffer.frames()) or "none, since it has no transforms"
    if wanted != AUTO:
        if not buffer.tree.has_frame(wanted):
            raise BagError(f"bag {reader.path} has no frame {wanted!r}; its frames are: {there}")
        return wanted
    frame_ids = {_frame_id(reader.first(c.image_topic)) for c in bag_cameras(reader)}
    known = [f for f in frame_ids if f is not None and buffer.tree.has_frame(f)]
    try:
        # Images may name a frame that a parameter overrides.
        return find_fixed_frame(buffer, known or buffer.tree.roots()).name
    except NoFixedFrame as error:
        raise BagError(
            f"bag {reader.path}: {error}; name the fixed frame; the bag's frames are: {there}"
        ) from error
