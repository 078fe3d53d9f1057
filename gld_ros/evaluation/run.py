"""One evaluation from start to end: scenes in, every figure out.

Owns which runs of the model a batch gets and which baselines they are compared with. Metrics,
baselines and output are in the other files of this folder.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gld_ros.evaluation import methods
from gld_ros.evaluation.baselines import (
    forward_warp,
    mean_colour,
    mean_depth_image,
    nearest_reference,
    take_references,
    typical_depth,
)
from gld_ros.evaluation.batch import Batch, UsableSamples, camera_scales, collate
from gld_ros.evaluation.examples import Example, examples_of
from gld_ros.evaluation.figures import Figures
from gld_ros.evaluation.held_out import HeldOutScenes, batches
from gld_ros.evaluation.image_metrics import PerceptualDistance, perceptual_distance
from gld_ros.evaluation.measured_views import MeasuredTargets, inpainted, joined, measured_targets
from gld_ros.evaluation.model_runs import EvaluatedModel, ImaginedViews
from gld_ros.evaluation.scoring import Scorer
from gld_ros.evaluation.totals import EvaluationSettings, Totals, report_of
from gld_ros.measured_latents import RenderedMeasurements
from gld_ros.novel_view_stages import sampling_of
from gld_ros.training.stages.level1 import with_other_motion


@dataclass
class Evaluation:
    """Everything that was computed; `report` is plain JSON."""

    report: dict[str, Any]
    examples: list[Example]


def evaluate(
    model: EvaluatedModel, held_out: HeldOutScenes, settings: EvaluationSettings
) -> Evaluation:
    """Run the model and its baselines on every scene; shows a progress bar.

    Raises ValueError when no scene could be evaluated, or the bundle cannot do what was asked.
    """
    if not model.can_imagine and not settings.real_features:
        raise ValueError(
            f"bundle {model.bundle.config.name!r} has no diffusion or no RGB decoder, so it "
            "imagines no views; --real-features evaluates what it has"
        )
    started = time.monotonic()
    perceptual = perceptual_distance(model.device)
    totals = Totals()
    examples: list[Example] = []
    usable = UsableSamples(model, held_out, settings.num_references)
    prior: Tensor | None = None
    with (
        tqdm(total=held_out.count, unit="scene", desc="evaluate", disable=None) as bar,
        torch.no_grad(),
    ):
        for samples in batches(usable, settings.batch_size):
            batch = collate(samples, totals.scenes, settings.num_references, model.device)
            if batch.depth_m is not None and prior is None:
                prior = mean_depth_image(
                    held_out.prior_domain,
                    batch.image_hw,
                    batch.images.shape[1],
                    settings.prior_rooms,
                ).to(model.device)
            examples += _evaluate_batch(
                model,
                batch,
                settings,
                perceptual,
                prior,
                totals,
                settings.images - len(examples),
                bar,
            )
            totals.scenes += len(samples)
            bar.set_postfix_str("")
            bar.update(len(samples))
    if not totals.scenes:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in held_out.skipped.most_common(3))
        raise ValueError(
            f"{held_out.name}: none of {held_out.count} samples can be used: {reasons}"
        )
    report = report_of(model, held_out, settings, perceptual, totals)
    report["seconds"] = round(time.monotonic() - started, 1)
    return Evaluation(report, examples)


def _evaluate_batch(
    model: EvaluatedModel,
    batch: Batch,
    settings: EvaluationSettings,
    perceptual: PerceptualDistance,
    prior: Tensor | None,
    totals: Totals,
    examples_wanted: int,
    bar: Any,
) -> list[Example]:
    if batch.hidden is not None and batch.true_depth_m is not None:
        totals.known_pixels += int((batch.true_depth_m > 0).sum())
        totals.hidden_pixels += int(batch.hidden.sum())
    scorer = Scorer(batch, perceptual, totals.figures)
    measured = measured_targets(batch) if settings.measurements else None
    imagined = (
        _imagine_all(model, batch, settings, totals, scorer, bar, measured)
        if model.can_imagine
        else {}
    )
    if measured is not None:
        _score_measured(scorer, batch, measured, imagined)
    labels = None
    if methods.GENERATED in imagined:
        labels = _score_cameras(imagined[methods.GENERATED], batch, totals)
    baselines = _score_baselines(scorer, batch, prior)
    if settings.real_features:
        _score_true_features(model, scorer, batch, totals)
    if totals.cameras:
        totals.cameras_of(methods.NO_MOTION).add_without_motion(batch)
    if examples_wanted <= 0 or not imagined:
        return []
    return examples_of(batch, imagined, baselines, labels, examples_wanted)


def _imagine_all(
    model: EvaluatedModel,
    batch: Batch,
    settings: EvaluationSettings,
    totals: Totals,
    scorer: Scorer,
    bar: Any,
    measured: MeasuredTargets | None,
) -> dict[str, ImaginedViews]:
    """Every run of the model on a batch, judged; returns those of the first seed."""
    config, references = model.bundle.config, batch.num_references
    sampling = sampling_of(config, settings.preset, settings.num_steps, settings.guidance_scale)
    num_steps = sampling.num_steps
    encoded = model.encode(batch.images[:, :references])
    views = batch.images.shape[1]

    def run(
        name: str,
        seed: int,
        T_world_cam: Tensor,
        steps: int,
        shown: RenderedMeasurements | None = None,
    ) -> ImaginedViews:
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
            sampling=replace(sampling, num_steps=steps),
            after_step=after_step,
            measured=shown,
            reference_images=batch.images[:, :references],
        )

    first = settings.first_seed
    seeds = range(first, first + settings.seeds)
    samples = [run(methods.GENERATED, seed, batch.T_world_cam, num_steps) for seed in seeds]
    runs = {methods.GENERATED: samples[0]}
    if measured is not None and model.reads_measurements:
        name, shown = methods.GENERATED_SHOWN, measured.tensors()
        runs[name] = run(name, first, batch.T_world_cam, num_steps, shown)
    one_step = num_steps > 1 and not sampling.by_student  # whose number of calls is its own
    if one_step:
        runs[methods.ONE_STEP] = run(methods.ONE_STEP, first, batch.T_world_cam, 1)
    if len(batch.images) > 1:
        shuffled = with_other_motion(batch.T_world_cam, references)
        try:
            runs[methods.SHUFFLED] = run(methods.SHUFFLED, first, shuffled, num_steps)
            if one_step:
                name = methods.SHUFFLED_ONE_STEP
                runs[name] = run(name, first, shuffled, 1)
        except ValueError as error:
            totals.without_shuffle += len(batch.images)
            totals.notes.append(f"shuffled poses of a batch cannot be run: {error}")
    else:
        totals.without_shuffle += 1

    for name, result in runs.items():
        scorer.colour(name, result.rgb[:, references:])
        scorer.depth(name, result.depth[:, references:], camera_scales(result, batch))
    if len(samples) > 1:
        for seed, result in zip(seeds, samples, strict=True):
            figures = totals.per_seed.setdefault(seed, Figures())
            one = Scorer(batch, scorer.perceptual, figures)
            one.colour(methods.GENERATED, result.rgb[:, references:])
        if batch.visible is not None and batch.hidden is not None:
            totals.spread.add(
                [s.rgb for s in samples],
                [s.depth for s in samples],
                batch.visible,
                batch.hidden,
                references,
            )
    return runs


def _score_measured(
    scorer: Scorer, batch: Batch, measured: MeasuredTargets, imagined: dict[str, ImaginedViews]
) -> None:
    """Judge measured pixels with the rest filled, by the model or without any."""
    made = {methods.INPAINTED: inpainted(measured)}
    for name, generated in (
        (methods.JOINED, methods.GENERATED),
        (methods.JOINED_SHOWN, methods.GENERATED_SHOWN),
    ):
        if generated in imagined:
            made[name] = joined(measured, imagined[generated], batch)
    for name, (rgb, depth) in made.items():
        scorer.colour(name, rgb.to(batch.images))
        scorer.depth(name, depth.to(batch.images))


def _score_cameras(views: ImaginedViews, batch: Batch, totals: Totals) -> list[Any]:
    """Camera and provenance figures of the generated views; returns provenance labels per scene."""
    totals.cameras_of(methods.GENERATED).add(views, batch)
    return totals.provenance.add(
        views,
        camera_scales(views, batch),
        batch.images,
        batch.depth_m,
        batch.K_px,
        batch.T_world_cam,
        batch.num_references,
    )


def _score_baselines(
    scorer: Scorer, batch: Batch, prior: Tensor | None
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Judge what the model is compared with; returns rgb and depth of the copy and the warp."""
    references = batch.num_references
    shown = batch.images[:, :references]
    depth_m = None if batch.depth_m is None else batch.depth_m[:, :references]
    index = nearest_reference(
        batch.T_world_cam, references, typical_depth(batch.T_world_cam, depth_m)
    )
    copy = take_references(shown, index)
    scorer.colour(methods.COPY, copy)
    error = (shown[:, None] - batch.true_rgb[:, :, None]).square().mean((3, 4, 5))  # (B, T, R)
    scorer.colour(methods.BEST_COPY, take_references(shown, error.argmin(-1)))
    scorer.colour(methods.MEAN_COLOUR, mean_colour(shown, batch.num_targets))
    made: dict[str, tuple[Tensor, Tensor | None]] = {methods.COPY: (copy, None)}
    if depth_m is None or prior is None:
        return made
    copied_depth = take_references(depth_m, index)
    scorer.depth(methods.COPY, copied_depth)
    warp = forward_warp(
        shown,
        depth_m,
        batch.K_px[:, :references],
        batch.T_world_cam[:, :references],
        batch.K_px[:, references:],
        batch.T_world_cam[:, references:],
    )
    scorer.colour(methods.WARP, warp.rgb)
    scorer.depth(methods.WARP, warp.depth_m)
    scorer.depth(methods.MEAN_DEPTH, prior.expand_as(copied_depth))
    return made | {methods.COPY: (copy, copied_depth), methods.WARP: (warp.rgb, warp.depth_m)}


def _score_true_features(
    model: EvaluatedModel, scorer: Scorer, batch: Batch, totals: Totals
) -> None:
    """The ceilings: what decoders make of the features of the true images."""
    targets = slice(batch.num_references, None)
    for name, keep_level0 in ((methods.TRUE_FEATURES, False), (methods.TRUE_FEATURES_ALL, True)):
        views = model.from_true_features(batch.images, batch.image_hw, keep_level0=keep_level0)
        if model.rgb_decoder is not None:
            scorer.colour(name, views.rgb[:, targets])
        scorer.depth(name, views.depth[:, targets], camera_scales(views, batch))
        totals.cameras_of(name).add(views, batch)
    if batch.depth_m is not None and bool((batch.depth_m > 0).flatten(1).any(1).all()):
        posed = model.posed_depth(batch.images, batch.K_px, batch.T_world_cam, batch.depth_m)
        if posed is not None:
            scorer.depth(methods.TRUE_FEATURES_POSED, posed[:, targets])
