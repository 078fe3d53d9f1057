"""What an evaluation collects over its batches, and the report made of it."""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gld_ros import __version__
from gld_ros.diffusion.presets import PresetName
from gld_ros.evaluation import methods
from gld_ros.evaluation.figures import Figures
from gld_ros.evaluation.held_out import HeldOutScenes
from gld_ros.evaluation.image_metrics import PerceptualDistance
from gld_ros.evaluation.imagination import SeedSpread, imagination_report
from gld_ros.evaluation.model_runs import EvaluatedModel
from gld_ros.evaluation.provenance_errors import ProvenanceErrors
from gld_ros.evaluation.recovered_cameras import RecoveredCameraFigures
from gld_ros.novel_view_stages import sampling_of
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.bundle_config import CONFIG_FILE


@dataclass(frozen=True)
class EvaluationSettings:
    """What is run; None takes what the bundle was made for."""

    num_references: int = 2
    num_targets: int = 2
    preset: PresetName = "published"
    num_steps: int | None = None
    guidance_scale: float | None = None
    seeds: int = 1
    first_seed: int = 0
    batch_size: int = 8
    real_features: bool = False
    measurements: bool = False  # targets also from what the references have measured
    images: int = 0  # targets kept for the image grid
    prior_rooms: int = 32  # training rooms behind the mean depth image

    def __post_init__(self) -> None:
        for name, smallest in (("seeds", 1), ("first_seed", 0), ("images", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {smallest} is needed")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; at least 1 is needed")


@dataclass
class Totals:
    """What is collected over the batches."""

    figures: Figures = field(default_factory=Figures)
    spread: SeedSpread = field(default_factory=SeedSpread)
    provenance: ProvenanceErrors = field(default_factory=ProvenanceErrors)
    cameras: dict[str, RecoveredCameraFigures] = field(default_factory=dict)  # by method
    known_pixels: int = 0
    hidden_pixels: int = 0
    per_seed: dict[int, Figures] = field(default_factory=dict)
    scenes: int = 0
    without_shuffle: int = 0
    notes: list[str] = field(default_factory=list)

    def cameras_of(self, method: str) -> RecoveredCameraFigures:
        """The camera figures of a method."""
        return self.cameras.setdefault(method, RecoveredCameraFigures())


def report_of(
    model: EvaluatedModel,
    held_out: HeldOutScenes,
    settings: EvaluationSettings,
    perceptual: PerceptualDistance,
    totals: Totals,
) -> dict[str, Any]:
    """The whole evaluation as plain JSON; figures without truth are None."""
    config = model.bundle.config
    share = totals.hidden_pixels / totals.known_pixels if totals.known_pixels else None
    sampling = sampling_of(config, settings.preset, settings.num_steps, settings.guidance_scale)
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
            "scenes": totals.scenes,
            "targets": totals.scenes * settings.num_targets,
            "skipped": dict(held_out.skipped),
            "scenes_without_shuffled_control": totals.without_shuffle,
            "has_depth_truth": bool(totals.known_pixels),
            "hidden_share": share,
        },
        "settings": asdict(settings)
        | {
            "num_steps": sampling.num_steps,
            "guidance_scale": sampling.guidance.scale,
            "device": str(model.device),
            "torch": torch.__version__,
            "perceptual": perceptual.name,
            "why_not_lpips": perceptual.why_substitute,
            "mean_depth_rooms": held_out.prior_domain,
        },
        "views": totals.figures.to_json(),
        "better_than": {
            other: totals.figures.share_better("psnr", methods.GENERATED, other)
            for other in (methods.COPY, methods.SHUFFLED, methods.MEAN_COLOUR, methods.WARP)
        },
        "per_seed": {str(s): f.to_json()[methods.GENERATED] for s, f in totals.per_seed.items()},
        "cameras": totals.cameras_of(methods.GENERATED).to_json() if model.can_imagine else None,
        "cameras_compared": {
            method: figures.to_json()
            for method, figures in totals.cameras.items()
            if method != methods.GENERATED
        },
        "provenance": totals.provenance.to_json() if model.can_imagine else None,
        "imagination": imagination_report(totals.figures, share),
        "seed_spread": totals.spread.to_json(),
        "notes": list(dict.fromkeys(totals.notes)),
    }


def bundle_hash(bundle: Bundle) -> str:
    """SHA-256 of the bundle's config.json, which contains the hashes of all its files."""
    return hashlib.sha256((bundle.folder / CONFIG_FILE).read_bytes()).hexdigest()
