"""One evaluation from start to end: scenes in, every figure out.

Owns the order of things: which runs of the model a batch gets, which yardsticks stand beside them,
and what is counted. Measures, yardsticks and output are in the files beside.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gld_ros import __version__
from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.evaluation import methods
from gld_ros.evaluation.depth_metrics import depth_errors, median_scale, ordinal_accuracy
from gld_ros.evaluation.figures import Figures, known
from gld_ros.evaluation.held_out import HeldOutScenes, batches
from gld_ros.evaluation.image_metrics import PerceptualDistance, perceptual_distance, psnr, ssim
from gld_ros.evaluation.imagination import SeedSpread, imagination_report
from gld_ros.evaluation.model_runs import EvaluatedModel, ImaginedViews
from gld_ros.evaluation.pose_metrics import (
    pair_angles_deg,
    pair_figures,
    scale_from_baselines,
    trajectory_errors,
)
from gld_ros.evaluation.provenance_errors import ProvenanceErrors
from gld_ros.evaluation.yardsticks import (
    forward_warp,
    mean_colour,
    mean_depth_picture,
    nearest_reference,
    scene_lever,
    take_references,
)
from gld_ros.scenes.visibility import DepthViews, visible_from
from gld_ros.training.stages.level1 import with_other_motion
from gld_ros.weights.bundle import CONFIG_FILE, Bundle


@dataclass(frozen=True)
class EvaluationSettings:
    """What is run; None takes what the bundle was made for."""

    num_references: int = 2
    num_targets: int = 2
    num_steps: int | None = None
    guidance_scale: float | None = None
    seeds: int = 1
    first_seed: int = 0
    batch_size: int = 8
    real_features: bool = False
    pictures: int = 0  # targets kept for the picture grid
    prior_rooms: int = 32  # training rooms behind the mean depth picture

    def __post_init__(self) -> None:
        for name, smallest in (("seeds", 1), ("first_seed", 0), ("pictures", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {smallest} is needed")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; at least 1 is needed")


@dataclass(frozen=True)
class Example:
    """One target with everything that the picture grid shows of it; pictures (3, H, W)."""

    title: str
    references: Tensor  # (R, 3, H, W)
    colours: dict[str, Tensor]  # column title -> picture
    depths: dict[str, Tensor]  # column title -> (H, W), 0 unknown; all in one unit
    hidden: Tensor | None  # (H, W) bool
    provenance: Any  # (H, W) labels, or None
    psnr: dict[str, float]  # column title -> dB


@dataclass
class Evaluation:
    """Everything that came out; `report` is plain JSON."""

    report: dict[str, Any]
    examples: list[Example]


@dataclass(frozen=True)
class _Batch:
    """B scenes on the device, references first."""

    images: Tensor  # (B, V, 3, H, W)
    K_px: Tensor
    T_world_cam: Tensor
    depth_m: Tensor | None  # (B, V, H, W), 0 unknown
    metric: bool
    names: list[str]
    numbers: list[int]  # positions of the scenes in the evaluation, for their noise
    num_references: int
    visible: Tensor | None  # (B, T, H, W) bool
    hidden: Tensor | None

    @property
    def image_hw(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def num_targets(self) -> int:
        return self.images.shape[1] - self.num_references

    @property
    def true_rgb(self) -> Tensor:
        return self.images[:, self.num_references :]

    @property
    def true_depth_m(self) -> Tensor | None:
        return None if self.depth_m is None else self.depth_m[:, self.num_references :]


@dataclass
class _Sums:
    """What is collected over the batches."""

    figures: Figures = field(default_factory=Figures)
    spread: SeedSpread = field(default_factory=SeedSpread)
    provenance: ProvenanceErrors = field(default_factory=ProvenanceErrors)
    rotation_deg: list[Any] = field(default_factory=list)
    direction_deg: list[Any] = field(default_factory=list)
    focal_error: list[float] = field(default_factory=list)
    trajectories: list[dict[str, float]] = field(default_factory=list)
    degenerate_trajectories: int = 0
    scenes_without_cameras: int = 0
    known_pixels: int = 0
    hidden_pixels: int = 0
    per_seed: dict[int, Figures] = field(default_factory=dict)
    scenes: int = 0
    without_shuffle: int = 0
    notes: list[str] = field(default_factory=list)


def evaluate(
    model: EvaluatedModel, held_out: HeldOutScenes, settings: EvaluationSettings
) -> Evaluation:
    """Run the model and its yardsticks on every scene; shows a progress bar.

    Raises ValueError when no scene could be evaluated, or the bundle cannot do what was asked.
    """
    if not model.can_imagine and not settings.real_features:
        raise ValueError(
            f"bundle {model.bundle.config.name!r} has no diffusion or no RGB decoder, so it "
            "imagines no views; --real-features evaluates what it has"
        )
    started = time.monotonic()
    perceptual = perceptual_distance(model.device)
    sums = _Sums()
    examples: list[Example] = []
    usable = _Usable(model, held_out, settings.num_references)
    prior: Tensor | None = None
    with tqdm(total=held_out.count, unit="scene", desc="evaluate") as bar, torch.no_grad():
        for samples in batches(usable, settings.batch_size):
            batch = _collate(samples, sums.scenes, settings.num_references, model.device)
            if batch.depth_m is not None and prior is None:
                prior = mean_depth_picture(
                    held_out.prior_domain, batch.image_hw, batch.images.shape[1],
                    settings.prior_rooms,
                ).to(model.device)  # fmt: skip
            examples += _evaluate_batch(
                model, batch, settings, perceptual, prior, sums, settings.pictures - len(examples),
                bar,
            )  # fmt: skip
            sums.scenes += len(samples)
            bar.set_postfix_str("")
            bar.update(len(samples))
    if not sums.scenes:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in held_out.skipped.most_common(3))
        raise ValueError(
            f"{held_out.name}: none of {held_out.count} samples can be used: {reasons}"
        )
    report = _report(model, held_out, settings, perceptual, sums)
    report["seconds"] = round(time.monotonic() - started, 1)
    return Evaluation(report, examples)


def bundle_hash(bundle: Bundle) -> str:
    """SHA-256 of the bundle's config.json, which holds the hashes of all its files."""
    return hashlib.sha256((bundle.folder / CONFIG_FILE).read_bytes()).hexdigest()


