"""Reading ROS 2 bags (MCAP or SQLite) without ROS: topics, messages, transforms.

Types come from the definitions stored in the bag; where it has none, from ROS 2 Kilted and from
this package. Leaves the meaning of pixels to `images` and playing on the graph to `player`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat, QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from gld_ros.bags.interface_files import message_definitions
from gld_ros.messages.frame_tree import InvalidTransform
from gld_ros.messages.transforms import TransformBuffer, insert_message

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
TF_TYPE = "tf2_msgs/msg/TFMessage"

BAG_SUFFIXES = (".mcap", ".db3")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_BAGS_ARE = (
    "a bag is what `ros2 bag record` writes, a folder with metadata.yaml, or one .mcap or .db3 file"
)


class BagError(ValueError):
    """A bag that cannot be read, or a message in it that cannot be decoded."""


@dataclass(frozen=True)
class BagTopic:
    """One topic of a bag and how it was offered when it was recorded."""

    name: str
    type: str
    num_messages: int
    latched: bool  # durability transient local
    reliable: bool


@dataclass(frozen=True)
class BagMessage:
    """One message: `stamp_ns` is when it was recorded, `cdr` its bytes, `content` it decoded."""

    topic: str
    type: str
    stamp_ns: int
    cdr: bytes
    content: Any


class BagReader:
    """An open bag; use it in a `with` statement.

    `path` is a bag's folder, or a single .mcap or .db3 file. Every fault of the file is a BagError
    that names it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._transforms: tuple[TransformBuffer, list[InvalidTransform]] | None = None
        _require_regular_files(self.path)
        try:
            self._reader = Reader(self.path)
            self._reader.open()
        except Exception as error:
            raise BagError(f"bag {self.path} cannot be opened: {_cause(error)}") from error
        try:
            self._typestore = _typestore_for(self._reader.connections)
            self.topics = _topics(self._reader.connections)
        except Exception as error:
            self._reader.close()
            raise BagError(
                f"bag {self.path} describes its messages wrongly: {_cause(error)}"
            ) from error

    def __enter__(self) -> "BagReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def start_ns(self) -> int:
        """When the first message was recorded; 0 for an empty bag."""
        return int(self._reader.start_time) if self._reader.message_count else 0

    @property
    def end_ns(self) -> int:
        """When the last message was recorded; 0 for an empty bag."""
        return int(self._reader.end_time) - 1 if self._reader.message_count else 0

    @property
    def num_messages(self) -> int:
        """Messages on all topics."""
        return int(self._reader.message_count)

    def topics_of_type(self, *types: str) -> list[BagTopic]:
        """The topics of these types, by name."""
        return [topic for topic in self.topics.values() if topic.type in types]

    def image_topics(self) -> list[BagTopic]:
        """Topics of images, raw and compressed, by name."""
        return self.topics_of_type(IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)

    def first(self, topic: str) -> Any | None:
        """The first message of a topic, decoded; None where there is none. Raises BagError."""
        return next((message.content for message in self.messages([topic])), None)

    def raw_messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Yield messages in the order of recording, undecoded (`content` is None).

        Raises BagError for topics that the bag does not have, and where
        the file is damaged.
        """
        for item in self._read(topics, None, None):
            yield BagMessage(item[0].topic, item[0].msgtype, item[1], bytes(item[2]), None)

    def messages(
        self,
        topics: Collection[str] | None = None,
        start_ns: int | None = None,
        stop_ns: int | None = None,
    ) -> Iterator[BagMessage]:
        """Yield messages in the order of recording, decoded; else as raw_messages.

        `stop_ns` is exclusive.
        """
        for connection, stamp_ns, cdr in self._read(topics, start_ns, stop_ns):
            yield BagMessage(
                connection.topic,
                connection.msgtype,
                stamp_ns,
                bytes(cdr),
                self.decode(cdr, connection.msgtype, f"{connection.topic} at {stamp_ns} ns"),
            )

    def _read(
        self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        connections = self._reader.connections
        if topics is not None:
            missing = sorted(set(topics) - set(self.topics))
            if missing:
                raise BagError(
                    f"bag {self.path} has no topic {', '.join(missing)}; "
                    f"it has: {', '.join(self.topics) or 'none'}"
                )
            connections = [c for c in connections if c.topic in topics]
        if not connections:
            return
        try:
            yield from self._reader.messages(connections, start_ns, stop_ns)
        except GeneratorExit:
            raise
        except Exception as error:
            raise BagError(f"bag {self.path} is damaged: {_cause(error)}") from error

    def decode(self, cdr: bytes, type_name: str, where: str = "a message") -> Any:
        """Return the message object of CDR bytes. Raises BagError."""
        try:
            return self._typestore.deserialize_cdr(cdr, type_name)
        except Exception as error:
            raise BagError(
                f"bag {self.path}: {where} is not a valid {type_name}: {_cause(error)}"
            ) from error

    def transforms(self) -> tuple[TransformBuffer, list[InvalidTransform]]:
        """Return all transforms of the bag in a buffer that forgets nothing, and what was rejected.

        Reads /tf and /tf_static whole, once, so that a lookup never waits for a message to come.
        """
        if self._transforms is None:
            buffer = TransformBuffer(cache_time_s=float("inf"))
            rejected: list[InvalidTransform] = []
            names = [topic.name for topic in self.topics_of_type(TF_TYPE)]
            for message in self.messages(names) if names else ():
                static = message.topic.endswith("tf_static")
                rejected += insert_message(buffer, message.content, static=static)
            self._transforms = buffer, rejected
        return self._transforms


def _require_regular_files(path: Path) -> None:
    """Raise BagError if this is not a bag, before anything blocks on a FIFO."""
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if path.is_dir():
        if not (path / "metadata.yaml").is_file():
            raise BagError(f"{path} is not a ROS 2 bag: {_without_metadata(path)}")
        odd = [p.name for p in path.iterdir() if not p.is_file() and not p.is_dir()]
        if odd:
            raise BagError(
                f"bag {path} has something that is not a regular file: {', '.join(sorted(odd))}"
            )
    elif not path.is_file():
        raise BagError(f"{path} is not a ROS 2 bag: neither a folder nor a regular file")
    elif path.stat().st_size == 0:
        raise BagError(f"{path} is not a ROS 2 bag: the file is empty")
    elif path.suffix not in BAG_SUFFIXES:
        raise BagError(f"{path} is not a ROS 2 bag: {_BAGS_ARE}{_for_images([path])}")


def _without_metadata(folder: Path) -> str:
    """What is wrong with a folder that has no metadata.yaml, and what to do about it."""
    inside = sorted(folder.iterdir())
    storage = [path.name for path in inside if path.suffix in BAG_SUFFIXES]
    if storage:
        return f"the folder has no metadata.yaml; give its file instead: {folder / storage[0]}"
    if (folder / "images").is_dir():
        inside += (folder / "images").iterdir()
    return f"{_BAGS_ARE}; the folder has no metadata.yaml{_for_images(inside)}"


def _for_images(paths: Collection[Path]) -> str:
    """What to use for images, if these are some; else nothing."""
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in paths):
        return ""
    return ". For images without a bag: gld-ros image IMAGE_OR_FOLDER"


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _topics(connections: Collection[Connection]) -> dict[str, BagTopic]:
    topics: dict[str, BagTopic] = {}
    for connection in sorted(connections, key=lambda c: c.topic):
        profiles = getattr(connection.ext, "offered_qos_profiles", [])
        before = topics.get(connection.topic)
        if before and before.type != connection.msgtype:
            raise ValueError(
                f"topic {connection.topic} has two types, {before.type} and {connection.msgtype}"
            )
        topics[connection.topic] = BagTopic(
            connection.topic,
            connection.msgtype,
            connection.msgcount + (before.num_messages if before else 0),
            any(p.durability is QosDurability.TRANSIENT_LOCAL for p in profiles),
            not any(p.reliability is QosReliability.BEST_EFFORT for p in profiles),
        )
    return topics


def _typestore_for(connections: Collection[Connection]) -> Typestore:
    """The bag's own definitions first: they are what its bytes were written with."""
    types: dict[str, Any] = {}
    for connection in connections:
        text = connection.msgdef.data
        if connection.msgdef.format is MessageDefinitionFormat.MSG:
            types.update(get_types_from_msg(text, connection.msgtype))
        elif connection.msgdef.format is MessageDefinitionFormat.IDL:
            for part in text.split("=" * 80 + "\n"):
                types.update(get_types_from_idl(part.partition("\n")[2]) if part else {})
    if any(connection.msgtype not in types for connection in connections):
        types = {**get_typestore(Stores.ROS2_KILTED).fielddefs, **own_types(), **types}
    typestore = get_typestore(Stores.EMPTY)
    typestore.register(types)
    return typestore


@cache
def own_types() -> dict[str, Any]:
    """The message types of this package, parsed from their .msg files, as the bag library wants."""
    types: dict[str, Any] = {}
    for name, text in message_definitions().items():
        types.update(get_types_from_msg(text, name))
    return types
