"""Where the reference numbers lie, and property tests that do not depend on the machine's load."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def golden_da3() -> Path:
    """Folder of recorded numbers: $GLD_SHARED/golden/da3, or ../shared/golden/da3."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("GLD_SHARED", root.parent / "shared")) / "golden" / "da3"
    if not folder.is_dir():
        pytest.skip("reference numbers not found; set GLD_SHARED to the folder with golden/da3")
    return folder