class _Usable:
    """Samples whose cameras the model can work with; the others are counted."""

    def __init__(self, model: EvaluatedModel, held_out: HeldOutScenes, references: int) -> None:
        self.model, self.held_out, self.references = model, held_out, references

    def __iter__(self) -> Any:
        config = self.model.bundle.config
        for sample in self.held_out.samples:
            image_hw = (sample["images"].shape[-2], sample["images"].shape[-1])
            try:
                camera_conditions(
                    sample["T_world_cam"][None],
                    sample["K_px"][None],
                    image_hw,
                    self.references,
                    ray_grid=config.ray_grid,
                    pose_scale=config.pose_scale,
                )
            except ValueError as error:
                self.held_out.skipped[f"sample: {error}"] += 1
                continue
            yield sample


def _collate(
    samples: Sequence[dict[str, Any]], first: int, references: int, device: torch.device
) -> _Batch:
    def stacked(name: str) -> Tensor:
        return torch.stack([sample[name] for sample in samples]).to(device)

    depth_m = None
    if any("depth_m" in sample for sample in samples):
        # Scenes without depth get "unknown everywhere", and with it no depth figures.
        depth_m = torch.stack(
            [
                s["depth_m"] if "depth_m" in s else torch.zeros_like(s["images"][:, 0])
                for s in samples
            ]
        ).to(device)
    K_px, T_world_cam = stacked("K_px"), stacked("T_world_cam")
    visible = hidden = None
    if depth_m is not None:
        shown, withheld = (
            DepthViews(depth_m[:, part], K_px[:, part], T_world_cam[:, part])
            for part in (slice(None, references), slice(references, None))
        )
        visible = visible_from(shown, withheld)
        hidden = ~visible & (withheld.depth_m > 0)
    return _Batch(
        stacked("images"), K_px, T_world_cam, depth_m,
        all(sample["metric"] for sample in samples), [s["scene_id"] for s in samples],
        list(range(first, first + len(samples))), references, visible, hidden,
    )  # fmt: skip


