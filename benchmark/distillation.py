"""How near a student's few calls come to what its teacher samples, beside the teacher's own steps.

    python benchmark/distillation.py --bundle runs/distill/export --scenes 8

Held-out rooms that hide a quarter or more of every target, two noises each. "Converged" is the
teacher in 50 steps of the third order, guided as the bundle is. Told of the targets:

- deviation: norm of the difference to the converged latents of the same noise, over their norm;
- energy distance of their features to those of the converged latents of the OTHER noise (the first
  row, converged against converged, is how near two samples come) and to those of the true images;
- detail: power of the decoded colours at wavelengths of 8 to 32 and of 2 to 8 pixels, over that of
  the converged run (under 1: softer than the teacher meant it);
- spread: standard deviation of colour between the two noises where no reference looked, and where
  one did: a sampler that averages instead of choosing has too little of the first;
- PSNR to the true images, which favours averages.

Below the table: each student's energy distance to converged minus that of the teacher's ten Euler
steps, with its standard error over the rooms (jackknife).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from presets import REFERENCES, TARGETS, HeldOutRooms, energy_distance
from torch import Tensor
from tqdm import tqdm

from gld_ros.diffusion.guidance import Guidance
from gld_ros.diffusion.solvers import Solver
from gld_ros.novel_view_stages import Sampling, sample, sampling_of

CONVERGED_STEPS = 50
NOISES = 2
BANDS_PX = {"8-32 px": (8.0, 32.0), "2-8 px": (2.0, 8.0)}


@dataclass(frozen=True)
class Row:
    """One way to sample, from a teacher's or a student's bundle."""

    name: str
    rooms: HeldOutRooms
    how: Sampling


@dataclass(frozen=True)
class Sampled:
    """The targets of all rooms, for each noise: latents, features (N, C) and colours."""

    latents: list[Tensor]
    features: list[Tensor]
    rgb: Tensor  # (noises, B, T, 3, H, W)


def sampled(row: Row, noises: list[Tensor]) -> Sampled:
    """Run one row from every noise."""
    latents, features, rgb = [], [], []
    model, config = row.rooms.model, row.rooms.model.bundle.config
    module = row.how.module_of(config.base_denoiser)
    for noise in noises:
        *_, last = sample(
            (model.denoisers | model.students)[module],
            row.rooms.conditions,
            noise,
            num_steps=row.how.num_steps,
            shift=config.denoisers[module].time_shift,
            guidance=row.how.guidance,
            solver=row.how.solver,
        )
        latents.append(last.latent[:, REFERENCES:])
        features.append(target_features(last.latent))
        rgb.append(row.rooms.decoded(last.latent)[0])
    return Sampled(latents, features, torch.stack(rgb))


def target_features(latent: Tensor) -> Tensor:
    """Features (N, C) of all target patches of latents (B, V, C, h, w)."""
    return latent[:, REFERENCES:].flatten(3).mT.flatten(0, 2)


def band_power(rgb: Tensor) -> dict[str, float]:
    """Mean power of colours (..., H, W) in bands of wavelengths; windowed against the borders."""
    height, width = rgb.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    centred = rgb - rgb.mean((-2, -1), keepdim=True)
    power = torch.fft.rfft2(centred * window).abs().square().flatten(0, -3).mean(0)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt()
    return {
        name: float(power[(frequency > 1 / longest) & (frequency <= 1 / shortest)].mean())
        for name, (shortest, longest) in BANDS_PX.items()
    }


def jackknife_difference(
    ours: Sampled, theirs: Sampled, converged: Sampled, rooms: int
) -> tuple[float, float]:
    """Difference of two rows' energy distances to the converged run of the other noise, and error.

    The mean over all ways to leave one room out, and the standard error that they give.
    """

    def without(features: Tensor, room: int) -> Tensor:
        per_room = features.unflatten(0, (rooms, -1))
        return torch.cat((per_room[:room], per_room[room + 1 :])).flatten(0, 1)

    differences = []
    for room in range(rooms):
        targets = [without(some, room) for some in reversed(converged.features)]
        means = [
            sum(
                energy_distance(without(a, room), b)
                for a, b in zip(row.features, targets, strict=True)
            )
            / NOISES
            for row in (ours, theirs)
        ]
        differences.append(means[0] - means[1])
    found = torch.tensor(differences)
    error = ((rooms - 1) / rooms * (found - found.mean()).square().sum()).sqrt()
    return float(found.mean()), float(error)


def rows_of(teacher: HeldOutRooms, students: list[HeldOutRooms]) -> list[Row]:
    """The teacher in many and in few steps, and every student."""
    config = teacher.model.bundle.config
    guidance = Guidance(config.guidance_scale)
    solvers: list[tuple[str, Solver, int]] = [
        ("teacher, third order", "ab3", CONVERGED_STEPS),
        *(("teacher, Euler", "euler", steps) for steps in (1, 2, 4, 5, 10, 20)),
        *(("teacher, AB2", "ab2", steps) for steps in (4, 8)),
    ]
    rows = [Row(name, teacher, Sampling(solver, n, guidance)) for name, solver, n in solvers]
    for rooms in students:
        rows.append(Row("student", rooms, sampling_of(rooms.model.bundle.config, "fastest")))
    return rows


def main() -> None:
    """Measure and print one row per way to sample."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        required=True,
        help="bundles with students of one and the same teacher",
    )
    parser.add_argument("--scenes", type=int, default=8, help="held-out rooms (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    students = [HeldOutRooms(arguments.scenes, bundle) for bundle in arguments.bundle]
    teacher = students[0]
    model, batch = teacher.model, teacher.batch
    noises = [
        model.noise(batch.numbers, seed, REFERENCES + TARGETS, batch.image_hw)["level1"]
        for seed in range(NOISES)
    ]
    true_features = target_features(teacher.true_latent)
    columns = ["how", "calls", "deviation", "energy distance to converged", "to the truth"]
    columns += [f"detail, {band}" for band in BANDS_PX]
    columns += ["spread, hidden", "spread, visible", "PSNR"]
    print(
        f"{arguments.scenes} rooms, {NOISES} noises, guidance {model.bundle.config.guidance_scale}"
    )
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    converged: Sampled | None = None
    ten_steps: Sampled | None = None
    by_students: list[tuple[int, Sampled]] = []
    detail: dict[str, float] = {}
    for row in tqdm(rows_of(teacher, students), unit="row", disable=None):
        found = sampled(row, noises)
        if converged is None:
            converged, detail = found, band_power(found.rgb)
        if row.how.by_student:
            by_students.append((row.how.num_steps, found))
        elif row.how.solver == "euler" and row.how.num_steps == 10:
            ten_steps = found
        pairs = list(zip(found.latents, converged.latents, strict=True))
        deviation = [float((a - b).norm() / b.norm()) for a, b in pairs]
        others = zip(found.features, reversed(converged.features), strict=True)
        to_converged = [energy_distance(a, b) for a, b in others]
        to_truth = [energy_distance(a, true_features) for a in found.features]
        spread = found.rgb.var(0).mean(2)
        assert batch.hidden is not None  # rooms have depth
        assert batch.visible is not None
        hidden, visible = (
            float(spread[mask].mean().sqrt()) for mask in (batch.hidden, batch.visible)
        )
        error = (found.rgb - batch.true_rgb).square().mean((3, 4, 5))
        figures = [
            f"{sum(deviation) / NOISES:.3f}",
            f"{sum(to_converged) / NOISES:.4f}",
            f"{sum(to_truth) / NOISES:.4f}",
            *(f"{power / detail[band]:.2f}" for band, power in band_power(found.rgb).items()),
            f"{hidden:.4f}",
            f"{visible:.4f}",
            f"{float((-10 * error.log10()).mean()):.2f}",
        ]
        print(f"| {row.name} | {row.how.num_steps} | " + " | ".join(figures) + " |", flush=True)
    assert converged is not None  # the first row
    assert ten_steps is not None  # one of the rows
    for calls, found in by_students:
        mean, error_of_mean = jackknife_difference(found, ten_steps, converged, arguments.scenes)
        print(f"student of {calls} calls minus ten Euler steps: {mean:+.4f} +- {error_of_mean:.4f}")


if __name__ == "__main__":
    main()
