"""Full-size GLD on a CPU: published layout -> bundle -> one sample, with seconds and peak memory.

    python benchmark/full_size_cpu.py FOLDER [--threads N] [--json] [--keep]

Writes random weights of the published sizes in the published containers (float32, about 8 GB),
converts them to a bfloat16 bundle (about 4 GB) and samples 2 targets from 2 references at 504x280
in 2 steps with guidance. Each phase runs in its own process, so each has its own peak. FOLDER is
emptied of what was written unless --keep is given. The images mean nothing: speed and memory do.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

IMAGE_HW = (280, 504)
NUM_REFERENCES, NUM_TARGETS, NUM_STEPS = 2, 2, 2
LIMIT_GB = 10.0


def write_official(root: Path) -> dict[str, Any]:
    """Write the published files with random values, one file in memory at a time."""
    import torch
    from safetensors.torch import save_file

    from gld_ros.backbones.da3.config import DA3_BASE
    from gld_ros.backbones.da3.model import DepthAnything3
    from gld_ros.backbones.da3.official_keys import official_key
    from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
    from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1
    from gld_ros.diffusion.denoiser import Denoiser
    from gld_ros.weights.families import FAMILIES

    generator = torch.Generator().manual_seed(0)

    def random_state(layout: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
        state = {}
        for name, shape in layout.items():
            values = torch.empty(shape)
            if len(shape) > 1:
                bound = math.sqrt(3 / max(1, shape[1:].numel()))
                values.uniform_(-bound, bound, generator=generator)
            else:
                values.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.01)
            state[name] = values
        return state

    def layout(build: Callable[[], torch.nn.Module]) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {name: values.shape for name, values in build().state_dict().items()}

    def place(part: str) -> Path:
        path = root / FAMILIES["gld-da3"].files[part][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    da3 = {official_key(k): v for k, v in layout(lambda: DepthAnything3(DA3_BASE)).items()}
    for part in ("encoder", "head"):
        save_file(random_state(da3), place(part))
    prefix = "model.head."
    head = {k.replace(prefix, "decoder.", 1): v for k, v in da3.items() if k.startswith(prefix)}
    torch.save({"model": random_state(head)}, place("dpt_decoder"))
    rgb = layout(lambda: RgbDecoder(RgbDecoderConfig(in_channels=4 * DA3_BASE.channels)))
    torch.save(
        {"ema": random_state({f"decoder.{k}": v for k, v in rgb.items()})}, place("mae_decoder")
    )
    for part, config in (("level1", GLD_DA3_LEVEL1), ("cascade", GLD_DA3_CASCADE)):
        torch.save({"ema": random_state(layout(lambda c=config: Denoiser(c)))}, place(part))
    shape = (1, DA3_BASE.channels, 1, 1)
    for level in (0, 1):
        statistics = {"mean": torch.zeros(shape), "var": torch.ones(shape), "level": level}
        path = root / f"model_stats/da3/normalization_stats_level{level}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(statistics, path)
    return {"bytes": sum(p.stat().st_size for p in root.rglob("*") if p.is_file())}


def to_bundle(root: Path, bundle: Path) -> dict[str, Any]:
    """Convert the published layout to a bfloat16 bundle."""
    import torch

    from gld_ros.weights.convert import convert

    conversion = convert(
        root, bundle, name="full-size-random", dtype=torch.bfloat16, random_weights=True
    )
    return {
        "bytes": sum(conversion.bundle.size_bytes().values()),
        "parameters": sum(conversion.bundle.parameter_count().values()),
    }


def sample(bundle: Path) -> dict[str, Any]:
    """One request through the pipeline in bfloat16, weights loaded stage by stage."""
    import numpy as np

    from gld_ros.cli.bench import example_request
    from gld_ros.pipeline import NovelViewPipeline

    request = replace(
        example_request(IMAGE_HW, NUM_REFERENCES, NUM_TARGETS, NUM_STEPS), guidance_scale=1.5
    )
    pipeline = NovelViewPipeline.from_pretrained(
        bundle, device="cpu", dtype="bfloat16", keep_weights=False
    )
    started = time.monotonic()
    marks = []

    def mark(progress: Any) -> None:
        seconds = round(time.monotonic() - started, 1)
        marks.append({"stage": progress.stage, "step": progress.step, "at_s": seconds})
        print(f"  {seconds:8.1f} s  {progress.stage} {progress.step}", file=sys.stderr, flush=True)

    views = pipeline(request, progress=mark)
    total = time.monotonic() - started
    stages = {name: round(seconds, 1) for name, seconds in views.stage_seconds.items()}
    finite = all(bool(np.isfinite(view.rgb).all()) for view in views.targets)
    return {
        "stage_seconds": stages,
        "loading_seconds": round(total - sum(views.stage_seconds.values()), 1),
        "total_seconds": round(total, 1),
        "targets_finite": finite,
        "marks": marks,
    }


def run_phase(name: str, folder: Path) -> dict[str, Any]:
    """Run one phase in this process and add its seconds and peak resident memory."""
    root, bundle = folder / "official", folder / "bundle"
    phases = {
        "write": lambda: write_official(root),
        "convert": lambda: to_bundle(root, bundle),
        "sample": lambda: sample(bundle),
    }
    started = time.monotonic()
    result = phases[name]()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "phase": name,
        "seconds": round(time.monotonic() - started, 1),
        "peak_resident_gb": round(peak_kib * 1024 / 1e9, 2),
        **result,
    }


def main() -> int:
    """Run all phases; 1 if converting or sampling needed more than 10 GB."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write (13 GB)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--keep", action="store_true", help="leave the files for another run")
    parser.add_argument("--phase", choices=("write", "convert", "sample"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase is not None:
        print(json.dumps(run_phase(args.phase, args.folder)))
        return 0

    args.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    results = []
    try:
        for phase in ("write", "convert", "sample"):
            command = [sys.executable, __file__, str(args.folder), "--phase", phase]
            finished = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            results.append(json.loads(finished.stdout.splitlines()[-1]))
            if not args.json:
                shown = {k: v for k, v in results[-1].items() if k != "marks"}
                print(", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
            if phase == "convert" and not args.keep:
                shutil.rmtree(args.folder / "official")
    finally:
        if not args.keep:
            for name in ("official", "bundle"):
                shutil.rmtree(args.folder / name, ignore_errors=True)
    if args.json:
        print(json.dumps({"threads": args.threads, "phases": results}, indent=1))
    return 1 if max(r["peak_resident_gb"] for r in results[1:]) > LIMIT_GB else 0


if __name__ == "__main__":
    sys.exit(main())