def _evaluate_batch(
    model: EvaluatedModel,
    batch: _Batch,
    settings: EvaluationSettings,
    perceptual: PerceptualDistance,
    prior: Tensor | None,
    sums: _Sums,
    examples_wanted: int,
    bar: Any,
) -> list[Example]:
    if batch.hidden is not None and batch.true_depth_m is not None:
        sums.known_pixels += int((batch.true_depth_m > 0).sum())
        sums.hidden_pixels += int(batch.hidden.sum())
    judge = _Judge(batch, perceptual, sums.figures)
    imagined = _imagine_all(model, batch, settings, sums, judge, bar) if model.can_imagine else {}
    labels = None
    if methods.GENERATED in imagined:
        labels = _judge_cameras(imagined[methods.GENERATED], batch, sums)
    yardsticks = _judge_yardsticks(judge, batch, prior)
    if settings.real_features:
        _judge_true_features(model, judge, batch)
    if examples_wanted <= 0 or not imagined:
        return []
    return _examples(batch, imagined, yardsticks, labels, examples_wanted)


@dataclass(frozen=True)
class _Judge:
    """Measures views of one batch against its truth."""

    batch: _Batch
    perceptual: PerceptualDistance
    figures: Figures

    def colour(self, method: str, rgb: Tensor) -> None:
        """Judge target pictures (B, T, 3, H, W)."""
        batch = self.batch
        predicted, true = rgb.flatten(0, 1), batch.true_rgb.flatten(0, 1)
        values = {"psnr": psnr(predicted, true)}
        for name, mask in (("visible", batch.visible), ("hidden", batch.hidden)):
            if mask is not None:
                values[f"psnr_{name}"] = psnr(predicted, true, mask.flatten(0, 1))
        values["ssim"] = ssim(predicted, true)
        values["perceptual"] = self.perceptual.distance(predicted, true)
        self._add(method, values)

    def depth(self, method: str, depth: Tensor, camera_scale: Tensor | None = None) -> None:
        """Judge target depths (B, T, H, W); camera_scale (B,): world units per model unit."""
        batch = self.batch
        if batch.true_depth_m is None or batch.visible is None or batch.hidden is None:
            return
        predicted, true = depth.flatten(0, 1), batch.true_depth_m.flatten(0, 1)
        visible, hidden = batch.visible.flatten(0, 1), batch.hidden.flatten(0, 1)
        values = {
            "ordinal": ordinal_accuracy(predicted, true),
            "ordinal_visible": ordinal_accuracy(predicted, true, visible),
            "ordinal_hidden": ordinal_accuracy(predicted, true, hidden),
        }
        scaled = predicted * median_scale(predicted, true)[:, None, None]
        values |= {f"{k}_median": v for k, v in depth_errors(scaled, true).items()}
        values["abs_rel_median_hidden"] = depth_errors(scaled, true, hidden)["abs_rel"]
        values |= {f"{k}_unscaled": v for k, v in depth_errors(predicted, true).items()}
        if camera_scale is not None:
            scale = camera_scale.to(predicted).repeat_interleave(batch.num_targets)
            metric = depth_errors(predicted * scale[:, None, None], true)
            values |= {f"{k}_cameras": v for k, v in metric.items()}
        self._add(method, values)

    def _add(self, method: str, values: dict[str, Tensor]) -> None:
        for metric, value in values.items():
            self.figures.add(method, metric, value, self.batch.num_targets)


