"""What a row of the parameter table holds."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Value = bool | int | float | str | list[str] | list[float]
Type = Literal["bool", "int", "double", "string", "string[]", "double[]"]


class When(Enum):
    """When a change is accepted."""

    ANY_TIME = "any time, from the next job on"
    INACTIVE = "only while the node is not active"
    START = "only at start"


@dataclass(frozen=True)
class Parameter:
    """One parameter: everything that declaration, validation, YAML and docs need.

    `low` and `high` bound numbers, and the entries of number lists; `choices` are the allowed
    strings, or entries of string lists; `max_entries` bounds lists.
    """

    name: str
    type: Type
    default: Value
    description: str
    when: When = When.ANY_TIME
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    min_entries: int = 0
    max_entries: int | None = None

    @property
    def group(self) -> str:
        """The part of the name before its first dot; empty for a top-level name."""
        return self.name.partition(".")[0] if "." in self.name else ""
