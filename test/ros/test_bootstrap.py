"""The bootstrap refuses, in words, what would end in a broken environment; and changes nothing."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "ros" / "bootstrap.sh"


def bootstrap(tmp_path, **environment):
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GLD_ROS_VENV": str(tmp_path / "v")}
    return subprocess.run(
        ["/bin/bash", SCRIPT], env=clean | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PYTHONPATH": "/opt/ros/jazzy/lib"}, "must not mix"),
        ({"LD_LIBRARY_PATH": "/opt/ros/jazzy/lib", "GLD_ROS_MODE": "pip"}, "must not mix"),
        ({"GLD_ROS_MODE": "docker"}, "allowed are pip and distro"),
        ({"GLD_ROS_MODE": "distro"}, "source your distribution first"),
        ({"GLD_PYTHON": "python2.7"}, "GLD_PYTHON names another"),
    ],
)
def test_refusals_say_what_to_do(tmp_path, environment, words):
    done = bootstrap(tmp_path, **environment)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "v").exists()


def test_a_distribution_without_rclpy_is_named(tmp_path):
    done = bootstrap(tmp_path, ROS_DISTRO="humble", GLD_PYTHON="/usr/bin/python3")
    assert done.returncode == 2
    assert "ros-humble-rclpy" in done.stderr


def test_what_is_installed_on_top_of_a_distribution_keeps_what_its_tools_need():
    script = ROOT / "tools" / "ros" / "distribution_requirements.py"
    done = subprocess.run(
        [sys.executable, script, "test"], capture_output=True, text=True, check=True
    )
    wanted = done.stdout.splitlines()
    numpy = importlib.metadata.version("numpy")
    assert "setuptools<80" in wanted  # newer ones lack what colcon calls
    assert f"numpy<{int(numpy.split('.')[0]) + 1}" in wanted
    assert f"torch=={importlib.metadata.version('torch')}" in wanted
    assert not any(line.startswith("rerun") for line in wanted)


def test_everything_missing_is_listed_at_once(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "uname", "sed", "sort", "head", "python3"):
        (tools / name).symlink_to(shutil.which(name))
    done = bootstrap(tmp_path, PATH=str(tools))
    assert done.returncode == 2
    assert "g++ (apt: g++)" in done.stderr
    assert "make (apt: make)" in done.stderr


def test_locked_ros_packages_are_projects_of_that_name():
    # The wheels drop egg-info of names that nobody owns on PyPI (rclpy, sensor_msgs, ...).
    text = (ROOT / "tools" / "ros" / "requirements-ros.txt").read_text()
    names = [line.split("=")[0].split(">")[0] for line in text.splitlines() if line[:1].isalpha()]
    others = {"catkin-pkg", "empy", "lark-parser", "setuptools"}
    assert all(name.startswith(("ros-", "colcon-")) or name in others for name in names)
    library = [
        line
        for file in ("requirements.lock", "requirements-test.lock")
        for line in (ROOT / "tools" / file).read_text().splitlines()
    ]
    assert not [line for line in library if line.startswith(("ros-", "rclpy", "sensor_msgs"))]
    assert all("==" in line for line in library if line[:1].isalpha())


LOCKS = ("requirements.lock", "requirements-test.lock", "ros/requirements-ros.txt")


@pytest.mark.parametrize("file", LOCKS)
def test_each_locked_package_has_hashes(file):
    text = "".join(
        line
        for line in (ROOT / "tools" / file).read_text().splitlines(keepends=True)
        if not line.startswith("#")
    )
    entries = text.replace("\\\n", " ").splitlines()
    assert len(entries) > 40
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+(\s+--hash=sha256:[0-9a-f]{64})+\s*", entry), entry[:60]


def test_the_demonstration_installs_nothing_that_only_tests_and_extras_need():
    needed, others = (
        {line.split("==")[0] for line in (ROOT / "tools" / file).read_text().splitlines()}
        for file in ("requirements.lock", "requirements-test.lock")
    )
    assert not [name for name in needed & others if name[:1].isalpha()]
    assert {"rosbags", "rerun-sdk", "scipy"} <= needed
    assert {"ray", "onnxruntime", "tensorboard", "numba", "evo", "mypy", "ruff"} <= others


@pytest.mark.parametrize("step", ["demo", "all"])
def test_the_locks_name_all_that_their_packages_need(step):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    if os.environ.get("ROS_DISTRO") or not any(importlib.metadata.distributions(name="ros-rclpy")):
        pytest.skip("the packages of a distribution are its own")
    files = ("requirements.lock", "requirements-torch.txt", "ros/requirements-ros.txt")
    files += ("requirements-test.lock",) if step == "all" else ()
    lines = [line for file in files for line in (ROOT / "tools" / file).read_text().splitlines()]
    locked = {canonicalize_name(re.split("[=<>]", s)[0]): s for s in lines if s[:1].isalpha()}
    assert len(locked) > 150
    for name in locked:
        for line in importlib.metadata.requires(name) or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert canonicalize_name(need.name) in locked, f"{name} needs {line}"
