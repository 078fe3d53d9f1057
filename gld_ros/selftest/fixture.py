"""One fixture file: named inputs, expected outputs, and the record of what has been checked.

A check walks over the names that are present, so that a file with other cases is covered without
a change; an expected output that no check claims becomes a failed row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gld_ros.selftest.rows import Row, Tolerance, compare, failed

# What a computation on wrong or unusual fixture contents can raise; the row says it.
ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


@dataclass
class Fixture:
    """Inputs and expected outputs of a file, by name without the `in.` / `out.` prefix.

    `others` are tensors whose names have neither; a check that uses one says so with `claim`.
    """

    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    others: dict[str, Tensor] = field(default_factory=dict)
    _checked: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "Fixture":
        """Load a safetensors file."""
        tensors = load_file(path)
        return cls(
            name=path.stem,
            inputs={k.removeprefix("in."): v for k, v in tensors.items() if k.startswith("in.")},
            outputs={k.removeprefix("out."): v for k, v in tensors.items() if k.startswith("out.")},
            others={k: v for k, v in tensors.items() if not k.startswith(("in.", "out."))},
        )

    def expects(self, prefix: str) -> bool:
        """Whether any expected output begins with `prefix`: whether computing it is worthwhile."""
        return any(name.startswith(prefix) for name in self.outputs)

    def check(self, quantity: str, computed: Tensor, tolerance: Tolerance) -> Iterator[Row]:
        """The row of one quantity, or nothing if the file does not expect it."""
        if quantity in self.outputs:
            self._checked.add(quantity)
            yield compare(self.name, quantity, computed, self.outputs[quantity], tolerance)

    def size_hw(self, name: str = "size_hw") -> tuple[int, int]:
        """Height and width of images, which an input says."""
        height, width = (int(side) for side in self.inputs[name])
        return height, width

    def claim(self, name: str) -> Tensor:
        """One of `others`, from now on counted as checked."""
        self._checked.add(name)
        return self.others[name]

    def unchecked(self, reason: str) -> Iterator[Row]:
        """Failed rows for every expected output, and every other tensor, that was not checked."""
        for name in sorted((self.outputs.keys() | self.others.keys()) - self._checked):
            yield failed(self.name, name, reason)


def checked_rows(fixture: Fixture, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows of a fixture's check; an error on the way, and what is left unchecked, fail."""
    reason = "not covered by any check"
    try:
        yield from rows
    except ERRORS as error:
        first_lines = "; ".join(line.strip() for line in str(error).splitlines()[:3])
        reason = f"{type(error).__name__}: {first_lines}"
        yield failed(fixture.name, "-", reason)
    yield from fixture.unchecked(reason)