def _imagine_all(
    model: EvaluatedModel,
    batch: _Batch,
    settings: EvaluationSettings,
    sums: _Sums,
    judge: _Judge,
    bar: Any,
) -> dict[str, ImaginedViews]:
    """Every run of the model on a batch, judged; returns those of the first seed."""
    config, references = model.bundle.config, batch.num_references
    num_steps = settings.num_steps or config.num_euler_points - 1
    guidance = config.guidance_scale
    if settings.guidance_scale is not None:
        guidance = settings.guidance_scale
    encoded = model.encode(batch.images[:, :references])
    views = batch.images.shape[1]

    def run(name: str, seed: int, T_world_cam: Tensor, steps: int) -> ImaginedViews:
        done = 0

        def after_step() -> None:
            nonlocal done
            done += 1
            bar.set_postfix_str(f"{name}, seed {seed}: step {done}")

        noise = model.noise(batch.numbers, seed, views, batch.image_hw)
        return model.imagine(
            encoded,
            T_world_cam,
            batch.K_px,
            batch.image_hw,
            noise,
            num_references=references,
            num_steps=steps,
            guidance_scale=guidance,
            after_step=after_step,
        )

    first = settings.first_seed
    seeds = range(first, first + settings.seeds)
    samples = [run(methods.GENERATED, seed, batch.T_world_cam, num_steps) for seed in seeds]
    runs = {methods.GENERATED: samples[0]}
    if num_steps > 1:
        runs[methods.ONE_STEP] = run(methods.ONE_STEP, first, batch.T_world_cam, 1)
    if len(batch.images) > 1:
        shuffled = with_other_motion(batch.T_world_cam, references)
        try:
            runs[methods.SHUFFLED] = run(methods.SHUFFLED, first, shuffled, num_steps)
            if num_steps > 1:
                name = methods.SHUFFLED_ONE_STEP
                runs[name] = run(name, first, shuffled, 1)
        except ValueError as error:
            sums.without_shuffle += len(batch.images)
            sums.notes.append(f"shuffled poses of a batch cannot be run: {error}")
    else:
        sums.without_shuffle += 1

    for name, result in runs.items():
        judge.colour(name, result.rgb[:, references:])
        judge.depth(name, result.depth[:, references:], _camera_scales(result, batch))
    if len(samples) > 1:
        for seed, result in zip(seeds, samples, strict=True):
            figures = sums.per_seed.setdefault(seed, Figures())
            one = _Judge(batch, judge.perceptual, figures)
            one.colour(methods.GENERATED, result.rgb[:, references:])
        if batch.visible is not None and batch.hidden is not None:
            sums.spread.add(
                [s.rgb for s in samples], [s.depth for s in samples], batch.visible, batch.hidden,
                references,
            )  # fmt: skip
    return runs


def _camera_scales(views: ImaginedViews, batch: _Batch) -> Tensor:
    """World units per model unit (B,), from the baselines of the references (of all views for one).

    NaN where no cameras were recovered, or the node would refuse the scale.
    """
    taken = batch.num_references if batch.num_references > 1 else batch.images.shape[1]
    scales = [
        scale_from_baselines(
            T.cpu().double().numpy(), T_model.numpy(), float(depth.median()), metric=batch.metric
        )
        if bool(torch.isfinite(T_model).all())
        else float("nan")
        for T, T_model, depth in zip(
            batch.T_world_cam[:, :taken],
            views.T_model_cam[:, :taken],
            views.depth[:, :taken],
            strict=True,
        )
    ]
    return torch.tensor(scales)


