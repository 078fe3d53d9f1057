"""Processor seconds of a node's start: importing torch, importing gld_ros, loading the model.

    python benchmark/node_start.py [--bundle NAME]

Each start is a process of its own that finds compiled Python, as after an installation, and nothing
else that an earlier one left. The model is loaded as `configure` does it: files verified, room in
memory made sure of, one trial run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

START = "--one-start"


def one_start(bundle: str) -> dict[str, float]:
    """Start once in this process."""
    marks = [time.process_time()]
    import torch

    marks.append(time.process_time())
    torch.set_num_threads(1)
    import gld_ros.pipeline
    import gld_ros.ros.main  # noqa: F401
    from gld_ros.mapping.model import load_model
    from gld_ros.ros.parameters.files import load_snapshot

    marks.append(time.process_time())
    load_model(load_snapshot(None, [f"model.bundle={bundle}"]).session)
    marks.append(time.process_time())
    names = ("import torch", "import gld_ros and rclpy", "load the model")
    return {n: b - a for n, a, b in zip(names, marks[:-1], marks[1:], strict=True)}


def main() -> None:
    """Start once uncounted, to compile, and three times; print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: tiny)")
    parser.add_argument(START, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_start:
        print(json.dumps(one_start(arguments.bundle)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, START, "--bundle", arguments.bundle]
        environment = os.environ | {"PYTHONPYCACHEPREFIX": f"{scratch}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for start in ("uncounted", "first", "second", "third"):
            done = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=environment | {"XDG_CACHE_HOME": f"{scratch}/{start}"},
            )
            if start != "uncounted":
                seconds = json.loads(done.stdout.splitlines()[-1])
                print(start, ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
