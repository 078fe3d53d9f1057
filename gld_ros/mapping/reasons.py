"""Reasons of many jobs in few lines: sentences that differ only in numbers are one reason."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class CountedReason:
    """How often a reason was given; `text` is one of its sentences, with that one's numbers."""

    count: int
    text: str
    numbers_differ: bool

    def __str__(self) -> str:
        example = "e.g. " if self.numbers_differ else ""
        return f"{times(self.count)}: {example}{self.text}"


def times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"


def counted_reasons(texts: Mapping[str, int]) -> list[CountedReason]:
    """The reasons of counted sentences, the most frequent first; numbers are ignored.

    Of the sentences of one reason the most frequent is shown, or the first of equals.
    """
    groups: dict[str, Counter[str]] = {}
    for text, count in texts.items():
        groups.setdefault(_NUMBER.sub("#", text), Counter())[text] += count
    reasons = [
        CountedReason(group.total(), group.most_common(1)[0][0], len(group) > 1)
        for group in groups.values()
    ]
    return sorted(reasons, key=lambda reason: -reason.count)
