"""One row of a self-test: how far a computed quantity is from its reference, and the verdict.

Owns the comparison, its two kinds of tolerance and the printed table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """When a quantity is right: every element within `absolute + relative * |reference|`.

    With `norm` set the rule is instead ||out - ref|| / ||ref|| <= norm: single elements say little
    in 16-bit precision.
    """

    absolute: float = 0.0
    relative: float = 0.0
    norm: float | None = None


EXACT = Tolerance()


@dataclass(frozen=True)
class Row:
    """Verdict on one quantity; errors are None when nothing could be compared, `note` says why."""

    fixture: str
    quantity: str
    max_abs: float | None
    relative: float | None
    ok: bool
    note: str = ""

    def to_json(self) -> dict[str, str | float | bool | None]:
        """The row as plain values: fixture, quantity, max_abs, relative, ok."""
        return {
            "fixture": self.fixture,
            "quantity": self.quantity,
            "max_abs": self.max_abs,
            "relative": self.relative,
            "ok": self.ok,
        }


def failed(fixture: str, quantity: str, note: str) -> Row:
    """A row for something that could not be compared."""
    return Row(fixture, quantity, None, None, False, note)


def compare(
    fixture: str, quantity: str, computed: Tensor, reference: Tensor, tolerance: Tolerance
) -> Row:
    """Compare two tensors of equal shape, in float64 on the CPU."""
    if computed.shape != reference.shape:
        note = f"shape {tuple(computed.shape)}, reference {tuple(reference.shape)}"
        return failed(fixture, quantity, note)
    out, ref = computed.detach().cpu().double(), reference.cpu().double()
    difference = (out - ref).abs()
    if not bool(torch.isfinite(difference).all()):
        return failed(fixture, quantity, "values that are not finite")
    if difference.numel() == 0:
        return failed(fixture, quantity, "holds no values")
    norm = float(ref.norm())
    distance = float(difference.norm())
    relative = distance / norm if norm > 0 else (0.0 if distance == 0 else math.inf)
    if tolerance.norm is not None:
        ok = relative <= tolerance.norm or distance == 0
    else:
        ok = bool((difference <= tolerance.absolute + tolerance.relative * ref.abs()).all())
    note = "" if ok else "outside the tolerance"
    return Row(
        fixture,
        quantity,
        float(difference.max()),
        relative if math.isfinite(relative) else None,
        ok,
        note,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text with a heading."""
    heading = ("fixture", "quantity", "max abs", "relative", "verdict")
    lines = [heading, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    align = (str.ljust, str.ljust, str.rjust, str.rjust, str.ljust)
    return "\n".join(
        "  ".join(
            pad(cell, width) for pad, cell, width in zip(align, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    verdict = "ok" if row.ok else f"FAILED: {row.note}"
    return row.fixture, row.quantity, _number(row.max_abs), _number(row.relative), verdict


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
