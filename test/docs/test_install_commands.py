"""Commands that install packages, in documents, help and errors: they do what they say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("gld_ros", "docs", "examples", "launch", "config", "docker", "tools")
TEXTS = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".sh", ".yaml")
] + [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
# What `pip install` is followed by: words up to the end of the command.
COMMAND = re.compile(r"pip install ((?:[a-z][a-z0-9_-]*[ ]?)+)(?=[`)\"';,:\n]|$)", re.MULTILINE)


def extras():
    """Extras of setup.py: name -> the packages it asks for."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and _name(n) == "setup")
    given = {k.arg: k.value for k in call.keywords}
    return {
        name: {re.split(r"[<>=!~ ]", wanted)[0] for wanted in packages}
        for name, packages in ast.literal_eval(given["extras_require"]).items()
    }


def _name(call):
    return getattr(call.func, "id", "")


def test_no_text_asks_for_extras_of_an_installed_package():
    asking = [
        str(path.relative_to(ROOT)) for path in TEXTS if re.search(r"gld_ros\[", path.read_text())
    ]
    assert asking == []


def test_packages_that_help_and_errors_name_are_those_of_setup_py():
    known = set().union(*extras().values())
    named = {
        package: path.name
        for path in TEXTS
        if path.is_relative_to(ROOT / "gld_ros") and path.suffix == ".py"
        for command in COMMAND.findall(path.read_text())
        for package in command.split()
    }
    assert {"ray", "trimesh", "rerun-sdk", "onnx"} <= named.keys()
    for chosen_in_a_recipe in ("lpips", "efficientnet_lite_pytorch"):  # by who wants that loss
        named.pop(chosen_in_a_recipe, None)
    assert {p: where for p, where in named.items() if p not in known} == {}


@pytest.mark.parametrize("name", ["cluster", "meshes", "demo", "eval", "train", "export"])
def test_the_page_on_installing_names_every_package_of_an_extra(name):
    page = (ROOT / "docs" / "install.md").read_text()
    row = next(line for line in page.splitlines() if line.endswith(f"| `{name}` |"))
    assert set(COMMAND.search(row)[1].split()) == extras()[name]


def test_a_checkout_has_the_extras_that_the_page_names(tmp_path):
    egg_info = ["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([sys.executable, *egg_info], cwd=ROOT, check=True, capture_output=True)
    listed = (next(tmp_path.glob("*.egg-info")) / "requires.txt").read_text()
    page = (ROOT / "docs" / "install.md").read_text()
    named = set(re.findall(r"\| `([a-z]+)` \|$", page, re.MULTILINE))
    assert named == set(extras())
    assert named <= set(re.findall(r"^\[([a-z]+)\]$", listed, re.MULTILINE))
