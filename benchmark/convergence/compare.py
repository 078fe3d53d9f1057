"""How much faster GLD's latent converges than an autoencoder's: same transformer, data and seeds.

    python benchmark/convergence/compare.py run --bundle runs/decoder/export \
        --data runs/data/narrow --held-out runs/data/narrow_validation --out runs/convergence \
        --steps 4000 --seeds 0 1 2
    python benchmark/convergence/compare.py report --out runs/convergence

`run` trains the autoencoder once, then per seed one diffusion model on each latent, with one loop
(`gld-ros train` and `train.py`); interrupted, the same command goes on. `report` reads the logs of
the runs and writes `convergence.png` and `convergence.json`: target PSNR on the held-out scenes
against steps and seconds, and the ratio of steps (or seconds) that both need for the lower of the
two PSNRs where they end; the published figure takes the one where the autoencoder ends, which is
the lower there. Above one GLD is faster. Seconds are wall time, validation included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from gld_ros.training.curves import read_metrics
from gld_ros.weights.bundle import Bundle

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIGS = ROOT / "config" / "train" / "tiny"
METRICS = {"one step": "validation/psnr", "sampled": "validation/psnr_sampled"}
Curve = list[tuple[float, float]]  # (steps or seconds, PSNR in dB)


GLD_JOB = ["-m", "gld_ros.cli.main", "train"]
BASELINE_JOB = [str(HERE / "train.py")]


def train(job: list[str], stage: str, run: Path, arguments: list[str]) -> None:
    """Run or resume one job; raises CalledProcessError when it fails."""
    command = [sys.executable, *job, stage, "--run", str(run), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


def overrides(settings: Iterable[str]) -> list[str]:
    """Return settings as arguments of `gld-ros train`."""
    return [part for setting in settings for part in ("--set", setting)]


def run_all(args: argparse.Namespace) -> None:
    """Train the autoencoder and one pair of diffusion models per seed."""
    if Bundle.open(args.bundle).has("level1"):
        raise SystemExit(
            f"{args.bundle} has a trained level1 already; the comparison starts from nothing. Give "
            "the bundle that the decoder stage wrote."
        )
    data = [
        "--set",
        f"data.paths=[{', '.join(str(path.resolve()) for path in args.data)}]",
        "--set",
        f"data.held_out_paths=[{args.held_out.resolve()}]",
        "--device",
        args.device,
    ]
    data += overrides(s for s in args.settings if not s.startswith("options."))
    out = args.out.resolve()
    vae = ["--config", str(HERE / "autoencoder.yaml"), "--set", f"steps={args.vae_steps}"]
    vae += ["--set", f"validate_every={args.vae_steps}"]
    train(BASELINE_JOB, "autoencoder", out / "vae", [*vae, *data])
    shared = [*data, "--set", f"steps={args.steps}", "--set", f"validate_every={args.every}"]
    shared += ["--set", f"options.validation_scenes={args.scenes}"]
    shared += ["--set", f"options.validation_euler_points={args.euler_points}"]
    shared += ["--model", str(args.model.resolve())]
    shared += overrides(s for s in args.settings if s.startswith("options."))
    if args.batch_size:
        shared += ["--set", f"batch_size={args.batch_size}"]
    gld = ["--config", str(CONFIGS / "level1_small.yaml"), "--bundle", str(args.bundle.resolve())]
    other = ["--config", str(HERE / "diffusion.yaml")]
    other += ["--set", f"options.autoencoder={out / 'vae' / 'export'}"]
    for seed in args.seeds:
        chosen = ["--set", f"seed={seed}"]
        train(GLD_JOB, "level1", out / f"gld_{seed}", [*gld, *shared, *chosen])
        train(BASELINE_JOB, "diffusion", out / f"vae_{seed}", [*other, *shared, *chosen])
        if args.gld_shift is not None:
            shift = ["--set", f"options.time_shift={args.gld_shift}"]
            run = out / f"vae-gldshift_{seed}"
            train(BASELINE_JOB, "diffusion", run, [*other, *shared, *chosen, *shift])


def read_curves(run: Path) -> dict[tuple[str, str], Curve]:
    """Return the curves of one run by (metric, axis)."""
    rows = read_metrics(run / "metrics.jsonl")
    return {
        (metric, axis): [(row[axis], row[name]) for row in rows if name in row]
        for metric, name in METRICS.items()
        for axis in ("step", "seconds")
    }


def position_of(curve: Curve, psnr: float) -> float:
    """Return where a curve first reaches a PSNR that it does reach, linear between evaluations."""
    for number, (position, value) in enumerate(curve):
        if value >= psnr:
            if number == 0:
                return position
            before, below = curve[number - 1]
            return before + (position - before) * (psnr - below) / (value - below)
    raise ValueError(f"the curve ends below {psnr} dB")


def ratios(out: Path) -> dict[str, dict[str, list[float]]]:
    """Return per comparison and (metric, axis) one ratio per seed."""
    result: dict[str, dict[str, list[float]]] = {}
    for other in ("vae", "vae-gldshift"):
        for gld_run in sorted(out.glob("gld_*")):
            other_run = out / gld_run.name.replace("gld_", f"{other}_", 1)
            if not other_run.is_dir():
                continue
            ours, theirs = read_curves(gld_run), read_curves(other_run)
            for (metric, axis), curve in theirs.items():
                gld_curve = ours[metric, axis]
                if not curve or not gld_curve:
                    continue
                psnr = min(curve[-1][1], gld_curve[-1][1])
                entry = result.setdefault(other, {}).setdefault(f"{metric}, {axis}", [])
                entry.append(position_of(curve, psnr) / position_of(gld_curve, psnr))
    return result


def report(out: Path) -> None:
    """Draw the curves, print and write the ratios."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = sorted(path.parent for path in out.glob("*_*/metrics.jsonl"))
    if not runs:
        raise SystemExit(f"{out} has no runs; see `run`")
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), squeeze=False)
    colours = {"gld": "tab:blue", "vae": "tab:orange", "vae-gldshift": "tab:green"}
    ends: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        kind, seed = run.name.rsplit("_", 1)
        for (metric, axis), curve in read_curves(run).items():
            if not curve:
                continue
            panel = axes[list(METRICS).index(metric)][int(axis == "seconds")]
            panel.plot(*zip(*curve, strict=True), color=colours[kind], label=f"{kind}, seed {seed}")
            panel.set_xlabel("optimiser steps" if axis == "step" else "seconds")
            panel.set_ylabel(f"target PSNR, {metric} (dB)")
            if axis == "step":
                ends.setdefault(kind, {}).setdefault(metric, []).append(curve[-1][1])
    for panel in axes.flat:
        if panel.lines:
            panel.legend(fontsize=7)
        else:
            panel.axis("off")
    figure.tight_layout()
    figure.savefig(out / "convergence.png", dpi=120)
    found = ratios(out)
    text = json.dumps({"last_psnr_db": ends, "ratios": found}, indent=1)
    (out / "convergence.json").write_text(text + "\n")
    for kind, metrics in ends.items():
        for metric, values in metrics.items():
            print(
                f"{kind:14} {metric:9} last PSNR {statistics.mean(values):.2f} dB {spread(values)}"
            )
    for other, by_name in found.items():
        for name, values in by_name.items():
            print(f"{other} over gld, {name}: ratio {statistics.mean(values):.2f} {spread(values)}")
    print(f"{out / 'convergence.png'}, {out / 'convergence.json'}")


