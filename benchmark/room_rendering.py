"""How fast procedural rooms are drawn and rendered, in million pixels per second.

    python benchmark/room_rendering.py --threads 1
    python benchmark/room_rendering.py --domains wide --device cuda --size 168x126 --scenes 256

Run it with the allocator settings of `gld-ros train` for the figures that training sees.
"""

import argparse
import time

import torch

from gld_ros.cli._arguments import SIZE_FORM, size_hw
from gld_ros.scenes.rooms import DOMAINS, render_rooms, split_ids
from gld_ros.scenes.rooms.generate import accepted_rooms
from gld_ros.training.environment import allocator_is_tuned


def main() -> None:
    """Measure every domain asked for and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=list(DOMAINS))
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=size_hw, default=(84, 112), metavar=SIZE_FORM)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    height, width = args.size
    torch.set_num_threads(args.threads)
    print(
        f"{args.device}, {args.threads} threads, allocator tuned: {allocator_is_tuned()}, "
        f"{args.scenes} scenes x {args.views} views of {width}x{height}; wall (processor) time"
    )
    ids = split_ids("validation", args.scenes)
    for name in args.domains:
        accept = best_seconds(lambda n=name: accepted_rooms(DOMAINS[n], ids, args.device), args)
        line = f"{name:17} find a room {1e3 * accept[0] / args.scenes:5.1f} ms"
        for antialias in (1, 2):
            wall, processor = best_seconds(
                lambda n=name, a=antialias: render_rooms(
                    n, ids, args.views, (height, width), antialias=a, device=args.device
                ),
                args,
            )
            pixels = 1e-6 * args.scenes * args.views * width * height
            rate, per_processor = pixels / wall, pixels / processor
            line += f" | antialias {antialias}: {rate:6.2f} ({per_processor:5.2f}) Mpixel/s"
        print(line, flush=True)


def best_seconds(work, args) -> tuple[float, float]:
    """Least wall and processor seconds of the repeats."""
    best = (float("inf"), float("inf"))
    for _ in range(args.repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        spent = (time.perf_counter() - wall, time.process_time() - processor)
        best = (min(best[0], spent[0]), min(best[1], spent[1]))
    return best


if __name__ == "__main__":
    main()
