"""Every script in examples/ runs as a newcomer starts it: without arguments, on data it makes."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# What each must print, beside ending without an error, and what it must leave behind.
EXPECTED = {
    "imagine_a_view.py": ("PSNR against the withheld truth: 2", "out/imagined_view.png"),
    "measure_depth.py": ("% measured, median error", "out/measured_depth.png"),
    "photos_to_3d.py": ("points -> out/photos_to_3d.ply", "out/photos_to_3d.ply"),
    "read_a_bag.py": ("10 posed images (120, 160)", None),
    "run_a_bag_offline.py": ("1 jobs, 4 views", None),
}


pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not installed")


def test_every_example_is_known_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    text, file = EXPECTED[name]
    assert text in capsys.readouterr().out
    assert file is None or (tmp_path / file).stat().st_size > 1000


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_short_and_says_what_one_learns(name):
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40
    assert lines[0].startswith('"""')
    assert len(lines[0]) > 40


def test_every_script_is_on_its_page():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert [name for name in scripts if f"`python examples/{name}`" not in page] == []
