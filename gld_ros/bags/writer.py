"""Writing ROS 2 bags (MCAP or SQLite) without ROS, complete or not at all.

The types of this package are known to it, and their definitions go into the file, so that any
other tool can decode it. Leaves what is written, and when, to the caller.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gld_ros.bags.reader import own_types
from gld_ros.partial_folder import PartialFolder

_FOREVER = QosTime(9223372036, 854775807)


class BagWriter:
    """A bag being written; use it in a `with` statement.

    The bag appears under its name when the block ends well. If it does not, or the process is
    killed, nothing with that name exists; what a killed process left is removed by the next one
    that writes the same bag. `types` maps full names such as "sensor_msgs/msg/Image" to the message
    classes to fill.
    """

    def __init__(self, path: str | Path, storage: Literal["mcap", "sqlite3"] = "mcap") -> None:
        self.path = Path(path)
        plugins = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
        if storage not in plugins:
            raise ValueError(f"storage {storage!r} is not supported; allowed: {', '.join(plugins)}")
        if self.path.exists():
            raise ValueError(f"bag {self.path} exists already; remove it or choose another name")
        # Inside a folder of its own the bag has its final name, which its file is named after.
        self._workspace = PartialFolder(self.path)
        self._typestore = get_typestore(Stores.ROS2_KILTED)
        self._typestore.register(own_types())
        self.types: dict[str, Any] = dict(self._typestore.types)
        self._connections: dict[str, Connection] = {}
        self._writer = Writer(
            self._workspace.path / self.path.name,
            version=Writer.VERSION_LATEST,
            storage_plugin=plugins[storage],
        )
        self._writer.open()

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if kind is None:
                (self._workspace.path / self.path.name).rename(self.path)
        finally:
            self._workspace.close()

    def add_topic(
        self, name: str, type_name: str, *, latched: bool = False, reliable: bool = True
    ) -> None:
        """Declare a topic; latched ones (/tf_static) are offered as transient local.

        Raises ValueError for a topic declared twice or a type that is not known.
        """
        if name in self._connections:
            raise ValueError(f"topic {name} is declared already")
        if type_name not in self.types:
            raise ValueError(f"type {type_name!r} of topic {name} is not known")
        durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
        reliability = QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT
        offered = Qos(
            QosHistory.KEEP_LAST,
            10,
            reliability,
            durability,
            _FOREVER,
            _FOREVER,
            QosLiveliness.AUTOMATIC,
            _FOREVER,
            False,
        )
        self._connections[name] = self._writer.add_connection(
            name, type_name, typestore=self._typestore, offered_qos_profiles=[offered]
        )

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Write a message made from `types`. Raises ValueError for a topic not declared."""
        connection = self._connection(topic)
        cdr = self._typestore.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, stamp_ns, cdr)

    def write_cdr(self, topic: str, stamp_ns: int, cdr: bytes) -> None:
        """Write a message that is serialised already, by rclpy or in another bag."""
        self._writer.write(self._connection(topic), stamp_ns, cdr)

    def _connection(self, topic: str) -> Connection:
        if topic not in self._connections:
            declared = ", ".join(self._connections) or "none"
            raise ValueError(f"topic {topic} is not declared; declared are: {declared}")
        return self._connections[topic]
