"""Link torch, with what it needs, from the running interpreter's environment into another one.

    .venv/bin/python tools/ros/lend_torch.py OTHER/bin/python

For tests in a distribution: gigabytes are not fetched twice, and torch is then a package that the
environment had before ours, as on a Jetson. Does nothing where OTHER has torch or another Python.
"""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

STAY = {"numpy", "setuptools"}  # the distribution's own
ASK = "import sys, sysconfig, importlib.util as u; print(*sys.version_info[:2]); \
print(sysconfig.get_paths()['purelib']); print(u.find_spec('torch') is not None)"


def with_requirements(name: str, found: dict[str, importlib.metadata.Distribution]) -> None:
    """Collect a distribution and all that it requires, as far as it is installed."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found or name in STAY:
        return
    try:
        found[name] = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in found[name].requires or []:
        if "extra ==" not in requirement:
            with_requirements(re.split(r"[^\w.-]", requirement)[0], found)


def main(other_python: str) -> None:
    """Make the links, and say what they lead to."""
    answer = subprocess.run(
        [other_python, "-c", ASK], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    version, site, has_torch = answer
    if has_torch == "True" or version != f"{sys.version_info[0]} {sys.version_info[1]}":
        return
    found: dict[str, importlib.metadata.Distribution] = {}
    with_requirements("torch", found)
    for distribution in found.values():
        tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
        for top in tops:
            link, real = Path(site) / top, Path(str(distribution.locate_file(top))).resolve()
            if real.exists() and not link.exists():
                link.symlink_to(real)
    if "torch" in found:
        print(f"[gld_ros] torch {found['torch'].version} is lent by {sys.prefix}")


if __name__ == "__main__":
    main(sys.argv[1])
