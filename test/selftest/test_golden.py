"""The golden tests: every row of the self-test, in every precision, for the sets in the package.

Larger sets, the folders of $GLD_SHARED/golden or of ../shared/golden beside the checkout, add rows
in float32. Without them nothing is skipped.
"""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gld_ros.selftest.run import DEFAULT_FOLDERS, run_selftest

SHARED = Path(os.environ.get("GLD_SHARED", Path(__file__).resolve().parents[3] / "shared"))
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What the self-test is run on: a folder and a precision.
RUNS = {
    f"packaged-{folder.name}-{name}": (folder, dtype)
    for folder in DEFAULT_FOLDERS
    for name, dtype in PRECISIONS.items()
} | {
    f"shared-{folder.name}": (folder, torch.float32)
    for folder in sorted(SHARED.glob("golden/*"))
    if any(folder.glob("*.safetensors"))
}
# Stored among the outputs, these are what the self-test starts from.
STARTING_POINTS = {("vggt_camera_head", "decode/pose_enc")}
ROWS_WITHOUT_OUTPUT = {
    ("stats", f"level{level}.{name}") for level in (0, 1) for name in ("normalised", "restored")
}


def stored_quantities(folder):
    """(fixture, quantity) of every reference number in the files of a folder."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                quantity = key.removeprefix("out.").removeprefix("out/")
                if quantity != key and (path.stem, quantity) not in STARTING_POINTS:
                    yield path.stem, quantity


@cache
def rows_of(run):
    folder, dtype = RUNS[run]
    return {(row.fixture, row.quantity): row for row in run_selftest(folder, dtype=dtype)}


@pytest.mark.parametrize(
    ("run", "fixture", "quantity"),
    [
        pytest.param(run, *stored, id="-".join((run, *stored)))
        for run, (folder, _) in RUNS.items()
        for stored in stored_quantities(folder)
    ],
)
def test_equals_the_reference(run, fixture, quantity):
    row = rows_of(run)[fixture, quantity]
    assert row.ok, f"{row.note}: largest difference {row.max_abs}, relative {row.relative}"


@pytest.mark.parametrize("run", RUNS)
def test_no_row_is_left_out(run):
    rows = rows_of(run)
    assert rows.keys() - ROWS_WITHOUT_OUTPUT == set(stored_quantities(RUNS[run][0]))
    assert [row for row in rows.values() if not row.ok] == []


def test_the_sets_in_the_package_stay_small():
    files = [path for folder in DEFAULT_FOLDERS for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 6e6