def spread(values: list[float]) -> str:
    """Return lowest, highest and number of values in words."""
    return f"(lowest {min(values):.2f}, highest {max(values):.2f}, {len(values)} runs)"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="train everything, or go on with it")
    run.add_argument("--bundle", type=Path, required=True, help="with encoder and RGB decoder")
    run.add_argument("--data", type=Path, nargs="+", required=True, help="stores to train on")
    run.add_argument("--held-out", type=Path, required=True, help="store to measure on")
    run.add_argument("--model", type=Path, default=CONFIGS / "model", help="sizes of the model")
    run.add_argument("--steps", type=int, default=4000, help="of each diffusion model")
    run.add_argument("--every", type=int, default=250, help="steps between measurements")
    run.add_argument("--scenes", type=int, default=64, help="held-out scenes to measure on")
    run.add_argument("--euler-points", type=int, default=11, help="of the sampled figure; 0: none")
    run.add_argument("--vae-steps", type=int, default=1500)
    run.add_argument("--batch-size", type=int, default=0, help="0: that of the configuration")
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument(
        "--gld-shift", type=float, help="also train on the autoencoder with this time shift"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="override a setting, e.g. data.sizes_wh=[[168,126]]; options: of the diffusion jobs",
    )
    run.add_argument("--device", default="auto")
    drawn = actions.add_parser("report", help="figure and ratios from the logs")
    for action in (run, drawn):
        action.add_argument("--out", type=Path, required=True, help="folder of the runs")
    args = parser.parse_args()
    if args.action == "run":
        run_all(args)
    report(args.out)


if __name__ == "__main__":
    main()
