"""What sampler presets cost and how near they come to the exact solution of the flow.

    python benchmark/presets.py quality --scenes 4      # embedded bundle, held-out rooms
    python benchmark/presets.py speed --model mid       # random weights, whole denoising runs

`quality` integrates the same start noise with Euler in as many steps as a bundle has of its own, as
`fast` does it, and as `--also` says, and compares the targets' latents with a converged run. The
published weights have 49 steps. Also told: log-depth against the converged run, sharpness (mean
Laplacian of the decoded colours, relative to the converged run's) and the energy distance of target
features to those of the true images, which no single sample has to come near.

`speed` times whole denoising runs of each preset against the published procedure written plainly
(both branches of guidance through `Denoiser.forward`, Euler), in turns in one process. Weights are
random, so the difference to the first row tells rounding errors of `published`, and of the others
nothing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from denoiser_fast_path import CLOCKS, MODELS, random_conditions
from torch import Tensor
from tqdm import tqdm

from gld_ros.diffusion.conditioning import (
    DenoiserConditions,
    camera_conditions,
    concatenate_conditions,
    unconditional,
)
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.flow import time_grid, time_shift, to_velocity
from gld_ros.diffusion.guidance import Guidance
from gld_ros.diffusion.presets import SolverSteps, solver_steps
from gld_ros.diffusion.solvers import UPDATE_RULES, Solver, sampling_grid
from gld_ros.evaluation.batch import UsableSamples, collate
from gld_ros.evaluation.held_out import ViewPlan, batches, open_held_out
from gld_ros.evaluation.model_runs import EvaluatedModel
from gld_ros.novel_view_stages import (
    decode_rgb,
    decoder_inputs,
    level_tokens,
    sample,
    sampling_conditions,
    tokens_to_latent,
)
from gld_ros.weights.bundle import Bundle

PUBLISHED_STEPS = 49
CONVERGED_STEPS = 64
REFERENCES, TARGETS = 2, 2
NUM_FEATURES = 768  # that the energy distance compares


@dataclass(frozen=True)
class Plan:
    """One way to sample."""

    name: str
    solver: Solver
    num_steps: int
    guidance: Guidance

    def evaluations(self, shift: float) -> int:
        """Of the network, both branches of guidance counted."""
        count = guided = 0
        for t in sampling_grid(self.num_steps, shift, self.solver)[0][:-1].tolist():
            count += 1
            if self.guidance.acts_at(t):
                count += guided % self.guidance.every == 0
                guided += 1
        return count


# A student has its teacher's architecture, and guidance built in.
STUDENT = Plan("fastest, a student of two calls", "euler", 2, Guidance())


def presets(scale: float, own_steps: int) -> list[Plan]:
    """The presets of a bundle that was published with so many steps."""
    rows = []
    for name in ("published", "fast"):
        how = solver_steps(name, SolverSteps("euler", own_steps))
        rows.append(Plan(name, how.solver, how.steps, Guidance(scale)))
    return rows


def other_plan(text: str, scale: float) -> Plan:
    """A plan from "solver:steps", or from "solver:steps:k" with guidance in every k-th step."""
    name, steps, *every = text.split(":")
    solver = cast("Solver", name)
    if solver not in UPDATE_RULES or not steps.isdecimal():
        raise ValueError(f"{text!r} is not solver:steps; solvers are {', '.join(UPDATE_RULES)}")
    if not every:
        return Plan(solver, solver, int(steps), Guidance(scale))
    guidance = Guidance(scale, every=int(every[0]))
    return Plan(f"{solver}, guided every {every[0]}", solver, int(steps), guidance)


class HeldOutRooms:
    """Held-out rooms encoded by a bundle, and what a sampled latent is compared with."""

    def __init__(self, scenes: int, bundle_name: str | Path = "tiny") -> None:
        bundle = Bundle.open(bundle_name)
        self.model = EvaluatedModel(bundle, torch.device("cpu"), torch.float32)
        held_out = open_held_out(
            f"rooms:look_around:{scenes}",
            ViewPlan(REFERENCES, TARGETS),
            bundle.config.resolutions_hw,
        )
        usable = UsableSamples(self.model, held_out, REFERENCES)
        self.batch = collate(
            next(iter(batches(usable, scenes))), 0, REFERENCES, torch.device("cpu")
        )
        self.encoded = self.model.encode(self.batch.images[:, :REFERENCES])
        camera_map, viewmats, _ = camera_conditions(
            self.batch.T_world_cam,
            self.batch.K_px,
            self.batch.image_hw,
            REFERENCES,
            ray_grid=bundle.config.ray_grid,
            pose_scale=bundle.config.pose_scale,
        )
        self.denoiser: Denoiser = self.model.denoisers["level1"]
        self.conditions = sampling_conditions(
            self.denoiser, self.encoded.latents[1], camera_map, viewmats, self.batch.K_px
        )
        views = REFERENCES + TARGETS
        self.noise = self.model.noise(self.batch.numbers, 0, views, self.batch.image_hw)["level1"]
        self.grid_hw = (self.noise.shape[-2], self.noise.shape[-1])
        self.shift = time_shift(self.noise.shape[2], *self.grid_hw, views)
        with torch.no_grad():
            tokens = self.model.backbone.encode_levels(self.batch.images, [1])[1]
        true = tokens_to_latent(tokens, self.model.statistics[1], self.grid_hw[0])
        self.true_latent = true
        self.true_features = self._features(true)

    def latent(self, plan: Plan) -> Tensor:
        """The latents (B, V, C, h, w) of a plan."""
        latent = self.noise
        for step in sample(
            self.denoiser,
            self.conditions,
            self.noise,
            num_steps=plan.num_steps,
            shift=self.shift,
            guidance=plan.guidance,
            solver=plan.solver,
        ):
            latent = step.latent
        return latent

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (B, T, 3, H, W) and log-depth (B, T, H, W) of the targets of whole latents."""
        model = self.model
        tokens = level_tokens(
            model.backbone, model.statistics, {1: latents}, self.encoded.special, 1, self.grid_hw
        )
        inputs = decoder_inputs(model.backbone, tokens)
        rgb = decode_rgb(model.rgb_decoder, inputs, self.batch.image_hw)
        depth = model.backbone.decode_geometry(inputs, self.batch.image_hw).depth
        return rgb[:, REFERENCES:].clamp(0, 1), depth[:, REFERENCES:].log()

    def figures(self, plan: Plan) -> tuple[Tensor, Tensor, float, float]:
        """Target latents, log-depth, sharpness and energy distance of a plan."""
        latent = self.latent(plan)
        rgb, log_depth = self.decoded(latent)
        distance = energy_distance(self._features(latent), self.true_features)
        return latent[:, REFERENCES:], log_depth, sharpness(rgb), distance

    def _features(self, latent: Tensor) -> Tensor:
        features = latent[:, REFERENCES:].flatten(3).mT.flatten(0, 2)
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
        return features[order[:NUM_FEATURES]].float()


