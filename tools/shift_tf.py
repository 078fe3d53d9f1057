"""Copy a bag with the stamps of /tf moved, to see what a time offset does.

python tools/shift_tf.py BAG SHIFTED 60    # transforms become 60 ms late
"""

import sys
from pathlib import Path

from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.messages.stamps import ns_to_stamp, stamp_to_ns


def shift_tf(source: Path, target: Path, late_ms: float) -> None:
    """Write the bag at `target`, which must not exist. Raises BagError for a damaged source."""
    with BagReader(source) as reader, BagWriter(target) as writer:
        for topic in reader.topics.values():
            writer.add_topic(topic.name, topic.type, latched=topic.latched)
        time_type = writer.types["builtin_interfaces/msg/Time"]
        for message in reader.messages():
            if message.topic == "/tf":
                for transform in message.content.transforms:
                    stamp_ns = stamp_to_ns(transform.header.stamp) + round(late_ms * 1e6)
                    transform.header.stamp = ns_to_stamp(stamp_ns, time_type)
            writer.write(message.topic, message.stamp_ns, message.content)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    shift_tf(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
