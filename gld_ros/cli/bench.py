"""`gld-ros bench`: stage times and peak memory of a bundle on synthetic input, as JSON."""

import argparse
import json
import platform
import resource
from dataclasses import replace
from typing import Any

from gld_ros.cli._arguments import SIZE_FORM, add_mode_argument, add_preset_argument, size_hw

HELP = "time the stages of a bundle and measure its memory, on synthetic input"
DESCRIPTION = """\
Run a bundle on synthetic images and print one JSON object: median, fastest and slowest seconds
of every stage over the repeats, sizes, and peak memory. A first run, which reads the weights, is
reported separately. Times are meaningful only on an idle machine.

  gld-ros bench
  gld-ros bench --mode depth --size 640x480
  gld-ros bench --bundle my-bundle --size 504x280 --references 2 --targets 2 --device cuda
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros bench`."""
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: tiny)")
    parser.add_argument(
        "--size", type=size_hw, metavar=SIZE_FORM, help="image size (default: the bundle's)"
    )
    parser.add_argument("--references", type=int, default=2, help="default: 2")
    parser.add_argument("--targets", type=int, default=2, help="default: 2")
    add_mode_argument(parser)
    add_preset_argument(parser)
    parser.add_argument("--steps", type=int, help="sampling steps (default: the preset's)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="let torch compile the denoisers' blocks; the first run then takes minutes",
    )
    parser.add_argument("--repeats", type=int, default=3, help="measured runs (default: 3)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print; raises ValueError for what the bundle cannot do."""
    if args.repeats < 1:
        raise ValueError(f"--repeats is {args.repeats}; at least 1 is needed")
    import torch
    from tqdm import tqdm

    from gld_ros.depth_pipeline import DepthPipeline
    from gld_ros.novel_view_stages import sampling_of
    from gld_ros.pipeline import NovelViewPipeline
    from gld_ros.view_request import DepthRequest
    from gld_ros.weights.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    config = bundle.config
    depth = args.mode == "depth" or (args.mode != "views" and not config.imagines)
    hw = args.size or config.resolutions_hw[0]
    references, targets = (1, 0) if depth else (args.references, args.targets)
    request: Any = example_request(hw, references, max(1, targets), args.steps)
    pipeline: Any
    if depth:
        pipeline = DepthPipeline(bundle, device=args.device, dtype=args.dtype)
        request = DepthRequest(request.images, request.K_px_ref)
        estimate = pipeline.estimate(1, hw)
        what: dict[str, Any] = {"model_width_height": pipeline.model_hw(hw)[::-1]}
    else:
        pipeline = NovelViewPipeline(
            bundle, device=args.device, dtype=args.dtype, compile_blocks=args.compile
        )
        request = replace(request, preset=args.preset)
        estimate = pipeline.estimate(references, targets)
        what = {
            "references": references,
            "targets": targets,
            "preset": args.preset,
            "compiled": args.compile,
            "steps": sampling_of(config, args.preset, args.steps).num_steps,
        }
    runs = []
    for number in tqdm(range(args.repeats + 1), desc="run", leave=False, disable=None):
        if number == 1 and pipeline.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pipeline.device)
        runs.append(_timed(pipeline, request))
    cuda = pipeline.device.type == "cuda"
    report = {
        "bundle": config.name,
        "random_weights": config.random_weights,
        "device": torch.cuda.get_device_name(pipeline.device) if cuda else platform.processor(),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "width_height": [hw[1], hw[0]],
        "mode": "depth" if depth else "views",
        **what,
        "repeats": args.repeats,
        "first_run_s": runs[0]["total"],
        "seconds": _spread(runs[1:]),
        **({"images_per_second": _rate(runs[1:])} if depth else {}),
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": torch.cuda.max_memory_allocated(pipeline.device) if cuda else None,
        "estimated_peak_bytes": estimate.peak_bytes,
        "bundle_bytes": sum(pipeline.bundle.size_bytes().values()),
    }
    print(json.dumps(report, indent=1))
    return 0


def example_request(hw: tuple[int, int], references: int, targets: int, steps: int | None) -> Any:
    """Return cameras in a row, 10 cm apart, that look at band-limited noise."""
    import cv2
    import numpy as np

    from gld_ros.view_request import ViewRequest

    generator = np.random.default_rng(0)
    height, width = hw
    focal_px = 0.8 * width
    K = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1.0]])
    poses = np.tile(np.eye(4), (references + targets, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(references + targets)
    coarse = generator.integers(0, 256, (references, 12, 16, 3), dtype=np.uint8)
    return ViewRequest(
        images=[cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in coarse],
        K_px_ref=np.tile(K, (references, 1, 1)),
        T_world_cam_ref=poses[:references],
        K_px_target=np.tile(K, (targets, 1, 1)),
        T_world_cam_target=poses[references:],
        target_hw=[hw] * targets,
        num_steps=steps,
        seed=0,
    )


def _timed(pipeline: Any, request: Any) -> dict[str, float]:
    import time

    started = time.perf_counter()
    views = pipeline(request)
    return {**views.stage_seconds, "total": time.perf_counter() - started}


def _rate(runs: list[dict[str, float]]) -> float:
    """Return the images per second at the median time of one."""
    from statistics import median

    return round(1 / median(run["total"] for run in runs), 2)


def _spread(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, fastest and slowest seconds per stage."""
    from statistics import median

    return {
        stage: {
            "median": round(median(run[stage] for run in runs), 4),
            "fastest": round(min(run[stage] for run in runs), 4),
            "slowest": round(max(run[stage] for run in runs), 4),
        }
        for stage in runs[0]
    }