def sharpness(rgb: Tensor) -> float:
    """Mean absolute Laplacian of the grey image."""
    grey = rgb.mean(dim=2).flatten(0, 1)[:, None]
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return float(F.conv2d(grey, kernel).abs().mean())


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of two sets of features (N, C)."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def quality(scenes: int, scale: float, own_steps: int, others: Sequence[str]) -> None:
    """Print one row per plan."""
    plans = [*presets(scale, own_steps), *(other_plan(text, scale) for text in others)]
    rooms = HeldOutRooms(scenes)
    converged = Plan("converged", "abm2", CONVERGED_STEPS, Guidance(scale))
    exact, exact_depth, exact_sharpness, exact_distance = rooms.figures(converged)
    print(f"{scenes} rooms, guidance {scale:g}; converged: energy distance {exact_distance:.3f}")
    print("| how | steps | evaluations | latent | log-depth | sharpness | energy distance |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for plan in tqdm(plans, unit="plan", disable=None):
        latent, log_depth, sharp, distance = rooms.figures(plan)
        deviation = float((latent - exact).norm() / exact.norm())
        of_depth = float((log_depth - exact_depth).abs().mean())
        print(
            f"| {plan.name} | {plan.num_steps} | {plan.evaluations(rooms.shift)} | "
            f"{deviation:.4f} | {of_depth:.4f} | {sharp / exact_sharpness:.3f} | {distance:.3f} |",
            flush=True,
        )


def published_plainly(
    denoiser: Denoiser, conditions: DenoiserConditions, noise: Tensor, shift: float, scale: float
) -> Tensor:
    """The published procedure as one reads it: both branches in one batch, Euler."""
    free = unconditional(conditions, intrinsics=denoiser.config.unconditional_intrinsics)
    both = concatenate_conditions(conditions, free) if scale > 1 else conditions
    grid = time_grid(PUBLISHED_STEPS + 1, shift).tolist()
    latent = noise
    dtype = conditions.reference_latent.dtype
    with torch.no_grad():
        for t, t_next in itertools.pairwise(grid):
            copies = len(both.viewmats)
            noisy = latent.to(dtype).expand(copies, *latent.shape[1:])
            output = denoiser(noisy, torch.full((copies,), t), both).float()
            if scale > 1:
                conditional, unguided = output.chunk(2)
                output = unguided + scale * (conditional - unguided)
            velocity = to_velocity(output, latent, t, denoiser.config.prediction)
            latent = latent + (t_next - t) * velocity
    return latent


def speed(
    model: str,
    views: int,
    grid_hw: tuple[int, int],
    scale: float,
    repeats: int,
    clock: Callable[[], float],
    dtypes: Sequence[torch.dtype],
) -> None:
    """Print seconds of whole runs, in turns, and their ratios to the plain procedure.

    That is run in each of `dtypes` as well; the first is what all rows are compared with.
    """
    torch.manual_seed(0)
    config = MODELS[model]
    denoiser = Denoiser(config).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.02)  # a fresh model has zero gates
    conditions = random_conditions(config, views, grid_hw)
    noise = torch.randn_like(conditions.reference_latent)
    shift = time_shift(config.channels, *grid_hw, views)

    def run_preset(denoiser: Denoiser, conditions: DenoiserConditions, plan: Plan) -> Tensor:
        latent = noise
        for step in sample(
            denoiser,
            conditions,
            noise,
            num_steps=plan.num_steps,
            shift=shift,
            guidance=plan.guidance,
            solver=plan.solver,
        ):
            latent = step.latent
        return latent

    runs: dict[tuple[str, torch.dtype], Callable[[], Tensor]] = {}
    for dtype in dtypes:
        network = deepcopy(denoiser).to(dtype)
        given = sampling_conditions(
            network,
            conditions.reference_latent[:, : conditions.num_references],
            conditions.camera_map,
            conditions.viewmats,
            conditions.K_px,
            conditions.source,
        )
        runs["published, plainly", dtype] = partial(
            published_plainly, network, given, noise, shift, scale
        )
        for plan in (*presets(scale, PUBLISHED_STEPS), STUDENT):
            runs[plan.name, dtype] = partial(run_preset, network, given, plan)
    first = next(iter(runs))
    seconds: dict[tuple[str, torch.dtype], list[float]] = {key: [] for key in runs}
    results: dict[tuple[str, torch.dtype], Tensor] = {}
    for _ in tqdm(range(repeats), unit="turn", disable=None):
        for key, run in runs.items():
            started = clock()
            results[key] = run()
            seconds[key].append(clock() - started)

    def ratios(to: tuple[str, torch.dtype], key: tuple[str, torch.dtype]) -> str:
        turns = [a / b for a, b in zip(seconds[to], seconds[key], strict=True)]
        return f"{statistics.median(turns):.2f} ({min(turns):.2f} to {max(turns):.2f})"

    print(f"{model}, {views} views x {grid_hw[0]} x {grid_hw[1]} patches, guidance {scale:g}")
    print(
        "| run | precision | seconds (median) | times faster than the first, by turn | "
        "than plainly in the same precision | difference to the first, of what sampling changed |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for key, values in seconds.items():
        name, dtype = key
        difference = (results[key] - results[first]).norm() / (results[first] - noise).norm()
        print(
            f"| {name} | {str(dtype).removeprefix('torch.')} | {statistics.median(values):.2f} | "
            f"{ratios(first, key)} | {ratios((first[0], dtype), key)} | {float(difference):.1e} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("quality", "speed"))
    parser.add_argument("--scenes", type=int, default=4, help="rooms of `quality` (default: 4)")
    parser.add_argument(
        "--own-steps",
        type=int,
        default=PUBLISHED_STEPS,
        help=f"Euler steps of the bundle that `quality` takes it for (default: {PUBLISHED_STEPS})",
    )
    parser.add_argument(
        "--also",
        nargs="*",
        default=[],
        metavar="SOLVER:STEPS[:K]",
        help="further rows of `quality`, K: guided in every K-th step (default: the presets alone)",
    )
    parser.add_argument("--guidance", type=float, default=1.5, help="scale (default: 1.5)")
    parser.add_argument("--model", choices=MODELS, default="mid", help="of `speed` (default: mid)")
    parser.add_argument("--views", type=int, default=4, help="of `speed` (default: 4)")
    parser.add_argument(
        "--grid",
        type=int,
        nargs=2,
        default=(6, 8),
        metavar=("ROWS", "COLUMNS"),
        help="patches per view of `speed` (default: 6 8)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns of `speed` (default: 3)")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16"),
        default=["float32"],
        help="precisions of `speed`, in turns; rows are compared with the first (default: float32)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="of `speed`; processor is for a machine that others use too (default: wall)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.part == "quality":
        quality(arguments.scenes, arguments.guidance, arguments.own_steps, arguments.also)
    else:
        grid_hw = (arguments.grid[0], arguments.grid[1])
        speed(
            arguments.model,
            arguments.views,
            grid_hw,
            arguments.guidance,
            arguments.repeats,
            CLOCKS[arguments.clock],
            [getattr(torch, name) for name in arguments.dtypes],
        )


if __name__ == "__main__":
    main()
