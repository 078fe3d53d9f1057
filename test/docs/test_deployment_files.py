"""Files for containers and clusters, which no test can run, agree with package and tools."""

import re
import shlex
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from gld_ros.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text("utf-8").replace("\\\n", " ")
CLUSTERS = (ROOT / "docs/clusters.md").read_text("utf-8")
INSTALLING = ("docker/Dockerfile", ".github/workflows/ci.yml", "docs/distribution.md")


def block(kind):
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```$", CLUSTERS, re.MULTILINE | re.DOTALL)
    return text


def is_shell(script):
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.stderr == ""
    assert checked.returncode == 0


def test_the_slurm_script_is_shell_and_its_options_of_ray_exist():
    script = block("bash")
    is_shell(script)
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    (call,) = re.findall(r"ray symmetric-run (.*?) -- ", script.replace("\\\n", " "))
    options = set(re.findall(r"--[\w-]+", call))
    assert {"--address", "--min-nodes"} < options
    pytest.importorskip("ray")
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    known = {name for command in (symmetric_run, start) for p in command.params for name in p.opts}
    assert options <= known


def test_the_ray_job_is_yaml_and_its_command_and_volumes_exist():
    job = yaml.safe_load(block("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "gld-ros"
    assert build_parser(words[0]).parse_args(words).address == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    lock = (ROOT / "tools/requirements-test.lock").read_text("utf-8")
    assert f"\nray=={cluster['rayVersion']} " in lock
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert any(words[1].startswith(path) for path in paths)


def commands_of_the_image():
    return re.findall(r"^RUN (.*)$", DOCKERFILE, re.MULTILINE)


def test_the_steps_of_the_image_are_shell():
    assert len(commands_of_the_image()) == 2
    for command in commands_of_the_image():
        is_shell(command)
    is_shell((ROOT / "docker/entrypoint.sh").read_text("utf-8"))


def test_the_image_gets_the_system_packages_that_the_bootstrap_asks_for():
    bootstrap = (ROOT / "tools/ros/bootstrap.sh").read_text("utf-8")
    asked = set(re.findall(r"\(apt: ([\w.+-]+)\)", bootstrap))
    asked |= set(re.findall(r"^ +need \S+ (\S+)$", bootstrap, re.MULTILINE))
    assert {"g++", "make", "cmake", "python3-venv", "python3-dev"} <= asked
    (line,) = re.findall(r"apt-get install -y --no-install-recommends ([\w. +-]+)", DOCKERFILE)
    installed = set(line.split())
    if "build-essential" in installed:
        installed |= {"g++", "make"}
    # ros-base has Python and colcon.
    assert asked - installed == {"python3", "python3-colcon-common-extensions"}


@pytest.mark.parametrize("file", INSTALLING)
def test_what_rosdep_leaves_out_pip_brings_into_the_environment(file):
    text = (ROOT / file).read_text("utf-8").replace("\\\n", " ")
    (keys,) = re.findall(r'--skip-keys\s+"([^"]*)"', text)
    skipped = set(keys.split()) - {"rviz2"}  # without a screen nobody looks
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert skipped <= {entry.text for entry in package.iter("exec_depend")}
    needed = re.findall(r'^        "([\w.-]+)[><=]', (ROOT / "setup.py").read_text("utf-8"), re.M)
    names = {re.sub(r"^python3-|-pip$", "", key).replace("-", "_") for key in skipped}
    assert names == {"torch", "einops", "huggingface_hub", "rosbags"}
    assert names <= set(needed)
    # A key of pip that rosdep did install would get in the way of the environment's.
    of_pip = {e.text for e in package.iter("exec_depend") if (e.text or "").endswith("-pip")}
    assert of_pip <= skipped


def test_what_the_image_copies_and_calls_is_there():
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE)
    assert copied == [".", "docker/entrypoint.sh"]
    assert (ROOT / "docker/entrypoint.sh").stat().st_mode & 0o111
    for script, step in re.findall(r"src/gld_ros/(\S+\.sh) (\w+)", DOCKERFILE):
        assert re.search(rf"^#   {script} {step} ", (ROOT / script).read_text("utf-8"), re.M)
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert {".git", ".venv", "build", "install", "log", "out"} <= set(ignored)


def test_compose_builds_that_image_and_gives_every_volume_a_name():
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text("utf-8"))
    service = compose["services"]["gld"]
    build = service["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).is_file()
    names = {volume.split(":")[0] for volume in service["volumes"]}
    assert names == set(compose["volumes"])
    assert service["environment"]["GLD_ROS_DATA"] in {v.split(":")[1] for v in service["volumes"]}
