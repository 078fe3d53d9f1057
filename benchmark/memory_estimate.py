"""How far the memory estimate is from measured peaks, for the embedded bundle on this CPU.

    python benchmark/memory_estimate.py [--full]
    python benchmark/memory_estimate.py --published     (nothing is run: a table of estimates alone)

Runs the embedded bundle at several sizes and view counts in float32 and compares the growth of the
process's peak resident memory with `gld_ros.memory_estimate`. `--full` also prints the estimate for
the published sizes (280x504, 2 + 2 views, bfloat16, weights stage by stage), whose peak
`benchmark/full_size_cpu.py` measures. `--published` prints estimates that say whether a GPU or a
Jetson has enough memory for the published sizes. Linux only: the peak is reset between runs.
"""

import argparse
import ctypes
import gc
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from gld_ros.cli.bench import example_request
from gld_ros.memory_estimate import RunShape, estimate_memory
from gld_ros.pipeline import NovelViewPipeline, ViewRequest
from gld_ros.weights.catalog import CATALOG
from gld_ros.weights.unfetched import UnfetchedBundle

MIB = 2**20
# (height, width), references, targets, samples, guidance, decoded one by one
CASES = (
    ((84, 112), 1, 1, 1, 1.0, False),
    ((84, 112), 4, 4, 1, 1.0, False),
    ((168, 224), 2, 2, 1, 1.0, False),
    ((168, 224), 4, 4, 1, 2.0, False),
    ((168, 224), 4, 4, 1, 2.0, True),
    ((280, 504), 2, 2, 2, 1.0, False),
    ((280, 504), 4, 4, 1, 1.0, False),
    ((280, 504), 4, 4, 1, 1.0, True),
)
# Published sizes: (height, width), references, targets
PUBLISHED_CASES = (
    ((280, 504), 1, 1),
    ((280, 504), 2, 2),
    ((280, 504), 4, 4),
    ((504, 504), 2, 2),
    ((504, 504), 4, 4),
)


def resident_bytes(field: str) -> int:
    """Return VmRSS (now) or VmHWM (peak since the last reset) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured_growth(pipeline: NovelViewPipeline, request: ViewRequest) -> int:
    """Run a request from an empty pipeline; bytes by which the peak exceeds what was there."""
    pipeline.release()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    pipeline(request)
    return resident_bytes("VmHWM") - before


def published_table() -> str:
    """Return estimates of guided runs of the published sizes in 16 bit, as Markdown."""
    config = UnfetchedBundle(CATALOG["gld-da3"]).config
    lines = [
        "| image | views | peak, weights stage by stage | peak, weights kept | worst stage |",
        "|" + " --- |" * 5,
    ]
    for hw, references, targets in PUBLISHED_CASES:
        shape = RunShape(references, targets, hw, guided=True)
        staged, kept = (
            estimate_memory(config, shape, dtype=torch.bfloat16, keep_weights=keep)
            for keep in (False, True)
        )
        lines.append(
            f"| {hw[1]}x{hw[0]} | {references} + {targets} | {staged.peak_bytes / 1e9:.1f} GB | "
            f"{kept.peak_bytes / 1e9:.1f} GB | {kept.peak_stage} |"
        )
    return "\n".join(lines)


def full_size() -> str:
    """Return the estimate for the published sizes, in words."""
    shape = RunShape(2, 2, (280, 504), guided=True)
    config = UnfetchedBundle(CATALOG["gld-da3"]).config
    estimate = estimate_memory(config, shape, dtype=torch.bfloat16, keep_weights=False)
    stages = ", ".join(
        f"{name} {memory.weights / 1e9:.2f} + {memory.activations / 1e9:.2f} = "
        f"{memory.total / 1e9:.2f} GB"
        for name, memory in estimate.stages.items()
    )
    return f"published sizes, 280x504, 2 + 2 views, bfloat16: {stages}"


def main() -> int:
    """Print one line per case, and the range of estimate / measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="estimate the published sizes too")
    parser.add_argument("--published", action="store_true", help="estimates alone, as a table")
    args = parser.parse_args()
    if args.published:
        print(published_table())
        return 0
    if args.full:
        print(full_size(), flush=True)
    pipeline = NovelViewPipeline.from_pretrained("tiny", device="cpu", dtype="float32")
    pipeline(example_request((84, 112), 1, 1, 2))  # libraries load what they need once
    print(
        "| size | views | samples | guided | decoder | weights, MiB | living tensors, MiB | "
        "estimate, MiB | measured, MiB | ratio |"
    )
    print("|" + " --- |" * 10)
    ratios, spent_s = [], []
    for hw, references, targets, samples, guidance, chunked in CASES:
        pipeline.limit_memory(chunk_decoder=chunked, smallest_bucket=False)
        started_s = time.process_time()
        estimate = pipeline.estimate(
            references, targets, samples=samples, guidance_scale=guidance, image_hw=hw
        )
        spent_s.append(time.process_time() - started_s)
        request = replace(
            example_request(hw, references, targets, 2),
            model_hw=hw,
            guidance_scale=guidance,
            samples=samples,
        )
        measured = measured_growth(pipeline, request)
        ratios.append(estimate.peak_bytes / measured)
        worst = estimate.stages[estimate.peak_stage]
        print(
            f"| {hw[1]}x{hw[0]} | {references} + {targets} | {samples} | "
            f"{'yes' if guidance > 1 else 'no'} | {'one by one' if chunked else 'together'} | "
            f"{worst.weights / MIB:.0f} | {worst.activations / MIB:.0f} | "
            f"{estimate.peak_bytes / MIB:.0f} | {measured / MIB:.0f} | {ratios[-1]:.2f} |",
            flush=True,
        )
    print(f"estimate / measured: {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"one estimate takes {min(spent_s):.1f} to {max(spent_s):.1f} s of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
