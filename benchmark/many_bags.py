"""`gld-ros bags` on this machine: two workers against one, a worker killed, a bad bag among good.

Writes short bags of tours through procedural rooms and runs them with the embedded bundle, one
thread per worker, so that two workers are twice the processors of one. Every output is compared
byte for byte with those of the other runs and, for one bag, with `gld-ros bag`.

    python benchmark/many_bags.py                  8 bags; minutes on two cores
    python benchmark/many_bags.py --bags 4 --out /tmp/many_bags
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from gld_ros.scenes.rooms.domains import SPLIT_IDS
from gld_ros.scenes.rooms.tour import find_tour
from gld_ros.scenes.tour_bag import write_tour_bag

DOMAIN = "narrow"
OPTIONS = ["--threads", "1", "--every", "8"]
COMMAND = [sys.executable, "-m", "gld_ros.cli.main"]


def write_bags(folder: Path, count: int) -> None:
    """Tours through `count` rooms, 20 s with two images a second each."""
    rooms = (room for room in SPLIT_IDS["demo"] if find_tour(DOMAIN, room) is not None)
    for number, room in enumerate(islice(rooms, count)):
        path = folder / f"room{number}"
        if not path.exists():
            write_tour_bag(
                path, DOMAIN, room, image_hw=(120, 160), seconds=20.0, rate_hz=2.0, with_depth=False
            )


def run_bags(inputs: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    """Start `gld-ros bags`."""
    arguments = ["bags", str(inputs), "--out", str(out), "--workers", str(workers), *OPTIONS]
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True)


def timed(inputs: Path, out: Path, workers: int, count: int) -> float:
    """Run all bags; return the seconds that the command took, from its start to its end."""
    started = time.monotonic()
    process = run_bags(inputs, out, workers)
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    if process.returncode != 0:
        raise RuntimeError(f"gld-ros bags ended with {process.returncode}:\n{output}")
    busy_s = sum(record["seconds"] for record in records(out).values())
    print(
        f"{workers} worker{'s' if workers > 1 else ''}: {seconds:.1f} s for {count} bags, "
        f"{count / seconds * 60:.1f} bags a minute; {busy_s / count:.1f} s in each bag, "
        f"{seconds - busy_s / workers:.1f} s to start, end and wait"
    )
    return seconds


def records(out: Path) -> dict[str, dict]:
    """The records of a manifest by name."""
    document = json.loads((out / "manifest.json").read_text())
    return {record["name"]: record for record in document["items"].values()}


def kill_a_worker(out: Path, process: subprocess.Popen[str]) -> str:
    """Kill the worker that writes a bag, in the middle of it; return the name of the bag."""
    while process.poll() is None:
        for partial in (out / "bags").glob(".*.partial-*/*/*.mcap"):
            # Some jobs are in the file already, others are not.
            if partial.stat().st_size > 500_000:
                pid = writer_of(partial.parents[1])
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    return partial.parent.name
        time.sleep(0.1)
    raise RuntimeError("the run ended before a worker could be killed")


def writer_of(folder: Path) -> int | None:
    """The process that holds an open folder."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == folder:
                return int(link.parts[2])
        except OSError:
            continue
    return None


def same_files(one: Path, other: Path) -> bool:
    """Whether two bags hold the same bytes."""
    files = [{p.name: p.read_bytes() for p in bag.iterdir()} for bag in (one, other)]
    return files[0] == files[1]


def main() -> None:
    """Measure, kill, compare; exit status 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bags", type=int, default=8)
    parser.add_argument("--out", type=Path, help="folder to keep (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        inputs = out / "in"
        write_bags(inputs, args.bags)
        sys.stdout.reconfigure(line_buffering=True)
        one = timed(inputs, out / "one", 1, args.bags)
        two = timed(inputs, out / "two", 2, args.bags)
        print(f"two workers: {one / two:.2f} times the throughput of one")

        bad = inputs / "cut"
        bad.mkdir(exist_ok=True)
        for path in (inputs / "room0").iterdir():
            name = path.name.replace("room0", "cut")
            text = path.read_bytes().replace(b"room0.mcap", b"cut.mcap")
            (bad / name).write_bytes(text[: 5000 if name.endswith(".mcap") else None])
        process = run_bags(inputs, out / "killed", 2)
        victim = kill_a_worker(out / "killed", process)
        output, _ = process.communicate()
        found = records(out / "killed")
        print(f"a worker was killed in {victim}: {found[victim]['attempts']} attempts; then")
        print("".join(f"  {line}\n" for line in output.splitlines() if "room" not in line), end="")

        single = out / "single" / "room0"
        subprocess.run([*COMMAND, "bag", inputs / "room0", single, *OPTIONS], check=True)
        names = [name for name in found if name != "cut"]
        equal = [
            same_files(out / "one/bags" / name, out / run / "bags" / name)
            for name in names
            for run in ("two", "killed")
        ]
        as_single = same_files(single, out / "one/bags/room0")
        print(f"{sum(equal)} of {len(equal)} outputs as with one worker, byte for byte")
        print(f"room0 as `gld-ros bag` writes it: {as_single}")
        good = (
            all(equal)
            and as_single
            and process.returncode == 1
            and found[victim]["attempts"] == 2
            and {name for name, record in found.items() if record["status"] != "done"} == {"cut"}
        )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
