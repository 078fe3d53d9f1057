"""Minutes from a bare clone: what the quick starts say to install and to type, timed.

Clones this checkout's last commit into an empty folder and types each page there into a shell: the
block that needs a bare clone, then those that need nothing. What pages install alike is installed
once. Blocks that need a camera, a distribution or another package are left out.

    python tools/time_quick_starts.py                 all pages
    python tools/time_quick_starts.py bags research   some of them
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "quickstart"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALL = "# needs: a bare clone\n"


def main() -> None:
    """Time the pages; exit status 1 if a command failed."""
    names = sorted(path.stem for path in PAGES.glob("*.md"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=", ".join(names))
    args = parser.parse_args()
    if unknown := set(args.pages) - set(names):
        parser.error(f"no quick start {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    with tempfile.TemporaryDirectory(prefix="quick_starts_") as folder:
        clone = Path(folder) / "gld_ros"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        installed: dict[str, float] = {}
        for name in args.pages or names:
            blocks = BLOCK.findall((clone / "docs/quickstart" / f"{name}.md").read_text("utf-8"))
            install = "".join(block for block in blocks if block.startswith(INSTALL))
            commands = "".join(block for block in blocks if not block.startswith("# needs: "))
            install_s, commands_s = typed(install, commands, clone, name)
            installed.setdefault(install, install_s)  # the next page finds it done
            load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
            print(
                f"{name}: {installed[install] / 60:.1f} minutes to install, "
                f"{commands_s / 60:.1f} for the commands (load averages {load})",
                flush=True,
            )


def typed(install: str, commands: str, folder: Path, page: str) -> tuple[float, float]:
    """Type both into one new shell; the seconds of each. Exits with what was said if one fails."""
    mark = folder.with_name("installed_at")
    started = time.time()
    with tempfile.TemporaryFile("w+") as said:
        shell = subprocess.Popen(
            ["bash", "-ec", f"{install}echo $EPOCHREALTIME > {mark}\n{commands}"],
            cwd=folder,
            env=outside_of_environments(),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = shell.wait()
        ended = time.time()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)  # what it left in the background
        if status != 0:
            said.seek(0)
            sys.exit(f"{page}: exit status {status}\n{said.read()[-4000:]}")
    installed = float(mark.read_text())
    return installed - started, ended - installed


def outside_of_environments() -> dict[str, str]:
    """The variables of a shell that has entered no environment, such as this checkout's."""
    entered = ("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "COLCON_", "AMENT_", "CMAKE_")
    left = {name: value for name, value in os.environ.items() if not name.startswith(entered)}
    paths = left["PATH"].split(os.pathsep)
    left["PATH"] = os.pathsep.join(p for p in paths if not (Path(p) / "activate").exists())
    return left


if __name__ == "__main__":
    main()
