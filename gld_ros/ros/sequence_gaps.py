"""How many messages of a topic were sent but never received."""

from rclpy.subscription import MessageInfo

PUBLISHERS = 16  # of one topic, whose messages are counted


class SequenceGaps:
    """Counts what is missing between the messages of a topic, by their sequence numbers.

    A queue that ran over says nothing; the numbers of what comes next do. `numbered` is False where
    the middleware numbers nothing.
    """

    def __init__(self) -> None:
        self.numbered = False
        self._last: dict[bytes, int] = {}  # by publisher

    def missed(self, info: MessageInfo) -> int:
        """Return how many messages of the same publisher are missing before this one."""
        number = info.get("publication_sequence_number")
        if number is None:
            return 0
        self.numbered = True
        publisher = (info.get("publisher_gid") or {}).get("data", b"")
        last = self._last.pop(publisher, None)
        if len(self._last) >= PUBLISHERS:
            del self._last[next(iter(self._last))]
        self._last[publisher] = number if last is None else max(number, last)
        return 0 if last is None else max(0, number - last - 1)