def _judge_cameras(views: ImaginedViews, batch: _Batch, sums: _Sums) -> list[Any]:
    """Camera and provenance figures of the generated views; returns provenance labels per scene."""
    references = batch.num_references
    for b in range(len(batch.images)):
        T_model = views.T_model_cam[b].numpy()
        if not np.isfinite(T_model).all():
            sums.scenes_without_cameras += 1
            continue
        T_world = batch.T_world_cam[b].double().cpu().numpy()
        rotation, direction = pair_angles_deg(T_world, T_model, references)
        sums.rotation_deg.append(rotation)
        sums.direction_deg.append(direction)
        focal = views.K_px[b, references:].diagonal(dim1=-2, dim2=-1)[:, :2]
        true = batch.K_px[b, references:].double().cpu().diagonal(dim1=-2, dim2=-1)[:, :2]
        sums.focal_error += ((focal - true).abs() / true).mean(1).tolist()
        errors = trajectory_errors(T_world, T_model)
        if errors is None:
            sums.degenerate_trajectories += 1
        else:
            sums.trajectories.append(errors)
    return sums.provenance.add(
        views, _camera_scales(views, batch), batch.images, batch.depth_m, batch.K_px,
        batch.T_world_cam, references,
    )  # fmt: skip


def _judge_yardsticks(
    judge: _Judge, batch: _Batch, prior: Tensor | None
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Judge what the model is compared with; returns rgb and depth of the copy and the warp."""
    references = batch.num_references
    shown = batch.images[:, :references]
    depth_m = None if batch.depth_m is None else batch.depth_m[:, :references]
    index = nearest_reference(
        batch.T_world_cam, references, scene_lever(batch.T_world_cam, depth_m)
    )
    copy = take_references(shown, index)
    judge.colour(methods.COPY, copy)
    error = (shown[:, None] - batch.true_rgb[:, :, None]).square().mean((3, 4, 5))  # (B, T, R)
    judge.colour(methods.BEST_COPY, take_references(shown, error.argmin(-1)))
    judge.colour(methods.MEAN_COLOUR, mean_colour(shown, batch.num_targets))
    made: dict[str, tuple[Tensor, Tensor | None]] = {methods.COPY: (copy, None)}
    if depth_m is None or prior is None:
        return made
    copied_depth = take_references(depth_m, index)
    judge.depth(methods.COPY, copied_depth)
    warp = forward_warp(
        shown, depth_m, batch.K_px[:, :references], batch.T_world_cam[:, :references],
        batch.K_px[:, references:], batch.T_world_cam[:, references:],
    )  # fmt: skip
    judge.colour(methods.WARP, warp.rgb)
    judge.depth(methods.WARP, warp.depth_m)
    judge.depth(methods.MEAN_DEPTH, prior.expand_as(copied_depth))
    return made | {methods.COPY: (copy, copied_depth), methods.WARP: (warp.rgb, warp.depth_m)}


def _judge_true_features(model: EvaluatedModel, judge: _Judge, batch: _Batch) -> None:
    """The ceilings: what decoders make of the features of the true pictures."""
    targets = slice(batch.num_references, None)
    for name, keep_level0 in ((methods.TRUE_FEATURES, False), (methods.TRUE_FEATURES_ALL, True)):
        views = model.from_true_features(batch.images, batch.image_hw, keep_level0=keep_level0)
        if model.rgb_decoder is not None:
            judge.colour(name, views.rgb[:, targets])
        judge.depth(name, views.depth[:, targets], _camera_scales(views, batch))
    if batch.depth_m is not None and bool((batch.depth_m > 0).flatten(1).any(1).all()):
        posed = model.posed_depth(batch.images, batch.K_px, batch.T_world_cam, batch.depth_m)
        if posed is not None:
            judge.depth(methods.TRUE_FEATURES_POSED, posed[:, targets])


def _examples(
    batch: _Batch,
    imagined: dict[str, ImaginedViews],
    yardsticks: dict[str, tuple[Tensor, Tensor | None]],
    labels: list[Any] | None,
    wanted: int,
) -> list[Example]:
    """The first target of every scene, until there are as many as wanted."""
    examples, r = [], batch.num_references
    for b in range(min(wanted, len(batch.images))):
        true = batch.images[b, r]
        colours = {name: imagined[name].rgb[b, r] for name in imagined}
        colours |= {name: rgb[b, 0] for name, (rgb, _) in yardsticks.items()}
        generated = imagined[methods.GENERATED].depth[b, r]
        depths = {methods.GENERATED: generated}
        if batch.depth_m is not None:
            scale = median_scale(generated[None], batch.depth_m[b, r][None])
            if bool(torch.isfinite(scale).all()):
                depths[methods.GENERATED] = generated * scale
            depths["truth"] = batch.depth_m[b, r]
        quality = {n: float(psnr(c[None], true[None])) for n, c in colours.items()}
        examples.append(
            Example(
                title=batch.names[b],
                references=batch.images[b, :r].cpu(),
                colours={"truth": true.cpu()} | {n: c.cpu() for n, c in colours.items()},
                depths={n: d.cpu() for n, d in depths.items()},
                hidden=None if batch.hidden is None else batch.hidden[b, 0].cpu(),
                provenance=None if labels is None or labels[b] is None else labels[b][0],
                psnr=quality,
            )
        )
    return examples


def _report(
    model: EvaluatedModel,
    held_out: HeldOutScenes,
    settings: EvaluationSettings,
    perceptual: PerceptualDistance,
    sums: _Sums,
) -> dict[str, Any]:
    config = model.bundle.config
    share = sums.hidden_pixels / sums.known_pixels if sums.known_pixels else None
    steps = settings.num_steps or config.num_euler_points - 1
    guidance = settings.guidance_scale
    return {
        "gld_ros": __version__,
        "bundle": {
            "name": config.name,
            "sha256": bundle_hash(model.bundle),
            "random_weights": config.random_weights,
            "origin": config.origin,
            "licence": config.licence,
            "non_commercial": config.non_commercial,
        },
        "data": {
            "name": held_out.name,
            "kind": held_out.kind,
            "references": held_out.reference_choice,
            "image_hw": list(held_out.image_hw),
            "samples": held_out.count,
            "scenes": sums.scenes,
            "targets": sums.scenes * settings.num_targets,
            "skipped": dict(held_out.skipped),
            "scenes_without_shuffled_control": sums.without_shuffle,
            "has_depth_truth": bool(sums.known_pixels),
            "hidden_share": share,
        },
        "settings": asdict(settings)
        | {
            "num_steps": steps,
            "guidance_scale": config.guidance_scale if guidance is None else guidance,
            "device": str(model.device),
            "torch": torch.__version__,
            "perceptual": perceptual.name,
            "why_not_lpips": perceptual.why_substitute,
            "mean_depth_rooms": held_out.prior_domain,
        },
        "views": sums.figures.to_json(),
        "better_than": {
            other: sums.figures.share_better("psnr", methods.GENERATED, other)
            for other in (methods.COPY, methods.SHUFFLED, methods.MEAN_COLOUR, methods.WARP)
        },
        "per_seed": {str(s): f.to_json()[methods.GENERATED] for s, f in sums.per_seed.items()},
        "cameras": _camera_report(sums) if model.can_imagine else None,
        "provenance": sums.provenance.to_json() if model.can_imagine else None,
        "imagination": imagination_report(sums.figures, share),
        "seed_spread": sums.spread.to_json(),
        "notes": list(dict.fromkeys(sums.notes)),
    }


def _camera_report(sums: _Sums) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "scenes": len(sums.rotation_deg),
        "scenes_without_recovered_cameras": sums.scenes_without_cameras,
        "scenes_without_alignment": sums.degenerate_trajectories,
    }
    if sums.rotation_deg:
        pairs = pair_figures(np.concatenate(sums.rotation_deg), np.concatenate(sums.direction_deg))
        figures |= {name: known(value) for name, value in pairs.items()}
        figures["focal_relative_error"] = known(float(np.mean(sums.focal_error)))
    for name in ("ATE", "RPE_translation", "RPE_rotation_deg"):
        values = [errors[name] for errors in sums.trajectories]
        figures[name] = known(float(np.mean(values))) if values else None
    return figures
