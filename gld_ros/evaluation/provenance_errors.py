"""Errors of imagined pixels by provenance: whether "corroborated" really deserves more trust.

Classifies imagined views against the model's own depth of the references, as the robot's node does,
and sums errors per class. The classes are defined in `gld_ros.mapping.provenance`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from gld_ros.evaluation.model_runs import ImaginedViews
from gld_ros.mapping.products import ProductParameters
from gld_ros.mapping.provenance import DepthView, Provenance, classify_view, seen_surface

CLASSES = (Provenance.CORROBORATED, Provenance.HALLUCINATED, Provenance.CONTRADICTED)


@dataclass
class ProvenanceErrors:
    """Sums over pixels per class."""

    rel_tolerance: float = ProductParameters.rel_tolerance
    unclassified_scenes: int = 0  # no recovered cameras, so no scale
    pixels: dict[Provenance, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    squared: dict[Provenance, float] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0.0))
    relative: dict[Provenance, float] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0.0))
    with_truth: dict[Provenance, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))

    def add(
        self,
        views: ImaginedViews,
        scale: Tensor,
        true_rgb: Tensor,
        true_depth_m: Tensor | None,
        K_px: Tensor,
        T_world_cam: Tensor,
        num_references: int,
    ) -> list[Any]:
        """Classify the targets of a batch; returns labels (T, H, W) per scene, None without scale.

        scale (B,): world units per model unit. Truth covers all V views, references first.
        """
        labels: list[Any] = []
        for b in range(len(scale)):
            if not np.isfinite(float(scale[b])):
                self.unclassified_scenes += 1
                labels.append(None)
                continue
            depth = (views.depth[b] * scale[b].to(views.depth)).cpu().numpy()
            K, T = K_px[b].double().cpu().numpy(), T_world_cam[b].double().cpu().numpy()
            surfaces = [
                seen_surface(DepthView(depth[r], K[r], T[r]), self.rel_tolerance)
                for r in range(num_references)
            ]
            scene = []
            for v in range(num_references, len(depth)):
                label = classify_view(depth[v], K[v], T[v], surfaces).labels
                error = (views.rgb[b, v] - true_rgb[b, v]).square().mean(0).cpu().numpy()
                truth = None if true_depth_m is None else true_depth_m[b, v].cpu().numpy()
                self._sum(label, error, depth[v], truth)
                scene.append(label)
            labels.append(np.stack(scene))
        return labels

    def _sum(self, label: Any, squared_error: Any, depth_m: Any, truth_m: Any) -> None:
        for kind in CLASSES:
            taken = label == kind
            self.pixels[kind] += int(taken.sum())
            self.squared[kind] += float(squared_error[taken].sum())
            if truth_m is not None:
                taken &= truth_m > 0
                self.with_truth[kind] += int(taken.sum())
                self.relative[kind] += float(
                    (np.abs(depth_m - truth_m)[taken] / truth_m[taken]).sum()
                )

    def to_json(self) -> dict[str, Any]:
        """Share, PSNR over all pixels of the class, and AbsRel in metres; None where undefined."""
        total = sum(self.pixels.values())
        figures: dict[str, Any] = {
            "rel_tolerance": self.rel_tolerance,
            "unclassified_scenes": self.unclassified_scenes,
        }
        for kind in CLASSES:
            count, truth = self.pixels[kind], self.with_truth[kind]
            mean_square = self.squared[kind] / count if count else None
            figures[kind.name.lower()] = {
                "share": count / total if total else None,
                "psnr": -10 * float(np.log10(mean_square)) if mean_square else None,
                "abs_rel": self.relative[kind] / truth if truth else None,
            }
        return figures
