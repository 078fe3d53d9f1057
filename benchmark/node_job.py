"""Processor seconds of whole jobs on a bag, from keyframes to products; of source trees in turn.

    python benchmark/node_job.py out/demo/tour --jobs 4
    git worktree add ../before COMMIT
    python benchmark/node_job.py out/demo/tour --jobs 4 --trees ../before . --rounds 2

A job encodes its references, samples, decodes, joins with what was measured, labels and makes
clouds. Measuring keyframes beforehand and writing messages are not counted. Processor time counts
the work of this process alone, so that the machine may do other things beside it; with `--trees`
every round runs each tree in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def job_seconds(bag: Path, fixed_frame: str, bundle: str, preset: str, jobs: int) -> list[float]:
    """Processor seconds of the bag's first jobs, without the first, which loads weights."""
    from gld_ros.bags.reader import BagReader
    from gld_ros.mapping.model import load_model
    from gld_ros.mapping.offline import OfflineRun
    from gld_ros.ros.parameters.files import load_snapshot

    with BagReader(bag) as reader:
        overrides = [
            f"fixed_frame={fixed_frame}",
            "policy.type=look_around",
            f"model.bundle={bundle}",
        ]
        if preset != "published":  # older trees know no presets
            overrides.append(f"sampler.preset={preset}")
        parameters = load_snapshot(overrides=overrides).session
        run = OfflineRun(reader, load_model(parameters), parameters)
        session, seconds = run.session, []
        work = session.run

        def timed(planned):  # type: ignore[no-untyped-def]
            session.measurements.await_results(60.0)
            started = time.process_time()
            result = work(planned)
            seconds.append(time.process_time() - started)
            return result

        session.run = timed  # type: ignore[method-assign]
        for _ in itertools.islice(run.jobs(), jobs + 1):
            pass
    return seconds[1:]


def in_turns(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds by tree, each run in a process of its own, in turns."""
    options = ["--bundle", arguments.bundle, "--preset", arguments.preset]
    options += ["--fixed-frame", arguments.fixed_frame]
    options += ["--jobs", str(arguments.jobs), "--threads", str(arguments.threads), "--json"]
    found: dict[str, list[float]] = {str(tree): [] for tree in arguments.trees}
    for _ in range(arguments.rounds):
        for tree in arguments.trees:
            path = os.pathsep.join([str(tree.resolve()), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                [sys.executable, __file__, str(arguments.bag), *options],
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                check=True,
            )
            found[str(tree)] += json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="with images, CameraInfo and TF")
    parser.add_argument("--fixed-frame", default="map", help="of the bag (default: map)")
    parser.add_argument("--bundle", default="tiny", help="name or folder (default: tiny)")
    parser.add_argument("--preset", default="published", help="sampler.preset (default: published)")
    parser.add_argument("--jobs", type=int, default=4, help="timed jobs of a run (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="of the networks (default: 1)")
    parser.add_argument("--trees", type=Path, nargs="+", default=[], help="source trees, in turns")
    parser.add_argument("--rounds", type=int, default=1, help="runs of every tree (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the seconds as a JSON list")
    arguments = parser.parse_args()
    if arguments.trees:
        for tree, seconds in in_turns(arguments).items():
            print(f"{tree}: median {statistics.median(seconds):.2f} s, best {min(seconds):.2f} s")
        return
    import torch

    torch.set_num_threads(arguments.threads)
    seconds = job_seconds(
        arguments.bag, arguments.fixed_frame, arguments.bundle, arguments.preset, arguments.jobs
    )
    if arguments.json:
        print(json.dumps(seconds))
    else:
        print(f"{len(seconds)} jobs: median {statistics.median(seconds):.2f} s of processor time")


if __name__ == "__main__":
    main()
