"""Print what pip installs on top of a sourced ROS distribution, one requirement per line.

    python distribution_requirements.py [EXTRA ...]      extras of setup.py: test, train, ...

Runs in the virtual environment, which sees the distribution's packages. Those stay as they are:
compiled ROS modules belong to their numpy and OpenCV, the distribution's pytest plugins to its
pytest, and torch to the machine's driver. Exits 3 where torch cannot come from pip.
"""

import distutils.core
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEGRA_RELEASE = Path("/etc/nv_tegra_release")
NO_TORCH_FOR_JETSON = (
    "this is a Jetson and it has no torch. Install NVIDIA's build for your JetPack first "
    "(https://docs.nvidia.com/deeplearning/frameworks/install-pytorch-jetson-platform); "
    "the one that pip would bring cannot use the GPU"
)


def requirements(extras: list[str]) -> list[str]:
    """Return the requirements of setup.py and of some of its extras, fitted to what is here."""
    os.chdir(ROOT)
    described = distutils.core.run_setup("setup.py", stop_after="init")
    asked = set(described.install_requires).union(
        *(described.extras_require[name] for name in extras)
    )
    wanted = {r for r in asked if not (name_of(r).startswith("opencv") and is_here("cv2"))}
    if numpy := version_here("numpy"):
        wanted.add(f"numpy<{int(numpy.split('.')[0]) + 1}")
    if torch := version_here("torch"):
        wanted = {r for r in wanted if name_of(r) != "torch"} | {f"torch=={torch}"}
    elif TEGRA_RELEASE.exists():
        raise SystemExit(NO_TORCH_FOR_JETSON)
    wanted.add("setuptools<80")  # colcon builds Python packages with what 80 removed
    pytest = version_here("pytest")
    if "test" in extras and is_here("launch_testing"):
        # Its plugin asks for hooks that pytest 8 has no more.
        usable = pytest is not None and (7, 4) <= tuple(map(int, pytest.split(".")[:2])) < (8, 0)
        wanted = {r for r in wanted if name_of(r) != "pytest"}
        wanted.add(f"pytest=={pytest}" if usable else "pytest>=7.4,<8")
    return sorted(wanted)


def name_of(requirement: str) -> str:
    """Return the name of the package that a requirement is about."""
    return requirement.split("<")[0].split(">")[0].split("=")[0].split("[")[0].strip().lower()


def is_here(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def version_here(package: str) -> str | None:
    """Return the version of an installed package, None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    try:
        print("\n".join(requirements(sys.argv[1:])))
    except SystemExit as reason:
        print(reason, file=sys.stderr)
        sys.exit(3)
