"""Verdicts: within the tolerance, outside it, or not comparable at all."""

import math

import pytest
import torch

from gld_ros.selftest.rows import EXACT, Tolerance, compare, failed, table

REFERENCE = torch.tensor([1.0, -100.0, 0.0])


@pytest.mark.parametrize(
    ("error", "tolerance", "ok"),
    [
        ([0, 0, 0], EXACT, True),
        ([0, 0, 1e-6], EXACT, False),
        ([9e-6, 9e-3, 9e-6], Tolerance(1e-5, 1e-4), True),
        ([0, 0, 2e-5], Tolerance(1e-5, 1e-4), False),
        ([0, 2e-2, 0], Tolerance(1e-5, 1e-4), False),
        ([0, 0, 0.5], Tolerance(norm=1e-2), True),
        ([0, 2, 0], Tolerance(norm=1e-2), False),
    ],
)
def test_every_element_counts_or_the_norm_does(error, tolerance, ok):
    row = compare("f", "q", REFERENCE + torch.tensor(error), REFERENCE, tolerance)
    assert row.ok is ok
    assert row.max_abs == pytest.approx(max(error), rel=1e-2)
    assert row.relative == pytest.approx(math.hypot(*error) / 100.005, rel=1e-2)


@pytest.mark.parametrize(
    ("computed", "note"),
    [
        (torch.tensor([1.0, -100.0]), "shape"),
        (torch.tensor([1.0, -100.0, float("nan")]), "not finite"),
    ],
)
def test_what_cannot_be_compared_fails(computed, note):
    row = compare("f", "q", computed, REFERENCE, Tolerance(norm=1e9))
    assert not row.ok
    assert note in row.note
    assert row.max_abs is None


def test_a_reference_of_zeros_must_be_met_exactly_in_the_norm():
    zeros = torch.zeros(3)
    assert compare("f", "q", zeros, zeros, Tolerance(norm=1e-2)).ok
    assert not compare("f", "q", zeros + 1e-9, zeros, Tolerance(norm=1e-2)).ok


def test_empty_tensors_prove_nothing():
    assert not compare("f", "q", torch.zeros(0), torch.zeros(0), EXACT).ok


def test_the_table_shows_every_row_and_why_it_failed():
    rows = [compare("good", "q", REFERENCE, REFERENCE, EXACT), failed("bad", "r", "because")]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["fixture", "quantity", "max", "abs", "relative", "verdict"]
    assert lines[1].endswith("ok")
    assert lines[2].endswith("FAILED: because")
