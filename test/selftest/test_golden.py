"""The golden tests: every row of the self-test, for the sets in the package and larger ones.

Larger sets are the folders of $GLD_SHARED/golden, or of ../shared/golden beside the checkout.
"""

import os
from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open

from gld_ros.selftest.run import DEFAULT_FOLDERS, run_selftest

SHARED = Path(os.environ.get("GLD_SHARED", Path(__file__).resolve().parents[3] / "shared"))
FOLDERS = {f"packaged-{folder.name}": folder for folder in DEFAULT_FOLDERS} | {
    f"shared-{folder.name}": folder
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
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                quantity = key.removeprefix("out.").removeprefix("out/")
                if quantity != key and (path.stem, quantity) not in STARTING_POINTS:
                    yield path.stem, quantity


@cache
def rows_of(name):
    return {(row.fixture, row.quantity): row for row in run_selftest(FOLDERS[name])}


@pytest.mark.parametrize(
    ("folder", "fixture", "quantity"),
    [
        pytest.param(name, *stored, id="-".join((name, *stored)))
        for name, folder in FOLDERS.items()
        for stored in stored_quantities(folder)
    ],
)
def test_equals_the_reference(folder, fixture, quantity):
    row = rows_of(folder)[fixture, quantity]
    assert row.ok, f"{row.note}: largest difference {row.max_abs}, relative {row.relative}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_row_is_left_out(folder):
    rows = rows_of(folder)
    assert rows.keys() - ROWS_WITHOUT_OUTPUT == set(stored_quantities(FOLDERS[folder]))
    assert [row for row in rows.values() if not row.ok] == []


def test_the_sets_in_the_package_stay_small():
    files = [path for folder in DEFAULT_FOLDERS for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 6e6
