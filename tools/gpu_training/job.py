"""Draft: `render DIR SECONDS PROCESSES` renders stores of rooms; anything else is a `gld-ros` command line."""
import multiprocessing
import os
import sys
import time
from pathlib import Path

DOMAINS = ("narrow", "look_around", "narrow", "look_around", "medium", "wide", "look_around_wide", "narrow")


def worker(number, total, folder, deadline, count):
    import torch

    torch.set_num_threads(1)
    from gld_ros.scenes.rendered import open_rendered
    from gld_ros.scenes.rooms import split_ids
    from gld_ros.scenes.store import write_store

    def store(name, domain, split, first, n):
        scenes, ids = open_rendered(f"rooms:{domain}"), split_ids(split, n, first)
        temporary = folder / f".{name}"
        write_store(temporary, f"{domain} {split} {first}+{n}", n, 4, (84, 112),
                    lambda positions: scenes.render([ids[i] for i in positions], 4, (84, 112)))
        temporary.rename(folder / name)  # complete stores alone have this name

    if number == 0:
        store("validation", "narrow", "validation", 0, min(64, count))
    turn = 0
    while time.time() < deadline or turn == 0:
        index = turn * total + number
        domain = DOMAINS[(number + turn) % len(DOMAINS)]
        store(f"train_{index:04d}", domain, "train", 30000 + index * count, count)
        turn += 1


def main():
    if sys.argv[1] != "render":
        from gld_ros.cli.main import main as cli

        return cli(sys.argv[1:])
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    total, count = int(sys.argv[4]), int(os.environ.get("STORE_SCENES", "64"))
    deadline = time.time() + float(sys.argv[3])
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=worker, args=(i, total, folder, deadline, count)) for i in range(total)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(max(1.0, deadline + 45 - time.time()))
    for p in processes:
        if p.is_alive():
            p.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
