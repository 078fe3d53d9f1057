"""What loading a model reports when it cannot be done."""

import subprocess
import sys

import pytest

from gld_ros.mapping.model import ModelUnavailable, load_model
from gld_ros.ros.parameters.files import load_snapshot

PROGRAM = """
import sys
sys.modules[{package!r}] = None  # as if it were not installed
from gld_ros.mapping.model import ModelUnavailable, load_model
from gld_ros.ros.parameters.files import load_snapshot
try:
    load_model(load_snapshot().session)
except ModelUnavailable as error:
    print(error)
"""


def test_a_preset_that_the_bundle_cannot_run_is_refused_at_once():
    snapshot = load_snapshot(overrides=["sampler.preset=fastest"])
    with pytest.raises(ModelUnavailable, match="no student of level1; make one with"):
        load_model(snapshot.session)


@pytest.mark.parametrize("package", ["torch", "einops"])
def test_a_package_that_is_not_installed_is_named_with_the_fix(package):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(package=package)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"needs the Python package {package!r}" in done.stdout
    assert "pip install" in done.stdout


HEAVY = """
import sys
from gld_ros.mapping.model import load_model
from gld_ros.mapping.session import SynthesisSession
from gld_ros.ros.parameters.files import load_snapshot
print(load_model(load_snapshot().session).description)
print([name for name in ("torch._dynamo", "scipy", "numba", "matplotlib") if name in sys.modules])
"""


def test_a_start_waits_for_no_library_that_it_does_not_use():
    done = subprocess.run(
        [sys.executable, "-c", HEAVY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    description, heavy = done.stdout.splitlines()
    assert "'self_test': 'passed'" in description
    assert "less than" in description
    assert heavy == "[]"
